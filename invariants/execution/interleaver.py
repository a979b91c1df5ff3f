"""Runs the sessions of a workload side by side, one turn at a time, the same way every time.

A turn is over when its statement has an answer, or when the server says that it waits for a lock
and for whom. Then the next turn is sent, to another session. Nothing is left to the clock: of all
sessions one is at work and one more may wait; a second that would wait is called off, and its
transaction is sent again at the end. There is no sleep, and no wait without an end.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from invariants.errors import InfrastructureError
from invariants.execution.history import Place, State, Step, Turn
from invariants.execution.wire import Answer, Batch, Query, Reply, Wire
from invariants.workload import sql
from invariants.workload.operations import OPERATOR, Session, Transaction
from invariants.workload.templates import Templates

# No statement of a workload works that long; whoever waits that long would wait for ever.
PATIENCE_SECONDS: Final = 10

_BLOCKERS: Final = "SELECT pid, unnest(pg_blocking_pids(pid)) FROM unnest($1::integer[]) AS pid"
_CANCEL: Final = "SELECT pg_cancel_backend($1::integer)"
_ROLLBACK: Batch = (OPERATOR, [("ROLLBACK", ())])


@dataclass(frozen=True)
class Interleaved:
    """What came of the sessions: their transactions as they ended, and every turn."""

    steps: tuple[Step, ...]
    turns: tuple[Turn, ...]
    final: State


@dataclass
class _Line:
    """One session on the server. `number` and `part` say what its next turn sends."""

    session: Session
    position: int
    wires: tuple[Wire, ...]
    batches: Sequence[Sequence[Batch]]
    number: int = 0
    part: int = 0
    again: bool = False
    pending: bool = False
    waits_for: tuple[int, ...] = ()
    waiting_since: int = 0
    ended_by: Literal["", "order", "patience"] = ""
    answers: list[Answer] = field(default_factory=list)
    since: list[State] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether all its transactions have ended."""
        return self.number == len(self.session)

    @property
    def transaction(self) -> Transaction:
        """The transaction it is in, or comes to next."""
        return self.session[self.number]

    @property
    def wire(self) -> Wire:
        """The connection of its transaction."""
        return self.wires[self.number]

    @property
    def batch(self) -> Batch:
        """What its next turn sends."""
        return self.batches[self.number][self.part]

    @property
    def place(self) -> Place:
        """Where its transaction stands in the workload."""
        return Place(self.position, self.number, self.transaction, self.again)


class Interleaver:
    """Sessions on one database; `connect` opens one that acts for a role.

    Not for use from several threads. Raises `InfrastructureError` when the server goes
    away, or when a session waits for a process that has nothing to do with us.
    """

    def __init__(
        self,
        connect: Callable[[str], Wire],
        templates: Templates,
        snapshot: Batch,
        state: Callable[[Reply, State], State],
    ) -> None:
        self.templates, self._connect = templates, connect
        # What asks for the committed rows, and what makes a state of the answer and the last state.
        self.snapshot, self.state = snapshot, state
        self.turns_sent = 0
        # The processes of our sessions that have nothing more to do while these go on.
        self.resting: Callable[[], frozenset[int]] = frozenset
        # One that asks who waits for whom; for each session one of each role, and, where it is
        # needed, one that has never said whom it acts for: a setting once made cannot be unset.
        self._control = connect(OPERATOR)
        self._wires: dict[tuple[int, str, bool], Wire] = {}
        self._poll = select.poll()

    def close(self) -> None:
        """End all connections, whatever they are doing."""
        for wire in (self._control, *self._wires.values()):
            wire.close()

    def run(
        self, sessions: tuple[Session, ...], schedule: tuple[int, ...], state: State, index: int
    ) -> Interleaved:
        """Run the sessions, beginning with a committed state and the number of the next step."""
        return _Run(self, self._lines(sessions), state, index).all(schedule)

    def _lines(self, sessions: tuple[Session, ...]) -> list[_Line]:
        lines = []
        for position, session in enumerate(sessions):
            wires = [self._wire(position, t) for t in session]
            batches = [[self.batch(t, part) for part in range(t.turns)] for t in session]
            lines.append(_Line(session, position, tuple(wires), batches))
            # Inside a transaction block it would be too late: it would take the snapshot.
            for wire, sent in zip(wires, batches, strict=True):
                wire.prepare([*sent, self.snapshot])
        return lines

    def _wire(self, position: int, transaction: Transaction) -> Wire:
        actor = transaction.operation.actor
        key = position, actor.role, actor.lacks_setting
        if key not in self._wires:
            wire = self._wires[key] = self._connect(actor.role)
            wire.announce_waits(login=actor.role != OPERATOR)
        return self._wires[key]

    def batch(self, transaction: Transaction, part: int) -> Batch:
        """What a turn sends."""
        queries: list[Query] = []
        if part == 0:
            queries += map(_plain, sql.opening(transaction, self.templates, login=True))
        statements = transaction.operation.statements
        if part < len(statements):
            queries.append(sql.parametrised(statements[part]))
        else:
            queries.append(_plain(sql.ending(transaction, part)))
        return transaction.operation.actor.role, queries

    def blockers(self, wires: list[Wire]) -> Mapping[int, frozenset[int]]:
        """By process, the processes that are in its way."""
        pids = "{" + ",".join(str(w.pid) for w in wires) + "}"
        reply = self._asked((_BLOCKERS, (pids,)))
        found: dict[int, set[int]] = {w.pid: set() for w in wires}
        for pid, other in reply.answers[0].rows:
            assert pid is not None
            assert other is not None
            found[int(pid)].add(int(other))
        return {p: frozenset(others) for p, others in found.items()}

    def cancel(self, wire: Wire) -> None:
        """End what the session is doing."""
        self._asked((_CANCEL, (str(wire.pid),)))

    def wait(self, wires: list[Wire], seconds: float) -> bool:
        """Wait until the server has said something to one of them; False when it never does."""
        for wire in wires:
            self._poll.register(wire.socket, select.POLLIN)
        heard = self._poll.poll(max(0.0, seconds) * 1000)
        for wire in wires:
            self._poll.unregister(wire.socket)
        return bool(heard)

    def _asked(self, query: Query) -> Reply:
        (reply,) = self._control.transact([(OPERATOR, [query])])
        if reply.error:
            raise InfrastructureError(f"sessions cannot be watched: {reply.error.message}")
        return reply


