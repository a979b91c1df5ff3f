"""Reads the catalog of a database: what `catalog` has the shape for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import dict_row

from invariants.schema import lingering
from invariants.schema.catalog import (
    ACTIONS,
    KINDS,
    TOOLS_SCHEMAS,
    TOOLS_TABLES,
    Catalog,
    Check,
    Column,
    ForeignKey,
    Lingering,
    Relation,
    Trigger,
    UniqueIndex,
)
from invariants.schema.definitions import read_definitions
from invariants.schema.routines import read_routines, read_sought
from invariants.schema.standing import read_standing

_RELATIONS = """
SELECT c.oid,
       CASE WHEN n.nspname = 'public' THEN '' WHEN n.nspname ~ '[."]' THEN quote_ident(n.nspname)
            || '.' ELSE n.nspname || '.' END
       || CASE WHEN c.relname ~ '[."]' THEN quote_ident(c.relname) ELSE c.relname END AS name,
       c.relkind::text AS kind, pg_get_userbyid(c.relowner) AS owner, c.relrowsecurity AS rls,
       c.relforcerowsecurity AS forced,
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_partition_tree(c.oid) t
             JOIN pg_partitioned_table p ON p.partrelid = t.relid
             JOIN pg_attribute a ON a.attrelid = c.oid
              AND (a.attnum = ANY(p.partattrs::int2[]) OR 0 = ANY(p.partattrs::int2[]))
             WHERE a.attnum > 0 AND NOT a.attisdropped)
         AS routed_by,
       CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid END AS root
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm')
  AND c.relname <> ALL (%s) AND n.nspname <> ALL (%s)
  AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass
                  AND e.objid = c.oid AND e.deptype = 'e')
ORDER BY 2
"""

# What a domain stands for in the end: its base type, with what the domains on the way add to it.
_COLUMNS = """
WITH RECURSIVE domains AS (
    SELECT oid AS domain, oid, -1 AS typmod, false AS not_null, false AS checked,
           false AS has_default FROM pg_type
    UNION ALL
    SELECT d.domain, t.typbasetype, CASE WHEN d.typmod < 0 THEN t.typtypmod ELSE d.typmod END,
           d.not_null OR t.typnotnull,
           d.checked OR EXISTS (SELECT FROM pg_constraint k
                                WHERE k.contypid = t.oid AND k.contype = 'c'),
           d.has_default OR t.typdefault IS NOT NULL
    FROM domains d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype = 'd'
)
SELECT a.attrelid AS rel, a.attname AS name, a.attnotnull OR b.not_null AS not_null,
       a.atthasdef OR b.has_default AS has_default, pg_get_expr(d.adbin, d.adrelid) AS default_expr,
       a.attgenerated <> '' OR a.attidentity = 'a' AS generated,
       CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' ELSE '' END
         AS identity,
       format_type(t.oid, NULL) AS type,
       b.checked OR b.not_null AS constrained,
       coalesce(NOT l.collisdeterministic, false) AS equates,
       CASE WHEN t.typname IN ('varchar', 'bpchar') AND m.typmod > 4 THEN m.typmod - 4
            ELSE -1 END AS length,
       CASE WHEN t.typname = 'numeric' AND m.typmod > 4 THEN (m.typmod - 4) & 65535
            WHEN t.typname ~ '^time' THEN CASE WHEN m.typmod >= 0 THEN m.typmod ELSE 6 END
            ELSE -1 END AS scale,
       t.typelem <> 0 AND t.typlen = -1 AND t.typcategory = 'A' AS is_array,
       (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder)
        FROM pg_enum e WHERE e.enumtypid = t.oid) AS enum
FROM pg_attribute a JOIN domains b ON b.domain = a.atttypid
JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
CROSS JOIN LATERAL (SELECT CASE WHEN a.atttypmod < 0 THEN b.typmod ELSE a.atttypmod END
                    AS typmod) m
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_CONSTRAINTS = """
SELECT k.conrelid AS rel, k.conname AS name, k.contype::text AS kind,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.i)
         AS columns,
       k.confrelid AS target,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.i)
         AS target_columns,
       k.confdeltype::text AS on_delete, k.confupdtype::text AS on_update,
       k.confmatchtype = 'f' AS is_full, k.condeferred AS deferred,
       pg_get_constraintdef(k.oid) AS definition
FROM pg_constraint k
WHERE k.conrelid = ANY(%s) AND k.contype IN ('p', 'f', 'c', 'x') AND k.conparentid = 0
ORDER BY k.conrelid, k.conname
"""

