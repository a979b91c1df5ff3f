"""A connection that sends many transactions at once and reads every answer afterwards.

psycopg's own pipeline mode costs a round of Python per statement; this speaks to libpq through
`psycopg.pq`. Between two syncs all statements are one implicit transaction, as if sent between
BEGIN and COMMIT, so deferred constraints fire where they do in production.
"""

from __future__ import annotations

import re
import select
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import pq

from invariants.errors import InfrastructureError, server_lost

Parameters = tuple[str | None, ...]
Query = tuple[str, Parameters]

# A plan key and the statements. The key keeps one prepared statement for each role: a plan made
# under one role's row security is thrown away when another role runs it. None: plan anew, as a
# fresh session would; a tenant setting that cannot be read may fail in the planner already.
Batch = tuple[str | None, Sequence[Query]]

# Server conditions that say nothing about the schema: connection, resources, shutdown, system.
_FAULTS: Final = ("08", "53", "57P", "58", "F0")

# Serialization failure, deadlock, and a wait that was called off.
_SEND_AGAIN: Final = ("40001", "40P01", "57014")

# Of those who wait in a circle, the one who closes it is refused, every time.
DEADLOCKS_AT_ONCE: Final = "SET deadlock_timeout = '1ms'"

# More would fill the server's memory with plans nobody uses again.
_PREPARED_MAX: Final = 2000
_FLUSH_EVERY: Final = 16
_SUCCESS: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_D = pq.DiagnosticField
_TEXTS: Final = (_D.SQLSTATE, _D.MESSAGE_PRIMARY, _D.MESSAGE_DETAIL, _D.MESSAGE_HINT)
# What a client is told without having asked for the server's log.
_TOLD: Final = ("NOTICE", "WARNING", "INFO")
_FUNCTION = re.compile(r"PL/pgSQL function (?:\w+\.)?(\w+)\(|SQL function \"(\w+)\"")


