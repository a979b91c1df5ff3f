"""Finds out which values the columns of a database take: the server says so.

Done once for a template, as a superuser on a copy of it, in a transaction that is rolled back. The
columns of a table stand in a temporary one without its constraints, and every value is put there
and held against the CHECKs that speak of its column alone; what CHECKs say of several columns is
searched among combinations. Nothing of the schema runs but its own CHECKs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
from psycopg import sql as pgsql
from psycopg.rows import dict_row

from invariants.schema import spellings
from invariants.schema.catalog import Catalog, Column, Relation
from invariants.schema.samples import Samples, Taken, Together, in_column, numbered
from invariants.workload import sql
from invariants.workload.operations import Value, ident

# So many values of a column are kept, and rows of columns that are bound to each other.
_VALUES_MAX = 24
_ROWS_MAX = 24
_COMBINATIONS_MAX = 20_000
_ENOUGH = 3
_THERE_MAX = 20
# The numbers that a series is tried with: it takes all between, as a rule.
_TRIED = (1, 2, 13, 99)
_TIMEOUT_SECONDS = 20

_IN_QUOTES = re.compile(r'"((?:[^"]|"")+)"')

_IS_NULL = re.compile(r"\bIS (?:NOT )?NULL\b")

_TAKES = """
CREATE FUNCTION pg_temp.invariants_takes(probe text, relation text, attribute text,
                                         candidates text[], condition text)
RETURNS SETOF integer LANGUAGE plpgsql AS $takes$
DECLARE fine boolean;
BEGIN
  FOR i IN 1 .. coalesce(array_length(candidates, 1), 0) LOOP
    BEGIN
      EXECUTE format('INSERT INTO pg_temp.%I AS %I (%I) VALUES (%L) RETURNING %s',
                     probe, relation, attribute, candidates[i], condition) INTO fine;
      IF fine THEN RETURN NEXT i; END IF;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
END $takes$
"""

# What is written of the columns of each table: its CHECKs, the domains', the bounds of partitions
# (of which one must take a row); then what only names values worth having.
_CONDITIONS = """
SELECT c.oid AS rel, 'check' AS kind, k.conname AS name, pg_get_expr(k.conbin, c.oid) AS told
FROM pg_class c JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'c'
WHERE c.oid = ANY(%(rels)s)
UNION ALL
SELECT pg_partition_root(c.oid)::oid, 'bound', c.relname, pg_get_partition_constraintdef(c.oid)
FROM pg_class c
WHERE c.relispartition AND c.relkind <> 'p' AND pg_partition_root(c.oid)::oid = ANY(%(rels)s)
UNION ALL
SELECT c.oid, 'mention', p.polname, pg_get_expr(p.polqual, c.oid)
FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid WHERE c.oid = ANY(%(rels)s)
UNION ALL
SELECT i.indrelid, 'mention', '', pg_get_expr(i.indpred, i.indrelid)
FROM pg_index i WHERE i.indrelid = ANY(%(rels)s) AND i.indpred IS NOT NULL
UNION ALL
SELECT c.oid, 'mention', '', pg_get_expr(d.adbin, c.oid)
FROM pg_class c JOIN pg_attrdef d ON d.adrelid = c.oid
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
WHERE c.oid = ANY(%(rels)s) AND a.attgenerated <> ''
UNION ALL
SELECT DISTINCT d.refobjid, 'mention', '', pg_get_viewdef(v.oid)
FROM pg_class v JOIN pg_rewrite r ON r.ev_class = v.oid
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass
WHERE v.relkind IN ('v', 'm') AND d.refobjid <> v.oid AND d.refobjid = ANY(%(rels)s)
"""

_DOMAINS = """
WITH RECURSIVE chain AS (
    SELECT a.attrelid AS rel, a.attname AS attribute, a.atttypid AS type
    FROM pg_attribute a WHERE a.attrelid = ANY(%(rels)s) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT c.rel, c.attribute, t.typbasetype
    FROM chain c JOIN pg_type t ON t.oid = c.type WHERE t.typtype = 'd'
)
SELECT c.rel, c.attribute, k.conname AS name, pg_get_constraintdef(k.oid) AS told
FROM chain c JOIN pg_constraint k ON k.contypid = c.type AND k.contype = 'c'
"""

_TYPES = """
SELECT a.attrelid AS rel, a.attname AS attribute, format_type(a.atttypid, a.atttypmod) AS type,
       (SELECT array_agg(format_type(m.atttypid, m.atttypmod) ORDER BY m.attnum)
        FROM pg_attribute m WHERE m.attrelid = t.typrelid AND m.attnum > 0
        AND NOT m.attisdropped) AS members
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = ANY(%(rels)s) AND a.attnum > 0 AND NOT a.attisdropped
"""

_UNIQUES = """
SELECT i.indrelid AS rel, pg_get_indexdef(i.indexrelid) AS told, i.indnkeyatts AS keys,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) u(n)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.n) AS columns,
       0 = ANY(i.indkey::int2[]) AS expressions
