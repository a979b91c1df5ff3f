"""The fewest operations that still show a failure: a guess, then one after the other by halving."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from invariants.migrations.finding import Finding
from invariants.workload.operations import Operation, Value, Workload, inserted

Fails = Callable[[Workload], bool]


class _Late(Exception):
    """The time is over."""


class _Failing:
    """Asks whether operations still fail, and knows the fewest that did."""

    def __init__(self, workload: Workload, fails: Fails, seconds: float) -> None:
        self.smallest, self._fails = workload, fails
        self._until = time.monotonic() + seconds

    def __call__(self, tried: Workload) -> bool:
        if time.monotonic() >= self._until:
            raise _Late
        failing = self._fails(tried)
        if failing and _size(tried) < _size(self.smallest):
            self.smallest = tried
        return failing


def reduced(finding: Finding, fails: Fails, seconds: float, *, thoroughly: bool = True) -> Workload:
    """A workload that still fails, and from which nothing more can be left out.

    Within so many seconds: after them it is as small as it got. If not `thoroughly`, only its end
    counts: the operation without which it would not fail.
    """
    workload = finding.workload
    assert workload is not None
    failing = _Failing(workload, fails, seconds)

    def still(operations: Sequence[Operation]) -> bool:
        """With what the operations refer to: without that they would be refused."""
        needed = _with_parents(operations, workload.operations)
        return failing(replace(workload, operations=tuple(needed)))

    with suppress(_Late):
        kept: Sequence[Operation] = workload.operations
        for guess in _guesses(finding, kept):
            if len(guess) < len(kept) and still(guess):
                kept = guess
                break
        blamed = _fewest(kept, still, len(kept) if thoroughly else 1)
        if not thoroughly:
            return replace(workload, operations=tuple(blamed))
        made = replace(workload, operations=tuple(_with_parents(blamed, workload.operations)))
        for operation in made.operations:
            without = tuple(o for o in made.operations if o is not operation)
            fewer = replace(made, operations=without)
            if without and failing(fewer):
                made = fewer
        for tenant in workload.tenants:
            fewer = replace(made, tenants=tuple(t for t in made.tenants if t != tenant))
            if fewer.tenants and failing(fewer):
                made = fewer
    return failing.smallest


def _size(workload: Workload) -> int:
    return len(workload.operations) + len(workload.tenants)


def _fewest(
    operations: Sequence[Operation], still: Callable[[Sequence[Operation]], bool], most: int
) -> Sequence[Operation]:
    """One operation after the other to which failing is due: each ends the shortest beginning that
    fails together with those known so far."""
    blamed: list[Operation] = []
    rest = operations
    while len(blamed) < most and not still(blamed):
        # Of `rest`, so many are enough, and so many are not.
        enough, lacking = len(rest), 0
        while enough - lacking > 1:
            middle = (enough + lacking) // 2
            if still([*rest[:middle], *blamed]):
                enough = middle
            else:
                lacking = middle
        if not enough:
            return operations
        blamed, rest = [rest[enough - 1], *blamed], rest[: enough - 1]
    return blamed


def _guesses(finding: Finding, operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """What is likely to be enough: the row that shows it, or the tables that are spoken of."""
    if finding.kind == "clients":
        yield operations[-1:]
    yield from _of_the_row(finding, operations)
    named = {o for o in operations for s in o.statements if s.relation in finding.summary}
    if named:
        yield [o for o in operations if o in named]


def _of_the_row(finding: Finding, operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """The operations that write the row which shows it."""
    if finding.hint is None:
        return
    table, key = finding.hint
    wanted = {c: v for c, v in key.items() if v is not None}
    own = [
        o
        for o in operations
        for s in o.statements
        if s.relation == table
        for row in inserted(s)
        if all(c not in row or str(row[c]) == v for c, v in wanted.items())
    ]
    if own:
        yield own


def _with_parents(own: Sequence[Operation], operations: Sequence[Operation]) -> Sequence[Operation]:
    """Operations, and all that write a row whose first value one of them has in it."""
    if not own:
        return own
    kept = list(own)
    values = {v for o in kept for v in _values(o)}
    for operation in reversed(operations):
        if operation in kept:
            continue
        if any(row and next(iter(row.values())) in values for row in _rows(operation)):
            kept.append(operation)
            values |= set(_values(operation))
    return [o for o in operations if o in kept]


def _rows(operation: Operation) -> Iterator[dict[str, Value]]:
    for statement in operation.statements:
        yield from inserted(statement)


def _values(operation: Operation) -> Iterator[Value]:
    for row in _rows(operation):
        yield from (v for v in row.values() if isinstance(v, str))
