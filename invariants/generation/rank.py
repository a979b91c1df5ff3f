"""The rank of a user who acts: of what a column lists, that which policies ask for most.

A member who may only look would try nothing that others may. What no policy asks for is left to
its default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from invariants.generation.world import World
from invariants.remembering import remembered
from invariants.schema.catalog import Catalog
from invariants.schema.reach import Reach
from invariants.workload.operations import Value

_OTHER_PERCENT = 25


def ranked(world: World, table: str, column: str) -> Value:
    """What a column with a default is to say of somebody who acts; None for the default."""
    listed = _listed(world.catalog, table, column)
    asked = _asked(world.catalog)
    wanted = [v for v in listed if asked.get(v)]
    if not wanted:
        return None
    if not world.plain and world.chance(_OTHER_PERCENT):
        return world.pick(listed)
    return max(wanted, key=lambda v: (asked[v], listed.index(v)))


def _listed(catalog: Catalog, table: str, column: str) -> list[str]:
    found = catalog.tables[table].columns[column]
    if found.enum:
        return list(found.enum)
    taken = catalog.samples.of(table, column)
    values = taken.values if taken is not None and taken.listed else ()
    return [v for v in values if isinstance(v, str)]


@remembered
def _asked(catalog: Catalog) -> Mapping[str, int]:
    """How many policies ask for a text, by themselves or in what they call."""
    reach = Reach(catalog, catalog.definitions)
    counted: Counter[str] = Counter()
    for policy in catalog.definitions.policies:
        counted.update(reach.of_effects(policy.effects).literals)
    return counted
