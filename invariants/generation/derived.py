"""Rows for tables nobody wrote a strategy for and values for any column, from the catalog alone."""

from __future__ import annotations

from invariants.contract.contract import Contract
from invariants.errors import UsageError
from invariants.generation.columns import choices, new_value, taken, valid_choices
from invariants.generation.personal import planted
from invariants.generation.references import codes, nobodys, refer, referable, taxonomy_of
from invariants.generation.world import World
from invariants.schema.catalog import Catalog, Relation
from invariants.workload.operations import Value, ident

# In how many of a hundred values something is amiss.
_HOSTILE_PERCENT = 6
# In how many of a hundred rows what must differ does not.
_AGAIN_PERCENT = 12
# In how many the server numbers what it can.
_COUNTED_PERCENT = 15


def column_value(world: World, table: str, name: str, tenant: str, *, hostile: int = 10) -> Value:
    """A value for one column: a reference where it refers to something, else a choice by type."""
    relation = world.catalog.tables[table]
    column = relation.columns[name]
    if name == world.contract.tenancy.column:
        return world.cast.value(world.other(tenant) if world.chance(hostile) else tenant)
    foreign = relation.foreign_key_of(name)
    if foreign is not None:
        if rule := taxonomy_of(world, foreign.target):
            return world.pick(codes(world, hostile, rule))
        known = referable(world, foreign, tenant, {}, hostile)
        position = foreign.columns.index(name)
        if known is not None:
            return known.values.get(foreign.target_columns[position])
        return None if not column.not_null else nobodys(world, foreign, position)
    if column.type == "uuid":
        if not column.not_null and world.chance(20):
            return None
        return ident(name, world.below(4))
    pii = world.contract.pii_of(table, name)
    if pii is not None and world.chance(30):
        return planted(world, pii)
    values = choices(world, relation, column)
    if not column.not_null and world.chance(15):
        return None
    if values and not world.chance(hostile):
        values = valid_choices(world, relation, column) or values
    return world.pick(values) if values else None


def derived_row(world: World, table: str, tenant: str, *, lawful: bool = False) -> dict[str, Value]:
    """A row made from types, NOT NULL, CHECK and keys, with nothing amiss if `lawful`."""
    # What everything else stands on, tenants and what all share, is as it should be.
    lawful = lawful or table not in world.contract.tenancy.owned
    hostile, again = (0, 0) if lawful else (_HOSTILE_PERCENT, _AGAIN_PERCENT)
    relation, whose = world.catalog.tables[table], world.contract.tenancy.column
    row: dict[str, Value] = {}
    if whose in relation.columns and tenant and table != world.contract.tenancy.root:
        row[whose] = world.cast.value(tenant)
    _number(world, relation, row)
    there = _together(world, relation, row, hostile)
    refer(world, relation, tenant, row, there, hostile=hostile)
    for name in world.catalog.samples.distinct.get(table, ()):
        if name not in row and not world.chance(again):
            row[name] = new_value(world, table, name)
    for column in relation.columns.values():
        if column.name in row or column.generated:
            continue
        if column.has_default and world.chance(60):
            continue
        row[column.name] = column_value(world, table, column.name, tenant, hostile=hostile)
    return {c: row[c] for c in relation.columns if c in row}


def _number(world: World, relation: Relation, row: dict[str, Value]) -> None:
    """Give the row its own id, unless the server does."""
    own = world.id_column(relation.name)
    column = relation.columns[own]
    if own in row or own not in relation.primary_key or relation.foreign_key_of(own):
        return
    if column.choosable and not (column.counted and world.chance(_COUNTED_PERCENT)):
        row[own] = world.new_id(relation.name)


def _together(
    world: World, relation: Relation, row: dict[str, Value], hostile: int
) -> dict[str, bool]:
    """Fill columns that CHECKs bind to each other; of references it says which are to be there."""
    there: dict[str, bool] = {}
    if world.chance(hostile):
        return there
    for bound in world.catalog.samples.together.get(relation.name, ()):
        if not bound.rows:
            continue
        for name, value in zip(bound.columns, world.pick(bound.rows), strict=True):
            if world.names_another(relation, name):
                there[name] = value is not None
            elif name not in row and (name not in relation.primary_key or value is not None):
                row[name] = value
    return there


def require_generable(contract: Contract, catalog: Catalog, written: frozenset[str]) -> None:
    """Check that every tenant-scoped table without a hand-written strategy can have rows.

    Raises `UsageError` naming table, column and what refuses all that was tried.
    """
    for name in contract.tenancy.owned:
        if name in written:
            continue
        relation = catalog.tables[name]
        for column in relation.columns.values():
            needed = column.not_null and not column.has_default and not column.generated
            if not needed or relation.foreign_key_of(column.name):
                continue
            found = taken(catalog, relation, column)
            if not found.values and (name, column.name) not in contract.domains:
                raise _ungenerable(name, f"column {column.name!r}", found.refused_by or column.type)
        for bound in catalog.samples.together.get(name, ()):
            needed = any(not relation.columns[c].has_default for c in bound.columns)
            if needed and not bound.rows:
                columns = ", ".join(map(repr, bound.columns))
                raise _ungenerable(name, f"the columns {columns}", bound.refused_by)


def _ungenerable(table: str, columns: str, by: str) -> UsageError:
    return UsageError(
        f"table {table!r}: no value was found that {by} lets into {columns}; "
        "write a row strategy for it (docs/extending.md)"
    )
