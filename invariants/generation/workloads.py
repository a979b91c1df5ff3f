"""Workloads: tenants, then operations drawn from all registered, weighted for an invariant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from invariants.checks.base import Invariant
from invariants.contract.contract import Contract
from invariants.generation.hostile import readings
from invariants.generation.registry import Registered, operation_strategies
from invariants.generation.sessions import concurrent
from invariants.generation.tenants import tenants
from invariants.generation.world import Draw, World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Operation, Refresh, Workload

LENGTH_MAX = 20
# Refreshing costs more than all the rest of a workload.
_REFRESH_PERCENT = 35
# A draw for each operation would cost more than the operation itself.
_OPERATIONS_A_DRAW = 3
_OPENING = ("ingest", "allocate", "post_to_ledger")
# Sessions side by side take several times as long as the same number of operations.
_CONCURRENT_PERCENT = 20


def kinds(catalog: Catalog, focus: Mapping[str, int]) -> list[Registered]:
    """The operation strategies that fit the database, each as often as its weight says."""
    found = []
    for name, strategy in operation_strategies().items():
        if all(t in catalog.tables for t in strategy.tables):
            found += [strategy] * focus.get(name, strategy.weight)
    return found


def workloads(
    contract: Contract, catalog: Catalog, invariant: Invariant, sessions: int = 0
) -> SearchStrategy[Workload]:
    """Workloads weighted for an invariant, on the schema as migrated or on one of its premises.

    With `sessions` some have that many side by side at most, where the invariant asks for it.
    """
    available = operation_strategies()
    weighted = kinds(catalog, invariant.focus)
    opening = [available[n] for n in _OPENING if n in available]
    opening = [s for s in opening if all(t in catalog.tables for t in s.tables)]
    lengths = st.integers(1, LENGTH_MAX)
    premises = ("", *invariant.premises)

    @st.composite
    def build(draw: Draw[Any]) -> Workload:
        world = World(contract, catalog, draw)
        if sessions and invariant.concurrent and world.chance(_CONCURRENT_PERCENT):
            return concurrent(world, weighted, sessions)
        people = tenants(world, 1 if world.below(5) == 0 else 2)
        made: list[Operation] = []
        if world.chance(60):
            # Most of what can go wrong needs an event, its allocation and its posting first.
            world.sole = world.tenant()
            made += [o for strategy in opening if (o := strategy.build(world)) is not None]
            world.sole = None
        for position in range(draw(lengths)):
            if position % _OPERATIONS_A_DRAW == 0:
                world.refill()
            operation = world.pick(weighted).build(world)
            if operation is not None:
                made.append(operation)
        if world.chance(invariant.readings_percent):
            if world.chance(_REFRESH_PERCENT):
                made += [world.maintenance(Refresh(v)) for v in catalog.materialized_views]
            made += readings(world)
        return Workload(people, tuple(made), world.pick(premises))

    return build()
