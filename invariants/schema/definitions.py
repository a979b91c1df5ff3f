"""The definitions of a database as the server prints them: routines, views, policies and the rest.

Only text and names; what a text does is read by `schema.effects`, what that leads to is said by
`schema.reach`. Relations go by the names of the catalog: bare in `public`, else `schema.name`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
from psycopg.rows import dict_row

from invariants.schema.effects import Effects, of_expression, of_query, of_routine

_COMMANDS = {
    "*": ("select", "insert", "update", "delete"),
    "r": ("select",),
    "a": ("insert",),
    "w": ("update",),
    "d": ("delete",),
}
_EVENTS = {4: "insert", 8: "delete", 16: "update", 32: "truncate"}
_RULES = {"2": "update", "3": "insert", "4": "delete"}


@dataclass(frozen=True)
class RoutineText:
    """A function or procedure; `signature` is `name(types)` or `schema.name(types)`.

    `path` is its own search_path, None when it takes the caller's.
    """

    signature: str
    schema: str
    name: str
    definition: str
    language: str
    owner: str
    security_definer: bool
    path: tuple[str, ...] | None
    result: str
    arguments: tuple[str, ...]
    kind: str
    executable_by: frozenset[str]

    @cached_property
    def effects(self) -> Effects:
        """What its body and its defaults do."""
        return of_routine(self.definition)


@dataclass(frozen=True)
class PolicyText:
    """A policy: the verbs it is about, the roles it is for (none: all), its two expressions."""

    table: str
    name: str
    verbs: tuple[str, ...]
    permissive: bool
    roles: tuple[str, ...]
    using: str | None
    check: str | None

    @cached_property
    def effects(self) -> Effects:
        """What its expressions do."""
        return Effects.of(of_expression(e) for e in (self.using, self.check) if e)


@dataclass(frozen=True)
class TriggerText:
    """A trigger: when it fires, and what it calls, by its signature."""

    table: str
    name: str
    routine: str
    events: frozenset[str]
    before: bool
    instead: bool
    for_each_row: bool
    enabled: bool


@dataclass(frozen=True)
class Expression:
    """An expression that belongs to a table: a default, a generated column, a CHECK, an index.

    `columns` are those that have it, or that it is about.
    """

    kind: str
    table: str
    name: str
    columns: tuple[str, ...]
    text: str

    @cached_property
    def effects(self) -> Effects:
        """What it does."""
        return of_expression(self.text)


@dataclass(frozen=True)
class ViewText:
    """A view or materialized view: its query, and whether it reads as whoever asks."""

    name: str
    owner: str
    invoker: bool
    barrier: bool
    query: str

    @cached_property
    def effects(self) -> Effects:
        """What its query does."""
        return of_query(self.query)


@dataclass(frozen=True)
class RuleText:
    """A rewrite rule that somebody wrote."""

    table: str
    name: str
    event: str
    instead: bool
    definition: str

    @cached_property
    def effects(self) -> Effects:
        """What its actions do."""
        return of_query(self.definition)


@dataclass(frozen=True)
class Definitions:
    """All of them, of the user's schemas. Build it with `read_definitions`."""

    routines: tuple[RoutineText, ...] = ()
    policies: tuple[PolicyText, ...] = ()
    triggers: tuple[TriggerText, ...] = ()
    expressions: tuple[Expression, ...] = ()
    views: tuple[ViewText, ...] = ()
    rules: tuple[RuleText, ...] = ()

    @cached_property
    def routine(self) -> dict[str, RoutineText]:
        """The routines by their signatures."""
        return {r.signature: r for r in self.routines}


_NAME = "CASE n.nspname WHEN 'public' THEN {0} ELSE n.nspname || '.' || {0} END"
_OURS = (
    "n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
    " AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = {0}::regclass"
    " AND e.objid = {1} AND e.deptype = 'e')"
)

_ROUTINES = f"""
SELECT {_NAME.format("p.proname")} || '(' || pg_get_function_identity_arguments(p.oid) || ')'
         AS signature,
       n.nspname AS schema, p.proname AS name, pg_get_functiondef(p.oid) AS definition,
       l.lanname AS language, pg_get_userbyid(p.proowner) AS owner, p.prosecdef AS definer,
       p.proconfig AS config, pg_get_function_result(p.oid) AS result, p.prokind::text AS kind,
       ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t) AS arguments,
       ARRAY(SELECT coalesce(r.rolname, 'public')
             FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
             LEFT JOIN pg_roles r ON r.oid = a.grantee
             WHERE a.privilege_type = 'EXECUTE') AS executable_by
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE p.prokind IN ('f', 'p') AND {_OURS.format("'pg_proc'", "p.oid")}
ORDER BY 1
"""

_POLICIES = f"""
SELECT {_NAME.format("c.relname")} AS relation, o.polname AS name, o.polcmd::text AS command,
       o.polpermissive AS permissive,
       ARRAY(SELECT r.rolname FROM pg_roles r WHERE r.oid = ANY (o.polroles) ORDER BY 1) AS roles,
       pg_get_expr(o.polqual, o.polrelid) AS using_text,
       pg_get_expr(o.polwithcheck, o.polrelid) AS check_text
FROM pg_policy o JOIN pg_class c ON c.oid = o.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_OURS.format("'pg_class'", "c.oid")} ORDER BY 1, 2
"""

