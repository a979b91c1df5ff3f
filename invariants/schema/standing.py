"""What roles are beside the relations: whom they may become, where they may make things.

The schemas of the user's, the parameters that somebody was granted, whom each role is a member of,
and the tables whose rows a sequence numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

_MEMBERSHIPS = """
SELECT m.rolname, array_agg(r.rolname::text ORDER BY r.rolname)
FROM pg_roles m JOIN pg_roles r ON r.oid <> m.oid AND pg_has_role(m.oid, r.oid, 'MEMBER')
WHERE m.rolname !~ '^(pg|invariants)_' AND r.rolname !~ '^invariants_' AND NOT m.rolsuper
GROUP BY 1 ORDER BY 1
"""
_SCHEMAS = """
SELECT nspname FROM pg_namespace
WHERE nspname !~ '^(pg|invariants)_' AND nspname <> 'information_schema' ORDER BY 1
"""
_PARAMETERS = "SELECT parname FROM pg_parameter_acl ORDER BY 1"
_PARAMETERS_SINCE = 150000
# By a column that it belongs to, or whose default asks it.
_NUMBERS = """
SELECT DISTINCT CASE sn.nspname WHEN 'public' THEN '' ELSE sn.nspname || '.' END
       || CASE WHEN s.relname ~ '[."]' THEN quote_ident(s.relname) ELSE s.relname END,
       CASE tn.nspname WHEN 'public' THEN '' ELSE tn.nspname || '.' END
       || CASE WHEN t.relname ~ '[."]' THEN quote_ident(t.relname) ELSE t.relname END
FROM pg_class s JOIN pg_namespace sn ON sn.oid = s.relnamespace
JOIN (
    SELECT objid AS sequence, refobjid AS relation FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
      AND deptype IN ('a', 'i') AND refobjsubid > 0
    UNION
    SELECT e.refobjid, d.adrelid FROM pg_depend e JOIN pg_attrdef d ON d.oid = e.objid
    WHERE e.classid = 'pg_attrdef'::regclass AND e.refclassid = 'pg_class'::regclass
) of ON of.sequence = s.oid
JOIN pg_class t ON t.oid = of.relation JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE s.relkind = 'S' AND t.relkind IN ('r', 'p') ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Standing:
    """Build it with `read_standing`."""

    member_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    schemas: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    # For each sequence the tables that it numbers.
    numbers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_standing(conn: psycopg.Connection[Any]) -> Standing:
    """What the database that `conn` is connected to, and its server, say of it."""

    def rows(query: str) -> list[tuple[Any, ...]]:
        return conn.execute(query.encode()).fetchall()

    numbers: dict[str, list[str]] = {}
    for sequence, table in rows(_NUMBERS):
        numbers.setdefault(sequence, []).append(table)
    known = conn.info.server_version >= _PARAMETERS_SINCE
    return Standing(
        member_of={member: tuple(roles) for member, roles in rows(_MEMBERSHIPS)},
        schemas=tuple(name for (name,) in rows(_SCHEMAS)),
        parameters=tuple(name for (name,) in rows(_PARAMETERS)) if known else (),
        numbers={sequence: tuple(tables) for sequence, tables in numbers.items()},
    )
