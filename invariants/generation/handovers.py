"""A sweep of what a session keeps: a connection handed from one actor to the next.

Pools hand connections on, after each transaction or after each client, and nobody cleans up
between. Whatever triggers and functions leave in a session (a setting, a lock, temporary objects)
serves the next actor, or keeps others waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import get_args

from invariants.contract.contract import Contract
from invariants.generation.lawful import inserting, key_of, lawful
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import (
    Delete,
    Leftover,
    LeftoverTarget,
    Operation,
    Select,
    Statement,
    Update,
)

Make = Callable[[World], list[Operation]]


def handovers(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """What each role is promised on each table, then a look at its session by whoever is next."""
    del catalog
    for table in contract.tenancy.tables:
        for role in contract.application_roles:
            if any(contract.may(role, v, table) for v in ("insert", "update", "delete")):
                yield "", partial(_handed_on, table=table, role=role)


def _handed_on(world: World, table: str, role: str) -> list[Operation]:
    contract = world.contract
    owner, other = world.tenants
    *before, row = lawful(world, table, owner, TOTAL)
    made = [r.inserted() for r in before]
    by_itself = contract.may(role, "insert", table)
    actor = world.actor(role, owner)
    made.append(inserting(world, actor if by_itself else row.actor, table, row.values))
    where = key_of(world, row)
    free = [c for c in row.values if c not in (*dict(where), contract.tenancy.column)]
    if where and free and contract.may(role, "update", table):
        column = free[-1]
        made.append(Operation(actor, (Update(table, ((column, row.values[column]),), where),)))
    made += _looking(world, role, other)
    if where and contract.may(role, "delete", table):
        made.append(Operation(actor, (Delete(table, where),)))
        made += _looking(world, role, other)
    return made


def _looking(world: World, role: str, other: str) -> list[Operation]:
    """The next one on the connection: who says nothing of whom it acts for, and another tenant."""
    contract, catalog = world.contract, world.catalog
    told = contract.tenancy.settings
    silent: list[Statement] = [Leftover(name, "setting") for name in told]
    own = {left.name for left in catalog.lingering if left.target == "setting"} - {*told}
    settings = [Leftover(name, "setting") for name in sorted(own)]
    kept: list[LeftoverTarget] = [t for t in get_args(LeftoverTarget) if t != "setting"]
    readable = [
        Select(r.name)
        for r in catalog.relations.values()
        if contract.tenancy.column in r.columns and contract.may(role, "select", r.name)
    ]
    return [
        Operation(world.actor(role, None), (*silent, *readable), inherits=True),
        Operation(
            world.actor(role, other),
            (*settings, *(Leftover(t, t) for t in kept)),
            inherits=True,
        ),
    ]
