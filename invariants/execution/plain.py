"""Executes a workload the plain way, as an application would: no pipeline, no prepared plans.

Slow and obvious: the fast executor must agree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import psycopg

from invariants.contract.contract import Contract
from invariants.execution.wire import Answer, Reply, ServerError
from invariants.schema.catalog import Catalog
from invariants.servers.connect import as_login
from invariants.servers.logins import Login
from invariants.workload import sql
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Copy,
    Operation,
    Statement,
    Workload,
)


class PlainExecutor:
    """One transaction for each operation, one round trip for each statement.

    Acts as a role by SET LOCAL ROLE in a session of its login, as the fast one does. With `direct`
    it logs in as the role itself, with the tenant setting made in its session. Such roles need
    LOGIN, and `password` where the server asks for one.
    """

    def __init__(
        self,
        conninfo: str,
        contract: Contract,
        catalog: Catalog,
        login: Callable[[str], Login],
        *,
        direct: bool = False,
        password: str = "",
    ) -> None:
        self.conninfo, self.contract, self.catalog = conninfo, contract, catalog
        self.login, self.direct, self.password = login, direct, password
        self._sessions: dict[tuple[str, bool], psycopg.Connection[Any]] = {}
        self._settings: dict[tuple[str, bool], tuple[tuple[str, str], ...]] = {}
        self._operator = self._connect(conninfo)
        self._baseline = {t: self._rows(t) for t in catalog.tables}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections."""
        for session in (self._operator, *self._sessions.values()):
            session.close()
        self._sessions.clear()

    def run(self, workload: Workload) -> tuple[Reply, ...]:
        """Create the tenants, then send each operation; returns what came of the operations."""
        for tenant in workload.tenants:
            if (insert := tenant.made(self.contract.tenancy.root)) is not None:
                with self._operator.transaction():
                    _answered(self._operator, self.catalog.chosen(insert))
        return tuple(self._operation(o) for o in workload.operations)

    def reset(self) -> None:
        """Put the tables back to the rows they had at first, and the views that show them."""
        with self._operator.transaction():
            self._operator.execute("SET LOCAL session_replication_role = 'replica'")
            for table, rows in self._baseline.items():
                relation = sql.name(table)
                columns = sql.names(self.catalog.tables[table].copied)
                self._operator.execute(f"DELETE FROM {relation}".encode())
                for row in rows:
                    self._operator.execute(
                        f"INSERT INTO {relation} ({columns}) OVERRIDING SYSTEM VALUE "
                        f"SELECT {columns} "
                        f"FROM json_populate_record(NULL::{relation}, $1)".encode(),
                        (row,),
                    )
        for view in self.catalog.materialized_views:
            self._operator.execute(f"REFRESH MATERIALIZED VIEW {sql.name(view)}".encode())

    def _operation(self, operation: Operation) -> Reply:
        if not operation.shadows:
            return self._answer(operation, self._session(operation))
        kept, self._sessions, self._settings = (self._sessions, self._settings), {}, {}
        try:
            return self._answer(operation, self._session(operation))
        finally:
            for session in self._sessions.values():
                session.close()
            self._sessions, self._settings = kept

    def _answer(self, operation: Operation, session: psycopg.Connection[Any]) -> Reply:
        answers: list[Answer] = []
        try:
            with session.transaction():
                if not self.direct:
                    self._become(session, operation.actor)
                for name, value in sql.local_settings(operation):
                    session.execute("SELECT set_config($1, $2, true)", (name, value))
                for statement in operation.statements:
                    answers.append(_answered(session, statement))
        except psycopg.Error as error:
            if session.broken or error.sqlstate is None:
                raise
            return Reply(tuple(answers), _refusal(error))
        return Reply(tuple(answers))

    def _session(self, operation: Operation) -> psycopg.Connection[Any]:
        actor = operation.actor
        if actor.role == OPERATOR and actor.silent:
            return self._operator
        # A setting once made is never unset again in its session, only emptied.
        key = actor.role, not actor.silent or operation.inherits
        if key not in self._sessions:
            self._sessions[key] = self._connect(self._conninfo(actor.role))
        session = self._sessions[key]
        values = self.contract.tenancy.session.values(actor)
        if self.direct and values and self._settings.get(key) != values:
            for pair in values:
                session.execute("SELECT set_config($1, $2, false)", pair)
            self._settings[key] = values
        return session

    def _conninfo(self, role: str) -> str:
        if role == OPERATOR:
            return self.conninfo
        if self.direct:
            return as_login(self.conninfo, role, self.password)
        return self.login(role).conninfo

    def _become(self, session: psycopg.Connection[Any], actor: Actor) -> None:
        for pair in self.contract.tenancy.session.values(actor):
            session.execute("SELECT set_config($1, $2, true)", pair)
        session.execute("SELECT set_config('role', $1, true)", (actor.role or "none",))

    def _connect(self, conninfo: str) -> psycopg.Connection[Any]:
        session = psycopg.connect(conninfo, autocommit=True, cursor_factory=psycopg.RawCursor)
        session.prepare_threshold = None
        for setting in ("TimeZone = 'UTC'", "client_min_messages = 'error'", "DateStyle = 'ISO'"):
            session.execute(f"SET {setting}".encode())
        return session

    def _rows(self, table: str) -> Sequence[str]:
        query = f"SELECT row_to_json(t)::text FROM {sql.name(table)} t"
        return [row for (row,) in self._operator.execute(query.encode())]


def _answered(session: psycopg.Connection[Any], statement: Statement) -> Answer:
    query, values = sql.parametrised(statement)
    cursor = session.cursor()
    if isinstance(statement, Copy):
        with cursor.copy(query.encode()) as copy:
            copy.write(sql.copy_data(statement.rows))
        return Answer(cursor.rowcount)
    cursor.execute(query.encode(), values)
    result = cursor.pgresult
    assert result is not None
    if cursor.description is None:
        return Answer(result.command_tuples)
    width = range(result.nfields)
    rows = tuple(tuple(result.get_value(r, c) for c in width) for r in range(result.ntuples))
    return Answer(len(rows), tuple(c.name for c in cursor.description), rows)


def _refusal(error: psycopg.Error) -> ServerError:
    diag = error.diag
    return ServerError(
        sqlstate=error.sqlstate or "",
        message=diag.message_primary or str(error),
        detail=diag.message_detail or "",
        hint=diag.message_hint or "",
        relation=diag.table_name or "",
        column=diag.column_name or "",
        constraint=diag.constraint_name or "",
        context=diag.context or "",
    )
