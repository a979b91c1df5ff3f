"""Tenants: who is there before the first operation."""

from __future__ import annotations

from invariants.generation.derived import derived_row
from invariants.generation.registry import row_strategy
from invariants.generation.world import World
from invariants.workload.operations import Tenant, ident


def tenants(world: World, count: int) -> tuple[Tenant, ...]:
    """The first `count` tenants, whose ids are the same in every workload."""
    root = world.contract.tenancy.root
    key = world.id_column(root)
    made = []
    for number in range(1, count + 1):
        identity = ident(root, number)
        strategy = row_strategy(root)
        values = strategy(world, identity) if strategy else derived_row(world, root, identity)
        assert isinstance(values, dict)
        values[key] = identity
        world.remember(root, identity, values)
        world.tenants.append(identity)
        made.append(Tenant(identity, tuple(values), tuple(values.values())))
    return tuple(made)
