"""A column at the edges of what it is promised to hold: the last that fits, and one beyond."""

from __future__ import annotations

from invariants.contract.contract import Contract
from invariants.generation.columns import UNLISTED, listed_values
from invariants.generation.lawful import identified, inserting, lawful
from invariants.generation.world import World
from invariants.schema.catalog import Column, Relation
from invariants.workload.operations import (
    Json,
    Operation,
    Value,
    ident,
)

_RANGES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}


# Longer than any length somebody would give a column for want of a better idea.
_LONG = 1000


def edges(world: World, table: str, column: Column) -> list[Operation]:
    """Rows that differ in this column: each value at an edge, and what has no value at all."""
    tenant = world.tenants[0]
    made: list[Operation] = []
    for value in _edge_values(world.contract, world.catalog.tables[table], column):
        total = value if _adds_up(world.contract, table, column) and isinstance(value, int) else 0
        *before, row = lawful(world, table, tenant, min(max(total, 0), 2**31 - 1))
        made += (r.inserted() for r in before)
        made.append(row.inserted(**{column.name: value}))
    for taxonomy in world.contract.taxonomies:
        if (table, column.name) in taxonomy.used_by:
            (code,) = lawful(world, taxonomy.table, "")
            code.values[taxonomy.code] = "x" * _LONG
            *before, row = lawful(world, table, tenant)
            made += [code.inserted(), *(r.inserted() for r in before)]
            made.append(row.inserted(**{column.name: "x" * _LONG}))
    if identified(world.catalog, table) and column.name in world.catalog.tables[table].primary_key:
        # The key of another row, of this tenant and of another one.
        for owner in world.tenants:
            *before, row = lawful(world, table, owner)
            *before_second, second = lawful(world, table, tenant, 1)
            made += [r.inserted() for r in (*before, row, *before_second)]
            made.append(second.inserted(**{column.name: row.values[column.name]}))
    *before, row = lawful(world, table, tenant)
    without = {c: v for c, v in row.values.items() if c != column.name}
    made += (r.inserted() for r in before)
    made.append(inserting(world, row.actor, table, without))
    return made


def _adds_up(contract: Contract, table: str, column: Column) -> bool:
    """Whether the column carries an amount of another table's."""
    ledger = contract.ledger_of(table)
    return any((s.table, s.amount) == (table, column.name) for s in contract.sums) or (
        ledger is not None and ledger.amount == column.name
    )


def _edge_values(contract: Contract, relation: Relation, column: Column) -> list[Value]:
    table = relation.name
    domain = contract.domains.get((table, column.name))
    values: list[Value] = [None]
    if domain is not None and domain.one_of:
        # What the schema lists is tried as well, whether or not it was promised.
        also = listed_values(relation, column)
        return [*values, *dict.fromkeys((*domain.one_of, UNLISTED, *also))]
    if column.type in _RANGES:
        size = _RANGES[column.type]
        low = -size if domain is None or domain.min is None else int(domain.min)
        high = size - 1 if domain is None or domain.max is None else int(domain.max)
        values += [low, low - 1, high, high + 1]
    elif column.type == "numeric":
        low = 0 if domain is None or domain.min is None else int(domain.min)
        high = 1 if domain is None or domain.max is None else int(domain.max)
        unit = f"{'0' * max(column.scale - 1, 0)}1"
        values += [str(low), str(high), f"{low}.{unit}", f"-{unit}" if low == 0 else str(low - 1)]
        values += [f"-0.{unit}"] if low == 0 else []
        values += [f"{high}.{unit}", str(high + 1)]
    elif column.type in ("text", "character varying") and column.name not in _named(
        contract, table
    ):
        length = column.length if column.length > 0 else _LONG
        values += ["", " ", "x", "x" * length]
        values += ["x" * (length + 1)] if column.length > 0 else []
    elif column.type.startswith("timestamp"):
        values.append("2024-03-01 00:00:00.123456+00")
    elif column.type in ("json", "jsonb"):
        values += [Json.of({}), Json.of([]), Json.of({"sku": 1})]
    elif column.type == "boolean":
        values += [False, True]
    elif column.type == "uuid":
        values.append(ident("nobody's", 1))
    return values


def _named(contract: Contract, table: str) -> set[str]:
    return {c for c, _ in contract.references(table)}
