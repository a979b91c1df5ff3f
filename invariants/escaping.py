"""Text that others chose, made harmless for where it is shown: names may hold anything.

What cannot be printed is spelled as Python spells it: control characters, which steer terminals and
end comments (`\\n`, `\\x1b`), invisible ones that reorder a line (`\\u202e`), halves of characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What Markdown, and HTML inside it, would take for more than text.
_MARKDOWN = re.compile(r"([\\`*\[\]<>|~&])")
_PIPE = re.compile(r"(?<!\\)\|")
_FENCE = re.compile(r"`+")


def shown(text: str) -> str:
    """The text on one line, everything that is not printable spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def lines(text: str) -> str:
    """The text as it is, its lines kept; for what we laid out in lines ourselves."""
    return "\n".join(map(shown, text.split("\n")))


def markdown(text: str) -> str:
    """The text as Markdown that shows it, in a paragraph, a list or a cell of a table."""
    return _MARKDOWN.sub(r"\\\1", shown(text))


def code(text: str) -> str:
    """The text as code in Markdown."""
    text = shown(text)
    longest = max(map(len, _FENCE.findall(text)), default=0)
    fence = "`" * (longest + 1)
    between = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{between}{text}{between}{fence}"


def row(cells: Iterable[str]) -> str:
    """A row of a Markdown table, of cells that are Markdown already."""
    # A table is split into its cells first, whatever is code in them.
    escaped = (_PIPE.sub(r"\|", cell) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
