"""Rows that the contract permits, with all the rows that they need: the ground sweeps stand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from invariants.generation.derived import column_value
from invariants.generation.registry import Values, new_row
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Assignments,
    Insert,
    Operation,
    Value,
    ident,
)


@dataclass(frozen=True)
class LawfulRow:
    """A row that the contract permits, and who writes it."""

    table: str
    actor: Actor
    values: Values

    def having(self, /, **changed: Value) -> LawfulRow:
        """The same row with some columns changed."""
        return replace(self, values={**self.values, **changed})

    def renewed(self, world: World, /, **changed: Value) -> LawfulRow:
        """The same row with a new id, and with some columns changed."""
        key = world.id_column(self.table)
        return self.having(**{key: world.new_id(self.table), **changed})

    def inserted(self, /, **changed: Value) -> Operation:
        """The operation that writes it, with some columns changed."""
        return inserting(self.actor, self.table, self.having(**changed).values)


def inserting(actor: Actor, table: str, values: Mapping[str, Value]) -> Operation:
    """The operation that writes one row."""
    return Operation(actor, (Insert(table, tuple(values), (tuple(values.values()),)),))


def identified(catalog: Catalog, table: str) -> bool:
    """Whether a client chooses the table's primary key, and it is one id."""
    if table not in catalog.tables:
        return False
    relation = catalog.tables[table]
    return [relation.columns[c].type for c in relation.primary_key] == ["uuid"]


def key_of(world: World, row: LawfulRow) -> Assignments:
    """The condition that names the row; none for what the server numbers."""
    key = world.catalog.tables[row.table].primary_key
    return tuple((c, row.values[c]) for c in key if c in row.values)


def lawful(
    world: World, table: str, tenant: str, total: int = 0, below: tuple[str, ...] = ()
) -> list[LawfulRow]:
    """A row that the contract permits, after the rows that it needs.

    Whatever the row is recognised by is new, so that any number of such rows can be made. `total`
    is what parts add up to, and `below` are the tables that wait for this one.
    """
    contract, number = world.contract, world.next("sweep")
    relation = world.catalog.tables[table]
    before: list[LawfulRow] = []
    if table not in contract.tenancy.owned:
        if table == contract.tenancy.root:
            values = new_row(world, table, ident(table, 1000 + number))
            return [LawfulRow(table, Actor(OPERATOR), values)]
        values = {
            c.name: column_value(world, table, c.name, "", hostile=0)
            for c in relation.columns.values()
            if not c.has_default
        }
        for taxonomy in contract.taxonomies:
            if taxonomy.table == table:
                values[taxonomy.code] = f"sweep_{number}"
        return [LawfulRow(table, Actor(OPERATOR), values)]
    for parent in _parents(world, table):
        if parent not in below:
            before += lawful(world, parent, tenant, total, (*below, table))
    values = new_row(world, table, tenant)
    parents = {c for c, t in contract.references(table) if t in contract.tenancy.owned}
    for rule in contract.idempotency:
        # A key that names a row just made is new by that.
        if rule.table != table or parents & set(rule.keys[0]):
            continue
        for column in rule.keys[0]:
            if column in values and relation.foreign_key_of(column) is None:
                kind = relation.columns[column].type
                values[column] = (
                    ident("sweep", number) if kind == "uuid" else f"{values[column]}-{number}"
                )
    for sums in contract.sums:
        if sums.total_table == table:
            values[sums.total_column] = total
        if sums.table == table:
            values[sums.amount] = total
    return [*before, LawfulRow(table, world.actor(world.writer("insert", table), tenant), values)]


def _parents(world: World, table: str) -> list[str]:
    """The tenant-scoped tables that a row of this one names a row of."""
    relation = world.catalog.tables[table]
    named = [t for c, t in world.contract.references(table) if not relation.columns[c].has_default]
    named += [k.target for k in relation.foreign_keys if relation.columns[k.columns[-1]].not_null]
    return [t for t in dict.fromkeys(named) if t in world.contract.tenancy.owned and t != table]
