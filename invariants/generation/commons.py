"""What all tenants share: each role writes there what it may, one tenant being alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.contract.contract import Contract
from invariants.generation.columns import new_value
from invariants.generation.lawful import key_of, lawful
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Delete, Operation, Select, Update

_WRITES = ("insert", "update", "delete")


def commons(
    contract: Contract, catalog: Catalog
) -> Iterator[tuple[str, Callable[[World], list[Operation]]]]:
    """A workload for each shared table, and each role that may write it."""
    for table in contract.tenancy.shared:
        if table in catalog.tables:
            for role in contract.application_roles:
                if any(contract.may(role, verb, table) for verb in _WRITES):
                    yield "", partial(_written, table=table, role=role)


def _written(world: World, table: str, role: str) -> list[Operation]:
    contract, tenant = world.contract, world.tenants[0]
    *before, row = lawful(world, table, "")
    made = [r.inserted() for r in before]
    if contract.may(role, "insert", table):
        made.append(world.operation(role, tenant, world.catalog.chosen(row.statement())))
    else:
        made.append(row.inserted())
    made += [
        world.operation(reader, tenant, Select(table))
        for reader in contract.application_roles
        if contract.may(reader, "select", table)
    ]
    relation, named = world.catalog.tables[table], key_of(world, row)
    free = [c.name for c in relation.columns.values() if c.choosable]
    free = [c for c in free if c not in relation.primary_key and not relation.foreign_key_of(c)]
    if contract.may(role, "update", table) and free:
        column = world.pick(free)
        changed = ((column, new_value(world, table, column)),)
        made.append(world.operation(role, tenant, Update(table, changed, named)))
    if contract.may(role, "delete", table):
        made.append(world.operation(role, tenant, Delete(table, named)))
    return made
