"""Tenants: who is there before the first operation."""

from __future__ import annotations

from invariants.operations import Tenant, ident
from strategies.derived import derived_row
from strategies.registry import Values, row_strategy, rows
from strategies.world import World


@rows("tenants")
def tenant_row(world: World, tenant: str) -> Values:
    """Id and name; the rest has defaults."""
    return {"id": tenant, "name": f"Tenant {world.next('tenant name')}"}


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
