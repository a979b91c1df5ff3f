"""Values for one column by itself: what the server was seen to take, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from invariants.contract.contract import Contract
from invariants.generation.world import World
from invariants.schema import spellings
from invariants.schema.catalog import Catalog, Column, Relation
from invariants.schema.samples import Taken, in_column
from invariants.workload.operations import Value, ident

_NOTHING = Taken()
UNLISTED = "no such value"
"""What no list of values has."""


def choices(world: World, relation: Relation, column: Column) -> Sequence[Value]:
    """Values worth trying in a column, the plain ones first; empty when none is known.

    What the type, a CHECK or the contract excludes comes last, so that it is tried too.
    """
    one_of = _promised(world.contract, relation, column)
    return _choices(column, taken(world.catalog, relation, column), one_of)


def valid_choices(world: World, relation: Relation, column: Column) -> Sequence[Value]:
    """The values of `choices` that type, CHECK and contract allow."""
    promised = _promised(world.contract, relation, column)
    return promised or taken(world.catalog, relation, column).values


def taken(catalog: Catalog, relation: Relation, column: Column) -> Taken:
    """What the server was seen to take in a column."""
    return catalog.samples.of(relation.name, column.name) or _NOTHING


def listed_values(relation: Relation, column: Column) -> Sequence[str]:
    """The values that a CHECK of the column lists, as the database at hand has it; else none."""
    for check in relation.checks:
        if check.columns == (column.name,) and (found := spellings.listed([check.definition])):
            return found
    return ()


def nth(world: World, table: str, name: str, number: int) -> Value:
    """The `number`th of values of a column that all differ, as far as it has so many."""
    relation = world.catalog.tables[table]
    column = relation.columns[name]
    if column.type == "uuid" and not column.is_array:
        return ident(table, number)
    if promised := _promised(world.contract, relation, column):
        return promised[(number - 1) % len(promised)]
    return taken(world.catalog, relation, column).nth(column, number)


def new_value(world: World, table: str, name: str) -> Value:
    """A value that no row of the table has yet in this column."""
    return nth(world, table, name, world.next(f"{table}.{name}"))


def _promised(contract: Contract, relation: Relation, column: Column) -> Sequence[Value]:
    domain = contract.domains.get((relation.name, column.name))
    return (domain.one_of if domain is not None else None) or ()


@lru_cache(maxsize=4096)
def _choices(column: Column, found: Taken, promised: Sequence[str]) -> Sequence[Value]:
    if promised:
        return (*promised, UNLISTED)
    if column.enum and not column.is_array:
        return found.values or column.enum
    if found.listed:
        return (*found.values, UNLISTED)
    plain = (in_column(column, t) for t in spellings.plain(column))
    return tuple(dict.fromkeys((*found.values, *plain)))
