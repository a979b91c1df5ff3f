"""Reads what mutants are derived from out of a catalog, for `facts`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from invariants.contract.contract import Contract
from invariants.mutants.base import listed, quoted
from invariants.mutants.facts import (
    COMMANDS,
    PUBLIC,
    Check,
    Column,
    Facts,
    Function,
    Policy,
    Reference,
    Relation,
    Role,
    Trigger,
    Unique,
)
from invariants.schema.catalog import ACTIONS, KINDS

# Schemas and objects of the user: not the server's, not an extension's, no partitions.
_PRELUDE: LiteralString = """
WITH member AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), ns AS (
    SELECT n.oid, n.nspname FROM pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (
          SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
), rel AS (
    SELECT c.*, ns.nspname,
           CASE ns.nspname WHEN 'public' THEN c.relname::text
                ELSE ns.nspname || '.' || c.relname END AS name,
           format('%%I.%%I', ns.nspname, c.relname) AS sql
    FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
      AND c.relname <> 'alembic_version'
      AND NOT EXISTS (
          SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
)
"""


_BESIDES: LiteralString = """
SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname AS name,
       format('%%I.%%I', n.nspname, c.relname) AS sql
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (
    SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') AND """


_RELATIONS: LiteralString = """
SELECT oid, name, sql, quote_ident(nspname) AS schema, relkind::text AS kind,
       pg_get_userbyid(relowner) AS owner, relrowsecurity AS rls, relforcerowsecurity AS forced,
       coalesce(reloptions, '{}') AS options, relispopulated AS populated,
       CASE WHEN relkind IN ('v', 'm') THEN rtrim(pg_get_viewdef(oid), ';') ELSE '' END
           AS definition,
       CASE relkind WHEN 'm' THEN 0 WHEN 'v' THEN pg_relation_is_updatable(oid, true)
                    ELSE -1 END AS updatable,
       obj_description(oid, 'pg_class') AS comment
FROM rel ORDER BY name COLLATE "C"
"""


_COLUMNS: LiteralString = """
SELECT a.attrelid AS rel, a.attname AS name, a.attnum::int AS number,
       format_type(a.atttypid, a.atttypmod) AS type, format_type(a.atttypid, NULL) AS base,
       a.atttypmod AS modifier, a.attnotnull AS not_null, d.oid IS NOT NULL AS has_default,
       a.attidentity <> '' AS identity,
       CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END AS expression,
       CASE a.attgenerated WHEN 'v' THEN 'VIRTUAL' ELSE 'STORED' END AS computed,
       t.typcategory <> 'A' AND t.typname NOT IN ('json', 'jsonb') AND (
           t.typtype IN ('e', 'd') OR t.typname = 'varchar' OR EXISTS (
               SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
               WHERE m.amname = 'btree' AND o.opcdefault AND o.opcintype = t.oid)) AS scalar
FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum
"""


_POLICIES: LiteralString = """
SELECT p.polrelid AS rel, p.polname AS name, p.polpermissive AS permissive,
       p.polcmd::text AS command, pg_get_expr(p.polqual, p.polrelid) AS using,
       pg_get_expr(p.polwithcheck, p.polrelid) AS check,
       ARRAY(SELECT CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r)::text END
             FROM unnest(p.polroles) r ORDER BY 1) AS roles
FROM rel JOIN pg_policy p ON p.polrelid = rel.oid ORDER BY p.polrelid, p.polname
"""


_TRIGGERS: LiteralString = """
SELECT t.tgrelid AS rel, t.tgname AS name, quote_ident(t.tgname) AS sql, rel.sql AS relation,
       p.proname AS function, t.tgconstraint <> 0 AS constraint, t.tgenabled::text AS enabled,
       pg_get_triggerdef(t.oid) AS definition
FROM rel JOIN pg_trigger t ON t.tgrelid = rel.oid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal ORDER BY t.tgrelid, t.tgname
"""


_CONSTRAINTS: LiteralString = """
SELECT k.conrelid AS rel, k.conname AS name, k.contype::text AS kind,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.i)
         AS columns,
       target.name AS target,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.i)
         AS target_columns,
       k.confdeltype::text AS on_delete, k.convalidated AS validated,
       pg_get_constraintdef(k.oid) AS definition, pg_get_expr(k.conbin, k.conrelid) AS expression
FROM rel JOIN pg_constraint k ON k.conrelid = rel.oid
LEFT JOIN rel target ON target.oid = k.confrelid
WHERE k.contype IN ('f', 'c') AND k.conparentid = 0 AND NOT (k.contype = 'f' AND target.oid IS NULL)
ORDER BY k.conrelid, k.conname
"""


_INDEXES: LiteralString = """
SELECT i.indrelid AS rel, c.relname AS name, i.indisunique AS is_unique,
       i.indisprimary AS is_primary, pg_get_expr(i.indpred, i.indrelid) AS predicate,
       pg_get_indexdef(i.indexrelid) AS definition, pg_get_constraintdef(k.oid) AS constraint,
       ARRAY(SELECT a.attname::text
             FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.n ORDER BY u.i)
         AS columns,
       EXISTS (
           SELECT FROM pg_depend d
           WHERE d.deptype = 'n'
             AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                  OR d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid)) AS needed
FROM rel JOIN pg_index i ON i.indrelid = rel.oid JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.contype IN ('p', 'u', 'x')
ORDER BY i.indrelid, c.relname
"""


_GRANTS: LiteralString = """
SELECT rel.oid AS rel, x.privilege_type AS verb, x.is_grantable AS grantable, '' AS column,
       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END AS grantee
FROM rel, aclexplode(rel.relacl) x WHERE x.grantee <> rel.relowner
UNION ALL
SELECT rel.oid, x.privilege_type, x.is_grantable, a.attname,
       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END
FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND NOT a.attisdropped,
     aclexplode(a.attacl) x WHERE x.grantee <> rel.relowner
ORDER BY 1, 5, 4, 2
"""


_HELD: LiteralString = """
SELECT rel.oid AS rel, r AS role, v AS verb
FROM rel, unnest(%(roles)s::name[]) r,
     unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) v
WHERE has_table_privilege(r, rel.oid, v)
"""


_HELD_COLUMNS: LiteralString = """
SELECT rel.oid AS rel, r AS role, v AS verb, a.attname AS column
FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped,
     unnest(%(roles)s::name[]) r, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) v
WHERE has_column_privilege(r, rel.oid, a.attnum, v)
"""


_READS: LiteralString = """
SELECT DISTINCT w.ev_class AS rel, source.name AS source, coalesce(a.attname, '') AS column
FROM pg_depend d
JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
JOIN rel source ON d.refclassid = 'pg_class'::regclass AND source.oid = d.refobjid
LEFT JOIN pg_attribute a ON a.attrelid = source.oid AND a.attnum = d.refobjsubid
JOIN rel ON rel.oid = w.ev_class
WHERE w.ev_class <> source.oid
"""


_FUNCTIONS: LiteralString = """
, proc AS (
    SELECT p.*, ns.nspname, l.lanname,
           CASE ns.nspname WHEN 'public' THEN p.proname::text
                ELSE ns.nspname || '.' || p.proname END AS name,
           count(*) OVER (PARTITION BY ns.oid, p.proname) > 1 AS overloaded
    FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE p.prokind IN ('f', 'p') AND l.lanname IN ('sql', 'plpgsql')
      AND NOT EXISTS (
          SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
)
SELECT name || CASE WHEN overloaded THEN '(' || pg_get_function_identity_arguments(oid) || ')'
                    ELSE '' END AS name,
       format('%%I.%%I(%%s)', nspname, proname, pg_get_function_identity_arguments(oid)) AS sql,
       pg_get_userbyid(proowner) AS owner, lanname AS language,
       CASE WHEN proretset THEN 'setof' ELSE format_type(prorettype, NULL) END AS result,
       pg_get_functiondef(oid) AS definition,
       coalesce(nullif(prosrc, ''), pg_get_function_sqlbody(oid), '') AS source,
       prosecdef AS security_definer,
       EXISTS (SELECT FROM unnest(proconfig) c WHERE c LIKE 'search_path=%%') AS search_path,
       ARRAY(SELECT r::text FROM unnest(%(roles)s::name[]) r
             WHERE has_function_privilege(r, proc.oid, 'EXECUTE')) AS may_execute
FROM proc ORDER BY name COLLATE "C"
"""


_ROLES: LiteralString = """
SELECT r.rolname AS name, r.rolsuper AS superuser, r.rolbypassrls AS bypassrls,
       ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
             WHERE m.member = r.oid) AS member_of
FROM pg_roles r WHERE r.rolname = ANY(%(roles)s::name[]) ORDER BY 1
"""


def read_facts(connection: psycopg.Connection[Any], contract: Contract) -> Facts:
    """Read what mutants are derived from, of the database `connection` is connected to."""
    # Undone at the end, search_path included.
    with (
        connection.transaction(force_rollback=True),
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        cursor.execute("SET LOCAL search_path = pg_catalog")
        return _Reader(cursor, contract).read(connection.info.server_version)


class _Reader:
    """One reading."""

    def __init__(self, cursor: psycopg.Cursor[dict[str, Any]], contract: Contract) -> None:
        self._cursor = cursor
        self._contract = contract
        self._roles: list[str] = []

    def read(self, server_version: int) -> Facts:
        known = [r["name"] for r in self._rows("SELECT rolname AS name FROM pg_roles")]
        self._roles = [role for role in self._contract.roles if role in known]
        relations = self._relations()
        roles = [*self._roles, *(r.owner for r in relations.values())]
        return Facts(
            relations=relations,
            functions=tuple(
                Function(
                    **{
                        **row,
                        "may_execute": frozenset(map(_role, row["may_execute"])),
                    }
                )
                for row in self._rows(_PRELUDE + _FUNCTIONS, self._grantees)
            ),
            roles={
                row["name"]: Role(**{**row, "member_of": frozenset(row["member_of"])})
                for row in self._rows(_ROLES, roles)
            },
            codes=self._codes(relations),
            server_version=server_version,
            sequences=tuple(self._named("relkind = 'S'")),
            partitions=tuple(self._named("relkind IN ('r', 'p') AND relispartition")),
        )

    def _named(self, condition: LiteralString) -> Iterator[tuple[str, str]]:
        """Relations beside those that guards are read of, by name."""
        for row in self._rows(_BESIDES + condition + " ORDER BY 1"):
            yield row["name"], row["sql"]

    @property
    def _grantees(self) -> list[str]:
        # The privilege functions take this word for PUBLIC.
        return [*self._roles, "public"]

    def _rows(self, query: LiteralString, roles: list[str] | None = None) -> list[dict[str, Any]]:
        return self._cursor.execute(query, {"roles": roles or []}).fetchall()

    def _relations(self) -> dict[str, Relation]:
        rows = self._rows(_PRELUDE + _RELATIONS)

        def grouped(query: LiteralString) -> dict[int, list[dict[str, Any]]]:
            found: dict[int, list[dict[str, Any]]] = {row["oid"]: [] for row in rows}
            for row in self._rows(_PRELUDE + query, self._grantees):
                found[row.pop("rel")].append(row)
            return found

        columns, policies, triggers = grouped(_COLUMNS), grouped(_POLICIES), grouped(_TRIGGERS)
        constraints, indexes = grouped(_CONSTRAINTS), grouped(_INDEXES)
        grants, held, held_columns = grouped(_GRANTS), grouped(_HELD), grouped(_HELD_COLUMNS)
        reads = grouped(_READS)
        return {
            row["name"]: Relation(
                name=row["name"],
                sql=row["sql"],
                schema=row["schema"],
                kind=KINDS[row["kind"]],
                owner=row["owner"],
                row_security=row["rls"],
                row_security_forced=row["forced"],
                options=tuple(row["options"]),
                definition=row["definition"],
                populated=row["populated"],
                comment=row["comment"],
                verbs=_verbs(row["updatable"]),
                columns={c["name"]: Column(**c) for c in columns[oid]},
                primary_key=next(
                    (tuple(i["columns"]) for i in indexes[oid] if i["is_primary"]), ()
                ),
                policies=tuple(
                    Policy(**{**p, "command": COMMANDS[p["command"]], "roles": tuple(p["roles"])})
                    for p in policies[oid]
                ),
                triggers=tuple(map(_trigger, triggers[oid])),
                references=tuple(map(_reference, (k for k in constraints[oid] if _is(k, "f")))),
                uniques=tuple(map(_unique, (i for i in indexes[oid] if i["is_unique"]))),
                checks=tuple(map(_check, (k for k in constraints[oid] if _is(k, "c")))),
                indexes=tuple(i["definition"] for i in indexes[oid]),
                grants=tuple(_grant(row["sql"], g) for g in grants[oid]),
                granted=frozenset(
                    (g["grantee"], g["verb"]) for g in grants[oid] if not g["column"]
                ),
                held=frozenset((_role(h["role"]), h["verb"]) for h in held[oid]),
                held_columns=frozenset(
                    (_role(h["role"]), h["verb"], h["column"]) for h in held_columns[oid]
                ),
                reads=frozenset((r["source"], r["column"]) for r in reads[oid]),
            )
            for row in rows
            for oid in (row["oid"],)
        }

    def _codes(self, relations: Mapping[str, Relation]) -> dict[str, tuple[tuple[str, bool], ...]]:
        found = {}
        for taxonomy in self._contract.taxonomies:
            table = relations.get(taxonomy.table)
            if table is None or taxonomy.code not in table.columns:
                continue
            column = taxonomy.active
            active = quoted(column) if column is not None and column in table.columns else "true"
            query = f"SELECT {quoted(taxonomy.code)}::text AS code, {active} AS active"
            rows = self._cursor.execute(f"{query} FROM {table.sql}".encode()).fetchall()
            found[table.name] = tuple(sorted((row["code"], row["active"]) for row in rows))
        return found


def _is(constraint: dict[str, Any], kind: str) -> bool:
    return bool(constraint["kind"] == kind)


def _role(role: str) -> str:
    return PUBLIC if role == "public" else role


def _verbs(updatable: int) -> tuple[str, ...]:
    if updatable == -1:
        return ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
    # Bits of PostgreSQL's CmdType.
    bits = (("INSERT", 8), ("UPDATE", 4), ("DELETE", 16))
    return ("SELECT", *(verb for verb, bit in bits if updatable & bit))


def _trigger(row: dict[str, Any]) -> Trigger:
    word = "CONSTRAINT TRIGGER" if row["constraint"] else "TRIGGER"
    parsed = re.fullmatch(
        rf"CREATE {word} {re.escape(row['sql'])} (?P<timing>BEFORE|AFTER|INSTEAD OF) "
        rf"(?P<events>.*?) ON {re.escape(row['relation'])} (?P<deferral>.*?)"
        r"(?P<referencing>REFERENCING .*?)?FOR EACH (?P<level>ROW|STATEMENT) "
        r"(?:WHEN \((?P<condition>.*)\) )?EXECUTE FUNCTION (?P<call>.*)",
        row["definition"],
        re.DOTALL,
    )
    assert parsed is not None, row["definition"]
    return Trigger(
        name=row["name"],
        function=row["function"],
        constraint=row["constraint"],
        timing=parsed["timing"],
        events=tuple(parsed["events"].split(" OR ")),
        deferral=parsed["deferral"].strip(),
        referencing=(parsed["referencing"] or "").strip(),
        level=parsed["level"],
        condition=parsed["condition"] or "",
        call=parsed["call"],
        enabled=row["enabled"],
    )


def _reference(row: dict[str, Any]) -> Reference:
    return Reference(
        name=row["name"],
        columns=tuple(row["columns"]),
        target=row["target"],
        target_columns=tuple(row["target_columns"]),
        on_delete=ACTIONS[row["on_delete"]],
        validated=row["validated"],
        definition=row["definition"],
    )


def _unique(row: dict[str, Any]) -> Unique:
    return Unique(
        name=row["name"],
        columns=tuple(row["columns"]),
        primary=row["is_primary"],
        constraint=row["constraint"],
        predicate=row["predicate"],
        definition=row["definition"],
        needed=row["needed"],
    )


def _check(row: dict[str, Any]) -> Check:
    head = f"CHECK ({row['expression']})"
    assert row["definition"].startswith(head), row["definition"]
    return Check(
        name=row["name"],
        columns=tuple(row["columns"]),
        expression=row["expression"],
        suffix=row["definition"].removeprefix(head),
    )


def _grant(relation: str, row: dict[str, Any]) -> str:
    column = f" ({listed((row['column'],))})" if row["column"] else ""
    role = row["grantee"] if row["grantee"] == PUBLIC else quoted(row["grantee"])
    option = " WITH GRANT OPTION" if row["grantable"] else ""
    return f"{row['verb']}{column} ON {relation} TO {role}{option}"
