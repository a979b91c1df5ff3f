"""Runs a workload on a scratch database and keeps every outcome.

Every role acts through a login of its own (`servers.logins`), the operator through the superuser's
session. What one of them sends goes out at once, until it is another's turn; the committed rows are
read in the same session after every operation that could change one. Between workloads the database
is put back to its baseline by DELETE, which is ten times cheaper than TRUNCATE.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from invariants.contract.contract import Contract
from invariants.errors import InfrastructureError, UsageError
from invariants.execution.history import History, Record, State, Step, hashable
from invariants.execution.interleaver import Interleaver
from invariants.execution.relay import Part, Relay
from invariants.execution.rows import RowsReader
from invariants.execution.wire import Answer, Batch, Query, Reply, Wire
from invariants.schema.announcements import channels
from invariants.schema.catalog import Catalog
from invariants.servers.logins import Login
from invariants.workload import sql
from invariants.workload.operations import (
    OPERATOR,
    Copy,
    Leftover,
    Operation,
    Refresh,
    Workload,
)

_VACUUM_EVERY = 250
# Rows known by their text, so that equal ones are one object: some hundred megabytes.
_RECORDS_KEPT = 200_000
# A statement that takes longer hangs: no table here has more than some dozen rows.
_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Started:
    """A workload under way: what has been answered of it, tenants (`opening`) first."""

    workload: Workload
    states: bool
    opening: int
    relay: Relay


class Executor:
    """Executes workloads one after the other on one scratch database, which is its own.

    Raises `InfrastructureError` when the server goes away.
    """

    def __init__(
        self,
        conninfo: str,
        contract: Contract,
        catalog: Catalog,
        login: Callable[[str], Login],
    ) -> None:
        self.contract, self.catalog = contract, catalog
        self.conninfo = conninfo
        self.operations = 0
        # What is done while this waits, or looks at what came: whatever may not wait itself.
        self.meanwhile: Callable[[], None] = lambda: None
        self._login = login
        self._logins: dict[str, Login] = {}
        self._operator = self._connect(OPERATOR)
        # By role; a setting once made is never unset again in its session, only emptied, so there
        # is another session for those who never say for whom they act.
        self._sessions: dict[tuple[str, bool], Wire] = {(OPERATOR, False): self._operator}
        self._interleaver: Interleaver | None = None
        # Its triggers and foreign keys never fire. On a connection of its own, because a change of
        # the replication role throws away all plans of a session.
        self._cleaner = self._connect(OPERATOR, "SET session_replication_role = 'replica'")
        self._names = tuple(catalog.tables)
        self._keys = [catalog.tables[t].primary_key for t in self._names]
        self._rows = RowsReader(self._cleaner, self._names)
        self._records: dict[tuple[str, bytes], Record] = {}
        self._stale_views: set[str] = set()
        self._runs = 0
        self._folds = any(r.folds for r in catalog.routines)
        self._lingered = self._looked_into = False
        self._channels = channels(catalog)
        self._empty = State(frozenset())
        self.baseline = self._read_state()
        self._last = self.baseline
        self._sequences = self._sequence_values()
        self._clock_ahead = self._seconds_ahead()

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
        """End the connections; the database itself belongs to whoever made it."""
        for wire in (self._cleaner, *self._sessions.values()):
            wire.close()
        if self._interleaver is not None:
            self._interleaver.close()

    def run(self, workload: Workload, *, states: bool = True) -> History:
        """Execute a workload on the baseline plus its tenants.

        With `states` False only the outcomes are kept: every state in the history is empty.
        """
        return self.finish(self.start(workload, states=states))

    def start(self, workload: Workload, *, states: bool = True) -> Started:
        """Send a workload, and let the server work on it; `finish` must come next."""
        self._finish_reset()
        self._runs += 1
        self._refresh_before(workload)
        if any(o.keeps_plans for o in workload.operations):
            # No plan of an earlier workload's.
            for wire in self._sessions.values():
                wire.transact([(None, [("DISCARD PLANS", ())])])
        self._leave_nothing(workload)
        made = (t.made(self.contract.tenancy.root) for t in workload.tenants)
        opening: list[Batch] = [
            (OPERATOR, [sql.parametrised(self.catalog.chosen(i))]) for i in made if i is not None
        ]
        known = len(opening)
        if states:
            opening.append(self._rows.batch)
        return Started(workload, states, known, Relay(self._parts(workload, states, opening)))

    def finish(self, started: Started) -> History:
        """Wait for the rest of the answers to what was started."""
        workload, states, known = started.workload, started.states, started.opening
        replies = started.relay.finish()
        self._check_tenants(replies[:known])
        self.operations += len(workload.operations)
        history = self._history(workload, replies[known:], states)
        if workload.sessions:
            history = self._interleaved(history)
        self._stale_views |= {
            s.relation
            for step in history.steps
            if step.committed
            for s in step.operation.statements
            if isinstance(s, Refresh)
        }
        # The server cleans up while the next workload is being made.
        self._cleaner.send(self._reset())
        return history

    def leave(self, workload: Workload) -> tuple[Reply, ...]:
        """Execute a workload and leave its rows where they are: the last that is asked of this.

        Returns what came of each operation.
        """
        started = self.start(workload, states=False)
        replies = started.relay.finish()
        self._check_tenants(replies[: started.opening])
        # Without the answer to who acts.
        return tuple(Reply(r.answers[1:], r.error) for r in replies[started.opening :])

    def _interleaved(self, history: History) -> History:
        """Let the sessions go on from where the operations have led."""
        if self._interleaver is None:
            self._interleaver = Interleaver(
                self._connect, self.contract.tenancy.session, self._rows.batch, self._state
            )
        self._interleaver.resting = lambda: frozenset(w.pid for w in self._sessions.values())
        workload = history.workload
        came = self._interleaver.run(
            workload.sessions, workload.schedule, history.final, len(history.steps)
        )
        self.operations += len(came.steps)
        self._last = came.final
        return replace(
            history,
            steps=history.steps + came.steps,
            clock=time.time() + self._clock_ahead,
            turns=came.turns,
        )

    def _apart(self, operation: Operation) -> Reply:
        """An operation in a session of its own, with which all that is temporary goes."""
        wire = self._connect(operation.actor.role)
        try:
            (reply,) = wire.transact([self._transaction(operation, frozenset())])
        finally:
            wire.close()
        return reply

    def _parts(self, workload: Workload, states: bool, opening: list[Batch]) -> Iterator[Part]:
        """Cut the workload where the session changes; lazily, each part after the one before."""
        wire, batches = self._operator, opening
        tenants = frozenset(t.id for t in workload.tenants)
        for operation in workload.operations:
            session = self._session(operation)
            copies = any(isinstance(s, Copy) for s in operation.statements)
            if operation.shadows or copies:
                yield wire, batches
                yield partial(self._apart if operation.shadows else self._copy, operation)
                wire, batches = session, []
            else:
                if session is not wire:
                    yield wire, batches
                    wire, batches = session, []
                batches.append(self._transaction(operation, tenants))
            if states and not operation.reads_only:
                batches.append(self._rows.batch)
        yield wire, batches

    def _session(self, operation: Operation) -> Wire:
        """The session in which an actor's operations come one after the other."""
        role = operation.actor.role
        key = role, operation.lacks_setting
        if key not in self._sessions:
            self._sessions[key] = self._connect(role)
        return self._sessions[key]

    def _leave_nothing(self, workload: Workload) -> None:
        """New sessions where something may be left in them: each workload begins with nothing."""
        operations = workload.all_operations
        lingers = bool(self.catalog.lingering) or any(o.lingers for o in operations)
        # What it is that a session listens to would be found there, too.
        self._looked_into = lingers and any(
            isinstance(s, Leftover) for o in operations for s in o.statements
        )
        if lingers or self._lingered:
            for key in [k for k in self._sessions if k[0] != OPERATOR]:
                self._sessions.pop(key).close()
            if self._interleaver is not None:
                self._interleaver.close()
                self._interleaver = None
        self._lingered = lingers

    def _transaction(self, operation: Operation, tenants: frozenset[str]) -> Batch:
        actor = operation.actor
        plain = actor.role == OPERATOR or actor.tenant in tenants
        return self._plan_of(operation) if plain else None, [
            *self._become(operation),
            *map(sql.parametrised, operation.statements),
        ]

    def _plan_of(self, operation: Operation) -> str:
        """Who shares a plan: a role, or where plans hold what a session says, what says the same.

        Statements that are to keep their plan share it in any case.
        """
        actor = operation.actor
        if operation.keeps_plans:
            return f"{actor.role} keeps"
        return repr(actor) if self._folds else actor.role

    def _become(self, operation: Operation) -> list[Query]:
        # One statement, because the answers to it are counted.
        actor = operation.actor
        local = sql.local_settings(operation)
        more = "".join(f", set_config('{s}', {sql.quote(v)}, true)" for s, v in local)
        values = self.contract.tenancy.session.values(actor)
        count = 2 * len(values)
        made = "".join(f"set_config(${i}, ${i + 1}, true), " for i in range(1, count, 2))
        return [
            (
                f"SELECT {made}set_config('role', ${count + 1}, true){more}",
                (*(part for pair in values for part in pair), actor.role or "none"),
            )
        ]

    def _copy(self, operation: Operation) -> Reply:
        """An operation with COPY: one statement, because the connection must leave the pipeline."""
        (statement,) = operation.statements
        assert isinstance(statement, Copy)
        wire = self._session(operation)
        query, _ = sql.parametrised(statement)
        reply = wire.copy_in(self._become(operation), query, sql.copy_data(statement.rows))
        return replace(reply, answers=(*([_CONFIGURED] if not reply.error else ()), *reply.answers))

    def _reset(self) -> list[Batch]:
        """The transactions that put the database back to the baseline."""
        queries: list[Query] = []
        if self._last is not self.baseline:
            differing = {r.table for r in self._last.records ^ self.baseline.records}
            for table in sorted(differing):
                queries.append((f"DELETE FROM {sql.name(table)}", ()))
                if rows := self.baseline.rows(table):
                    queries.append(self._reinsert(table, rows))
        for sequence, (value, called) in self._sequences.items():
            queries.append(
                ("SELECT setval($1, $2, $3)", (sql.name(sequence), str(value), str(called).lower()))
            )
        transactions: list[Batch] = [(OPERATOR, queries)] if queries else []
        if self._runs % _VACUUM_EVERY == 0:
            tables = ", ".join(map(sql.name, self._names))
            transactions.append((OPERATOR, [(f"VACUUM {tables}", ())]))
        return transactions

    def _refresh_before(self, workload: Workload) -> None:
        """Empty what an earlier workload left in views, when this one could read it."""
        read = any(
            not isinstance(s, Refresh) and s.relation not in self.catalog.tables
            for o in workload.all_operations
            for s in o.statements
        )
        if read and self._stale_views:
            views = [f"REFRESH MATERIALIZED VIEW {sql.name(v)}" for v in sorted(self._stale_views)]
            self._cleaner.send([(OPERATOR, [(v, ())]) for v in views])
            self._finish_reset()
            self._stale_views.clear()

    def _finish_reset(self) -> None:
        for reply in self._cleaner.receive():
            if reply.error:
                raise InfrastructureError(
                    f"the scratch database cannot be reset: {reply.error.message}"
                )

    def _reinsert(self, table: str, rows: Sequence[Record]) -> Query:
        columns = sql.names(self.catalog.tables[table].copied)
        data = "[" + ",".join(r.raw.decode() for r in rows) + "]"
        return (
            f"INSERT INTO {sql.name(table)} ({columns}) OVERRIDING SYSTEM VALUE "
            f"SELECT {columns} FROM json_populate_recordset(NULL::{sql.name(table)}, $1)",
            (data,),
        )

    def _check_tenants(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if reply.error:
                root = self.contract.tenancy.root
                raise UsageError(
                    f"no tenant can be created in {root!r}: {reply.error.message}; "
                    f"write a row strategy for {root!r} (docs/extending.md)"
                )

    def _history(self, workload: Workload, replies: list[Reply], states: bool) -> History:
        if not states:
            # What is in the tables now is not known, so all of them are put back.
            self._last = self._unknown()
            state = self._empty
            steps = tuple(
                Step(i, o, r.answers[1:], r.error, state, state, notices=r.notices)
                for i, (o, r) in enumerate(zip(workload.operations, replies, strict=True))
            )
            return History(workload, steps, state)
        if len(self._records) > _RECORDS_KEPT:
            # Never within a workload: a row that is there twice would seem to have changed.
            self._records = {(r.table, r.raw): r for r in self.baseline.records}
        answers = iter(replies)
        initial = state = self._state(next(answers))
        made = []
        for i, operation in enumerate(workload.operations):
            self.meanwhile()
            reply = next(answers)
            after = state if operation.reads_only else self._state(next(answers), state)
            came, told, announced = reply.answers[1:], reply.notices, reply.announced
            made.append(
                Step(
                    i,
                    operation,
                    came,
                    reply.error,
                    state,
                    after,
                    notices=told,
                    announced=announced,
                )
            )
            state = after
        self._last = state
        return History(workload, tuple(made), initial, time.time() + self._clock_ahead)

    def _unknown(self) -> State:
        return State(frozenset(Record(t, b"", {}, ()) for t in self._names))

    def _read_state(self) -> State:
        return self._state(self._operator.transact([self._rows.batch])[0])

    def _state(self, reply: Reply, previous: State | None = None) -> State:
        if reply.error:
            raise InfrastructureError(f"the committed rows cannot be read: {reply.error.message}")
        records = self._records
        found = []
        for index, raw in reply.answers[-1].rows:
            assert index is not None
            assert raw is not None
            entry = (self._names[int(index)], raw)
            record = records.get(entry)
            if record is None:
                values: dict[str, Any] = json.loads(raw)
                key = hashable(tuple(values[c] for c in self._keys[int(index)])) or (raw,)
                record = records[entry] = Record(entry[0], raw, values, key)
            found.append(record)
        state = frozenset(found)
        if previous is not None and state == previous.records:
            return previous
        return State(state)

    def _seconds_ahead(self) -> float:
        """By how much the server's clock is ahead of ours."""
        query = "SELECT extract(epoch FROM clock_timestamp())"
        ((seconds,),) = self._operator.transact([(OPERATOR, [(query, ())])])[0].answers[0].rows
        assert seconds is not None
        return float(seconds) - time.time()

    def _sequence_values(self) -> dict[str, tuple[int, bool]]:
        values = {}
        for sequence in self.catalog.sequences:
            query = f"SELECT last_value, is_called FROM {sql.name(sequence)}"
            ((value, called),) = (
                self._operator.transact([(OPERATOR, [(query, ())])])[0].answers[0].rows
            )
            assert value is not None
            values[sequence] = (int(value), called == b"t")
        return values

    @property
    def _lock_timeout(self) -> str:
        """How long to wait for a lock: nothing else is going on, so that it is never given up.

        At COMMIT no other timeout counts.
        """
        outlive = any(left.target == "advisory locks" for left in self.catalog.lingering)
        return "300ms" if outlive else f"{_TIMEOUT_SECONDS}s"

    def _connect(self, role: str, *more: str) -> Wire:
        """A session of whoever acts for a role: the superuser for the operator, else a login."""
        if role == OPERATOR:
            conninfo = self.conninfo
            # Refusals are what we are after; nobody reads thousands of them in the server's log.
            more = (*more, "SET log_min_messages = 'fatal'")
        else:
            conninfo = self.login(role).conninfo
        try:
            wire = Wire(conninfo)
        except InfrastructureError as error:
            if role != OPERATOR and _REFUSES_LOGIN.search(str(error)):
                raise InfrastructureError(
                    f"the server does not let in {self._logins[role].name}, a login of ours that "
                    f"acts for {role}: {error}; let pg_hba.conf take passwords of roles named "
                    "invariants_.., or use --server embedded"
                ) from None
            raise
        settings = (
            *more,
            f"SET statement_timeout = '{_TIMEOUT_SECONDS}s'",
            f"SET lock_timeout = '{self._lock_timeout}'",
            "SET TimeZone = 'UTC'",
            f"SET client_min_messages = '{'error' if role == OPERATOR else 'notice'}'",
            "SET DateStyle = 'ISO'",
            "SET plan_cache_mode = 'force_generic_plan'",
        )
        if role != OPERATOR and not self._looked_into:
            settings += tuple(f"LISTEN {sql.column(c)}" for c in self._channels)
        wire.transact([(OPERATOR, [(s, ())]) for s in settings])
        return wire

    def login(self, role: str) -> Login:
        """The login that acts for a role here; it is made when it is first asked for."""
        if role not in self._logins:
            made = self._logins[role] = self._login(role)
            self._rows.admit(made.name)
        return self._logins[role]


# What libpq reports when pg_hba.conf has no way in for a role with a password.
_REFUSES_LOGIN = re.compile("authentication failed|no pg_hba.conf entry|pg_hba.conf rejects")

# Stands for the answer to `_become` where a reply has none, so that all replies look the same.
_CONFIGURED = Answer()
