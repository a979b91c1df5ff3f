"""What columns take, as data: values that the server has accepted, and how to number further ones.

Found out once for a template (`candidates`), and used by generation, which never asks a database,
and by the model, which knows of these values that no CHECK refuses them.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import msgspec

from invariants.workload.operations import Json, Value, ident

INTEGERS = ("smallint", "integer", "bigint", "oid")
# Where numbered times begin; what is counted are hours.
_BEGINNING = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Taken:
    """What one column takes, besides NULL: some values, the plain ones first.

    `series` makes any number of different ones (`numbered`), where that is possible; otherwise
    `values` are as many different ones as could be found; where they are `listed`, there are no
    others. `asked` are values for which conditions of views, policies and indexes ask, and
    `refused_by` is what refuses every value that was tried. `uuids` says that a text column takes
    uuids.
    """

    values: tuple[Value, ...] = ()
    series: str = ""
    listed: bool = False
    asked: tuple[Value, ...] = ()
    refused_by: str = ""
    uuids: bool = False

    @cached_property
    def known(self) -> frozenset[Value]:
        """The values, to look one up."""
        return frozenset(self.values)

    def nth(self, column: Typed, number: int) -> Value:
        """The `number`th of different values, from 1; there may be no more, and it comes again."""
        if self.series:
            return in_column(column, numbered(self.series, number))
        return self.values[(number - 1) % len(self.values)] if self.values else None


@dataclass(frozen=True)
class Together:
    """Columns that one CHECK or several bind to each other, and rows of values that these take."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    refused_by: str = ""


@dataclass(frozen=True)
class Samples:
    """What is known of the columns of a database. Build it with `candidates.find`.

    By table, then by column. `distinct` are columns by which rows of a table have to differ, and
    `there` rows that tables have from the beginning.
    """

    columns: Mapping[str, Mapping[str, Taken]] = field(default_factory=dict)
    together: Mapping[str, tuple[Together, ...]] = field(default_factory=dict)
    distinct: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    there: Mapping[str, tuple[Mapping[str, Value], ...]] = field(default_factory=dict)

    def of(self, table: str, column: str) -> Taken | None:
        """What a column takes; None where nobody has asked."""
        return self.columns.get(table, {}).get(column)


def to_text(samples: Samples) -> str:
    """Samples as a text, for another process."""
    return msgspec.json.encode(samples).decode()


def from_text(text: str) -> Samples:
    """Samples from such a text."""
    return msgspec.json.decode(text, type=Samples)


class Typed(Protocol):
    """What has a type: a column."""

    @property
    def type(self) -> str:
        """The base type's SQL name, of an array that of its elements."""

    @property
    def is_array(self) -> bool:
        """Whether there are many in one."""


def in_column(column: Typed, text: str) -> Value:
    """A value that is written so in a column, as operations have it."""
    kind = "" if column.is_array else column.type
    if kind in INTEGERS:
        return int(text)
    if kind == "boolean":
        return text in ("t", "true", "yes", "on", "1")
    if kind in ("json", "jsonb"):
        return Json.of(json.loads(text))
    return text


def numbered(series: str, number: int) -> str:
    """The text of a series with this number.

    `{n}` is the number and `{m}` the one after it, `{t}` and `{u}` a time and half an hour later,
    `{d}` and `{e}` a day and the next, `{h}` a time of day, `{x}` and `{b}` the number in
    hexadecimal and binary digits, `{id}` a uuid, `{ABC}` three letters, `{octets}` three numbers of
    an address.
    """
    moment = _BEGINNING + datetime.timedelta(hours=number)
    day = _BEGINNING.date() + datetime.timedelta(days=number)
    parts: dict[str, Any] = {
        "n": number,
        "m": number + 1,
        "t": moment.strftime("%Y-%m-%d %H:%M:%S+00"),
        "u": (moment + datetime.timedelta(minutes=30)).strftime("%Y-%m-%d %H:%M:%S+00"),
        "d": day.isoformat(),
        "e": (day + datetime.timedelta(days=1)).isoformat(),
        "h": f"{number // 60 % 24:02}:{number % 60:02}:00",
        "x": f"{number:06x}",
        "b": f"{number:b}",
        "id": ident("numbered", number),
        "ABC": "".join(_LETTERS[number // 26**p % 26] for p in (2, 1, 0)),
        "abc": "".join(_LETTERS[number // 26**p % 26] for p in (2, 1, 0)).lower(),
        "octets": f"{number // 65536 % 256}.{number // 256 % 256}.{number % 256}",
        "colons": f"{number // 65536 % 256:02x}:{number // 256 % 256:02x}:{number % 256:02x}",
    }
    return series.format_map(parts)
