"""Amounts that a trigger may want to be alike: of a row, and of the row that it is a part of.

Contracts say of sums and ledgers only what somebody has written there. Where a trigger looks at
both tables and no rule of the contract does, one amount after the other is tried: a part that has
all that the whole has adds up to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from invariants.contract.contract import Contract
from invariants.generation.columns import taken
from invariants.generation.registry import Values
from invariants.generation.world import World
from invariants.remembering import remembered
from invariants.schema.catalog import Catalog, Column
from invariants.schema.reach import Reach

_AMOUNTS = ("numeric", "integer", "bigint", "smallint", "money", "double precision", "real")
Pair = tuple[str, str, str]
"""A column of the part, the table of the whole, and its column."""


def echo(world: World, table: str, values: Values, wholes: Iterable[tuple[str, Values]]) -> None:
    """Give a row and the row that it is a part of one amount, each time another one of theirs."""
    pairs = _pairs(world.contract, world.catalog, table)
    named = dict(wholes)
    fitting = [p for p in pairs if p[1] in named]
    if not fitting:
        return
    column, whole, total = fitting[world.next(f"echo {table}") % len(fitting)]
    relation = world.catalog.tables[table]
    amount = values.get(column)
    if amount is None:
        amount = next(iter(taken(world.catalog, relation, relation.columns[column]).values), None)
    if amount is not None:
        values[column] = named[whole][total] = amount


@remembered
def _pairs(contract: Contract, catalog: Catalog, table: str) -> Sequence[Pair]:
    ruled = {t for s in contract.sums for t in (s.table, s.total_table)}
    ruled |= {t for rule in contract.ledgers for t in (rule.table, rule.source_table)}
    if table in ruled or table in contract.rows:
        return ()
    reach = Reach(catalog, catalog.definitions)
    seen: set[str] = set()
    for trigger in catalog.definitions.triggers:
        if trigger.table == table and trigger.enabled and "insert" in trigger.events:
            seen |= reach.of_call(trigger.routine).reads
    relation = catalog.tables[table]
    return [
        (column.name, whole, total.name)
        for whole in {k.target: None for k in relation.foreign_keys}
        if whole in seen - ruled and whole in catalog.tables and whole != table
        for column in _amounts(relation.columns.values(), table, catalog)
        for total in _amounts(catalog.tables[whole].columns.values(), whole, catalog)
        if (column.type, column.scale) == (total.type, total.scale)
    ]


def _amounts(columns: Iterable[Column], table: str, catalog: Catalog) -> list[Column]:
    relation = catalog.tables[table]
    keys = {*relation.primary_key, *(c for k in relation.foreign_keys for c in k.columns)}
    return [
        c
        for c in columns
        if c.type in _AMOUNTS and not c.is_array and not c.generated and c.name not in keys
    ]
