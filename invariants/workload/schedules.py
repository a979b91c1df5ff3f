"""Sessions and their schedule as data: what can be left out, and what then is left of the order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise

from invariants.workload.operations import (
    ISOLATIONS,
    Isolation,
    Operation,
    Session,
    Transaction,
    Workload,
)

Schedule = tuple[int, ...]


def expanded(sessions: tuple[Session, ...], schedule: Schedule) -> Schedule:
    """The schedule with every turn in it, those included that come when it is used up."""
    left = [sum(t.turns for t in s) for s in sessions]
    made = []
    for position in schedule:
        if left[position]:
            left[position] -= 1
            made.append(position)
    return (*made, *(p for p, n in enumerate(left) for _ in range(n)))


def switches(schedule: Schedule) -> int:
    """How often the next turn is another session's."""
    return sum(one != two for one, two in pairwise(schedule))


def with_operation(workload: Workload, index: int, operation: Operation | None) -> Workload:
    """The workload with one of all its operations replaced, or left out; the others keep turns."""
    first = len(workload.operations)
    if index < first:
        kept = () if operation is None else (operation,)
        operations = (*workload.operations[:index], *kept, *workload.operations[index + 1 :])
        return replace(workload, operations=operations)
    places = [(p, n) for p, s in enumerate(workload.sessions) for n in range(len(s))]
    position, number = places[index - first]
    changed = None
    if operation is not None:
        changed = replace(workload.sessions[position][number], operation=operation)
    return _with_transaction(workload, position, number, changed)


def simpler(workload: Workload) -> Iterator[Workload]:
    """Workloads with less to understand about their sessions, the biggest steps first."""
    sessions = workload.sessions
    for position in reversed(range(len(sessions))):
        yield _without_session(workload, position)
    for position, session in enumerate(sessions):
        for number in reversed(range(len(session))):
            # One that was refused has left the rest of its turns to what comes after it.
            for turns in range(session[number].turns, 0, -1):
                yield _with_transaction(workload, position, number, None, turns)
    for position, session in enumerate(sessions):
        if session and session[0].commits:
            # What need not be beside anything comes before.
            earlier = (*workload.operations, session[0].operation)
            yield replace(_with_transaction(workload, position, 0, None), operations=earlier)
    for level in ISOLATIONS[:-1]:
        yield replace(
            workload, sessions=tuple(tuple(_lowered(t, level) for t in s) for s in sessions)
        )
    for position, session in enumerate(sessions):
        for number, transaction in enumerate(session):
            for level in ISOLATIONS[:-1]:
                lower = _lowered(transaction, level)
                yield _with_transaction(workload, position, number, lower)
            committed = replace(transaction, commits=True)
            yield _with_transaction(workload, position, number, committed)
    for schedule in _calmer(workload.schedule):
        yield replace(workload, schedule=schedule)
    yield _in_order_of_appearance(workload)


def _lowered(transaction: Transaction, level: Isolation) -> Transaction:
    return replace(transaction, isolation=min(level, transaction.isolation, key=ISOLATIONS.index))


def _without_session(workload: Workload, position: int) -> Workload:
    sessions = workload.sessions[:position] + workload.sessions[position + 1 :]
    schedule = tuple(p - (p > position) for p in workload.schedule if p != position)
    return replace(workload, sessions=sessions, schedule=schedule)


def _with_transaction(
    workload: Workload,
    position: int,
    number: int,
    transaction: Transaction | None,
    turns: int | None = None,
) -> Workload:
    """The workload with another transaction there, or without it and so many turns of its own."""
    session = workload.sessions[position]
    old = session[number]
    before = sum(t.turns for t in session[:number])
    gone = [before + part for part in _parts_gone(old, transaction)[:turns]]
    kept = () if transaction is None else (transaction,)
    changed = (*session[:number], *kept, *session[number + 1 :])
    schedule, seen = [], -1
    for p in workload.schedule:
        seen += p == position
        if p != position or seen not in gone:
            schedule.append(p)
    sessions = (*workload.sessions[:position], changed, *workload.sessions[position + 1 :])
    if not changed:
        return _without_session(replace(workload, sessions=sessions), position)
    # A turn more, for the check of a transaction that commits now, comes at the end.
    return replace(workload, sessions=sessions, schedule=expanded(sessions, tuple(schedule)))


def _parts_gone(old: Transaction, new: Transaction | None) -> list[int]:
    """The turns of the old transaction that the new one does not have."""
    if new is None:
        return list(range(old.turns))
    before, after = old.operation.statements, new.operation.statements
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after)
    )
    gone = list(range(same, same + len(before) - len(after)))
    if old.checked and not new.checked:
        gone.append(len(before))
    return gone


def _calmer(schedule: Schedule) -> Iterator[Schedule]:
    """The schedules with fewer switches that come of moving one run of turns to the next."""
    runs = [(p, len(list(turns))) for p, turns in groupby(schedule)]
    now = switches(schedule)
    for i, (position, length) in enumerate(runs):
        j = next((j for j in range(i + 1, len(runs)) if runs[j][0] == position), None)
        if j is None:
            continue
        for start, end in ((i, j), (j, i)):
            moved = [*runs]
            moved[end] = (position, length + runs[j][1])
            del moved[start]
            calmer = tuple(p for p, n in moved for _ in range(n))
            if switches(calmer) < now:
                yield calmer


def _in_order_of_appearance(workload: Workload) -> Workload:
    """Whoever comes first is session 0."""
    order = list(dict.fromkeys((*workload.schedule, *range(len(workload.sessions)))))
    return replace(
        workload,
        sessions=tuple(workload.sessions[p] for p in order),
        schedule=tuple(order.index(p) for p in workload.schedule),
    )
