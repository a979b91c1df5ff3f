"""Relations that the contract does not place, tried for what one tenant can notice of another.

Those that have a tenant's column, or hang from a row that has one, are tried like all others. Of
the rest nobody knows whose rows they have: one tenant writes, the other looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.contract.contract import Contract
from invariants.generation.lawful import lawful
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Delete, Insert, Operation, Select


def unplaced(
    contract: Contract, catalog: Catalog
) -> Iterator[tuple[str, Callable[[World], list[Operation]]]]:
    """A workload for each table that is nowhere in the contract, and each role that writes it."""
    for name in sorted(contract.unplaced or ()):
        if name in catalog.tables and name not in contract.tenancy.owned:
            for role in contract.application_roles:
                if contract.may(role, "insert", name):
                    yield "", partial(_noticed, table=name, role=role)


def unnamed(
    contract: Contract, catalog: Catalog
) -> Iterator[tuple[str, Callable[[World], list[Operation]]]]:
    """One workload that reads every view that is nowhere in the contract, as every role."""
    views = [n for n in sorted(contract.unplaced or ()) if catalog.relations[n].kind != "table"]
    if views:
        yield "", partial(_read, views=views)


def _read(world: World, views: list[str]) -> list[Operation]:
    roles = world.contract.application_roles
    return [world.operation(r, world.tenants[0], Select(v)) for v in views for r in roles]


def _noticed(world: World, table: str, role: str) -> list[Operation]:
    watched, watching = world.tenants
    contract = world.contract
    readers = [r for r in contract.application_roles if contract.may(r, "select", table)]
    *before, row = lawful(world, table, watched)
    written = Insert(table, tuple(row.values), (tuple(row.values.values()),))
    made = [r.inserted() for r in before]
    made.append(world.operation(role, watched, written))
    made += [world.operation(reader, watching, Select(table)) for reader in readers]
    if contract.may(role, "delete", table):
        made.append(world.operation(role, watching, Delete(table)))
        made += [world.operation(reader, watching, Select(table)) for reader in readers]
    return made
