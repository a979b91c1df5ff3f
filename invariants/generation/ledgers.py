"""Sweeps of ledgers: postings, in parts or whole, their sources, and what corrects them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from invariants.contract.contract import Contract
from invariants.contract.sections import Ledger
from invariants.generation.lawful import key_of
from invariants.generation.ruled import (
    TOTAL,
    correcting,
    in_one,
    ledgers_of,
    posted,
    repairers,
)
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import (
    Conflict,
    Delete,
    Operation,
    Statement,
    Update,
    Value,
    ident,
)

Story = Callable[[World], list[Operation]]
Stories = Iterator[tuple[str, Story]]


def ledgers(contract: Contract, catalog: Catalog) -> Stories:
    """Postings and corrections: of the right amount and of a wrong one, once and twice."""
    for rule in ledgers_of(contract, catalog):
        for story in (_postings, _sources_of_postings):
            yield "", partial(story, rule=rule)
        if rule.partial:
            yield "", partial(_parts, rule=rule)
        if rule.corrects:
            for amounts in _CORRECTIONS:
                yield "", partial(_corrections, rule=rule, amounts=amounts)
            for story in (_two_corrected, _strange_corrections, _repairs_of_corrections):
                yield "", partial(story, rule=rule)


_CORRECTIONS: Sequence[Sequence[tuple[int, ...]]] = (
    ((-TOTAL,), (-1,), (1,), (-1,), (-1,)),
    ((-TOTAL - 1,), (-60,), (-41,), (-40,), (-1,)),
    ((-60, -41), (-60, -40), (0,)),
    ((5,), (-TOTAL - 6,), (-TOTAL - 5,)),
    # What counts is the end of the transaction.
    ((-TOTAL - 1, 1), (-1, 1), (1, -2)),
)


def _postings(world: World, rule: Ledger) -> list[Operation]:
    tenant = world.tenants[0]
    before, posting = posted(world, rule, tenant)
    again = posting.renewed(world)
    ignored = replace(in_one([again]), conflict=Conflict())
    return [
        *before,
        posting.inserted(**{rule.amount: TOTAL - 1}),
        posting.inserted(**{rule.amount: TOTAL + 1}),
        posting.inserted(**{rule.posts: ident("nobody's", 1)}),
        posting.inserted(),
        again.inserted(),
        Operation(posting.actor, (ignored,)),
        again.inserted(**{rule.amount: 0}),
    ]


def _parts(world: World, rule: Ledger) -> list[Operation]:
    """What is posted in parts: up to all of it, and one more; less, and then all that is left."""
    before, posting = posted(world, rule, world.tenants[0])
    amounts = (60, 41, 40, 1, 0)
    parts = [posting.renewed(world, **{rule.amount: a}) for a in amounts]
    both = [posting.renewed(world, **{rule.amount: a}) for a in (1, TOTAL)]
    return [*before, *(p.inserted() for p in parts), Operation(posting.actor, (in_one(both),))]


def _sources_of_postings(world: World, rule: Ledger) -> list[Operation]:
    """What is posted changes or goes: it must not."""
    tenant = world.tenants[0]
    before, posting = posted(world, rule, tenant)
    source = ((world.id_column(rule.source_table), posting.values[rule.posts]),)
    role = world.writer("update", rule.source_table)
    statements: list[Statement] = [
        Update(rule.source_table, ((rule.source_amount, TOTAL - 1),), source),
        Update(rule.source_table, ((rule.source_amount, TOTAL + 1),), source),
        Delete(rule.source_table, source),
        Delete(rule.source_table),
    ]
    return [
        *before,
        posting.inserted(),
        *(Operation(world.actor(role, tenant), (s,)) for s in statements),
    ]


def _corrections(world: World, rule: Ledger, amounts: Sequence[tuple[int, ...]]) -> list[Operation]:
    tenant = world.tenants[0]
    before, posting = posted(world, rule, tenant)
    before_second, second = posted(world, rule, tenant)
    made = [*before, posting.inserted(), *before_second, second.inserted()]
    for parts in amounts:
        rows = [correcting(world, rule, posting, a) for a in parts]
        made.append(Operation(posting.actor, tuple(in_one([r]) for r in rows)))
    # Another posting is none the poorer.
    for amount in (-TOTAL, -1):
        made.append(correcting(world, rule, second, amount).inserted())
    return made


def _two_corrected(world: World, rule: Ledger) -> list[Operation]:
    """Two postings, of which the later one is corrected first: each has its own net."""
    tenant = world.tenants[0]
    pairs = [posted(world, rule, tenant) for _ in "ab"]
    made = [o for before, posting in pairs for o in (*before, posting.inserted())]
    for amount in (-60, -40, -1):
        for _, posting in reversed(pairs):
            made.append(correcting(world, rule, posting, amount).inserted())
    return made


def _strange_corrections(world: World, rule: Ledger) -> list[Operation]:
    """Of a correction, of nothing, of another's posting, and by another tenant."""
    tenant, other = world.tenants
    before, posting = posted(world, rule, tenant)
    before_second, second = posted(world, rule, tenant)
    correction = correcting(world, rule, posting, -10)
    key = world.id_column(rule.table)
    owner = world.contract.tenancy.column
    assert rule.corrects is not None

    def strange(**changed: Value) -> Operation:
        return correction.renewed(world, **changed).inserted()

    return [
        *before,
        *before_second,
        strange(),
        posting.inserted(),
        second.inserted(),
        correction.inserted(),
        strange(**{rule.corrects: correction.values[key], rule.amount: 20}),
        strange(**{rule.corrects: second.values[key], rule.amount: 5}),
        strange(**{rule.corrects: ident("nobody's", 1)}),
        strange(**{owner: world.cast.value(other)}, **{rule.amount: 5}),
        replace(
            strange(**{owner: world.cast.value(other)}),
            actor=world.actor(posting.actor.role, other),
        ),
    ]


