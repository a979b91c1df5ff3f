"""Who may do what, today: the roles that act for an application and what they are granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

VERBS = ("select", "insert", "update", "delete", "truncate", "references", "trigger", "maintain")
_NUMBERS = ("usage", "select", "update")


@dataclass(frozen=True)
class Role:
    """A role of the server that may do something here."""

    name: str
    owner: bool
    bypasses: bool
    relations: Mapping[str, tuple[str, ...]]
    routines: tuple[str, ...]


# Owners may do anything with what is theirs, and superusers with everything: neither is granted it.
_ROLES = """
SELECT r.rolname AS name, r.rolbypassrls AS bypasses,
       EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relowner = r.oid AND n.nspname !~ '^pg_')
       OR EXISTS (SELECT FROM pg_database WHERE datdba = r.oid AND datname = current_database())
         AS owner
FROM pg_roles r
WHERE r.rolname !~ '^(pg|invariants)_' AND NOT r.rolsuper ORDER BY 1
"""
_MAINTAIN_SINCE = 170000
_RELATIONS = """
SELECT r.rolname,
       CASE n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END,
       has_any_column_privilege(r.oid, c.oid, 'SELECT'),
       has_any_column_privilege(r.oid, c.oid, 'INSERT'),
       has_any_column_privilege(r.oid, c.oid, 'UPDATE'),
       has_table_privilege(r.oid, c.oid, 'DELETE'), has_table_privilege(r.oid, c.oid, 'TRUNCATE'),
       has_any_column_privilege(r.oid, c.oid, 'REFERENCES'),
       has_table_privilege(r.oid, c.oid, 'TRIGGER'), {maintains}
FROM pg_roles r CROSS JOIN pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.rolname !~ '^(pg|invariants)_' AND NOT r.rolsuper AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND NOT c.relispartition AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND has_schema_privilege(r.oid, n.oid, 'USAGE') ORDER BY 1, 2
"""
# Who may insert rows of a table may number them: that need not be said.
_SEQUENCES = """
SELECT r.rolname,
       CASE n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END,
       has_sequence_privilege(r.oid, c.oid, 'USAGE') AND NOT EXISTS (
           SELECT FROM pg_depend d
           LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
           WHERE (d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
                  AND d.refclassid = 'pg_class'::regclass
                  AND has_any_column_privilege(r.oid, d.refobjid, 'INSERT'))
              OR (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                  AND has_any_column_privilege(r.oid, f.adrelid, 'INSERT'))),
       has_sequence_privilege(r.oid, c.oid, 'SELECT'),
       has_sequence_privilege(r.oid, c.oid, 'UPDATE')
FROM pg_roles r CROSS JOIN pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.rolname !~ '^(pg|invariants)_' AND NOT r.rolsuper AND c.relkind = 'S'
  AND c.relowner <> r.oid AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND has_schema_privilege(r.oid, n.oid, 'USAGE') ORDER BY 1, 2
"""


def read_roles(conn: psycopg.Connection[Any], routines: Mapping[str, frozenset[str]]) -> list[Role]:
    """The roles that may do something with what is the user's.

    `routines` says who may execute each, PUBLIC (`public`) among them: what everybody may by
    default is granted to nobody in particular.
    """
    granted: dict[str, dict[str, tuple[str, ...]]] = {}
    maintains = "has_table_privilege(r.oid, c.oid, 'MAINTAIN')"
    if conn.info.server_version < _MAINTAIN_SINCE:
        maintains = "false"
    relations = _RELATIONS.replace("{maintains}", maintains)
    for query, words in ((relations, VERBS), (_SEQUENCES, _NUMBERS)):
        for role, relation, *may in conn.execute(query.encode()).fetchall():
            verbs = tuple(verb for verb, has in zip(words, may, strict=True) if has)
            if verbs:
                granted.setdefault(role, {})[relation] = verbs
    found = []
    for name, bypasses, owner in conn.execute(_ROLES.encode()).fetchall():
        called = tuple(s for s, who in routines.items() if name in who)
        if granted.get(name) or called:
            found.append(Role(name, owner, bypasses, granted.get(name, {}), called))
    return found


def rows_brought(conn: psycopg.Connection[Any], tables: tuple[str, ...]) -> dict[str, int]:
    """How many rows each table has, as migrated."""
    counts = {}
    for table in tables:
        schema, _, name = table.rpartition(".")
        query = psycopg.sql.SQL("SELECT count(*) FROM {}").format(
            psycopg.sql.Identifier(schema or "public", name)
        )
        ((count,),) = conn.execute(query).fetchall()
        counts[table] = count
    return counts