FROM pg_index i
WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid = ANY(%(rels)s)
ORDER BY NOT i.indisprimary, i.indexrelid
"""


@dataclass
class _Told:
    """What is written of one table."""

    checks: dict[str, str] = field(default_factory=dict)
    bounds: list[str] = field(default_factory=list)
    mentions: list[str] = field(default_factory=list)
    domains: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)


def find(conn: psycopg.Connection[Any], catalog: Catalog) -> Samples:
    """What the columns of all tables take. `conn` is a superuser's, and in no transaction."""
    tables = [r for r in catalog.relations.values() if r.kind == "table"]
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=dict_row) as cursor:
        for setting in (
            f"statement_timeout = '{_TIMEOUT_SECONDS}s'",
            # No trigger fires, of events neither.
            "session_replication_role = 'replica'",
            "client_min_messages = 'error'",
            "TimeZone = 'UTC'",
            "DateStyle = 'ISO'",
            "IntervalStyle = 'postgres'",
        ):
            cursor.execute(f"SET LOCAL {setting}".encode())
        cursor.execute("CREATE EXTENSION IF NOT EXISTS plpgsql")
        cursor.execute(_TAKES)
        return _Search(cursor, tables).run()


class _Search:
    """The tables of one database, asked one after the other."""

    def __init__(self, cursor: psycopg.Cursor[dict[str, Any]], tables: Sequence[Relation]) -> None:
        self._cursor, self._tables = cursor, tables
        self._numbers = count(1)
        self._told = self._read()

    def run(self) -> Samples:
        columns: dict[str, dict[str, Taken]] = {}
        together: dict[str, tuple[Together, ...]] = {}
        for number, relation in enumerate(self._tables):
            probe = f"invariants_probe_{number}"
            told = self._told[relation.name]
            # A domain that is never empty leaves no room for others.
            others = [c for c in relation.columns if c not in told.domains]
            self._probe(probe, relation, others)
            taken = columns[relation.name] = {}
            for place, column in enumerate(relation.columns.values()):
                own = probe
                if column.name in told.domains:
                    own = f"{probe}_{place}"
                    self._probe(own, relation, [column.name])
                taken[column.name] = self._taken(own, relation, column)
            if bound := self._bound_together(relation, columns[relation.name]):
                together[relation.name] = bound
        return Samples(columns, together, self._distinct(columns), self._there())

    def _probe(self, name: str, relation: Relation, columns: Sequence[str]) -> None:
        """A table with these columns, and none of the constraints."""
        self._cursor.execute(
            f"CREATE TEMP TABLE {name} AS SELECT {sql.names(tuple(columns))} "
            f"FROM {sql.name(relation.name)} WITH NO DATA".encode()
        )

    def _read(self) -> dict[str, _Told]:
        names = [sql.name(r.name) for r in self._tables]
        oids = self._cursor.execute(
            "SELECT name, name::regclass::oid::int8 AS oid FROM unnest(%s::text[]) name", [names]
        ).fetchall()
        by_name = {o["name"]: o["oid"] for o in oids}
        self._oids = {r.name: by_name[sql.name(r.name)] for r in self._tables}
        tables = {oid: name for name, oid in self._oids.items()}
        told = {r.name: _Told() for r in self._tables}
        asked = {"rels": list(tables)}
        for row in self._cursor.execute(_CONDITIONS, asked).fetchall():
            if row["rel"] not in tables or row["told"] is None:
                continue
            of = told[tables[row["rel"]]]
            if row["kind"] == "check":
                of.checks[row["name"]] = row["told"]
            elif row["kind"] == "bound":
                of.bounds.append(row["told"])
            else:
                of.mentions.append(row["told"])
        for row in self._cursor.execute(_DOMAINS, asked).fetchall():
            domains = told[tables[row["rel"]]].domains
            domains.setdefault(row["attribute"], []).append((row["name"], row["told"]))
        for row in self._cursor.execute(_TYPES, asked).fetchall():
            of = told[tables[row["rel"]]]
            of.types[row["attribute"]] = row["type"]
            of.members[row["attribute"]] = len(row["members"] or ())
        return told

    def _taken(self, probe: str, relation: Relation, column: Column) -> Taken:
        told = self._told[relation.name]
        alone = {
            n: c for n, c in _all_checks(told).items() if _columns(relation, c) == {column.name}
        }
        domains = dict(told.domains.get(column.name, ()))
        bound = [*alone.values(), *domains.values()]
        near = [c for c in _all_checks(told).values() if c not in bound]
        near = [c for c in near if column.name in _columns(relation, c)]
        mentioned = [part for m in told.mentions for part in _about(column.name, m)]
        condition = " AND ".join(f"(({c}) IS NOT FALSE)" for c in alone.values()) or "true"

        def takes(tried: Sequence[str]) -> list[str]:
            found = self._cursor.execute(
                "SELECT pg_temp.invariants_takes(%s, %s, %s, %s, %s) AS i",
                [probe, relation.name.rpartition(".")[2], column.name, list(tried), condition],
            ).fetchall()
            return [tried[f["i"] - 1] for f in found]

        if column.type == "uuid" and not column.is_array:
            values = [ident(column.name, n) for n in range(4)]
            return Taken(tuple(takes(values)), "{id}")
        plain, more = spellings.texts(column, [*bound, *near, *mentioned])
        if members := told.members.get(column.name, 0):
            more = ["(" + ",".join([filling] * members) + ")" for filling in ("", "1", "a")] + more
        listed = takes(spellings.listed(bound))
        found = listed or takes(plain)
        if len(found) < _ENOUGH and not listed:
            found += [t for t in takes(more) if t not in found]
        if len(found) < _ENOUGH and bound and not listed:
            found += [t for t in takes(spellings.patterned(bound)) if t not in found]
        series = _series(column, takes, [*bound, *near], listed)
        refused_by = "" if found else ", ".join((*alone, *domains)) or f"type {column.type}"
        asked = self._asked(column, mentioned, takes)
        kept = tuple(dict.fromkeys(in_column(column, t) for t in found[:_VALUES_MAX]))
        uuids = spellings.textual(column) and bool(takes([ident(column.name, 1)]))
        return Taken(kept, series, bool(listed) or bool(column.enum), asked, refused_by, uuids)

    def _asked(
        self,
        column: Column,
        mentioned: Sequence[str],
        takes: Callable[[Sequence[str]], list[str]],
    ) -> tuple[Value, ...]:
        """The values that the conditions speak of."""
        if not mentioned:
            return ()
        named = takes(spellings.named(mentioned))
        empty = [None] if any(_IS_NULL.search(m) for m in mentioned) else []
        return tuple(dict.fromkeys([*empty, *(in_column(column, t) for t in named)]))

    def _bound_together(
        self, relation: Relation, taken: Mapping[str, Taken]
    ) -> tuple[Together, ...]:
        told = self._told[relation.name]
        groups: list[tuple[set[str], dict[str, str]]] = []
        for name, check in _all_checks(told).items():
            columns = _columns(relation, check)
            if len(columns) < 2:
                continue
            joined = [g for g in groups if g[0] & columns]
            groups = [g for g in groups if g not in joined]
            merged = {n: c for g in joined for n, c in g[1].items()}
            groups.append((columns.union(*(g[0] for g in joined)), {**merged, name: check}))
        return tuple(
            found
            for columns, checks in groups
            if (found := self._combined(relation, taken, columns, checks)) is not None
        )

    def _combined(
        self,
        relation: Relation,
        taken: Mapping[str, Taken],
        columns: set[str],
        checks: Mapping[str, str],
    ) -> Together | None:
        """Values of columns that several conditions take together."""
        names = [c for c in relation.columns if c in columns and relation.columns[c].choosable]
        if not names:
            return None
        # All single conditions bind as well: values are those that they take.
        most = max(2, int(_COMBINATIONS_MAX ** (1 / len(names))))
        tried: list[list[str | None]] = []
        for name in names:
            values: list[str | None] = [sql.text(v) for v in taken[name].values]
            kept = values[: most if relation.columns[name].not_null else most - 1]
            tried.append(kept if relation.columns[name].not_null else [*kept, None])
        types = self._told[relation.name].types
        everything = [
            pgsql.SQL(
                "(SELECT ordinality - 1 AS i, v::{} AS v FROM unnest({}::text[]) "
                "WITH ORDINALITY u(v)) {}"
            ).format(pgsql.SQL(types[name]), pgsql.Literal(values), pgsql.Identifier(f"of_{i}"))
            for i, (name, values) in enumerate(zip(names, tried, strict=True))
        ]
        inner = pgsql.SQL("SELECT {}, {} FROM {}").format(
            pgsql.SQL(", ").join(
                pgsql.SQL("{}.i AS {}").format(
                    pgsql.Identifier(f"of_{i}"), pgsql.Identifier(f"invariants_{i}")
                )
                for i in range(len(names))
            ),
            pgsql.SQL(", ").join(
                pgsql.SQL("{}.v AS {}").format(pgsql.Identifier(f"of_{i}"), pgsql.Identifier(name))
                for i, name in enumerate(names)
            ),
            pgsql.SQL(" CROSS JOIN ").join(everything),
        )
        places = [pgsql.Identifier(f"invariants_{i}") for i in range(len(names))]
        query = pgsql.SQL("SELECT {} FROM ({}) AS {} WHERE {} ORDER BY {} LIMIT 2000").format(
            pgsql.SQL(", ").join(places),
            inner,
            pgsql.Identifier(relation.name.rpartition(".")[2]),
            pgsql.SQL(" AND ").join(
                pgsql.SQL("(({}) IS NOT FALSE)").format(pgsql.SQL(c)) for c in checks.values()
            ),
            # The plain ones first, and no column of them for the sake of another.
            pgsql.SQL(" + ").join(places),
        )
        try:
            with self._cursor.connection.transaction():
                found = self._cursor.execute(query).fetchall()
        except psycopg.Error:
            # An expression that fails on some of these values: nothing is known.
            return None
        combined = [tuple(r[f"invariants_{i}"] for i in range(len(names))) for r in found]
        places_kept = _covering(combined)
        return Together(
            tuple(names),
            tuple(
                tuple(
                    None
                    if (text := tried[i][place]) is None
                    else in_column(relation.columns[names[i]], text)
                    for i, place in enumerate(row)
                )
                for row in places_kept
            ),
            "" if places_kept else ", ".join(checks),
        )

    def _distinct(self, columns: Mapping[str, Mapping[str, Taken]]) -> dict[str, tuple[str, ...]]:
        """For each unique index or exclusion a column by which rows can differ."""
        by_oid = {self._oids[r.name]: r for r in self._tables}
        found: dict[str, list[str]] = {}
        rows = self._cursor.execute(_UNIQUES, {"rels": list(by_oid)}).fetchall()
        for row in rows:
            relation = by_oid[row["rel"]]
            chosen = found.setdefault(relation.name, [])
            within = set(row["columns"])
            if row["expressions"]:
                within |= _columns(relation, row["told"])
            if within & set(chosen):
                continue
            able = [
                c.name
                for c in relation.columns.values()
                if c.name in within and c.choosable and relation.foreign_key_of(c.name) is None
            ]
            # What has a series differs for ever; of what has none there are some different ones.
            taken = columns[relation.name]
            able.sort(
                key=lambda c: (
                    not taken[c].series,
                    c in relation.routed_by or relation.columns[c].type.startswith("time"),
                    not taken[c].series and -len(taken[c].values),
                )
            )
            chosen += able[:1]
        return {table: tuple(chosen) for table, chosen in found.items() if chosen}

    def _there(self) -> dict[str, tuple[Mapping[str, Value], ...]]:
        """Some rows that tables have from the beginning."""
        found: dict[str, tuple[Mapping[str, Value], ...]] = {}
        for relation in self._tables:
            listed = ", ".join(f"{sql.column(c)}::text" for c in relation.columns)
            with self._cursor.connection.cursor() as plain:
                rows_found = plain.execute(
                    f"SELECT {listed or '1'} FROM {sql.name(relation.name)} "
                    f"LIMIT {_THERE_MAX}".encode()
                ).fetchall()
            if rows_found:
                found[relation.name] = tuple(
                    {
                        c.name: None if v is None else in_column(c, v)
                        for c, v in zip(relation.columns.values(), row, strict=True)
                    }
                    for row in rows_found
                )
        return found


