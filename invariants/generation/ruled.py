"""Rows that a rule of the contract speaks about, made so that they keep it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from invariants.contract.contract import Contract
from invariants.contract.sections import Idempotency, Ledger, Sum, Taxonomy
from invariants.generation.lawful import LawfulRow, identified, lawful
from invariants.generation.references import codes
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Actor, Delete, Insert, Operation, Value, ident

TOTAL = 100
"""What parts add up to, and what is posted."""


def sums_of(contract: Contract, catalog: Catalog) -> Iterator[Sum]:
    """The sums whose rows have ids that a client chooses, so that they can be named."""
    for rule in contract.sums:
        if identified(catalog, rule.table) and identified(catalog, rule.total_table):
            yield rule


def ledgers_of(contract: Contract, catalog: Catalog) -> Iterator[Ledger]:
    """The ledgers whose rows, and what they post, have ids that a client chooses."""
    for rule in contract.ledgers:
        if identified(catalog, rule.table) and identified(catalog, rule.source_table):
            yield rule


def codes_of(contract: Contract, catalog: Catalog) -> Iterator[tuple[Taxonomy, str, str]]:
    """The taxonomies with each table and column that use their codes."""
    for rule in contract.taxonomies:
        for table, column in rule.used_by:
            if table in catalog.tables and (rule.code,) == catalog.tables[rule.table].primary_key:
                yield rule, table, column


def erasing(world: World, tenant: str) -> tuple[Operation, ...]:
    """The operation that erases a tenant, if the contract has a role for it."""
    tenancy = world.contract.tenancy
    if tenancy.erased_by is None or tenancy.root is None:
        return ()
    where = ((world.id_column(tenancy.root), world.cast.value(tenant)),)
    return (Operation(Actor(tenancy.erased_by), (Delete(tenancy.root, where),)),)


def parts_of_total(
    world: World, rule: Sum, tenant: str, amounts: Sequence[int], total: int = TOTAL
) -> tuple[list[Operation], list[LawfulRow]]:
    """The row with the total, and rows of one group with these amounts."""
    *before, first = lawful(world, rule.table, tenant, total)
    keys = [k for i in world.contract.idempotency if i.table == rule.table for k in i.keys]
    telling = [c for k in keys for c in k if c not in rule.group_by]
    made = []
    for number, amount in enumerate(amounts):
        row = first.having(**{rule.amount: amount})
        if number:
            row = row.renewed(world)
            for column in telling:
                now = row.values[column]
                row.values[column] = _other_value(world, rule.table, column, now, number)
        made.append(row)
    return [r.inserted() for r in before], made


def _other_value(world: World, table: str, column: str, value: Value, number: int) -> Value:
    if any((table, column) in t.used_by for t in world.contract.taxonomies):
        known = codes(world, hostile=0)
        return known[(known.index(str(value)) + number) % len(known)]
    return f"{value}-{number}"


def in_one(rows: Sequence[LawfulRow]) -> Insert:
    """The statement that writes all the rows."""
    columns = tuple(dict.fromkeys(c for r in rows for c in r.values))
    values = tuple(tuple(r.values[c] for c in columns) for r in rows)
    return Insert(rows[0].table, columns, values, overriding=rows[0].overriding)


def changer(world: World, verb: str, row: LawfulRow) -> Actor:
    """Who may do this to the row, for its tenant."""
    return world.actor(world.writer(verb, row.table), row.actor.tenant)


def repairers(world: World, table: str) -> list[str]:
    """The roles that may change committed rows of an append-only table."""
    rules = world.contract.append_only
    return [r.repaired_by for r in rules if r.table == table and r.repaired_by]


def posted(world: World, rule: Ledger, tenant: str) -> tuple[list[Operation], LawfulRow]:
    """What a posting needs, and the posting itself."""
    *before, posting = lawful(world, rule.table, tenant, TOTAL)
    posting.values[rule.amount] = TOTAL
    return [r.inserted() for r in before], posting


def correcting(world: World, rule: Ledger, posting: LawfulRow, amount: int) -> LawfulRow:
    """A correction of the posting by this amount."""
    assert rule.corrects is not None
    corrected = posting.values[world.id_column(rule.table)]
    return posting.renewed(world, **{rule.amount: amount}, **{rule.corrects: corrected})


def with_key(world: World, rule: Idempotency, row: LawfulRow, position: int) -> LawfulRow:
    """The row with the key of this position alone, where the others may be missing."""
    relation = world.catalog.tables[rule.table]
    values = dict(row.values)
    for columns in rule.keys:
        for column in columns:
            kept = column in rule.keys[position]
            if not kept and not relation.columns[column].not_null:
                values.pop(column, None)
            elif kept and values.get(column) is None:
                values[column] = ident("key", world.next("key"))
    return replace(row, values=values)
