"""Workloads: tenants, then operations drawn from everything registered, weighted for an invariant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from invariants.catalog import Catalog
from invariants.checks.base import Invariant
from invariants.contract import Contract
from invariants.operations import Operation, Refresh, Workload
from strategies.hostile import readings
from strategies.registry import Registered, operation_strategies
from strategies.tenants import tenants
from strategies.world import Draw, World

LENGTH_MAX = 14


def kinds(catalog: Catalog, focus: Mapping[str, int]) -> list[Registered]:
    """The operation strategies that fit the database, each as often as its weight says."""
    found = []
    for name, strategy in operation_strategies().items():
        if all(t in catalog.tables for t in strategy.tables):
            found += [strategy] * focus.get(name, strategy.weight)
    return found


def workloads(
    contract: Contract, catalog: Catalog, invariant: Invariant
) -> SearchStrategy[Workload]:
    """Workloads weighted for an invariant, on the schema as migrated or on one of its premises."""
    weighted = kinds(catalog, invariant.focus)
    lengths = st.integers(1, LENGTH_MAX)
    premises = ("", *invariant.premises)

    @st.composite
    def build(draw: Draw[Any]) -> Workload:
        world = World(contract, catalog, draw)
        people = tenants(world, 1 if world.below(5) == 0 else 2)
        made: list[Operation] = []
        for _ in range(draw(lengths)):
            world.refill()
            operation = world.pick(weighted).build(world)
            if operation is not None:
                made.append(operation)
        if invariant.observes:
            if world.chance(35):
                made += [world.maintenance(Refresh(v)) for v in catalog.materialized_views]
            made += readings(world)
        return Workload(people, tuple(made), world.pick(premises))

    return build()
