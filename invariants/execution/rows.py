"""How the committed rows are read in a session of whoever has just acted.

An operation and the look at what it has left belong into one pipeline, and the actor may not see
all rows. So there is a function that runs as the superuser. Its schema has a name drawn by lot,
after the catalog was read, and only the logins may use it: not the roles that they act for.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from invariants.errors import InfrastructureError
from invariants.execution.wire import Batch, Query, Reply, Wire
from invariants.workload import sql
from invariants.workload.operations import OPERATOR

# Rows are compared as text, whatever has become of the session's settings.
_SETTINGS = (
    "search_path = pg_catalog, pg_temp",
    "TimeZone = 'UTC'",
    "DateStyle = 'ISO'",
    "IntervalStyle = 'postgres'",
    "bytea_output = 'hex'",
    "extra_float_digits = 1",
)
_HAS_PLPGSQL: Query = ("SELECT FROM pg_language WHERE lanname = 'plpgsql'", ())
_MAY_CONNECT = (
    "SELECT has_database_privilege($1::name, current_database(), 'CONNECT'),"
    " quote_ident(current_database())"
)
_GRANTEES = """
SELECT DISTINCT pg_get_userbyid(a.grantee) FROM (
    SELECT nspacl AS acl, nspowner AS owner FROM pg_namespace WHERE nspname = $1
    UNION ALL
    SELECT p.proacl, p.proowner FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = $1
) made, aclexplode(acl) a WHERE a.grantee NOT IN (0, owner)
"""


class RowsReader:
    """The function on one database. `wire` is a superuser's, on which no event trigger fires.

    Raises `InfrastructureError` when it cannot be made.
    """

    def __init__(self, wire: Wire, tables: Sequence[str]) -> None:
        self._wire = wire
        self._schema = f"invariants_{secrets.token_hex(8)}"
        function = f"{self._schema}.committed"
        # A plan is kept by PL/pgSQL alone; who has dropped it gets it made anew each time.
        language = "plpgsql" if self._asked(_HAS_PLPGSQL) else "sql"
        query = _query(tables)
        body = f"BEGIN RETURN QUERY {query}; END" if language == "plpgsql" else query
        self._run(
            f"CREATE SCHEMA {self._schema}",
            f"CREATE FUNCTION {function}() RETURNS TABLE (number integer, record text)"
            f" LANGUAGE {language} STABLE SECURITY DEFINER"
            f" {' '.join(f'SET {s}' for s in _SETTINGS)} AS $rows${body}$rows$",
            f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC",
        )
        # The schema under test may have default privileges.
        for (grantee,) in self._asked((_GRANTEES, (self._schema,))):
            assert grantee is not None
            role = sql.role(grantee.decode())
            self._run(
                f"REVOKE ALL ON SCHEMA {self._schema} FROM {role}",
                f"REVOKE ALL ON FUNCTION {function}() FROM {role}",
            )
        # The role that an operation has left behind in its session has no part in it.
        self.batch: Batch = (
            OPERATOR,
            [
                ("SELECT set_config('role', 'none', true)", ()),
                (f"SELECT number, record FROM {function}()", ()),
            ],
        )

    def admit(self, login: str) -> None:
        """Let a login connect, and read."""
        self._run(
            f"GRANT USAGE ON SCHEMA {self._schema} TO {login}",
            f"GRANT EXECUTE ON FUNCTION {self._schema}.committed() TO {login}",
        )
        ((connects, database),) = self._asked((_MAY_CONNECT, (login,)))
        if connects == b"f":
            assert database is not None
            self._run(f"GRANT CONNECT ON DATABASE {database.decode()} TO {login}")

    def _asked(self, query: Query) -> Sequence[Sequence[bytes | None]]:
        (reply,) = self._sent([query])
        return reply.answers[0].rows

    def _run(self, *statements: str) -> None:
        self._sent([(s, ()) for s in statements])

    def _sent(self, queries: Sequence[Query]) -> list[Reply]:
        replies = self._wire.transact([(None, queries)])
        for reply in replies:
            if reply.error:
                raise InfrastructureError(
                    f"the committed rows cannot be read: {reply.error.message}"
                )
        return replies


def _query(tables: Sequence[str]) -> str:
    if not tables:
        return "SELECT 0, ''::text WHERE false"
    return " UNION ALL ".join(
        f"SELECT {i}, row_to_json(t)::text FROM {_qualified(table)} t"
        for i, table in enumerate(tables)
    )


def _qualified(table: str) -> str:
    return sql.name(table if "." in table else f"public.{table}")
