"""Mutants of functions: what their bodies compare, decide and refuse, and as whom they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant
from invariants.mutants.facts import Facts, Function
from invariants.mutants.tokens import Token, depths, line, replaced, terms, tokens

# The relational operators that subsume each other, as mutation testing has them.
_COMPARISONS = {
    "<": ("<=", "<>"),
    ">": (">=", "<>"),
    "<=": ("<", "="),
    ">=": (">", "="),
    "=": ("<=", ">="),
    "<>": ("<", ">"),
    "!=": ("<", ">"),
    "~": ("!~",),
    "~*": ("!~*",),
    "!~": ("~",),
    "!~*": ("~*",),
}
_WORDS = {
    "<": "lt",
    ">": "gt",
    "<=": "le",
    ">=": "ge",
    "=": "eq",
    "<>": "ne",
    "!=": "ne",
    "~": "match",
    "~*": "imatch",
    "!~": "nomatch",
    "!~*": "noimatch",
}
# A statement of PL/pgSQL begins after these.
_BEFORE_A_STATEMENT = frozenset({"BEGIN", "THEN", "ELSE", "LOOP", "DECLARE", ";", ">>"})
_BEFORE_A_CONDITION = frozenset({"IF", "ELSIF", "ELSEIF", "WHERE", "HAVING", "RETURN"})
_CLAUSES = frozenset({"GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"})
_AFTER_A_CONDITION = _CLAUSES | {"UNION", "INTERSECT", "EXCEPT", "RETURNING", "THEN", "LOOP", ";"}
# What FOR locks rows with, the strongest first.
_LOCKS = (("UPDATE",), ("NO", "KEY", "UPDATE"), ("SHARE",), ("KEY", "SHARE"))
_NO_REFUSAL = frozenset({"DEBUG", "LOG", "INFO", "NOTICE", "WARNING"})


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every function in SQL or PL/pgSQL. Some are refused: see `derive`."""
    del contract
    for function in facts.functions:
        body = _Body(function)
        yield from body.comparisons()
        yield from body.constants()
        yield from body.clauses()
        yield from body.locks()
        if function.language == "plpgsql":
            yield from body.branches()
            yield from body.refusals()
            yield from body.writes()
            yield from body.results()
        other = "INVOKER" if function.security_definer else "DEFINER"
        yield Mutant(
            "function-security",
            function.name,
            (f"ALTER ROUTINE {function.sql} SECURITY {other}",),
            detail=other,
        )
        if function.search_path:
            yield Mutant(
                "function-search-path",
                function.name,
                (f"ALTER ROUTINE {function.sql} RESET search_path",),
            )


