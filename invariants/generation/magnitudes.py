"""A sweep of sums at every magnitude: kept, and missed by a hair, where a float would not tell.

Numbers of 24 bits are exact in `real`, of 53 in `double precision`. Beyond that a difference of
some units is lost, and so is one that a sum has lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.contract.contract import Contract
from invariants.contract.sections import Sum
from invariants.generation.ruled import in_one, parts_of_total, sums_of
from invariants.generation.world import World
from invariants.schema.catalog import Catalog, Column
from invariants.workload.operations import Operation

_MAGNITUDES = (2**24, 2**27, 2**30, 2**31 - 2**11, 2**53, 2**56, 2**62)
# What fits; of other types the largest that is worth a try.
_SIZES = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
# A difference of one in so many is lost in `real` at any magnitude.
_REAL_LOSES = 2**26


def magnitudes(
    contract: Contract, catalog: Catalog
) -> Iterator[tuple[str, Callable[[World], list[Operation]]]]:
    """Each sum at each magnitude that its columns take."""
    for rule in sums_of(contract, catalog):
        most = min(
            _most(contract, table, catalog.tables[table].columns[column])
            for table, column in (
                (rule.table, rule.amount),
                (rule.total_table, rule.total_column),
            )
        )
        for magnitude in _MAGNITUDES:
            if magnitude <= most:
                yield "", partial(_by_a_hair, rule=rule, total=magnitude, most=most)


def _by_a_hair(world: World, rule: Sum, total: int, most: int) -> list[Operation]:
    tenant, hair = world.tenants[0], int(rule.tolerance)
    made: list[Operation] = []
    half = total // 2 + 1
    for miss in (0, hair + 1, -hair - 1, max(total // _REAL_LOSES, hair + 1)):
        for amounts in ((total + miss,), (half, total - half + miss)):
            if max(amounts) <= most:
                before, rows = parts_of_total(world, rule, tenant, amounts, total)
                made += [*before, Operation(rows[0].actor, (in_one(rows),))]
    return made


def _most(contract: Contract, table: str, column: Column) -> int:
    domain = contract.domains.get((table, column.name))
    size = _SIZES.get(column.type, 2**53)
    return size if domain is None or domain.max is None else min(size, int(domain.max))
