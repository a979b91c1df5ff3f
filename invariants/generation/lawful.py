"""Rows that the contract permits, with all the rows that they need: the ground sweeps stand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from invariants.generation.columns import nth, taken
from invariants.generation.derived import column_value
from invariants.generation.echoes import echo
from invariants.generation.references import required, taxonomy_of
from invariants.generation.registry import Values, new_row
from invariants.generation.world import World
from invariants.schema.catalog import Catalog, Relation
from invariants.schema.spellings import ANY_TEXT
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Assignments,
    Insert,
    Operation,
    Value,
    ident,
)

# So many rows there are of what all share.
_SHARED = 2


@dataclass(frozen=True)
class LawfulRow:
    """A row that the contract permits, and who writes it."""

    table: str
    actor: Actor
    values: Values
    overriding: bool = False

    def having(self, /, **changed: Value) -> LawfulRow:
        """The same row with some columns changed."""
        return replace(self, values={**self.values, **changed})

    def renewed(self, world: World, /, **changed: Value) -> LawfulRow:
        """The same row with a new id, and with some columns changed."""
        key = world.id_column(self.table)
        return self.having(**{key: world.new_id(self.table), **changed})

    def inserted(self, /, **changed: Value) -> Operation:
        """The operation that writes it, with some columns changed."""
        return Operation(self.actor, (self.having(**changed).statement(),))

    def statement(self) -> Insert:
        """The statement that writes it."""
        row = (tuple(self.values.values()),)
        return Insert(self.table, tuple(self.values), row, overriding=self.overriding)


def inserting(world: World, actor: Actor, table: str, values: Mapping[str, Value]) -> Operation:
    """The operation that writes one row."""
    statement = Insert(table, tuple(values), (tuple(values.values()),))
    return Operation(actor, (world.catalog.chosen(statement),))


def identified(catalog: Catalog, table: str) -> bool:
    """Whether a client chooses the table's primary key, and one id is all that is its own in it."""
    if table not in catalog.tables:
        return False
    relation = catalog.tables[table]
    own = [c for c in relation.primary_key if relation.foreign_key_of(c) is None]
    return len(own) == 1 and relation.columns[own[0]].choosable


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
        return _of_nobody(world, table, number, below)
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
                values[column] = _numbered(world, relation, column, values[column], number)
    for sums in contract.sums:
        if sums.total_table == table:
            values[sums.total_column] = total
        if sums.table == table:
            values[sums.amount] = total
    echo(world, table, values, ((r.table, r.values) for r in before))
    actor = world.actor(world.writer("insert", table), tenant)
    return [*before, LawfulRow(table, actor, values, relation.overrides(values))]


def filled(world: World) -> list[Operation]:
    """Rows of what all tenants share, where theirs may name one, or some role reads there.

    Those that are brought by migrations do as they are.
    """
    contract = world.contract
    if not contract.tenancy.shared:
        return []
    tables, there = world.catalog.tables, world.catalog.samples.there
    needed = {
        key.target
        for table in contract.tenancy.owned
        for key in required(world, tables[table])
        if not world.is_owned(key.target)
    }
    needed |= {
        table
        for table in contract.tenancy.shared
        if table in tables and any(contract.may(r, "select", table) for r in contract.roles)
    }
    needed -= {*there}
    return [
        row.inserted()
        for table in sorted(needed)
        if taxonomy_of(world, table) is None
        for _ in range(_SHARED)
        for row in lawful(world, table, "")
    ]


def _numbered(world: World, relation: Relation, name: str, value: Value, number: int) -> Value:
    """A value that is of this number alone."""
    column = relation.columns[name]
    if column.type == "uuid":
        return ident("sweep", number)
    if isinstance(value, str) and taken(world.catalog, relation, column).series in ("", ANY_TEXT):
        return f"{value}-{number}"
    return nth(world, relation.name, name, number)


def _of_nobody(world: World, table: str, number: int, below: tuple[str, ...]) -> list[LawfulRow]:
    """A row of a table that belongs to no tenant: of the tenants' own, of codes, of all tenants."""
    contract, relation = world.contract, world.catalog.tables[table]
    before: list[LawfulRow] = []
    for rule in contract.taxonomies:
        if rule.table == table:
            values: Values = {
                c.name: column_value(world, table, c.name, "", hostile=0)
                for c in relation.columns.values()
                if not c.has_default
            }
            values[rule.code] = f"sweep_{number}"
            return [LawfulRow(table, Actor(OPERATOR), values, relation.overrides(values))]
    for parent in _parents(world, table):
        if parent not in below and not world.is_owned(parent):
            before += lawful(world, parent, "", 0, (*below, table))
    if table == contract.tenancy.root:
        another = nth(world, table, world.id_column(table), 1000 + number)
        values = new_row(world, table, str(another))
    else:
        values = new_row(world, table, "")
    return [*before, LawfulRow(table, Actor(OPERATOR), values, relation.overrides(values))]


def _parents(world: World, table: str) -> list[str]:
    """The tables that a row of this one names a row of, and that are not filled already."""
    relation, root = world.catalog.tables[table], world.contract.tenancy.root
    named = [t for c, t in world.contract.references(table) if not relation.columns[c].has_default]
    named += [k.target for k in required(world, relation)]
    there = world.catalog.samples.there
    return [
        t
        for t in dict.fromkeys(named)
        if t not in (table, root) and (t in world.contract.tenancy.owned or t not in there)
        if taxonomy_of(world, t) is None
    ]
