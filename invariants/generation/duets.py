"""Duets: two transactions side by side, each of which the contract permits on its own.

For each rule of the contract there are scenes, and acts that may be played on them. Every two acts
of a scene are tried in the orders in which two transactions can meet, at every isolation level:
what is finite is enumerated, before anything is drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from invariants.checks.base import Invariant
from invariants.contract.contract import Contract
from invariants.contract.sections import Idempotency, Ledger, Sum, Taxonomy
from invariants.generation.drawing import plainest
from invariants.generation.lawful import LawfulRow, identified, key_of, lawful
from invariants.generation.loading import strategies_of
from invariants.generation.ruled import (
    TOTAL,
    changer,
    codes_of,
    correcting,
    erasing,
    in_one,
    ledgers_of,
    parts_of_total,
    posted,
    repairers,
    sums_of,
    with_key,
)
from invariants.generation.tenants import tenants
from invariants.generation.world import Draw, World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Conflict,
    Delete,
    Isolation,
    Operation,
    Statement,
    Transaction,
    Update,
    Workload,
)

_READ_COMMITTED: Isolation = "read committed"
_REPEATABLE_READ: Isolation = "repeatable read"
_SERIALIZABLE: Isolation = "serializable"
# At the same level, and where only one of the two looks at a snapshot of its own. What shows the
# most comes first.
_LEVELS: Sequence[tuple[Isolation, Isolation]] = (
    (_READ_COMMITTED, _READ_COMMITTED),
    (_REPEATABLE_READ, _REPEATABLE_READ),
    (_READ_COMMITTED, _REPEATABLE_READ),
    (_REPEATABLE_READ, _READ_COMMITTED),
    (_SERIALIZABLE, _SERIALIZABLE),
)


@dataclass(frozen=True)
class Scene:
    """What is there before, and what two sessions may then do at once."""

    before: tuple[Operation, ...]
    acts: tuple[Operation, ...]


MakeScene = Callable[[World], Scene]
Scenes = Iterator[MakeScene]


def duets(contract: Contract, catalog: Catalog, invariant: Invariant) -> Iterator[Workload]:
    """Workloads of two sessions to try before any that is drawn; made as they are asked for."""
    staged = [
        plainest(_stage(contract, catalog, make))
        for name in invariant.duets
        for make in _SCENES[name](contract, catalog)
    ]
    for levels in _LEVELS:
        for stage, scene in staged:
            yield from _played(stage, scene, levels)


def _stage(
    contract: Contract, catalog: Catalog, make: MakeScene
) -> SearchStrategy[tuple[Workload, Scene]]:
    strategies = strategies_of(contract)

    @st.composite
    def build(draw: Draw[Any]) -> tuple[Workload, Scene]:
        world = World(contract, catalog, draw, strategies, plain=True)
        people = tenants(world, 2)
        scene = make(world)
        return Workload(people, (*world.given, *scene.before)), scene

    return build()


def _played(
    stage: Workload, scene: Scene, levels: tuple[Isolation, Isolation]
) -> Iterator[Workload]:
    """Every two acts of a scene in every order worth while."""
    for acts in combinations(scene.acts, 2):
        one, two = (Transaction(a, i) for a, i in zip(acts, levels, strict=True))
        for schedule in dict.fromkeys(orders(one, two)):
            yield replace(stage, sessions=((one,), (two,)), schedule=schedule)


def orders(one: Transaction, two: Transaction) -> Iterator[tuple[int, ...]]:
    """The schedules in which two transactions meet, as sessions 0 and 1."""
    a, b = len(one.operation.statements), len(two.operation.statements)
    # Both do their work; then both are checked; then both commit.
    yield (*[0] * a, *[1] * b, 0, 1, 0, 1)
    yield (*[0] * a, *[1] * b, 1, 0, 1, 0)
    # One is checked before the other begins, and commits when that is checked as well.
    yield (*[0] * a, 0, *[1] * b, 1, 0, 1)
    yield (*[1] * b, 1, *[0] * a, 0, 1, 0)
    # One begins, and all of the other comes in between.
    yield (*[0] * a, *[1] * two.turns, 0, 0)
    yield (*[1] * b, *[0] * one.turns, 1, 1)
    # Statement by statement.
    yield tuple(position for _ in range(max(one.turns, two.turns)) for position in (0, 1))


def _sums(contract: Contract, catalog: Catalog) -> Scenes:
    for rule in sums_of(contract, catalog):
        yield partial(_first_splits, rule=rule)
        yield partial(_changes_of_splits, rule=rule)


def _first_splits(world: World, rule: Sum) -> Scene:
    """A total without parts: two split it, others change it or take it away."""
    tenant = world.tenants[0]
    before, rows = parts_of_total(world, rule, tenant, (TOTAL, TOTAL))
    total = ((world.id_column(rule.total_table), rows[0].values[rule.total_key]),)
    acts = [Operation(r.actor, (in_one([r]),)) for r in rows]
    for role in repairers(world, rule.total_table) or [rows[0].actor.role]:
        acts += [
            Operation(world.actor(role, tenant), (statement,))
            for statement in (
                Update(rule.total_table, ((rule.total_column, TOTAL // 2),), total),
                Delete(rule.total_table, total),
            )
        ]
    return Scene(tuple(before), (*acts, *erasing(world, tenant)))


def _changes_of_splits(world: World, rule: Sum) -> Scene:
    """A total that is split in two: amounts go to new parts, the group moves or goes."""
    tenant = world.tenants[0]
    before, rows = parts_of_total(world, rule, tenant, (60, 40, 10, 10))
    first, second, third, fourth = rows
    actor = changer(world, "update", first)

    def cut(row: LawfulRow, amount: int, more: LawfulRow) -> Operation:
        change = Update(rule.table, ((rule.amount, amount),), key_of(world, row))
        return Operation(actor, (change, in_one([more])))

    group = tuple((c, first.values[c]) for c in rule.group_by)
    moved = [c for c in rule.group_by if c != rule.total_key]
    acts = [
        cut(first, 50, third),
        cut(second, 30, fourth),
        Operation(changer(world, "delete", first), (Delete(rule.table, group),)),
        *(
            Operation(actor, (Update(rule.table, ((c, f"{first.values[c]}-other"),), group),))
            for c in moved
        ),
    ]
    split = Operation(first.actor, (in_one([first, second]),))
    return Scene((*before, split), tuple(acts))


def _ledgers(contract: Contract, catalog: Catalog) -> Scenes:
    for rule in ledgers_of(contract, catalog):
        yield partial(_postings, rule=rule)
        if rule.corrects:
            yield partial(_corrections, rule=rule)


def _postings(world: World, rule: Ledger) -> Scene:
    """A row to be posted: twice, and while it changes or goes."""
    tenant = world.tenants[0]
    before, posting = posted(world, rule, tenant)
    source = ((world.id_column(rule.source_table), posting.values[rule.posts]),)
    role = world.writer("update", rule.source_table)
    statements: tuple[Statement, ...] = (
        Update(rule.source_table, ((rule.source_amount, TOTAL - 1),), source),
        Delete(rule.source_table, source),
    )
    return Scene(
        tuple(before),
        (
            posting.inserted(),
            posting.renewed(world).inserted(),
            *(Operation(world.actor(role, tenant), (s,)) for s in statements),
        ),
    )


def _corrections(world: World, rule: Ledger) -> Scene:
    """A posting with one correction: two more, each within it; and the first one repaired."""
    tenant = world.tenants[0]
    before, posting = posted(world, rule, tenant)
    raised = correcting(world, rule, posting, 50)
    acts = [
        correcting(world, rule, posting, -90).inserted(),
        correcting(world, rule, posting, -80).inserted(),
    ]
    for role in repairers(world, rule.table):
        acts += [
            Operation(world.actor(role, tenant), (statement,))
            for statement in (
                Update(rule.table, ((rule.amount, 0),), key_of(world, raised)),
                Delete(rule.table, key_of(world, raised)),
            )
        ]
    return Scene((*before, posting.inserted(), raised.inserted()), tuple(acts))


def _deliveries(contract: Contract, catalog: Catalog) -> Scenes:
    for rule in contract.idempotency:
        if identified(catalog, rule.table):
            for position in range(len(rule.keys)):
                yield partial(_message, rule=rule, position=position)


def _message(world: World, rule: Idempotency, position: int) -> Scene:
    """A message delivered twice at once."""
    *before, row = lawful(world, rule.table, world.tenants[0], TOTAL)
    row = with_key(world, rule, row, position)
    delivery = world.next("delivery")
    sent = [replace(in_one([r]), conflict=Conflict()) for r in (row, row.renewed(world))]
    return Scene(
        tuple(r.inserted() for r in before),
        tuple(Operation(row.actor, (s,), delivery) for s in sent),
    )


def _taxonomies(contract: Contract, catalog: Catalog) -> Scenes:
    for rule, table, column in codes_of(contract, catalog):
        yield partial(_codes, rule=rule, table=table, column=column)


def _codes(world: World, rule: Taxonomy, table: str, column: str) -> Scene:
    """A code taken into use while it is retired, renamed or removed."""
    (code,) = lawful(world, rule.table, "")
    *before, row = lawful(world, table, world.tenants[0])
    value = code.values[rule.code]
    where = ((rule.code, value),)
    statements: list[Statement] = [
        Update(rule.table, ((rule.code, f"{value}_renamed"),), where),
        Delete(rule.table, where),
    ]
    if rule.active:
        statements.append(Update(rule.table, ((rule.active, False),), where))
    return Scene(
        (code.inserted(), *(r.inserted() for r in before)),
        (
            row.inserted(**{column: value}),
            *(Operation(Actor(OPERATOR), (s,)) for s in statements),
        ),
    )


def _repairs(contract: Contract, catalog: Catalog) -> Scenes:
    for rule in contract.append_only:
        if rule.repaired_by and identified(catalog, rule.table):
            yield partial(_repairs_of, table=rule.table, role=rule.repaired_by)


def _repairs_of(world: World, table: str, role: str) -> Scene:
    """A row repaired, removed, and gone with its tenant."""
    tenant = world.tenants[0]
    *before, row = lawful(world, table, tenant, TOTAL)
    where, actor = key_of(world, row), world.actor(role, tenant)
    return Scene(
        (*(r.inserted() for r in before), row.inserted()),
        (
            Operation(actor, (Update(table, where, where),)),
            Operation(actor, (Delete(table, where),)),
            *erasing(world, tenant),
        ),
    )


def _erasures(contract: Contract, catalog: Catalog) -> Scenes:
    if contract.tenancy.erased_by:
        for table in contract.tenancy.owned:
            if identified(catalog, table):
                yield partial(_erasure, table=table)


def _erasure(world: World, table: str) -> Scene:
    """A tenant erased while a row of it comes in."""
    tenant = world.tenants[0]
    *before, row = lawful(world, table, tenant, TOTAL)
    return Scene(tuple(r.inserted() for r in before), (row.inserted(), *erasing(world, tenant)))


_SCENES: Mapping[str, Callable[[Contract, Catalog], Scenes]] = {
    "sums": _sums,
    "ledgers": _ledgers,
    "deliveries": _deliveries,
    "taxonomies": _taxonomies,
    "repairs": _repairs,
    "erasures": _erasures,
}