class _Body:
    """The source of a function, and mutants that differ from it in one place."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._source = function.source
        self._tokens = tokens(self._source)

    def comparisons(self) -> Iterator[Mutant]:
        """Every comparison replaced."""
        found = [
            t
            for i, t in enumerate(self._tokens)
            if t.kind == "operator" and t.text in _COMPARISONS and not self._assigns(i)
        ]
        places = self._places(found)
        for token, place in zip(found, places, strict=True):
            for other in _COMPARISONS[token.text]:
                detail = f"{place}.{_WORDS[token.text]}-{_WORDS[other]}"
                yield self._with("function-comparison", token.start, token.end, other, detail)

    def constants(self) -> Iterator[Mutant]:
        """Every integer made one more and one less."""
        found = [t for t in self._tokens if t.kind == "number" and t.text.isdecimal()]
        for token, place in zip(found, self._places(found), strict=True):
            for value in (int(token.text) + 1, int(token.text) - 1):
                spelled = str(value) if value >= 0 else f"({value})"
                detail = f"{place}.{token.text}-to-{value}"
                yield self._with("function-constant", token.start, token.end, spelled, detail)

    def branches(self) -> Iterator[Mutant]:
        """Every condition of IF and ELSIF made false, and true."""
        level = depths(self._tokens)
        found = []
        for i, token in enumerate(self._tokens):
            begins = token.word == "IF" and self._begins_a_statement(i)
            if not begins and token.word not in ("ELSIF", "ELSEIF"):
                continue
            # PL/pgSQL itself takes the first THEN that is in no parentheses.
            then = (
                j
                for j, t in enumerate(self._tokens)
                if j > i and t.word == "THEN" and level[j] == level[i]
            )
            end = next(then, None)
            if end is not None:
                found.append((token, self._tokens[i + 1].start, self._tokens[end - 1].end))
        places = self._places([token for token, _, _ in found])
        for (_, start, end), place in zip(found, places, strict=True):
            for value in ("false", "true"):
                yield self._with("function-branch", start, end, value, f"{place}.{value}")

    def clauses(self) -> Iterator[Mutant]:
        """Every term that AND or OR connects left out, after IF, WHERE, HAVING and RETURN."""
        level = depths(self._tokens)
        found = []
        for i, token in enumerate(self._tokens):
            following = self._tokens[i + 1].word if i + 1 < len(self._tokens) else ""
            if token.word not in _BEFORE_A_CONDITION or following in ("QUERY", "NEXT"):
                continue
            end = next(
                (
                    t.start
                    for j, t in enumerate(self._tokens)
                    if j > i
                    and (
                        level[j] < level[i]
                        or (level[j] == level[i] and (t.word or t.text) in _AFTER_A_CONDITION)
                    )
                ),
                len(self._source),
            )
            found.append((token, end))
        places = self._places([token for token, _ in found])
        for (token, end), place in zip(found, places, strict=True):
            # A term may end in a comment; the space after the last one ends that, too.
            condition = self._source[token.end : end]
            space = condition[len(condition.rstrip()) :]
            for word in ("AND", "OR"):
                connected = terms(condition, word)
                for number in range(len(connected) if len(connected) > 1 else 0):
                    kept = f"\n{word} ".join(c for i, c in enumerate(connected) if i != number)
                    text = f" {kept}{space}"
                    detail = f"{place}.without-{number + 1}"
                    yield self._with("function-clause-dropped", token.end, end, text, detail)

    def refusals(self) -> Iterator[Mutant]:
        """Every RAISE EXCEPTION made a RETURN."""
        result = self._function.result
        found = [
            (token, self._end(i))
            for i, token in enumerate(self._tokens)
            if token.word == "RAISE"
            and self._begins_a_statement(i)
            and self._tokens[i + 1].word not in _NO_REFUSAL
        ]
        places = self._places([token for token, _ in found])
        nothing = result in ("void", "setof") or "PROCEDURE" in self._function.definition[:40]
        for (token, end), place in zip(found, places, strict=True):
            if result != "boolean":
                text = "RETURN" if nothing else "RETURN NULL"
                yield self._with("function-swallowing", token.start, end, text, place)
            if result == "trigger":
                text = "RETURN coalesce(NEW, OLD)"
                yield self._with("function-permitting", token.start, end, text, place)

    def locks(self) -> Iterator[Mutant]:
        """Every FOR UPDATE and its like left out, and made the weakest lock there is."""
        words = [t.word for t in self._tokens]
        found = [
            (i, strength)
            for i, word in enumerate(words)
            for strength in _LOCKS
            if word == "FOR" and words[i + 1 : i + 1 + len(strength)] == list(strength)
        ]
        places = self._places([self._tokens[i] for i, _ in found])
        for (i, strength), place in zip(found, places, strict=True):
            start, mode = self._tokens[i].start, self._tokens[i + len(strength)]
            end = i + len(strength) + 1
            if words[end] == "OF":
                end += 2
                while self._tokens[end].text in (",", ".") or self._tokens[end - 1].text in ",.":
                    end += 1
            while words[end] in ("NOWAIT", "SKIP", "LOCKED"):
                end += 1
            without = self._tokens[end - 1].end
            yield self._with("function-lock-dropped", start, without, "", place)
            if strength in (("UPDATE",), ("NO", "KEY", "UPDATE")):
                text = "FOR KEY SHARE"
                yield self._with("function-lock-weakened", start, mode.end, text, place)

    def writes(self) -> Iterator[Mutant]:
        """Every statement that writes or locks left out."""
        found = [
            (token, self._end(i))
            for i, token in enumerate(self._tokens)
            if self._begins_a_statement(i)
            and (
                token.word in ("INSERT", "UPDATE", "DELETE", "MERGE", "LOCK")
                or (
                    token.word == "PERFORM"
                    and "ADVISORY" in self._source[token.start : self._end(i)].upper()
                )
            )
        ]
        places = self._places([token for token, _ in found])
        for (token, end), place in zip(found, places, strict=True):
            yield self._with("function-write-dropped", token.start, end, "NULL", place)

    def results(self) -> Iterator[Mutant]:
        """Every RETURN of a boolean function made one of a constant."""
        if self._function.result != "boolean":
            return
        found = [
            (token, self._end(i))
            for i, token in enumerate(self._tokens)
            if token.word == "RETURN" and self._begins_a_statement(i)
        ]
        places = self._places([token for token, _ in found])
        for (token, end), place in zip(found, places, strict=True):
            for value in ("false", "true"):
                text = f"RETURN {value}"
                if self._source[token.start : end].lower() != text.lower():
                    detail = f"{place}.{value}"
                    yield self._with("function-result", token.start, end, text, detail)

    def _with(self, operator: str, start: int, end: int, text: str, detail: str) -> Mutant:
        before, _, after = self._function.definition.rpartition(self._source)
        changed = f"{before}{replaced(self._source, start, end, text)}{after}"
        return Mutant(operator, self._function.name, (changed,), detail=detail)

    def _places(self, found: list[Token]) -> list[str]:
        """Where each is: its line, and which one of the line if there are several."""
        lines = [line(self._source, token.start) for token in found]
        seen: Counter[int] = Counter()
        places = []
        for number in lines:
            seen[number] += 1
            places.append(f"L{number}.{seen[number]}" if lines.count(number) > 1 else f"L{number}")
        return places

    def _begins_a_statement(self, index: int) -> bool:
        if index == 0:
            return True
        before = self._tokens[index - 1]
        return (before.word or before.text) in _BEFORE_A_STATEMENT

    def _end(self, index: int) -> int:
        """Where the statement that begins at a token ends, without its semicolon."""
        rest = (t.start for t in self._tokens[index:] if t.text == ";")
        return next(rest, len(self._source))

    def _assigns(self, index: int) -> bool:
        """Whether `=` at a token gives a variable of PL/pgSQL its value."""
        if self._tokens[index].text != "=" or self._function.language != "plpgsql":
            return False
        begin = index
        while not self._begins_a_statement(begin):
            begin -= 1
            # Only what can be the name of a variable.
            if self._tokens[begin].text != "." and self._tokens[begin].kind not in (
                "word",
                "quoted",
            ):
                return False
        words = [t.word for t in self._tokens[begin:index]]
        # A name, or in a declaration a name and its type.
        return self._declares(begin) or all(w == "" for w in words[1::2])

    def _declares(self, index: int) -> bool:
        before = [t.word for t in self._tokens[:index] if t.word in ("DECLARE", "BEGIN")]
        return bool(before) and before[-1] == "DECLARE"
