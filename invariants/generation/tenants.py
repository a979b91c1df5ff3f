"""Tenants: who is there before the first operation."""

from __future__ import annotations

from invariants.errors import UsageError
from invariants.generation.registry import made_row
from invariants.generation.world import World
from invariants.workload.operations import Tenant, ident


def tenants(world: World, count: int) -> tuple[Tenant, ...]:
    """The first `count` tenants, whose ids are the same in every workload.

    Unless a row strategy chooses them. Raises `UsageError` when it gives two the same one.
    """
    root = world.contract.tenancy.root
    key = world.id_column(root)
    made = []
    for number in range(1, count + 1):
        values = made_row(world, root, ident(root, number))
        if key not in values or root not in world.strategies.rows:
            values[key] = ident(root, number)
        identity = str(values[key])
        if identity in world.tenants:
            raise UsageError(
                f"rows({root!r}): two tenants have the {key} {identity!r}; the row strategy must "
                "choose another one for each, or use the one it is given"
            )
        world.remember(root, identity, values)
        world.tenants.append(identity)
        made.append(Tenant(identity, tuple(values), tuple(values.values())))
    return tuple(made)
