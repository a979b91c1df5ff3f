"""What is in a database before a step and after it, and where the two differ.

Values are compared as text of the type that they had before: what a change of type does not alter
comes back the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import psycopg

from invariants.errors import InfrastructureError
from invariants.schema.catalog import TOOLS_SCHEMAS, TOOLS_TABLES
from invariants.servers.base import connect, database_message
from invariants.workload import sql

Values = Mapping[str, str | None]
What = Literal["table is gone", "column is gone", "rows are gone", "values changed", "rows came"]
# Tables of the user's: those that tools keep their books in are nobody's, and rows of partitions
# are read with their parent.
_TABLES = """
SELECT CASE n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END,
       ARRAY(SELECT a.attname::text FROM pg_constraint k, unnest(k.conkey) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON a.attnum = u.n
             WHERE k.conrelid = c.oid AND k.contype = 'p' AND a.attrelid = c.oid ORDER BY u.i),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND NOT a.attisdropped AND a.attgenerated <> '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relname <> ALL (%s) AND n.nspname <> ALL (%s)
  AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass
                  AND e.objid = c.oid AND e.deptype = 'e')
ORDER BY 1
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

    what: What
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
            found = connection.execute(
                _TABLES.encode(), [list(TOOLS_TABLES), list(TOOLS_SCHEMAS)]
            ).fetchall()
            return {
                name: _table(
                    connection,
                    Table(
                        name,
                        tuple(key),
                        dict(zip(columns, kinds, strict=True)),
                        (),
                        frozenset(generated),
                    ),
                    _former_types(former.get(name), named),
                )
                for name, key, columns, kinds, generated in found
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
    if found:
        row = next(iter(found.values()))
        came = {c: row[kept[c]] for c in table.key}
        yield Difference("rows came", table.name, key=came, count=len(found))
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

    then, since = counted(table.rows, tuple(kept)), counted(now.rows, tuple(kept.values()))
    whats: tuple[What, ...] = ("rows are gone", "rows came")
    for what, more in zip(whats, (then - since, since - then), strict=True):
        if more:
            key = dict(zip(kept, next(iter(more)), strict=True))
            yield Difference(what, table.name, key=key, count=more.total())


def _former_types(former: tuple[str, Table] | None, names: Names) -> Mapping[str, str]:
    if former is None:
        return {}
    name, table = former
    return {names.column(name, c): kind for c, kind in table.types.items()}


def _table(connection: psycopg.Connection, table: Table, former: Mapping[str, str]) -> Table:
    """A table with its rows."""
    expressions = []
    for column, kind in table.types.items():
        cast = former.get(column, kind)
        quoted = sql.column(column)
        if cast != kind and not _casts(connection, table.name, quoted, cast):
            cast = kind
        expressions.append(f"({quoted}::{cast})::text")
    query = f"SELECT {', '.join(expressions) or 'NULL'} FROM {sql.name(table.name)}"
    rows = connection.execute(query.encode()).fetchall()
    return replace(table, rows=tuple(dict(zip(table.types, row, strict=False)) for row in rows))


def _casts(connection: psycopg.Connection, table: str, column: str, kind: str) -> bool:
    """Whether all values of a column can be read as of a type."""
    query = f"SELECT count(({column}::{kind})::text) FROM {sql.name(table)}"
    try:
        with connection.transaction():
            connection.execute(query.encode())
    except psycopg.Error:
        return False
    return True
