"""What is in a database before a step and after it, and where the two differ.

Values are compared as text of the type that they had before: what a change of type does not alter
comes back the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import psycopg

from invariants.errors import InfrastructureError
from invariants.schema.catalog import read_catalog
from invariants.servers.base import connect, database_message
from invariants.workload import sql

Values = Mapping[str, str | None]
# Alembic and others keep their books in tables of their own; `read_catalog` leaves them out.
_TYPES = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated <> ''
FROM pg_attribute a
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


@dataclass(frozen=True)
class Table:
    """The rows of a table, each column as text; `types` are SQL's names of them."""

    name: str
    key: tuple[str, ...]
    types: Mapping[str, str]
    rows: tuple[Values, ...]
    generated: frozenset[str] = frozenset()


Snapshot = Mapping[str, Table]


@dataclass(frozen=True)
class Names:
    """Where what was there before is found afterwards."""

    tables: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def after(cls, renames: Mapping[str, str], before: Snapshot) -> Names:
        """From the renames of a revision, on the way up."""
        tables, columns = {}, {}
        for old, new in renames.items():
            table, _, column = old.rpartition(".")
            if old in before:
                tables[old] = new
            elif table in before:
                columns[table, column] = new
        return cls(tables, columns)

    def table(self, name: str) -> str:
        """What a table is called afterwards."""
        return self.tables.get(name, name)

    def column(self, table: str, name: str) -> str:
        """What a column is called afterwards."""
        return self.columns.get((table, name), name)


@dataclass(frozen=True)
class Difference:
    """What has become of a column, a table or a row. `table` and `column` are its names before.

    A row is given by its key; `was` and `is_now` are the values of a column that changed.
    """

    what: Literal["table is gone", "column is gone", "rows are gone", "values changed", "rows came"]
    table: str
    column: str = ""
    key: Values = field(default_factory=dict)
    was: str | None = None
    is_now: str | None = None
    count: int = 1


def read(conninfo: str, *, like: Snapshot | None = None, names: Names | None = None) -> Snapshot:
    """All rows of all tables. With `like`, values are read as of the types that they had there."""
    named = names or Names()
    former = {named.table(t): (t, table) for t, table in (like or {}).items()}
    try:
        with connect(conninfo) as connection:
            catalog = read_catalog(connection)
            return {
                relation.name: _table(
                    connection,
                    relation.name,
                    relation.primary_key,
                    _former_types(former.get(relation.name), named),
                )
                for relation in catalog.tables.values()
            }
    except psycopg.Error as error:
        raise InfrastructureError(f"the rows cannot be read: {database_message(error)}") from error


def differences(before: Snapshot, after: Snapshot, names: Names) -> Iterator[Difference]:
    """Where what was there is not as it was; columns and tables that came say nothing."""
    for name, table in before.items():
        now = after.get(names.table(name))
        if now is None:
            if table.rows:
                yield Difference("table is gone", name, count=len(table.rows))
            continue
        kept = {c: names.column(name, c) for c in table.types if c not in table.generated}
        gone = [c for c, new in kept.items() if new not in now.types]
        for column in gone:
            if filled := [r for r in table.rows if r[column] is not None]:
                key = {c: filled[0][c] for c in table.key}
                yield Difference("column is gone", name, column, key, filled[0][column])
            del kept[column]
        yield from _of_rows(table, now, kept)


def _of_rows(table: Table, now: Table, kept: Mapping[str, str]) -> Iterator[Difference]:
    """Differences between rows, of the columns that are still there, by the names they have."""
    if not table.key or not all(c in kept for c in table.key):
        yield from _unkeyed(table, now, kept)
        return
    found = {tuple(r[kept[c]] for c in table.key): r for r in now.rows}
    gone: list[Values] = []
    changed: dict[str, list[tuple[Values, Values]]] = {}
    for row in table.rows:
        other = found.pop(tuple(row[c] for c in table.key), None)
        if other is None:
            gone.append(row)
            continue
        for column, new in kept.items():
            if row[column] != other[new]:
                changed.setdefault(column, []).append((row, other))
    if gone:
        key = {c: gone[0][c] for c in table.key}
        yield Difference("rows are gone", table.name, key=key, count=len(gone))
    for column, pairs in changed.items():
        row, other = pairs[0]
        key = {c: row[c] for c in table.key}
        yield Difference(
            "values changed",
            table.name,
            column,
            key,
            row[column],
            other[kept[column]],
            len(pairs),
        )


def _unkeyed(table: Table, now: Table, kept: Mapping[str, str]) -> Iterator[Difference]:
    """Rows that nothing tells apart are counted."""

    def counted(rows: Sequence[Values], columns: Sequence[str]) -> Counter[tuple[str | None, ...]]:
        return Counter(tuple(r[c] for c in columns) for r in rows)

    missing = counted(table.rows, tuple(kept)) - counted(now.rows, tuple(kept.values()))
    if missing:
        row = next(iter(missing))
        key = dict(zip(kept, row, strict=True))
        yield Difference("rows are gone", table.name, key=key, count=missing.total())


def _former_types(former: tuple[str, Table] | None, names: Names) -> Mapping[str, str]:
    if former is None:
        return {}
    name, table = former
    return {names.column(name, c): kind for c, kind in table.types.items()}


def _table(
    connection: psycopg.Connection,
    name: str,
    key: tuple[str, ...],
    former: Mapping[str, str],
) -> Table:
    columns = connection.execute(_TYPES, [sql.name(name)]).fetchall()
    types = {c: kind for c, kind, _ in columns}
    expressions = []
    for column, kind in types.items():
        cast = former.get(column, kind)
        quoted = sql.name(column)
        if cast != kind and not _casts(connection, name, quoted, cast):
            cast = kind
        expressions.append(f"({quoted}::{cast})::text")
    query = f"SELECT {', '.join(expressions) or 'NULL'} FROM {sql.name(name)}"
    rows = connection.execute(query.encode()).fetchall()
    return Table(
        name,
        key,
        types,
        tuple(dict(zip(types, row, strict=False)) for row in rows),
        frozenset(c for c, _, generated in columns if generated),
    )


def _casts(connection: psycopg.Connection, table: str, column: str, kind: str) -> bool:
    """Whether all values of a column can be read as of a type."""
    query = f"SELECT count(({column}::{kind})::text) FROM {sql.name(table)}"
    try:
        with connection.transaction():
            connection.execute(query.encode())
    except psycopg.Error:
        return False
    return True
