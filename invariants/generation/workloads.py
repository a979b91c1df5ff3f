"""Workloads: tenants, then operations drawn from all registered, weighted for an invariant."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from invariants.checks.base import Invariant
from invariants.contract.contract import Contract
from invariants.generation.hostile import readings
from invariants.generation.lawful import filled
from invariants.generation.loading import strategies_of
from invariants.generation.registry import Registered, Strategies
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
# Sessions side by side take several times as long as the same number of operations.
_CONCURRENT_PERCENT = 20


def kinds(strategies: Strategies, catalog: Catalog, invariant: Invariant) -> list[Registered]:
    """The operation strategies that fit the database, each as often as its weight says."""
    return [s for s in fitting(strategies, catalog) for _ in range(s.weight_for(invariant))]


def fitting(strategies: Strategies, catalog: Catalog) -> list[Registered]:
    """The operation strategies that fit the database."""
    known = strategies.operations.values()
    return [s for s in known if all(t in catalog.tables for t in s.tables)]


def workloads(
    contract: Contract, catalog: Catalog, invariant: Invariant, sessions: int = 0
) -> SearchStrategy[Workload]:
    """Workloads weighted for an invariant, on the schema as migrated or on one of its premises.

    With `sessions` some have that many side by side at most, where the invariant asks for it.
    """
    strategies = strategies_of(contract)
    weighted = kinds(strategies, catalog, invariant)
    opening = [s for s in fitting(strategies, catalog) if s.opening]
    lengths = st.integers(1, LENGTH_MAX)
    premises = ("", *invariant.premises)

    @st.composite
    def build(draw: Draw[Any]) -> Workload:
        world = World(contract, catalog, draw, strategies)
        if sessions and invariant.concurrent and world.chance(_CONCURRENT_PERCENT):
            return concurrent(world, weighted, sessions)
        people = tenants(world, 1 if world.below(5) == 0 else 2)
        world.given += filled(world)
        made: list[Operation] = []
        if world.chance(60):
            # Most of what can go wrong needs rows of one tenant that refer to each other first.
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
        return Workload(people, (*world.given, *made), world.pick(premises))

    return build()