_UNIQUES = """
SELECT i.indrelid AS rel, c.relname AS name, i.indisprimary AS is_primary,
       pg_get_expr(i.indpred, i.indrelid) AS predicate,
       coalesce(pg_get_expr(i.indexprs, i.indrelid), '') AS expressions,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.n
             WHERE u.i <= i.indnkeyatts ORDER BY u.i)
         AS columns,
       pg_get_indexdef(i.indexrelid) ~ ' NULLS NOT DISTINCT' AS nulls_equal,
       i.indimmediate AS immediate
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indisunique AND i.indrelid = ANY(%s) ORDER BY i.indrelid, c.relname
"""

_TRIGGERS = """
SELECT t.tgrelid AS rel, t.tgname AS name, p.proname AS function, t.tgtype::int AS type,
       t.tgenabled::text <> 'D' AS enabled, t.tgqual IS NOT NULL AS conditional,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = t.tgrelid AND a.attnum = ANY(t.tgattr::int2[])) AS columns
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND t.tgrelid = ANY(%s) ORDER BY t.tgrelid, t.tgname
"""

_POLICIES = """
SELECT polrelid AS rel, polname AS name, polcmd::text AS command
FROM pg_policy WHERE polrelid = ANY(%s) ORDER BY 1, 2
"""

# Set-returning or plain functions that can be called without arguments: a way to read data.
_FUNCTIONS = """
SELECT CASE n.nspname WHEN 'public' THEN p.proname ELSE n.nspname || '.' || p.proname END AS name
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind = 'f' AND p.pronargs = p.pronargdefaults AND p.prorettype <> 'trigger'::regtype
  AND p.prorettype <> 'event_trigger'::regtype
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1
"""

_SOURCES = """
SELECT p.proname AS name, p.prosrc AS source
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
WHERE l.lanname NOT IN ('internal', 'c')
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                  AND d.objid = p.oid AND d.deptype = 'e')
ORDER BY n.nspname, p.proname, p.oid
"""

_SEQUENCES = """
SELECT CASE WHEN schemaname = 'public' THEN '' ELSE schemaname || '.' END
       || CASE WHEN sequencename ~ '[."]' THEN quote_ident(sequencename) ELSE sequencename END
         AS name
FROM pg_sequences WHERE schemaname NOT LIKE 'pg\\_%' ORDER BY 1
"""

# What a view reads, and what may be written through it: by itself, by a rule or by a trigger.
_VIEWS = """
SELECT c.oid AS rel,
       ARRAY(SELECT DISTINCT d.refobjid::bigint FROM pg_rewrite r
             JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                              AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
             WHERE r.ev_class = c.oid) AS reads,
       pg_relation_is_updatable(c.oid::regclass, true) AS bits,
       ARRAY(SELECT r.ev_type::text FROM pg_rewrite r
             WHERE r.ev_class = c.oid AND r.ev_type <> '1') AS rules
FROM pg_class c WHERE c.oid = ANY(%s) AND c.relkind = 'v' ORDER BY 1
"""
_TAKEN = {8: "insert", 4: "update", 16: "delete"}
_RULES = {"3": "insert", "2": "update", "4": "delete"}

_COMMANDS = {"r": "select", "a": "insert", "w": "update", "d": "delete"}
_EVENTS = {4: "INSERT", 8: "DELETE", 16: "UPDATE", 32: "TRUNCATE"}


