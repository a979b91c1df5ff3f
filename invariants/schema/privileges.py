"""Which roles reach which relations, by any privilege: as they stand, as a role that they may
become, as everybody.

Relations go by the names of the catalog, which leaves out what tools and extensions keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg

from invariants.schema.catalog import Catalog

Reached = Mapping[str, Mapping[str, frozenset[str]]]
"""By relation and role the verbs that the role may use, on some of its columns at least."""

# REFERENCES and TRIGGER reach a relation as well, and are no verbs of a client.
_OTHER = "other"
_VERBS = """
    CASE WHEN has_table_privilege(m.oid, c.oid, 'SELECT')
           OR has_any_column_privilege(m.oid, c.oid, 'SELECT') THEN 'select' END,
    CASE WHEN has_table_privilege(m.oid, c.oid, 'INSERT')
           OR has_any_column_privilege(m.oid, c.oid, 'INSERT') THEN 'insert' END,
    CASE WHEN has_table_privilege(m.oid, c.oid, 'UPDATE')
           OR has_any_column_privilege(m.oid, c.oid, 'UPDATE') THEN 'update' END,
    CASE WHEN has_table_privilege(m.oid, c.oid, 'DELETE') THEN 'delete' END,
    CASE WHEN has_table_privilege(m.oid, c.oid, 'TRUNCATE') THEN 'truncate' END,
    CASE WHEN has_table_privilege(m.oid, c.oid, 'TRIGGER, REFERENCES')
           OR has_any_column_privilege(m.oid, c.oid, 'REFERENCES') THEN 'other' END
"""
_REACHED = f"""
SELECT CASE n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END,
       r.rolname, array_agg(DISTINCT verb)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN pg_roles r JOIN pg_roles m ON pg_has_role(r.oid, m.oid, 'MEMBER')
CROSS JOIN unnest(ARRAY[{_VERBS}]) verb
WHERE c.relkind IN ('r', 'p', 'v', 'm') AND r.rolname = ANY (%s) AND verb IS NOT NULL
  AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
  AND has_schema_privilege(m.oid, n.oid, 'USAGE')
GROUP BY 1, 2
"""


def read_reached(conn: psycopg.Connection[Any], catalog: Catalog, roles: Iterable[str]) -> Reached:
    """What these roles reach of the catalog's relations in the database `conn` is connected to."""
    found: dict[str, dict[str, frozenset[str]]] = {}
    for relation, role, verbs in conn.execute(_REACHED.encode(), (list(roles),)).fetchall():
        if relation in catalog.relations:
            found.setdefault(relation, {})[role] = frozenset(verbs) - {_OTHER}
    return found
