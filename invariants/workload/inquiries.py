"""Questions that a role asks the server about its own privileges, as SQL.

What an owner holds on what it owns is not asked for: it may grant itself anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from invariants.workload.operations import HeldOn, Inquire

GRANTABLE = " WITH GRANT OPTION"
ATTRIBUTES: Mapping[str, str] = {
    "superuser": "rolsuper",
    "createrole": "rolcreaterole",
    "createdb": "rolcreatedb",
    "replication": "rolreplication",
    "bypassrls": "rolbypassrls",
}
_ROWS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
PRIVILEGES: Mapping[HeldOn, tuple[str, ...]] = {
    "relation": (
        *("TRIGGER", "REFERENCES", "MAINTAIN"),
        *(f"{verb}{GRANTABLE}" for verb in _ROWS),
    ),
    "sequence": (
        *("USAGE", "SELECT", "UPDATE"),
        *(f"{verb}{GRANTABLE}" for verb in ("USAGE", "SELECT", "UPDATE")),
    ),
    "schema": ("CREATE", f"USAGE{GRANTABLE}"),
    "database": ("CREATE",),
    "parameter": ("SET", "ALTER SYSTEM"),
    "role": ("MEMBER",),
    "attribute": ("HELD",),
    "routine": ("EXECUTE",),
}
"""What may be asked of what. Sequences and relations are relations to the server."""

_ME = "(SELECT oid FROM pg_roles WHERE rolname = current_user)"
_QUERIES: Mapping[HeldOn, str] = {
    "relation": "SELECT {0} AS held FROM pg_class WHERE oid = $1::regclass AND relowner <> {1}",
    "sequence": "SELECT has_sequence_privilege(oid, $2) AS held FROM pg_class"
    " WHERE oid = $1::regclass AND relowner <> {1}",
    "schema": "SELECT has_schema_privilege(oid, $2) AS held FROM pg_namespace"
    " WHERE nspname = $1 AND nspowner <> {1}",
    "database": "SELECT has_database_privilege(oid, $2) AS held FROM pg_database"
    " WHERE datname = current_database() AND datdba <> {1} AND $1 <> ''",
    "parameter": "SELECT has_parameter_privilege($1, $2) AS held",
    "routine": "SELECT has_function_privilege(oid, $2) AS held FROM pg_proc"
    " WHERE oid = $1::regprocedure AND proowner <> {1}",
    "role": "SELECT pg_has_role($1, $2) AS held",
}
_BY_COLUMNS = ("REFERENCES", "SELECT", "INSERT", "UPDATE")


def inquiry(asked: Inquire, quoted: Callable[[str], str]) -> tuple[str, tuple[str, ...]]:
    """The query with `$n` placeholders, and their values; `quoted` writes a name as SQL does.

    It returns one row, and none where the actor is the owner.
    """
    if asked.privilege not in PRIVILEGES[asked.target]:
        raise ValueError(f"{asked.privilege!r} is no privilege on a {asked.target}")
    if asked.target == "attribute":
        column = ATTRIBUTES[asked.relation]
        return f"SELECT {column} AS held FROM pg_roles WHERE rolname = current_user", ()
    some = asked.privilege.partition(" ")[0] in _BY_COLUMNS
    held = f"has_{'any_column' if some else 'table'}_privilege(oid, $2)"
    query = _QUERIES[asked.target].format(held, _ME)
    of_class = asked.target in ("relation", "sequence")
    return query, (quoted(asked.relation) if of_class else asked.relation, asked.privilege)
