"""A sweep of partitions under their own names: a policy of the parent's says nothing of them.

Rows of another tenant are read, changed, removed and made in each partition, by each role, whatever
the contract promises of it: a blanket grant reaches partitions, a policy does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.contract.contract import Contract
from invariants.generation.lawful import key_of, lawful
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Delete, Insert, Operation, Select, Statement, Update

Make = Callable[[World], list[Operation]]
# So many rows that most partitions have some.
_ROWS = 4


def parts(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Each tenant-scoped table that has partitions, by each role that acts for a tenant."""
    for table in contract.tenancy.owned:
        names = tuple(r.name for r in catalog.relations.values() if r.part_of == table)
        for role in contract.application_roles if names else ():
            yield "", partial(_entered, table=table, names=names, role=role)


def _entered(world: World, table: str, names: tuple[str, ...], role: str) -> list[Operation]:
    owner, other = world.tenants
    made: list[Operation] = []
    rows = []
    for _ in range(_ROWS):
        *before, row = lawful(world, table, owner, TOTAL)
        made += [r.inserted() for r in (*before, row)]
        rows.append(row)
    *before, mine = lawful(world, table, other, TOTAL)
    made += [r.inserted() for r in (*before, mine)]
    *before, new = lawful(world, table, owner, TOTAL)
    made += [r.inserted() for r in before]
    fixed = (*world.catalog.tables[table].primary_key, world.contract.tenancy.column)
    free = [c for c in mine.values if c not in fixed]
    tries: list[Statement] = []
    for name in names:
        tries.append(Select(name))
        tries += [
            Update(name, ((column, mine.values[column]),), key_of(world, row))
            for column in free[-1:]
            for row in rows
        ]
        tries.append(Insert(name, tuple(new.values), (tuple(new.values.values()),)))
    for name in names:
        tries += [Delete(name, key_of(world, row)) for row in rows if key_of(world, row)]
        tries.append(Delete(name))
    return [*made, *(Operation(world.actor(role, other), (s,)) for s in tries)]