class _Run:
    """One run of some sessions."""

    def __init__(
        self, interleaver: Interleaver, lines: list[_Line], state: State, index: int
    ) -> None:
        self._server, self._lines, self._state, self._index = interleaver, lines, state, index
        self._by_pid = {w.pid: line for line in lines for w in line.wires}
        self._turns: list[Turn] = []
        self._steps: list[Step] = []

    def all(self, schedule: tuple[int, ...]) -> Interleaved:
        for position in schedule:
            line = self._lines[position]
            if not (line.done or line.pending):
                self._turn(line)
        while able := [x for x in self._lines if not (x.done or x.pending)]:
            while not (able[0].done or able[0].pending):
                self._turn(able[0])
        self._end_vain_waits()
        for step in [s for s in self._steps if s.gave_way and not self._lost_patience(s)]:
            # What a client does who is told so. Nobody is in its way any more.
            assert step.place is not None
            self._alone(self._lines[step.place.session], step.place.number)
        return Interleaved(tuple(self._steps), tuple(self._turns), self._state)

    def _end_vain_waits(self) -> None:
        """Nobody has a turn left: whoever still waits, does so for a session that does nothing.

        What it waits for belongs to that session and not to a transaction of it.
        """
        while busy := self._busy():
            self._end_wait(busy[0], "patience")
            until = time.monotonic() + PATIENCE_SECONDS
            while busy[0].pending and busy[0].ended_by:
                if not self._server.wait([busy[0].wire], until - time.monotonic()):
                    self._lose_patience(busy[0])
                self._take_all()
            while not (busy[0].done or busy[0].pending):
                self._turn(busy[0])

    def _alone(self, line: _Line, number: int) -> None:
        line.number, line.part, line.again = number, 0, True
        while line.number == number:
            self._turn(line)
        line.number = len(line.session)

    def _turn(self, line: _Line) -> None:
        """Send a session what comes next, and go on once everything stands still."""
        if line.part == 0:
            line.since, line.answers = [self._state], []
        line.ended_by, line.waits_for = "", ()
        line.pending, line.waiting_since = True, len(self._turns)
        sent = [line.batch]
        if line.transaction.checked and line.part + 1 == line.transaction.turns:
            # With the COMMIT, after which the session is the login's once more.
            sent.append(self._server.snapshot)
        line.wire.send(sent)
        self._server.turns_sent += 1
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._stands_still(line):
            # What the one whose turn it is hears comes first, for the order of the history.
            heard_from = [line] if line.pending and not line.wire.waiting else self._busy()
            if not self._server.wait([x.wire for x in heard_from], until - time.monotonic()):
                self._lose_patience(heard_from[-1])
                until = time.monotonic() + PATIENCE_SECONDS

    def _busy(self) -> list[_Line]:
        return [x for x in self._lines if x.pending]

    def _stands_still(self, line: _Line) -> bool:
        """Take what has arrived; whether nobody is at work any more."""
        if line.pending:
            self._take(line)
            if line.pending and not line.wire.waiting:
                return False
        self._take_all()
        busy = self._busy()
        if not busy:
            return True
        if not all(x.wire.waiting for x in busy):
            return False
        blockers = self._server.blockers([x.wire for x in busy])
        # It may have gone on since it said that it waits, and have said so since.
        if self._take_all():
            return self._stands_still(line)
        if not all(x.wire.waiting for x in busy):
            return False
        resting = self._server.resting()
        for vain in (x for x in busy if blockers[x.wire.pid] & resting):
            # What it waits for belongs to a session, whose transactions are over.
            self._end_wait(vain, "patience")
            return False
        if not self._all_wait(busy, blockers):
            return False
        if len(busy) > 1:
            # Both could go on at once, and which of them comes first would be chance.
            self._end_wait(max(busy, key=lambda x: x.waiting_since), "order")
            return False
        self._note_wait(busy[0], blockers[busy[0].wire.pid])
        return True

    def _all_wait(self, busy: list[_Line], blockers: Mapping[int, frozenset[int]]) -> bool:
        """Whether each waits for sessions of ours that can go on; a circle the server breaks."""
        free = {w.pid for x in self._lines if x not in busy for w in x.wires}
        left = {x.wire.pid for x in busy}
        while able := {p for p in left if blockers[p] and blockers[p] <= free}:
            free |= able
            left -= able
        return not left

    def _take_all(self) -> bool:
        taken = [self._take(x) for x in self._busy()]
        return any(taken)

    def _take(self, line: _Line) -> bool:
        reply = line.wire.take()
        if reply is None:
            return False
        turn = Turn(
            line.place,
            line.part,
            resumed=bool(line.waits_for),
            count=reply.answers[-1].count if reply.answers and not reply.error else None,
            error=reply.error,
            ended_by=line.ended_by,
        )
        self._turns.append(turn)
        line.pending = False
        if line.part < len(line.transaction.operation.statements) and not reply.error:
            line.answers.append(reply.answers[-1])
        if reply.error:
            # The rows that a refused COMMIT asked for come first: ROLLBACK may have to be prepared.
            line.wire.receive()
            line.wire.transact([_ROLLBACK])
            self._end(line, turn)
        elif line.part + 1 == line.transaction.turns:
            self._end(line, turn)
        else:
            line.part += 1
        return True

    def _end(self, line: _Line, turn: Turn) -> None:
        transaction, before = line.transaction, self._state
        if turn.error is None and transaction.checked:
            self._state = self._server.state(line.wire.receive()[0], before)
        self._steps.append(
            Step(
                self._index + len(self._steps),
                transaction.operation,
                tuple(line.answers),
                turn.error,
                before,
                self._state,
                line.place,
                tuple(line.since),
            )
        )
        line.number += 1
        line.part = 0
        if self._state is not before:
            for other in self._lines:
                if not other.done and (other.part or other.pending):
                    other.since.append(self._state)

    def _note_wait(self, line: _Line, blockers: frozenset[int]) -> None:
        waits_for = tuple(sorted({self._by_pid[p].position for p in blockers}))
        if waits_for != line.waits_for:
            self._turns.append(Turn(line.place, line.part, waits_for))
            line.waits_for = waits_for

    def _end_wait(self, line: _Line, reason: Literal["order", "patience"]) -> None:
        line.ended_by = reason
        self._server.cancel(line.wire)
        # It is at work on its own end, which comes before whatever others do then.
        line.wire.waiting = False

    def _lose_patience(self, line: _Line) -> None:
        blockers = self._server.blockers([line.wire])[line.wire.pid]
        if strangers := sorted(blockers - self._by_pid.keys()):
            raise InfrastructureError(
                f"session {line.position + 1} has waited {PATIENCE_SECONDS} s for process "
                f"{strangers[0]}, which is none of ours; let nobody else use the scratch databases"
            )
        if line.ended_by:
            raise InfrastructureError(
                f"session {line.position + 1} does not end {PATIENCE_SECONDS} s after it was told "
                "to; the server may be overloaded"
            )
        self._end_wait(line, "patience")

    def _lost_patience(self, step: Step) -> bool:
        return any(t.place == step.place and t.ended_by == "patience" for t in self._turns)


def _plain(query: str) -> Query:
    return query, ()
