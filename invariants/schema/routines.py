"""The routines of the user's: functions and procedures, what they take, who may call them.

What one does is read from its definition when it is asked for; most never are. What functions look
for by a name without its schema is read here as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row

from invariants.schema.effects import Effects, of_routine

# What a routine gets from these is another thing each time, whoever else is there.
_CHANCE = frozenset(
    [
        *("random", "random_normal", "gen_random_bytes", "setseed", "pg_backend_pid"),
        *("txid_current", "pg_current_xact_id", "txid_current_snapshot", "pg_current_snapshot"),
        *("clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "now"),
        *("pg_current_wal_lsn", "pg_current_wal_insert_lsn", "pg_postmaster_start_time"),
        *("pg_stat_get_activity", "pg_database_size", "pg_relation_size", "pg_total_relation_size"),
    ]
)


@dataclass(frozen=True)
class Argument:
    """What a routine takes: a value of a type, under a name where it has one.

    `base` is the type itself, or what a domain is made of.
    """

    type: str
    base: str
    name: str = ""
    variadic: bool = False
    enum: tuple[str, ...] = ()
    # What PostgreSQL calls a pseudo-type: no value is of it.
    pseudo: bool = False


@dataclass(frozen=True)
class Routine:
    """A routine of the user's, by its name and argument types; `called` has the types alone.

    `executable_by` are the roles that may execute it, whichever way they came to it.
    """

    signature: str
    security_definer: bool
    is_trigger: bool
    called: str = ""
    arguments: tuple[Argument, ...] = ()
    procedure: bool = False
    executable_by: frozenset[str] = frozenset()
    definition: str = ""
    # Its signature as `definitions` have it, and `reach`.
    known_as: str = ""

    @cached_property
    def effects(self) -> Effects:
        """What its body does by itself."""
        return of_routine(self.definition)

    @property
    def folds(self) -> bool:
        """Whether it is computed when a plan is made, and asks the session for something."""
        head = self.definition.partition("\nAS ")[0].partition("\nRETURN ")[0]
        stable = re.search(r"^ .*\bIMMUTABLE\b", head, re.MULTILINE) is not None
        return stable and bool(self.effects.settings or self.effects.identities)

    @property
    def by_chance(self) -> bool:
        """Whether it asks for what is another thing each time."""
        return any(name[-1] in _CHANCE for name in self.effects.calls) or self.effects.clock


@dataclass(frozen=True)
class Sought:
    """What a function of the user's names without its schema: a type or relation, with it.

    A search_path decides what is found there, whenever the function is called.
    """

    name: str
    kind: Literal["type", "relation"]


# Functions an extension brought are not the user's. CALL names what a procedure gives back as well.
_ROUTINES = """
WITH ours AS (
    SELECT p.*, n.nspname,
           CASE WHEN p.prokind = 'p' THEN coalesce(p.proallargtypes, p.proargtypes::oid[])
                ELSE p.proargtypes::oid[] END AS types
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.prokind IN ('f', 'p') AND n.nspname NOT LIKE 'pg\\_%'
      AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                      AND d.objid = p.oid AND d.deptype = 'e')
)
SELECT format('%I.%I(%s)', p.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
         AS signature,
       CASE p.nspname WHEN 'public' THEN '' ELSE quote_ident(p.nspname) || '.' END
         || quote_ident(p.proname) AS name,
       CASE p.nspname WHEN 'public' THEN '' ELSE p.nspname || '.' END || p.proname
         || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS known_as,
       p.prosecdef AS security_definer, p.prokind = 'p' AS procedure,
       p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) AS is_trigger,
       p.prorettype = 'trigger'::regtype AS is_row_trigger,
       p.provariadic <> 0 AS variadic, pg_get_functiondef(p.oid) AS definition,
       ARRAY(SELECT format_type(a.type, NULL) FROM unnest(p.types) WITH ORDINALITY a(type, i)
             ORDER BY a.i) AS types,
       ARRAY(SELECT format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, NULL)
             FROM unnest(p.types) WITH ORDINALITY a(type, i)
             JOIN pg_type t ON t.oid = a.type ORDER BY a.i) AS bases,
       ARRAY(SELECT t.typtype = 'p' FROM unnest(p.types) WITH ORDINALITY a(type, i)
             JOIN pg_type t ON t.oid = a.type ORDER BY a.i) AS pseudo,
       ARRAY(SELECT coalesce((SELECT string_agg(e.enumlabel, E'\\n' ORDER BY e.enumsortorder)
                              FROM pg_enum e WHERE e.enumtypid = a.type), '')
             FROM unnest(p.types) WITH ORDINALITY a(type, i) ORDER BY a.i) AS enums,
       coalesce(
         CASE WHEN p.proargmodes IS NULL OR p.prokind = 'p' THEN p.proargnames
              ELSE ARRAY(SELECT m.name FROM unnest(p.proargnames, p.proargmodes)
                         WITH ORDINALITY m(name, mode, i)
                         WHERE m.mode IN ('i', 'b', 'v') ORDER BY m.i) END,
         '{}') AS names,
       ARRAY(SELECT r.rolname::text FROM pg_roles r
             WHERE r.rolname !~ '^(pg|invariants)_'
               AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
               AND has_schema_privilege(r.oid, p.pronamespace, 'USAGE')) AS executable_by
