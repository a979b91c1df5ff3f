"""Mutants of the values a column takes: CHECK, NOT NULL, types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, quoted
from invariants.mutants.definitions import add_check, change_type
from invariants.mutants.facts import Check, Column, Facts, Relation
from invariants.mutants.tokens import Token, enclosed, parts, replaced, terms, tokens

# A value that no list has.
FURTHER = "invariants"

_BOUNDS = {">=": -1, ">": -1, "<=": 1, "<": 1}
_WORDS = {">=": "ge", ">": "gt", "<=": "le", "<": "lt"}
_NUMBER = re.compile(r"-?\d+(\.\d+)?\Z")


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every CHECK and every column of a table."""
    del contract
    for table in facts.tables:
        for check in table.checks:
            yield from _of_check(table, check)
        for column in table.columns.values():
            target = f"{table.name}.{column.name}"
            optional = column.name not in table.primary_key and not column.identity
            if column.not_null and optional:
                alter = f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(column.name)}"
                yield Mutant("not-null-dropped", target, (f"{alter} DROP NOT NULL",))
            narrower = narrowed(column)
            if narrower:
                yield Mutant(
                    "type-narrowed",
                    target,
                    change_type(facts, table, column, narrower),
                    detail=narrower.replace(" ", "-"),
                    strict=True,
                )


def narrowed(column: Column) -> str | None:
    """The next narrower type; None when there is none.

    Uuids, booleans, documents, dates, floating point, enums, arrays and domains are left as they
    are: what holds less of them is another type altogether.
    """
    modifiers = [int(m) for m in re.findall(r"\d+", column.type.partition("(")[2])]
    match column.base, modifiers:
        case "bigint", _:
            return "integer"
        case "integer", _:
            return "smallint"
        case "text" | "character varying", []:
            return "character varying(40)"
        case "character varying", [length] if length > 1:
            return f"character varying({length - 1})"
        case "numeric", [precision, scale] if scale > 0 and precision > 1:
            return f"numeric({precision - 1},{scale - 1})"
        case "numeric", [precision, *_] if precision > 1:
            return f"numeric({precision - 1})"
        case "timestamp with time zone", []:
            return "timestamp(0) with time zone"
        case "timestamp without time zone", []:
            return "timestamp(0) without time zone"
        case _:
            return None


def _of_check(table: Relation, check: Check) -> Iterator[Mutant]:
    target = f"{table.name}.{check.name}"
    drop = f"ALTER TABLE {table.sql} DROP CONSTRAINT {quoted(check.name)}"
    yield Mutant("check-dropped", target, (drop,))

    def changed(strict: bool, expression: str, detail: str) -> Mutant:
        return Mutant(
            "check-strengthened" if strict else "check-weakened",
            target,
            (drop, add_check(table, replace(check, expression=expression))),
            detail=detail,
            strict=strict,
        )

    found = list(_bounds(check.expression))
    for bound in found:
        number = f".{found.index(bound) + 1}" if len(found) > 1 else ""
        for strict in (False, True):
            moved = bound.value + (-bound.outward if strict else bound.outward)
            spelled = replaced(check.expression, bound.start, bound.end, bound.spelled(moved))
            yield changed(strict, spelled, f"{bound.word}{number}.{bound.value}-to-{moved}")
    for start, end in _lists(check.expression):
        values = parts(check.expression[start:end], ",")
        further = _further(values)
        if further:
            joined = ", ".join([*values, further])
            yield changed(False, replaced(check.expression, start, end, joined), "further-value")
        for place, value in enumerate(values if len(values) > 1 else ()):
            word = re.sub(r"[^\w.-]", "", tokens(value)[0].text) or str(place + 1)
            without = replaced(check.expression, start, end, _without(values, place, ", "))
            yield changed(True, without, f"without-{word}")
    for word, strict in (("AND", False), ("OR", True)):
        conditions = terms(check.expression, word)
        for place in range(len(conditions) if len(conditions) > 1 else 0):
            expression = f"({_without(conditions, place, f' {word} ')})"
            yield changed(strict, expression, f"without-{place + 1}")


def _without(texts: list[str], place: int, separator: str) -> str:
    return separator.join(text for i, text in enumerate(texts) if i != place)


@dataclass(frozen=True)
class _Bound:
    """A number that something is compared with; `outward` accepts more."""

    start: int
    end: int
    value: Decimal
    outward: int
    word: str
    string: bool

    def spelled(self, value: Decimal) -> str:
        if self.string:
            return f"'{value}'"
        return str(value) if value >= 0 else f"({value})"


def _bounds(expression: str) -> Iterator[_Bound]:
    found = tokens(expression)
    for i, token in enumerate(found):
        if token.text not in _BOUNDS or token.kind != "operator":
            continue
        outward = _BOUNDS[token.text]
        right = i + 2 if i + 1 < len(found) and found[i + 1].text == "(" else i + 1
        bound = _bound(found, right, token, outward)
        # On the left a number is followed by its cast, if any; only a plain one is looked for.
        if bound is None and i:
            bound = _bound(found, i - 1, token, -outward)
        if bound is not None:
            yield bound


def _bound(found: list[Token], index: int, operator: Token, outward: int) -> _Bound | None:
    if index >= len(found):
        return None
    token = found[index]
    value = token.text.strip("'")
    string = token.kind == "string"
    if token.kind not in ("number", "string") or not _NUMBER.match(value):
        return None
    # What is calculated from a number is no constant: x > 2 * y.
    after = found[index + 1] if index + 1 < len(found) else None
    if after and after.kind == "operator" and after.text not in ("::", operator.text):
        return None
    return _Bound(token.start, token.end, Decimal(value), outward, _WORDS[operator.text], string)


def _lists(expression: str) -> Iterator[tuple[int, int]]:
    """Where the values of `= ANY (ARRAY[..])` begin and end."""
    found = tokens(expression)
    for token, following in pairwise(found):
        before = [t for t in found if t.end <= token.start and t.text != "("][-2:]
        is_any = [t.word or t.text for t in before] == ["=", "ANY"]
        if token.word == "ARRAY" and following.text == "[" and is_any:
            place = enclosed(expression, "[", token.start)
            assert place is not None
            yield place


def _further(values: list[str]) -> str | None:
    """One more value like these."""
    last = tokens(values[-1])[0]
    if last.kind == "number":
        numbers = [Decimal(tokens(v)[0].text) for v in values if tokens(v)[0].kind == "number"]
        return replaced(values[-1], last.start, last.end, str(max(numbers) + 1))
    if last.kind == "string" and not _NUMBER.match(last.text.strip("'")):
        return replaced(values[-1], last.start, last.end, f"'{FURTHER}'")
    return None
