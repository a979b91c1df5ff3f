"""Sessions side by side, drawn: each goes on from the same world as if it were alone.

What one session does is as likely to be right as in any other workload, and it is done to the same
few rows that the others have in mind: that is what makes them meet.
"""

from __future__ import annotations

from collections.abc import Sequence

from invariants.generation.lawful import lawful
from invariants.generation.registry import Registered
from invariants.generation.tenants import tenants
from invariants.generation.world import World
from invariants.workload.operations import (
    ISOLATIONS,
    Call,
    Delete,
    Insert,
    Isolation,
    Merge,
    Operation,
    Select,
    Session,
    Transaction,
    Update,
    Workload,
)

# What leaves the tables readable for others until it commits, and can be sent in turns.
_STATEMENTS = (Insert, Update, Delete, Select, Merge, Call)
_BEFORE_MAX = 3
_TOTAL = 100
_ATTEMPTS = 4


def concurrent(world: World, weighted: Sequence[Registered], most: int) -> Workload:
    """Some rows, then two sessions, or up to `most`, that go on from there."""
    people = tenants(world, 1 if world.chance(40) else 2)
    if world.chance(70):
        # Sessions of two tenants hardly ever meet.
        world.sole = world.tenant()
    # What is refused to begin with nobody can meet at.
    tables = [t for t in world.contract.tenancy.owned if t in world.catalog.tables]
    before = [
        row.inserted()
        for _ in range(1 + world.below(2))
        for row in lawful(world, world.pick(tables), world.tenant(), _TOTAL)
    ]
    for _ in range(world.below(_BEFORE_MAX)):
        before += [o for o in [world.pick(weighted).build(world)] if o is not None]
    count = 3 if most > 2 and world.chance(25) else 2
    level = world.pick(ISOLATIONS)
    mixed = world.chance(25)
    sessions: list[Session] = []
    messages = list(world.messages)
    # The fewer rows they know, the sooner they meet.
    rows = world.pick((1, 1, 2, 2, 100))
    for number in range(count):
        world.refill()
        own = world.apart(number + 1, rows)
        # The sender of a webhook who hears nothing sends it again, while the first is under way.
        own.messages = list(messages)
        sessions.append(_session(own, weighted, None if mixed else level))
        messages += own.messages[len(messages) :]
    # One that found nothing to do is none; one alone meets nobody.
    acting = tuple(s for s in sessions if s)
    acting = acting if len(acting) > 1 else ()
    schedule = _schedule(world, [*map(_turns, acting)])
    return Workload(people, (*world.given, *before), "", acting, schedule)


def _session(world: World, weighted: Sequence[Registered], level: Isolation | None) -> Session:
    transactions = []
    for _ in range(world.pick((1, 1, 1, 1, 2, 2, 3))):
        operation = _operation(world, weighted)
        if operation is None:
            continue
        if world.chance(25) and (more := _operation(world, weighted)) is not None:
            operation = _joined(operation, more)
        isolation = world.pick(ISOLATIONS) if level is None else level
        transactions.append(Transaction(operation, isolation, not world.chance(8)))
    return tuple(transactions)


def _operation(world: World, weighted: Sequence[Registered]) -> Operation | None:
    for _ in range(_ATTEMPTS):
        operation = world.pick(weighted).build(world)
        if operation and all(isinstance(s, _STATEMENTS) for s in operation.statements):
            return operation
    return None


def _joined(one: Operation, two: Operation) -> Operation:
    """Both in one transaction, where the same client sends them and neither is a message."""
    if one.actor != two.actor or one.delivery is not None or two.delivery is not None:
        return one
    return Operation(one.actor, one.statements + two.statements)


def _turns(session: Session) -> int:
    return sum(t.turns for t in session)


def _schedule(world: World, turns: list[int]) -> tuple[int, ...]:
    """An order of all turns, in which a session has one turn or a few in a row."""
    left, made = list(turns), list[int]()
    while able := [i for i, n in enumerate(left) if n]:
        position = world.pick(able)
        run = min(left[position], world.pick((1, 1, 1, 2, 3)))
        made += [position] * run
        left[position] -= run
    return tuple(made)