def _all_checks(told: _Told) -> dict[str, str]:
    """The conditions that each row meets, the partition that takes it among them."""
    if not told.bounds:
        return told.checks
    return {**told.checks, "partition": " OR ".join(f"({b})" for b in told.bounds)}


def _columns(relation: Relation, expression: str) -> set[str]:
    """The columns that an expression names."""
    bare = re.sub(r"'(?:[^']|'')*'", "''", expression)
    words = {q.replace('""', '"') for q in _IN_QUOTES.findall(bare)}
    words |= set(re.findall(r"[^\W\d][\w$]*", _IN_QUOTES.sub(" ", bare)))
    return words & relation.columns.keys()


def _about(name: str, text: str) -> Iterator[str]:
    """What a text says of a column: from each mention of it to the end of its condition."""
    quoted = re.escape(name), re.escape('"' + name.replace('"', '""') + '"')
    for found in re.finditer(rf"(?:(?<![\w\"]){quoted[0]}(?![\w\"])|{quoted[1]})", text):
        rest = text[found.end() : found.end() + 400]
        said = re.split(r"\bAND\b|\bOR\b|\bTHEN\b|;|\n|,(?![^\[]*\])", rest)[0]
        if re.match(r"[)\s]*(?:::[\w \"]+[)\s]*)?(?:=|<|>|!|~|\bIN\b|\bIS\b|\bBETWEEN\b)", said):
            yield said


def _series(
    column: Column,
    takes: Callable[[Sequence[str]], list[str]],
    conditions: Sequence[str],
    listed: Sequence[str],
) -> str:
    if column.enum or listed or column.type == "boolean":
        return ""
    tried = spellings.series(column, conditions)
    for numbers in (_TRIED, _TRIED[:3]):
        for some in (tried[:1], tried[1:]):
            wanted = [[numbered(s, n) for n in numbers] for s in some]
            taken = set(takes([t for texts in wanted for t in texts]))
            for series, texts in zip(some, wanted, strict=True):
                if taken.issuperset(texts) and len(set(texts)) == len(texts):
                    return series
    return ""


def _covering(rows: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Some of the rows, in which every value of a column is that one of them has."""
    kept: list[tuple[int, ...]] = []
    covered: set[tuple[int, int]] = set()
    for row in rows:
        new = {(i, place) for i, place in enumerate(row)} - covered
        if new and len(kept) < _ROWS_MAX:
            kept.append(row)
            covered |= new
    return kept
