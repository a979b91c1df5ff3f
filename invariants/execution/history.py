"""What happened: a workload with its outcomes and the committed rows around each operation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from invariants.execution.wire import Announcement, Answer, Notice, ServerError
from invariants.workload.operations import Operation, Statement, Transaction, Workload


class Record:
    """One committed row. Within one executor equal rows are one object, so identity is equality."""

    __slots__ = ("key", "raw", "table", "values")

    def __init__(
        self, table: str, raw: bytes, values: Mapping[str, Any], key: tuple[Any, ...]
    ) -> None:
        self.table, self.raw, self.values, self.key = table, raw, values, key

    def __getitem__(self, column: str) -> Any:
        return self.values[column]

    def get(self, column: str) -> Any:
        """The column's value, None where the table has no such column."""
        return self.values.get(column)

    def __repr__(self) -> str:
        return f"Record({self.table}, {self.raw.decode()})"


def hashable(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """A key in which documents and lists are their text."""
    return tuple(
        json.dumps(part, sort_keys=True, default=str) if isinstance(part, dict | list) else part
        for part in key
    )


class State:
    """The committed rows of all tables at one moment."""

    def __init__(self, records: frozenset[Record]) -> None:
        self.records = records

    @cached_property
    def _tables(self) -> Mapping[str, tuple[Record, ...]]:
        tables: dict[str, list[Record]] = {}
        for record in self.records:
            tables.setdefault(record.table, []).append(record)
        return {t: tuple(sorted(rs, key=lambda r: r.raw)) for t, rs in tables.items()}

    @cached_property
    def _keys(self) -> Mapping[tuple[str, tuple[Any, ...]], Record]:
        return {(r.table, r.key): r for r in self.records}

    def rows(self, table: str) -> tuple[Record, ...]:
        """Rows of one table, in an order that does not depend on the server."""
        return self._tables.get(table, ())

    def find(self, table: str, key: tuple[Any, ...]) -> Record | None:
        """The row with this primary key."""
        try:
            return self._keys.get((table, key))
        except TypeError:
            return self._keys.get((table, hashable(key)))


@dataclass(frozen=True)
class Change:
    """One row that an operation created (`before` None), removed (`after` None) or changed."""

    table: str
    before: Record | None
    after: Record | None

    @property
    def effect(self) -> str:
        """`insert`, `delete` or `update`, whatever statement brought it about."""
        return "insert" if self.before is None else "delete" if self.after is None else "update"

    @property
    def record(self) -> Record:
        """The row as it is now, or as it was when it is gone."""
        record = self.after or self.before
        assert record is not None
        return record


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a concurrent workload a transaction stands: which session, which of its own.

    `again` is set where it is sent once more, alone, because the server wants that.
    """

    session: int
    number: int
    transaction: Transaction
    again: bool = False


@dataclass(frozen=True)
class Step:
    """One operation and what came of it, between the committed states `before` and `after`.

    Where sessions go on side by side a step is a transaction, at the moment it ended, and `during`
    the committed states that it has lived through, `before` being the last of them. `notices` are
    what the server told besides, and `announced` what everybody could hear who listens, where
    nothing goes on side by side.
    """

    index: int
    operation: Operation
    answers: tuple[Answer, ...]
    error: ServerError | None
    before: State
    after: State
    place: Place | None = None
    during: tuple[State, ...] = ()
    notices: tuple[Notice, ...] = ()
    announced: tuple[Announcement, ...] = ()

    @property
    def committed(self) -> bool:
        """Whether the server accepted the whole transaction, and the client wanted it to."""
        return self.error is None and (self.place is None or self.place.transaction.commits)

    @property
    def since(self) -> tuple[State, ...]:
        """The committed states there were while it went on, the one it left included."""
        return (*(self.during or (self.before,)), self.after)

    @property
    def gave_way(self) -> bool:
        """Whether it was refused for the sake of other sessions, not for what it did."""
        return self.place is not None and self.error is not None and self.error.gives_way

    @property
    def failed_statement(self) -> Statement:
        """The statement that was refused; the last one when the commit itself was."""
        statements = self.operation.statements
        return statements[min(len(self.answers), len(statements) - 1)]

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The rows that differ between before and after, ordered by table and key."""
        if self.before is self.after:
            return ()
        gone = self.before.records - self.after.records
        come = self.after.records - self.before.records
        if not gone and not come:
            return ()
        new = {(r.table, r.key): r for r in come}
        changes = [Change(r.table, r, new.pop((r.table, r.key), None)) for r in gone]
        changes += [Change(r.table, None, r) for r in new.values()]
        return tuple(sorted(changes, key=lambda c: (c.table, str(c.record.key))))

    @property
    def queries(self) -> Iterator[tuple[Statement, Answer]]:
        """Statements that ran, each with its answer."""
        return zip(self.operation.statements, self.answers, strict=False)


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of one turn of a session, or later of one that had to wait.

    `part` counts the statements of its transaction; what comes after them is the check of deferred
    constraints, if it has one, then its end. With `waits_for` it has no answer yet: those sessions
    are in its way. `resumed` is set when the answer came in another session's turn. `ended_by` says
    who ended a wait that the server would not have: `order`, because two who wait could go on at
    once and leave to chance who is first; `patience`, because there was no end to it.
    """

    place: Place
    part: int
    waits_for: tuple[int, ...] = ()
    resumed: bool = False
    count: int | None = None
    error: ServerError | None = None
    ended_by: Literal["", "order", "patience"] = ""


@dataclass(frozen=True)
class History:
    """A workload as it was executed. `clock` is the server's, in seconds since 1970, at the end.

    The steps of sessions come in the order in which they ended; `turns` say how they got there.
    """

    workload: Workload
    steps: tuple[Step, ...]
    initial: State
    clock: float = 0.0
    turns: tuple[Turn, ...] = ()

    @property
    def final(self) -> State:
        """The committed state at the end."""
        return self.steps[-1].after if self.steps else self.initial
