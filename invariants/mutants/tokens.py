"""Finds its way in SQL and PL/pgSQL text: tokens, parentheses, lists, conditions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>--[^\n]*|/\*.*?\*/)
  | (?P<string>
        [eE]'(?:[^'\\]|\\.|'')*'
      | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'
      | (?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag)
    )
  | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
  | (?P<number>(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<operator>:=|::|\.\.|(?:(?!--|/\*)[~!@\#^&|`?+\-*/%<>=])+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING, _CLOSING = frozenset("(["), frozenset(")]")


@dataclass(frozen=True)
class Token:
    """A piece of text that means something, and where it is."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Where the text goes on."""
        return self.start + len(self.text)

    @property
    def word(self) -> str:
        """The word in capitals; empty when it is none."""
        return self.text.upper() if self.kind == "word" else ""


def tokens(source: str) -> list[Token]:
    """The tokens of a text without white space and comments."""
    return list(_tokens(source))


def _tokens(source: str) -> Iterator[Token]:
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        assert match is not None
        assert match.lastgroup is not None
        kind = "string" if match.lastgroup == "tag" else match.lastgroup
        text = match[0]
        if kind == "operator" and not re.search(r"[~!@#^&|`?%]", text):
            # As PostgreSQL reads it: a sign at the end belongs to what follows.
            text = text[:1] + text[1:].rstrip("+-")
        if kind not in ("space", "comment"):
            yield Token(kind, text, position)
        position += len(text)


def replaced(source: str, start: int, end: int, text: str) -> str:
    """The source with a part of it replaced."""
    return source[:start] + text + source[end:]


def line(source: str, position: int) -> int:
    """The number of the line, from 1."""
    return source.count("\n", 0, position) + 1


def depths(found: list[Token]) -> list[int]:
    """How many parentheses are open at each token; they themselves count as outside."""
    depth, result = 0, []
    for token in found:
        if token.text in _CLOSING:
            depth -= 1
        result.append(depth)
        if token.text in _OPENING:
            depth += 1
    return result


def closing(found: list[Token], opening: int) -> int:
    """The index of the parenthesis that closes the one at an index."""
    level = depths(found)
    return next(
        i for i in range(opening + 1, len(found)) if found[i].text in _CLOSING
        and level[i] == level[opening]
    )  # fmt: skip


def enclosed(source: str, opening: str = "(", after: int = 0) -> tuple[int, int] | None:
    """Where the first text in parentheses begins and ends, without these."""
    found = tokens(source)
    for i, token in enumerate(found):
        if token.text == opening and token.start >= after:
            return token.end, found[closing(found, i)].start
    return None


def parts(source: str, separator: str) -> list[str]:
    """The text divided at a word or sign that is in no parentheses, CASE or BETWEEN."""
    found = tokens(source)
    begin, cases, between, result = 0, 0, False, []
    for token, depth in zip(found, depths(found), strict=True):
        if depth:
            continue
        cases += (token.word == "CASE") - (token.word == "END")
        if token.word == "AND" and between:
            between = False
        elif (token.word or token.text) == separator and not cases:
            result.append(source[begin : token.start].strip())
            begin = token.end
        between = between or token.word == "BETWEEN"
    return [*result, source[begin:].strip()]


def bare(expression: str) -> str:
    """An expression without the parentheses around all of it."""
    while True:
        found = tokens(expression)
        if not found or found[0].text != "(" or closing(found, 0) != len(found) - 1:
            return expression.strip()
        expression = expression[found[0].end : found[-1].start]


def terms(expression: str, word: str) -> list[str]:
    """What AND, or OR, connects at the top of an expression; itself when it connects nothing."""
    inner = bare(expression)
    # OR binds less than AND: a OR b AND c is no conjunction.
    if word == "AND" and len(parts(inner, "OR")) > 1:
        return [inner]
    return parts(inner, word)


def with_column(expression: str, column: str, other: str) -> str:
    """An expression about another column; `other` is quoted."""
    spelled = {column, '"' + column.replace('"', '""') + '"'}
    for token in reversed(tokens(expression)):
        if token.kind in ("word", "quoted") and token.text in spelled:
            expression = replaced(expression, token.start, token.end, other)
    return expression
