"""A sweep of what rows that must stay refer to: each of it changed, and removed.

A foreign key may do something to the row that has it (SET NULL, SET DEFAULT, CASCADE), nullable
columns included, and what lets it do so may let it be done to rows that must stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.contract.contract import Contract
from invariants.generation.lawful import LawfulRow, key_of, lawful
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import (
    Delete,
    Operation,
    Statement,
    Update,
    Value,
    ident,
)

Make = Callable[[World], list[Operation]]


def parents(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """For each table whose rows stay, by each role, every row that its rows lead up to."""
    for rule in contract.append_only:
        keys = catalog.tables[rule.table].foreign_keys
        if any(k.target not in (rule.table, contract.tenancy.root) for k in keys):
            for role in contract.application_roles:
                yield "", partial(_bereaved, table=rule.table, role=role)


def _bereaved(world: World, table: str, role: str) -> list[Operation]:
    tenant = world.tenants[0]
    actor = world.actor(role, tenant)
    made: list[Operation] = []
    for attack in (_rekeyed, _removed):
        *before, row = referring(world, table, tenant)
        made += [r.inserted() for r in (*before, row)]
        # The nearest first: the next one may take it along.
        for parent in reversed(before):
            made += [Operation(actor, (s,)) for s in attack(world, parent)]
    return made


def referring(
    world: World, table: str, tenant: str, below: tuple[str, ...] = ()
) -> list[LawfulRow]:
    """A row that the contract permits and that refers to something by every foreign key it has.

    After the rows it leads up to; a row refers to none of its own table.
    """
    *before, row = lawful(world, table, tenant, TOTAL)
    tenancy = world.contract.tenancy
    if table not in tenancy.owned:
        return [*before, row]
    relation = world.catalog.tables[table]
    for key in relation.foreign_keys:
        free = [c for c in key.columns if c != tenancy.column and not relation.columns[c].generated]
        named = all(row.values.get(c) is not None for c in free)
        if named or key.target in (table, tenancy.root, *below):
            continue
        *further, parent = referring(world, key.target, tenant, (*below, table))
        pairs = zip(key.columns, key.target_columns, strict=True)
        values = {c: parent.values.get(t) for c, t in pairs if c in free}
        if None not in values.values():
            before += [*further, parent]
            row = row.having(**values)
    return [*before, row]


def _rekeyed(world: World, row: LawfulRow) -> Iterator[Statement]:
    """Another value for every column that a foreign key leads to."""
    where = key_of(world, row)
    keys = world.catalog.referrers.get(row.table, ())
    for column in dict.fromkeys(c for k in keys for c in k.target_columns):
        if column != world.contract.tenancy.column and column in row.values:
            yield Update(row.table, ((column, _moved(row.values[column])),), where)


def _moved(value: Value) -> Value:
    if isinstance(value, int):
        return value + 1_000
    text = str(value)
    return ident("moved", int(text[-12:], 16)) if text.count("-") == 4 else f"{text}-moved"


def _removed(world: World, row: LawfulRow) -> Iterator[Statement]:
    yield Delete(row.table, key_of(world, row))
    yield Delete(row.table)