def _repairs_of_corrections(world: World, rule: Ledger) -> list[Operation]:
    tenant = world.tenants[0]
    assert rule.corrects is not None
    made: list[Operation] = []
    for role in repairers(world, rule.table):
        before, posting = posted(world, rule, tenant)
        before_second, second = posted(world, rule, tenant)
        correction = correcting(world, rule, posting, -60)
        last = correcting(world, rule, posting, 0)
        row, corrected = key_of(world, correction), key_of(world, posting)
        repairs: list[Statement] = [
            Update(rule.table, ((rule.amount, -TOTAL),), row),
            Update(rule.table, ((rule.amount, -TOTAL - 1),), row),
            Update(rule.table, ((rule.amount, TOTAL - 1),), corrected),
            Update(rule.table, ((rule.corrects, None),), row),
            Update(rule.table, ((rule.corrects, second.values[corrected[0][0]]),), row),
            Update(rule.table, ((rule.corrects, second.values[corrected[0][0]]),), corrected),
            Update(rule.table, ((rule.posts, second.values[rule.posts]),), corrected),
            Delete(rule.table, corrected),
            Delete(rule.table, row),
            Update(
                rule.table,
                ((rule.corrects, posting.values[world.id_column(rule.table)]),),
                key_of(world, second),
            ),
            Delete(rule.table, corrected),
        ]
        # A second correction keeps the first one from going where that takes the net below zero.
        made += [
            *before,
            *before_second,
            posting.inserted(),
            second.inserted(),
            correction.inserted(),
            *(Operation(world.actor(role, tenant), (s,)) for s in repairs[:8]),
            Operation(
                world.actor(role, tenant),
                tuple(Update(rule.table, ((rule.amount, a),), row) for a in (-TOTAL - 1, -TOTAL)),
            ),
            last.inserted(**{rule.amount: 5}),
            correcting(world, rule, posting, -5).inserted(),
            Operation(world.actor(role, tenant), (Delete(rule.table, key_of(world, last)),)),
            *(Operation(world.actor(role, tenant), (s,)) for s in repairs[8:]),
        ]
    return made