FROM ours p ORDER BY 1
"""

# Any word of a source that could be meant so, in literals only where they may be SQL or names. A
# keyword that is a type, such as bigint, is not looked for; pseudo-types such as record have no
# domains.
_SOUGHT = """
WITH words AS (
    SELECT DISTINCT lower(w[1]) AS word
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_language l ON l.oid = p.prolang
    CROSS JOIN regexp_replace(
        p.prosrc,
        CASE WHEN p.prosrc ~* '\\m(execute|reg[a-z]+)\\M' THEN '--[^\\n]*'
             ELSE '--[^\\n]*|''[^'']*''' END,
        ' ', 'g') bare
    CROSS JOIN regexp_matches(bare, '(?<!\\.)\\m[a-z_]\\w*\\M', 'gi') w
    WHERE l.lanname NOT IN ('internal', 'c')
      AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                      AND d.objid = p.oid AND d.deptype = 'e')
), found AS (
    SELECT c.relname AS word, c.relnamespace AS schema, 'relation' AS kind
    FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm')
    UNION ALL
    SELECT t.typname, t.typnamespace, 'type'
    FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typtype <> 'p' AND coalesce(c.relkind, 'c') = 'c'
)
SELECT DISTINCT ON (word) n.nspname || '.' || word AS name, kind
FROM words JOIN found USING (word) JOIN pg_namespace n ON n.oid = found.schema
WHERE n.nspname = 'pg_catalog'
   OR (n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema')
EXCEPT
SELECT 'pg_catalog.' || word, 'type' FROM pg_get_keywords() WHERE catcode IN ('C', 'R')
ORDER BY 1
"""


def read_routines(conn: psycopg.Connection[Any]) -> tuple[Routine, ...]:
    """The routines of the database that `conn` is connected to."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return tuple(map(_routine, cursor.execute(_ROUTINES.encode()).fetchall()))


def read_sought(conn: psycopg.Connection[Any]) -> tuple[Sought, ...]:
    """What its functions look for by names without a schema."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(_SOUGHT.encode()).fetchall()
        return tuple(Sought(r["name"], r["kind"]) for r in found)


def _routine(row: dict[str, Any]) -> Routine:
    arguments = tuple(
        Argument(
            type=kind,
            base=row["bases"][i],
            name=row["names"][i] if i < len(row["names"]) else "",
            variadic=row["variadic"] and i == len(row["types"]) - 1,
            enum=tuple(filter(None, row["enums"][i].split("\n"))),
            pseudo=row["pseudo"][i],
        )
        for i, kind in enumerate(row["types"])
    )
    taken = ", ".join(f"VARIADIC {a.type}" if a.variadic else a.type for a in arguments)
    return Routine(
        signature=row["signature"],
        security_definer=row["security_definer"],
        is_trigger=row["is_row_trigger"],
        called="" if row["is_trigger"] else f"{row['name']}({taken})",
        arguments=arguments,
        procedure=row["procedure"],
        executable_by=frozenset(row["executable_by"]),
        definition=row["definition"],
        known_as=row["known_as"],
    )
