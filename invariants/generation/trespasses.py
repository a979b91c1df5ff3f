"""Sweeps of what a tenant may learn by trying: rows of its own beside, and at, another's.

A row that names another tenant's row, a row with another's key, and a row that is the twin of
another's: what comes of it, the texts of errors and notices included, must be what comes of it
where the other tenant has no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.contract.contract import Contract
from invariants.generation.lawful import LawfulRow, inserting, key_of, lawful
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import (
    Assignments,
    Delete,
    Operation,
    Select,
    Statement,
    Update,
    Value,
    ident,
)

Make = Callable[[World], list[Operation]]


def trespasses(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Rows that name another tenant's rows, by each column that names any; and another's keys."""
    for table in contract.tenancy.owned:
        for role in contract.application_roles:
            if contract.may(role, "insert", table):
                for columns in _naming(contract, catalog, table):
                    yield "", partial(_referring, table=table, role=role, columns=columns)
                yield "", partial(_collided, table=table, role=role)
            yield "", partial(_aimed, table=table, role=role)


def _naming(contract: Contract, catalog: Catalog, table: str) -> list[tuple[str, ...]]:
    """The columns by which a row names another one of a tenant's, whoever says so."""
    tenancy = contract.tenancy
    relation = catalog.tables[table]
    found = [
        tuple(c for c in key.columns if c != tenancy.column and not relation.columns[c].generated)
        for key in relation.foreign_keys
        if key.target in tenancy.owned
    ]
    found += [(c,) for c, target in contract.references(table) if target in tenancy.owned]
    return [columns for columns in dict.fromkeys(found) if columns]


def _target(world: World, table: str, column: str) -> tuple[str, str]:
    """The table and the column that a column names."""
    for key in world.catalog.tables[table].foreign_keys:
        if column in key.columns and key.target in world.contract.tenancy.owned:
            return key.target, key.target_columns[key.columns.index(column)]
    target = dict(world.contract.references(table))[column]
    return target, world.id_column(target)


def _referring(world: World, table: str, role: str, columns: tuple[str, ...]) -> list[Operation]:
    owner, other = world.tenants
    actor = world.actor(role, other)
    made: list[Operation] = []
    named: dict[str, Value] = {}
    for column in columns:
        target, of = _target(world, table, column)
        *before, row = lawful(world, target, owner, TOTAL)
        made += [r.inserted() for r in (*before, row)]
        named[column] = row.values.get(of)
    *before, row = lawful(world, table, other, TOTAL)
    made += [r.inserted() for r in before]
    made.append(inserting(world, actor, table, {**row.values, **named}))
    made.append(inserting(world, actor, table, row.values))
    if world.contract.may(role, "update", table):
        made.append(Operation(actor, (Update(table, tuple(named.items()), key_of(world, row)),)))
    nobody = {c: ident("nobody's", 1) for c in columns}
    made.append(inserting(world, actor, table, {**row.renewed(world).values, **nobody}))
    return made


def _theirs(world: World, table: str) -> tuple[list[Operation], LawfulRow]:
    """A row of the other tenant, with what it needs."""
    *before, row = lawful(world, table, world.tenants[0], TOTAL)
    return [r.inserted() for r in (*before, row)], row


def _collided(world: World, table: str, role: str) -> list[Operation]:
    """A row with another tenant's key: a collision may be accepted, words about it are not."""
    other = world.tenants[1]
    made, theirs = _theirs(world, table)
    *before, mine = lawful(world, table, other, TOTAL)
    made += [r.inserted() for r in before]
    key = world.catalog.tables[table].primary_key
    taken = {c: theirs.values[c] for c in key if c in theirs.values}
    return [*made, inserting(world, world.actor(role, other), table, {**mine.values, **taken})]


def _aimed(world: World, table: str, role: str) -> list[Operation]:
    """Another tenant's row by its key, in every statement."""
    made, theirs = _theirs(world, table)
    actor = world.actor(role, world.tenants[1])
    where: Assignments = key_of(world, theirs)
    if not where:
        return made
    statements: list[Statement] = [Select(table, where)]
    free = [c for c in theirs.values if c not in dict(where)]
    if free and world.contract.may(role, "update", table):
        statements.append(Update(table, ((free[-1], theirs.values[free[-1]]),), where))
    if world.contract.may(role, "delete", table):
        statements.append(Delete(table, where))
    return [*made, *(Operation(actor, (s,)) for s in statements)]


def twins(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Rows alike in two tenants, in every table: read, changed and removed by what they say."""
    del catalog
    for table in contract.tenancy.owned:
        for role in contract.application_roles:
            yield "", partial(_twins, table=table, role=role)


def _twins(world: World, table: str, role: str) -> list[Operation]:
    other = world.tenants[1]
    contract, relation = world.contract, world.catalog.tables[table]
    made, theirs = _theirs(world, table)
    *before, mine = lawful(world, table, other, TOTAL)
    made += [r.inserted() for r in before]
    apart = {
        *relation.primary_key,
        contract.tenancy.column,
        *world.cast.carried(table, other),
        *(c for k in relation.foreign_keys for c in k.columns),
        *(c for c, _ in contract.references(table)),
    }
    alike = {c: v for c, v in theirs.values.items() if c not in apart}
    twin = mine.having(**alike)
    if contract.may(role, "insert", table):
        made.append(inserting(world, world.actor(role, other), table, twin.values))
    else:
        made.append(twin.inserted())
    actor = world.actor(role, other)
    plain = [(c, v) for c, v in alike.items() if isinstance(v, str) and len(v) < 100]
    statements: list[Statement] = [Select(table)]
    statements += [Select(table, ((c, v),)) for c, v in plain]
    if contract.may(role, "update", table):
        statements += [Update(table, ((c, v),), ((c, v),)) for c, v in plain]
    if contract.may(role, "delete", table):
        statements += [Delete(table, (p,)) for p in plain[:1]]
    return [*made, *(Operation(actor, (s,)) for s in statements)]
