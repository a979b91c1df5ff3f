"""What the keys of a contract file have in common: names, columns, and tables with known keys."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from invariants.reading import Misfit, Text

# What a text looks like, for editors: `read` says it better than a pattern.
LIKE = "x-like"


def said(text: str, pattern: str | None = None) -> msgspec.Meta:
    """What editors show beside a key, and what a text there looks like."""
    extra = {LIKE: pattern} if pattern else None
    return msgspec.Meta(description=text, extra_json_schema=extra)


Name = Annotated[Text, msgspec.Meta(min_length=1)]
Names: TypeAlias = tuple[Name, ...]
SomeNames = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
ColumnName = Annotated[Name, said("a column, as table.column", r"^.+\..+$")]
Number: TypeAlias = int | float


class Section(msgspec.Struct, forbid_unknown_fields=True):
    """A table of the file that has these keys and no others."""


def dotted(place: str, name: str) -> tuple[str, str]:
    """Table and column of a name as `table.column`. Raises `Misfit`."""
    table, dot, column = name.rpartition(".")
    if not (table and dot and column):
        raise Misfit(place, f"{name!r} does not name a column", "write table.column")
    return table, column


def all_dotted(place: str, names: Names) -> tuple[tuple[str, str], ...]:
    """Several of them."""
    return tuple(dotted(f"{place}[{i}]", name) for i, name in enumerate(names))
