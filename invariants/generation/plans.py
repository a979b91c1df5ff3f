"""A sweep of plans that a session keeps: a statement prepared for one tenant and sent for the next.

What a function calls IMMUTABLE is computed when a plan is made. One that asks the session who it
acts for is computed for whoever comes first, and the plan serves all who come after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.contract.contract import Contract
from invariants.generation.lawful import lawful
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.schema.reach import Reach
from invariants.workload.operations import Operation, Refresh, Select

Make = Callable[[World], list[Operation]]


def plans(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Each relation that such a function guards, by each role that is promised to read it."""
    folding = {r.known_as for r in catalog.routines if r.folds}
    reach = Reach(catalog, catalog.definitions)
    for relation in catalog.relations if folding else ():
        if reach.of_read(relation).routines & folding:
            for role in contract.application_roles:
                if contract.may(role, "select", relation):
                    yield "", partial(_handed_on, relation=relation, role=role)


def _handed_on(world: World, relation: str, role: str) -> list[Operation]:
    owner, other = world.tenants
    made = [
        row.inserted()
        for table in world.contract.tenancy.owned
        for row in lawful(world, table, owner, TOTAL)
    ]
    made += [world.maintenance(Refresh(v)) for v in world.catalog.materialized_views]
    read = Select(relation, prepared=True)
    return [*made, *(Operation(world.actor(role, tenant), (read,)) for tenant in (owner, other))]