@dataclass(frozen=True, slots=True)
class ServerError:
    """What the server said when it refused: SQLSTATE, texts, and the objects it named."""

    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""
    relation: str = ""
    column: str = ""
    constraint: str = ""
    function: str = ""
    context: str = field(default="", compare=False)

    @property
    def gives_way(self) -> bool:
        """Whether it is no judgement of the statement: what it wants is to be sent again."""
        return self.sqlstate in _SEND_AGAIN

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that were running, the one called last first."""
        return tuple(next(filter(None, m.groups())) for m in _FUNCTION.finditer(self.context))


@dataclass(frozen=True, slots=True)
class Answer:
    """What one statement returned. `count` is of rows changed or returned, None if not counted."""

    count: int | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[bytes | None, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """What the server told besides: a notice, a warning or an information, with its texts."""

    severity: str
    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""
    function: str = ""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a transaction told everybody who listens to a channel (NOTIFY)."""

    channel: str
    payload: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What one transaction came to: an answer for each statement that ran, the error if refused.

    `notices` came meanwhile; `announced` is what it told whoever listens, in a session that does.
    """

    answers: tuple[Answer, ...]
    error: ServerError | None = None
    notices: tuple[Notice, ...] = ()
    announced: tuple[Announcement, ...] = ()


class Wire:
    """One libpq connection in pipeline mode. Not for use from several threads.

    Raises `InfrastructureError` when the server goes away; what was in flight then is lost.
    """

    def __init__(self, conninfo: str) -> None:
        try:
            self._pg = pq.PGconn.connect(conninfo.encode())
        except psycopg.OperationalError as error:
            raise server_lost(str(error)) from None
        if self._pg.status != pq.ConnStatus.OK:
            raise server_lost(self._pg.error_message.decode(errors="replace"))
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._poll = select.poll()
        self._ear = select.poll()
        self._ear.register(self._pg.socket, select.POLLIN)
        self._prepared: dict[tuple[str, str], bytes | None] = {}
        self._expected: list[int] = []
        self._arriving: Generator[None, None, Reply] | None = None
        self._notices: list[Notice] = []
        self._pg.notice_handler = self._noticed
        self.waiting = False

    def close(self) -> None:
        """End the connection."""
        self._pg.finish()

    def transact(self, transactions: Sequence[Batch]) -> list[Reply]:
        """Send transactions in one go; return their replies in order."""
        self.send(transactions)
        return self.receive()

    def send(self, transactions: Sequence[Batch]) -> None:
        """Send transactions without waiting for their replies; `receive` must follow."""
        self.waiting = False
        try:
            self._prepare(transactions)
            for i, (key, queries) in enumerate(transactions, 1):
                for query, values in queries:
                    self._send(key, query, values)
                self._pg.pipeline_sync()
                self._expected.append(len(queries))
                if i % _FLUSH_EVERY == 0:
                    self._pg.flush()
            self._drain()
        except psycopg.OperationalError as error:
            raise server_lost(str(error)) from None

    def receive(self) -> list[Reply]:
        """Wait for the replies to all that was sent, in order."""
        expected, self._expected = self._expected, []
        # Of the first some may have arrived, and been taken.
        arriving, self._arriving = self._arriving, None
        try:
            begun = [] if arriving is None else [self._whole(arriving)]
            return [*begun, *(self._reply(count) for count in expected[len(begun) :])]
        except psycopg.OperationalError as error:
            raise server_lost(str(error)) from None

    def prepare(self, transactions: Sequence[Batch]) -> None:
        """Prepare what is to be sent later inside a transaction block, where it is too late."""
        try:
            self._prepare(transactions)
        except psycopg.OperationalError as error:
            raise server_lost(str(error)) from None

    @property
    def heard(self) -> bool:
        """Whether the server has said something that was not read yet."""
        return bool(self._ear.poll(0))

    def take(self) -> Reply | None:
        """The reply to what was sent first if all of it has arrived; does not wait for it."""
        try:
            self._arriving = self._arriving or self._replies(self._expected[0])
            next(self._arriving)
            self._pg.consume_input()
            next(self._arriving)
        except StopIteration as arrived:
            self._arriving = None
            del self._expected[0]
            reply: Reply = arrived.value
            return reply
        except psycopg.OperationalError as error:
            raise server_lost(str(error)) from None
        return None

    @property
    def pid(self) -> int:
        """The process on the server that serves this connection."""
        return self._pg.backend_pid

    @property
    def socket(self) -> int:
        """The file descriptor to poll."""
        return self._pg.socket

    def announce_waits(self, *, login: bool) -> None:
        """Let the server say when a statement waits for a lock, and when it has got it.

        It is by logging of lock waits, sent to the client at once. The message comes when the wait
        has been checked for a deadlock, so that of all who wait in a circle it is the one who
        closes it that is refused, every time. Who logs in for a role has the settings that take a
        superuser from the start.
        """
        settings = (
            *(() if login else (DEADLOCKS_AT_ONCE, "SET log_lock_waits = on")),
            "SET client_min_messages = 'log'",
            # Whoever takes turns has patience of its own.
            "SET lock_timeout = 0",
        )
        for reply in self.transact([(None, [(s, ())]) for s in settings]):
            if reply.error:
                raise InfrastructureError(
                    f"sessions side by side cannot be watched: {reply.error.message}; connect as a "
                    "superuser, or leave them out with --sessions 0"
                )

    def _noticed(self, notice: pq.abc.PGresult) -> None:
        """Keep a notice for the transaction it is of.

        Each begins with a statement that makes none, so that what is heard before the next one
        begins is of this one.
        """
        if (notice.error_field(_D.SOURCE_FUNCTION) or b"") == b"ProcSleep":
            self.waiting = b"still waiting" in (notice.error_field(_D.MESSAGE_PRIMARY) or b"")
            return
        severity = _field(notice, _D.SEVERITY_NONLOCALIZED)
        if severity in _TOLD:
            sqlstate, message, detail, hint = (_field(notice, f) for f in _TEXTS)
            told = Notice(severity, sqlstate, message, detail, hint, _running(notice))
            self._notices.append(told)

    def _heard(self) -> tuple[Notice, ...]:
        if not self._notices:
            return ()
        heard, self._notices = tuple(self._notices), []
        return heard

    def _announced(self) -> tuple[Announcement, ...]:
        """What this session's own transaction has announced: it hears that before it is idle."""
        found = []
        while (told := self._pg.notifies()) is not None:
            if told.be_pid == self._pg.backend_pid:
                channel, payload = (t.decode(errors="replace") for t in (told.relname, told.extra))
                found.append(Announcement(channel, payload))
        return tuple(found)

    def copy_in(self, before: Sequence[Query], query: str, data: str) -> Reply:
        """COPY cannot be pipelined: run `before`, then COPY, in a transaction of its own."""
        pg = self._pg
        try:
            pg.exit_pipeline_mode()
            pg.nonblocking = 0
            pg.exec_(b"BEGIN")
            for sql, values in before:
                pg.exec_params(sql.encode(), _encoded(values))
            result = pg.exec_(query.encode())
            if result.status == pq.ExecStatus.COPY_IN:
                pg.put_copy_data(data.encode())
                pg.put_copy_end(None)
                while (rest := pg.get_result()) is not None:
                    result = rest
            error = self._error(result)
            end = pg.exec_(b"ROLLBACK" if error else b"COMMIT")
            error = error or self._error(end)
            pg.nonblocking = 1
            pg.enter_pipeline_mode()
        except psycopg.OperationalError as fault:
            raise server_lost(str(fault)) from None
        answers = () if error else (_answer(result),)
        return Reply(answers, error, self._heard(), self._announced())

    def _prepare(self, transactions: Sequence[Batch]) -> None:
        """Prepare what is new, apart from the transactions, so that none of them can undo it."""
        known = self._prepared
        missing = {
            (key, query)
            for key, queries in transactions
            if key is not None
            for query, _ in queries
            if (key, query) not in known
        }
        if not missing:
            return
        if len(self._prepared) > _PREPARED_MAX:
            self._pg.send_query_params(b"DEALLOCATE ALL", [])
            self._pg.pipeline_sync()
            self._drain()
            self._reply(1)
            self._prepared.clear()
            self._prepare(transactions)
            return
        order = sorted(missing)
        first = len(self._prepared)
        for i, (_, query) in enumerate(order, first):
            self._pg.send_prepare(b"q%d" % i, query.encode())
            self._pg.pipeline_sync()
        self._drain()
        for i, entry in enumerate(order, first):
            # What cannot be prepared is sent plain, so that its transaction reports the error.
            self._prepared[entry] = None if self._reply(1).error else b"q%d" % i

    def _send(self, key: str | None, query: str, values: Parameters) -> None:
        prepared = None if key is None else self._prepared[key, query]
        if prepared is None:
            self._pg.send_query_params(query.encode(), _encoded(values))
        else:
            self._pg.send_query_prepared(prepared, _encoded(values))

    def _drain(self) -> None:
        """Send all that is buffered, reading meanwhile: both sides could wait on full buffers."""
        pg = self._pg
        while pg.flush():
            self._poll.register(pg.socket, select.POLLIN | select.POLLOUT)
            for _, event in self._poll.poll():
                if event & ~select.POLLOUT:
                    pg.consume_input()

    def _reply(self, statements: int) -> Reply:
        return self._whole(self._replies(statements))

    def _whole(self, arriving: Generator[None, None, Reply]) -> Reply:
        while True:
            try:
                next(arriving)
            except StopIteration as arrived:
                reply: Reply = arrived.value
                return reply
            self._poll.register(self._pg.socket, select.POLLIN)
            self._poll.poll()
            self._pg.consume_input()

    def _replies(self, statements: int) -> Generator[None, None, Reply]:
        """Read one reply; yields whenever more of it must arrive first."""
        pg = self._pg
        answers: list[Answer] = []
        error: ServerError | None = None
        for _ in range(statements):
            while pg.is_busy():
                yield
            result = pg.get_result()
            if result is None:
                raise server_lost("no answer to a statement")
            if result.status in _SUCCESS:
                answers.append(_answer(result))
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                error = self._error(result)
            while pg.is_busy():
                yield
            pg.get_result()
        # A refusal at commit, by a deferred constraint, arrives before the sync itself.
        while True:
            while pg.is_busy():
                yield
            result = pg.get_result()
            if result is not None:
                if result.status == pq.ExecStatus.PIPELINE_SYNC:
                    return Reply(tuple(answers), error, self._heard(), self._announced())
                error = error or self._error(result)
            elif pg.status != pq.ConnStatus.OK:
                raise server_lost(pg.error_message.decode(errors="replace"))

    def _error(self, result: pq.abc.PGresult) -> ServerError | None:
        if result.status != pq.ExecStatus.FATAL_ERROR:
            return None

        sqlstate, message, detail, hint = (_field(result, f) for f in _TEXTS)
        if not sqlstate or sqlstate.startswith(_FAULTS) or self._pg.status != pq.ConnStatus.OK:
            raise server_lost(message or result.error_message.decode(errors="replace"))
        return ServerError(
            sqlstate=sqlstate,
            message=message,
            detail=detail,
            hint=hint,
            relation=_field(result, _D.TABLE_NAME),
            column=_field(result, _D.COLUMN_NAME),
            constraint=_field(result, _D.CONSTRAINT_NAME),
            function=_running(result),
            context=_field(result, _D.CONTEXT),
        )


def _field(result: pq.abc.PGresult, code: pq.DiagnosticField) -> str:
    return (result.error_field(code) or b"").decode(errors="replace")


def _running(result: pq.abc.PGresult) -> str:
    """The function that was running, the one called last."""
    function = _FUNCTION.search(_field(result, _D.CONTEXT))
    return next(filter(None, function.groups())) if function else ""


def _encoded(values: Parameters) -> list[bytes | None]:
    return [None if v is None else v.encode() for v in values]


def _answer(result: pq.abc.PGresult) -> Answer:
    if result.status != pq.ExecStatus.TUPLES_OK:
        count = result.command_tuples
        return Answer(None if count is None else int(count))
    width = range(result.nfields)
    value = result.get_value
    rows = tuple(tuple(value(r, c) for c in width) for r in range(result.ntuples))
    return Answer(len(rows), tuple((result.fname(c) or b"").decode() for c in width), rows)
