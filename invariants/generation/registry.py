"""Where strategies are registered: rows by table, operations by name.

A user adds a table by writing one row strategy; everything else (inserts, updates, tampering,
copies, merges, probes) is derived from it and from the catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis.strategies import SearchStrategy

from invariants.generation.world import World
from invariants.workload.operations import Operation, Value

Values = dict[str, Value]
RowStrategy = Callable[[World, str], Values | SearchStrategy[Values]]
OperationStrategy = Callable[[World], Operation | None]


@dataclass(frozen=True)
class Registered:
    """An operation strategy: how often it is drawn, and the tables it speaks about."""

    name: str
    weight: int
    tables: tuple[str, ...]
    build: OperationStrategy


_ROWS: dict[str, RowStrategy] = {}
_OPERATIONS: dict[str, Registered] = {}


def rows(table: str) -> Callable[[RowStrategy], RowStrategy]:
    """Register a row strategy: given the world and a tenant, it makes the columns of a new row.

    It may draw through the world and return a dict, or return a Hypothesis strategy of dicts.
    """

    def register(strategy: RowStrategy) -> RowStrategy:
        _ROWS[table] = strategy
        return strategy

    return register


Built = TypeVar("Built", bound=OperationStrategy)


def operation(name: str, *, weight: int, tables: tuple[str, ...] = ()) -> Callable[[Built], Built]:
    """Register an operation strategy, used where the database has all of `tables`.

    It returns None when there is nothing to do yet; invariants may give it another weight by name.
    """

    def register(strategy: Built) -> Built:
        _OPERATIONS[name] = Registered(name, weight, tables, strategy)
        return strategy

    return register


def row_strategy(table: str) -> RowStrategy | None:
    """The hand-written row strategy of a table, if there is one."""
    return _ROWS.get(table)


def operation_strategies() -> Mapping[str, Registered]:
    """All registered operation strategies."""
    return _OPERATIONS


def new_row(world: World, table: str, tenant: str) -> Values:
    """A new row for a table and tenant, handwritten or derived, remembered for later references."""
    from invariants.generation.derived import derived_row

    strategy = _ROWS.get(table)
    made: Any = strategy(world, tenant) if strategy else derived_row(world, table, tenant)
    values: Values = world.draw(made) if isinstance(made, SearchStrategy) else made
    world.remember(table, tenant, values)
    return values
