"""Where strategies are registered: rows by table, operations by name.

A user adds a table by writing one row strategy; everything else (inserts, updates, tampering,
copies, merges, probes) is derived from it and from the catalog. What a module registers belongs to
the contract that is being loaded (`loading`); imported by anybody else it registers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis.strategies import SearchStrategy

from invariants.workload.operations import Operation, Value

if TYPE_CHECKING:
    from invariants.checks.base import Invariant
    from invariants.generation.world import World

Values = dict[str, Value]
RowStrategy = Callable[["World", str], Values | SearchStrategy[Values]]
OperationStrategy = Callable[["World"], Operation | None]
Rows = TypeVar("Rows", bound=RowStrategy)
Built = TypeVar("Built", bound=OperationStrategy)


@dataclass(frozen=True)
class Registered:
    """An operation strategy: how often it is drawn, and the tables it speaks about.

    `focus` has another weight for some invariants, by their names. Most workloads open with one
    operation of each strategy that is `opening`, in the order they were registered in.
    """

    name: str
    weight: int
    tables: tuple[str, ...]
    build: OperationStrategy
    focus: Mapping[str, int] = field(default_factory=dict)
    opening: bool = False

    def weight_for(self, invariant: Invariant) -> int:
        """How often it is drawn in a search for violations of this invariant."""
        return invariant.focus.get(self.name, self.focus.get(invariant.name, self.weight))


@dataclass(frozen=True)
class Strategies:
    """What is registered, by table and by name."""

    rows: dict[str, RowStrategy] = field(default_factory=dict)
    operations: dict[str, Registered] = field(default_factory=dict)

    def add_rows(self, table: str, strategy: RowStrategy) -> None:
        """Take a row strategy. Raises ValueError where the table has one."""
        if table in self.rows:
            raise ValueError(f"rows({table!r}) is registered twice")
        self.rows[table] = strategy

    def add_operation(self, made: Registered) -> None:
        """Take an operation strategy. Raises ValueError for what makes no sense."""
        named = f"operation({made.name!r})"
        if made.name in self.operations:
            raise ValueError(f"{named} is registered twice")
        for what, weight in {"weight": made.weight, **made.focus}.items():
            if type(weight) is not int or weight < 0:
                raise ValueError(f"{named}: {what}: {weight!r} is not a whole number of at least 0")
        if not isinstance(made.tables, tuple):
            raise ValueError(f'{named}: tables: {made.tables!r} is no tuple, as ("orders",) is')
        self.operations[made.name] = made


ENGINE = Strategies()
"""The operations that any schema has: those of `hostile` and `taxonomies`."""


def engine_operation(name: str, *, weight: int) -> Callable[[Built], Built]:
    """Register an operation that any schema has; invariants give it another weight by its name."""

    def register(strategy: Built) -> Built:
        ENGINE.add_operation(Registered(name, weight, (), strategy))
        return strategy

    return register


_collecting: ContextVar[Strategies | None] = ContextVar("collecting", default=None)


@contextmanager
def collecting(into: Strategies) -> Iterator[None]:
    """What is registered within a `with` statement is registered there."""
    token = _collecting.set(into)
    try:
        yield
    finally:
        _collecting.reset(token)


def rows(table: str) -> Callable[[Rows], Rows]:
    """Register a row strategy: given the world and a tenant, it makes the columns of a new row.

    It may draw through the world and return a dict, or return a Hypothesis strategy of dicts. That
    of the tenants' own table is given an id, and may choose another one.
    """

    def register(strategy: Rows) -> Rows:
        if (into := _collecting.get()) is not None:
            into.add_rows(table, strategy)
        return strategy

    return register


def operation(
    name: str,
    *,
    weight: int,
    tables: tuple[str, ...] = (),
    focus: Mapping[str, int] | None = None,
    opening: bool = False,
) -> Callable[[Built], Built]:
    """Register an operation strategy, used where the database has all of `tables`.

    It returns None when there is nothing to do yet. `focus` gives it another weight where an
    invariant of that name is searched. Where it is `opening`, most workloads begin with it.
    """

    def register(strategy: Built) -> Built:
        if (into := _collecting.get()) is not None:
            into.add_operation(
                Registered(name, weight, tables, strategy, dict(focus or {}), opening)
            )
        return strategy

    return register


def new_row(world: World, table: str, tenant: str, *, lawful: bool = False) -> Values:
    """A new row for a table and tenant, handwritten or derived, remembered for later references.

    Nothing is amiss in a `lawful` one that is derived.
    """
    values = made_row(world, table, tenant, lawful=lawful)
    world.remember(table, tenant, values)
    return values


def made_row(world: World, table: str, tenant: str, *, lawful: bool = False) -> Values:
    """A new row for a table and tenant, handwritten or derived; see `new_row`."""
    from invariants.generation.derived import derived_row

    strategy = world.strategies.rows.get(table)
    made: Any = (
        strategy(world, tenant) if strategy else derived_row(world, table, tenant, lawful=lawful)
    )
    values: Values = world.draw(made) if isinstance(made, SearchStrategy) else made
    return {**values, **world.cast.carried(table, tenant)} if tenant else values