_TRIGGERS = f"""
SELECT {_NAME.format("c.relname")} AS relation, t.tgname AS name, t.tgtype::int AS type,
       t.tgenabled::text <> 'D' AS enabled,
       CASE m.nspname WHEN 'public' THEN p.proname ELSE m.nspname || '.' || p.proname END || '()'
         AS routine
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace m ON m.oid = p.pronamespace
WHERE NOT t.tgisinternal AND {_OURS.format("'pg_class'", "c.oid")} ORDER BY 1, 2
"""

_EXPRESSIONS = f"""
SELECT CASE a.attgenerated WHEN '' THEN 'default' ELSE 'generated' END AS kind,
       {_NAME.format("c.relname")} AS relation, a.attname AS name,
       ARRAY[a.attname::text] AS columns,
       pg_get_expr(d.adbin, d.adrelid) AS text
FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT a.attisdropped AND {_OURS.format("'pg_class'", "c.oid")}
UNION ALL
SELECT 'check', {_NAME.format("c.relname")}, k.conname,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) ORDER BY a.attnum),
       pg_get_expr(k.conbin, k.conrelid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'c' AND k.conbin IS NOT NULL AND {_OURS.format("'pg_class'", "c.oid")}
UNION ALL
SELECT 'index', {_NAME.format("c.relname")}, x.relname, ARRAY[]::text[],
       concat_ws(' AND ', pg_get_expr(i.indpred, i.indrelid),
                 'ROW(' || pg_get_expr(i.indexprs, i.indrelid) || ') IS NULL')
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (i.indpred IS NOT NULL OR i.indexprs IS NOT NULL) AND {_OURS.format("'pg_class'", "c.oid")}
ORDER BY 2, 1, 3
"""

_VIEWS = f"""
SELECT {_NAME.format("c.relname")} AS name, pg_get_userbyid(c.relowner) AS owner,
       coalesce('security_invoker=true' = ANY (c.reloptions)
                OR 'security_invoker=on' = ANY (c.reloptions), false) AS invoker,
       coalesce('security_barrier=true' = ANY (c.reloptions)
                OR 'security_barrier=on' = ANY (c.reloptions), false) AS barrier,
       pg_get_viewdef(c.oid) AS query
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND {_OURS.format("'pg_class'", "c.oid")} ORDER BY 1
"""

_WRITTEN_RULES = f"""
SELECT {_NAME.format("c.relname")} AS relation, r.rulename AS name, r.ev_type::text AS event,
       r.is_instead AS instead, pg_get_ruledef(r.oid) AS definition
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.ev_type <> '1' AND {_OURS.format("'pg_class'", "c.oid")} ORDER BY 1, 2
"""


def read_definitions(conn: psycopg.Connection[Any]) -> Definitions:
    """Read every definition of the database that `conn` is connected to."""
    with conn.cursor(row_factory=dict_row) as cursor:

        def rows(query: str) -> list[dict[str, Any]]:
            return cursor.execute(query.encode()).fetchall()

        return Definitions(
            routines=tuple(
                RoutineText(
                    signature=r["signature"],
                    schema=r["schema"],
                    name=r["name"],
                    definition=r["definition"],
                    language=r["language"],
                    owner=r["owner"],
                    security_definer=r["definer"],
                    path=_path(r["config"]),
                    result=r["result"] or "",
                    arguments=tuple(r["arguments"]),
                    kind=r["kind"],
                    executable_by=frozenset(r["executable_by"]),
                )
                for r in rows(_ROUTINES)
            ),
            policies=tuple(
                PolicyText(
                    r["relation"],
                    r["name"],
                    _COMMANDS[r["command"]],
                    r["permissive"],
                    tuple(r["roles"]),
                    r["using_text"],
                    r["check_text"],
                )
                for r in rows(_POLICIES)
            ),
            triggers=tuple(
                TriggerText(
                    r["relation"],
                    r["name"],
                    r["routine"],
                    frozenset(word for bit, word in _EVENTS.items() if r["type"] & bit),
                    before=bool(r["type"] & 2),
                    instead=bool(r["type"] & 64),
                    for_each_row=bool(r["type"] & 1),
                    enabled=r["enabled"],
                )
                for r in rows(_TRIGGERS)
            ),
            expressions=tuple(
                Expression(r["kind"], r["relation"], r["name"], tuple(r["columns"]), r["text"])
                for r in rows(_EXPRESSIONS)
            ),
            views=tuple(
                ViewText(r["name"], r["owner"], r["invoker"], r["barrier"], r["query"])
                for r in rows(_VIEWS)
            ),
            rules=tuple(
                RuleText(
                    r["relation"], r["name"], _RULES[r["event"]], r["instead"], r["definition"]
                )
                for r in rows(_WRITTEN_RULES)
            ),
        )


def _path(config: list[str] | None) -> tuple[str, ...] | None:
    """The search_path among a routine's settings."""
    for entry in config or ():
        name, _, value = entry.partition("=")
        if name == "search_path":
            return tuple(part.strip().strip('"') for part in value.split(",") if part.strip())
    return None