def read_catalog(conn: psycopg.Connection[Any]) -> Catalog:
    """Read everything the fuzzer needs to know about the database `conn` is connected to."""
    with conn.cursor(row_factory=dict_row) as cursor:
        relations = cursor.execute(_RELATIONS, (list(TOOLS_TABLES), list(TOOLS_SCHEMAS))).fetchall()
        oids = [r["oid"] for r in relations]
        names: dict[int, str] = {r["oid"]: r["name"] for r in relations}

        def grouped(query: str) -> dict[int, list[dict[str, Any]]]:
            found: dict[int, list[dict[str, Any]]] = {oid: [] for oid in oids}
            for row in cursor.execute(query.encode(), (oids,)).fetchall():
                found[row["rel"]].append(row)
            return found

        columns, constraints = grouped(_COLUMNS), grouped(_CONSTRAINTS)
        uniques, triggers, policies = grouped(_UNIQUES), grouped(_TRIGGERS), grouped(_POLICIES)
        views = grouped(_VIEWS)
        functions = tuple(r["name"] for r in cursor.execute(_FUNCTIONS).fetchall())
        sources = [(r["name"], r["source"]) for r in cursor.execute(_SOURCES).fetchall()]
        sequences = tuple(r["name"] for r in cursor.execute(_SEQUENCES).fetchall())
        roles = cursor.execute("SELECT rolname FROM pg_roles").fetchall()
    built = {}
    for relation in relations:
        oid, name = relation["oid"], relation["name"]
        rows = constraints[oid]
        built[name] = Relation(
            name=name,
            kind="partition" if relation["root"] else KINDS[relation["kind"]],
            part_of=names.get(relation["root"]),
            routed_by=frozenset(relation["routed_by"]),
            owner=relation["owner"],
            columns={c["name"]: _column(c) for c in columns[oid]},
            primary_key=next((tuple(k["columns"]) for k in rows if k["kind"] == "p"), ()),
            uniques=tuple(
                UniqueIndex(
                    u["name"],
                    tuple(u["columns"]),
                    u["predicate"],
                    u["is_primary"],
                    u["expressions"],
                    nulls_equal=u["nulls_equal"],
                    within=_named(u["expressions"], columns[oid]),
                    immediate=u["immediate"],
                )
                for u in uniques[oid]
            ),
            foreign_keys=tuple(
                _foreign_key(name, k, names[k["target"]])
                for k in rows
                if k["kind"] == "f" and k["target"] in names
            ),
            checks=tuple(_check(k) for k in rows if k["kind"] == "c"),
            triggers=tuple(_trigger(t) for t in triggers[oid]),
            policies=tuple(p["name"] for p in policies[oid]),
            policy_verbs={
                p["name"]: frozenset(
                    _COMMANDS.values() if p["command"] == "*" else [_COMMANDS[p["command"]]]
                )
                for p in policies[oid]
            },
            exclusions=tuple(_check(k) for k in rows if k["kind"] == "x"),
            row_security=relation["rls"],
            row_security_forced=relation["forced"],
            reads=tuple(sorted(names[o] for v in views[oid] for o in v["reads"] if o in names)),
            takes=frozenset(t for v in views[oid] for t in _taken(v)),
        )
    return Catalog(
        relations=built,
        functions=functions,
        routines=read_routines(conn),
        sought=read_sought(conn),
        lingering=tuple(Lingering(*left) for left in lingering.found(sources)),
        definitions=read_definitions(conn),
        standing=read_standing(conn),
        sequences=sequences,
        roles=frozenset(r["rolname"] for r in roles),
        server_version=conn.info.server_version,
    )


def _column(row: dict[str, Any]) -> Column:
    return Column(
        name=row["name"],
        type=row["type"].removesuffix("[]"),
        not_null=row["not_null"],
        has_default=row["has_default"] or row["identity"],
        default=row["default_expr"],
        generated=row["generated"],
        length=row["length"],
        enum=tuple(row["enum"] or ()),
        is_array=row["is_array"],
        scale=row["scale"],
        identity=row["identity"],
        constrained=row["constrained"],
        equates=row["equates"],
    )


def _named(expression: str, columns: list[dict[str, Any]]) -> frozenset[str]:
    """The columns that an expression names."""
    words = set(re.findall(r"\w+", expression))
    return frozenset(
        c["name"] for c in columns if c["name"] in words or f'"{c["name"]}"' in expression
    )


def _taken(row: dict[str, Any]) -> Iterator[str]:
    yield from (verb for bit, verb in _TAKEN.items() if row["bits"] & bit)
    yield from (_RULES[rule] for rule in row["rules"])


def _check(row: dict[str, Any]) -> Check:
    return Check(row["name"], tuple(row["columns"]), row["definition"])


def _foreign_key(table: str, row: dict[str, Any], target: str) -> ForeignKey:
    return ForeignKey(
        name=row["name"],
        table=table,
        columns=tuple(row["columns"]),
        target=target,
        target_columns=tuple(row["target_columns"]),
        on_delete=ACTIONS[row["on_delete"]],
        on_update=ACTIONS[row["on_update"]],
        full=row["is_full"],
        deferred=row["deferred"],
    )


def _trigger(row: dict[str, Any]) -> Trigger:
    bits = row["type"]
    timing = "BEFORE" if bits & 2 else "INSTEAD OF" if bits & 64 else "AFTER"
    return Trigger(
        name=row["name"],
        function=row["function"],
        events=frozenset(word for bit, word in _EVENTS.items() if bits & bit),
        timing=timing,
        for_each_row=bool(bits & 1),
        enabled=row["enabled"],
        columns=frozenset(row["columns"]),
        conditional=row["conditional"],
    )
