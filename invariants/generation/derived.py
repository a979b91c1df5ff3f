"""Rows for tables nobody wrote a strategy for and values for any column, from the catalog alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from invariants.contract.contract import Contract
from invariants.errors import UsageError
from invariants.generation.personal import planted
from invariants.generation.world import World
from invariants.schema.catalog import Catalog, Column, Relation
from invariants.workload.operations import Json, Value, ident

INTEGERS = (0, 1, 2, 3, 10, 100, 101, 2**31 - 1, -1)
TIMES = (
    "2024-03-01 00:00:00+00",
    "2024-03-01 00:00:01+00",
    "2024-03-02 12:30:00+00",
    "1901-01-01 00:00:00+00",
)
TEXTS = ("a", "b", "order-1", "", "Ünï", "x'y\"z", "%_\\")
DOCUMENTS = (
    Json.of({}),
    Json.of({"a": 1}),
    Json.of([]),
    Json.of({"nested": {"list": [1, None, "x"]}}),
)
RATIOS = ("0", "1", "0.5", "0.33333", "0.00001")

_CHOICES: dict[str, Sequence[Value]] = {
    "smallint": (0, 1, 2, 3, 10, 2**15 - 1, -1),
    "integer": INTEGERS,
    "bigint": (*INTEGERS, 2**63 - 1),
    "numeric": (*RATIOS, "2", "-1"),
    "real": RATIOS,
    "double precision": RATIOS,
    "boolean": (False, True),
    "text": TEXTS,
    "character varying": TEXTS,
    "character": TEXTS,
    "json": DOCUMENTS,
    "jsonb": DOCUMENTS,
    "timestamp with time zone": TIMES,
    "timestamp without time zone": TIMES,
    "date": ("2024-03-01", "2024-03-02", "1901-01-01"),
    "time without time zone": ("00:00:00", "12:30:00"),
    "interval": ("00:00:00", "1 day"),
    "bytea": ("\\x", "\\x00ff"),
    "inet": ("192.0.2.1", "2001:db8::1"),
}

_ONE_OF = re.compile(r"= ANY \(+ARRAY\[(.*?)\]")
_QUOTED = re.compile(r"'((?:[^']|'')*)'")
_BOUND = re.compile(r"\(?(\w+)\)? (>=|>|<=|<) \(?'?(-?\d+(?:\.\d+)?)'?")


def choices(relation: Relation, column: Column, contract: Contract) -> Sequence[Value]:
    """Values worth trying in a column, the plain ones first; empty when its type is not known.

    What a CHECK or the contract excludes comes last, so that it is tried too.
    """
    if column.enum:
        return column.enum
    domain = contract.domains.get((relation.name, column.name))
    if domain is not None and domain.one_of:
        return (*domain.one_of, "no such value")
    if listed := listed_values(relation, column):
        return (*listed, "no such value")
    if column.is_array:
        return ("{}",)
    values = _CHOICES.get(column.type, ())
    allowed = [v for v in values if _within(relation, column, v)]
    return (*allowed, *(v for v in values if v not in allowed))


def listed_values(relation: Relation, column: Column) -> Sequence[str] | None:
    """The values that a CHECK of the column lists; None when there is no such list."""
    for check in relation.checks:
        if check.columns == (column.name,) and (found := _ONE_OF.search(check.definition)):
            return tuple(v.replace("''", "'") for v in _QUOTED.findall(found[1]))
    return None


def _within(relation: Relation, column: Column, value: Value) -> bool:
    if column.type in ("character varying", "character", "text") and value == "":
        return not any(column.name in c.columns for c in relation.checks)
    if isinstance(value, bool | Json) or value is None:
        return True
    for check in relation.checks:
        for name, comparison, bound in _BOUND.findall(check.definition):
            if name != column.name:
                continue
            try:
                number, limit = float(value), float(bound)
            except ValueError:
                continue
            fine = {
                ">=": number >= limit,
                ">": number > limit,
                "<=": number <= limit,
                "<": number < limit,
            }
            if not fine[comparison]:
                return False
    return True


def valid_choices(relation: Relation, column: Column, contract: Contract) -> Sequence[Value]:
    """The values of `choices` that type, CHECK and contract allow."""
    values = choices(relation, column, contract)
    return [v for v in values if v != "no such value" and _within(relation, column, v)]


def column_value(world: World, table: str, name: str, tenant: str, *, hostile: int = 10) -> Value:
    """A value for one column: a reference where it refers to something, else a choice by type."""
    relation = world.catalog.tables[table]
    column = relation.columns[name]
    if name == world.contract.tenancy.column:
        return world.cast.value(world.other(tenant) if world.chance(hostile) else tenant)
    foreign = relation.foreign_key_of(name)
    if foreign is not None:
        position = foreign.columns.index(name)
        for taxonomy in world.contract.taxonomies:
            if taxonomy.table == foreign.target:
                return world.pick(codes(world, hostile))
        known = world.reference(foreign.target, tenant, hostile)
        if known is not None:
            return known.values.get(foreign.target_columns[position])
        return None if not column.not_null else ident(foreign.target, 999)
    if column.type == "uuid":
        if not column.not_null and world.chance(20):
            return None
        return ident(name, world.below(4))
    pii = world.contract.pii_of(table, name)
    if pii is not None and world.chance(30):
        return planted(world, pii)
    values = choices(relation, column, world.contract)
    if not column.not_null and world.chance(15):
        return None
    if values and not world.chance(hostile):
        values = valid_choices(relation, column, world.contract) or values
    return world.pick(values) if values else None


def codes(world: World, hostile: int = 10) -> Sequence[str]:
    """Codes of the taxonomy that the mapping names; sometimes an unknown one."""
    from invariants.checks.taxonomy import mapped_codes

    found: list[str] = []
    for taxonomy in world.contract.taxonomies:
        if taxonomy.mapping:
            found += sorted(mapped_codes(taxonomy.mapping))
    return ("no_such_code",) if not found or world.chance(hostile // 2) else found


def derived_row(world: World, table: str, tenant: str) -> dict[str, Value]:
    """A row made from types, NOT NULL, CHECK and foreign keys."""
    relation = world.catalog.tables[table]
    row: dict[str, Value] = {}
    for column in relation.columns.values():
        if column.generated:
            continue
        if relation.primary_key == (column.name,) and column.type == "uuid":
            row[column.name] = world.new_id(table)
        elif column.name == world.contract.tenancy.column:
            row[column.name] = world.cast.value(tenant)
        elif column.has_default and world.chance(60):
            continue
        else:
            row[column.name] = column_value(world, table, column.name, tenant, hostile=6)
    return row


def require_generable(contract: Contract, catalog: Catalog, written: frozenset[str]) -> None:
    """Check that every tenant-scoped table without a hand-written strategy can have rows.

    Raises `UsageError` naming table and column when a column's type is not known here.
    """
    for name in contract.tenancy.owned:
        if name in written:
            continue
        relation = catalog.tables[name]
        for column in relation.columns.values():
            needed = column.not_null and not column.has_default and not column.generated
            referring = relation.foreign_key_of(column.name) or column.type == "uuid"
            if needed and not referring and not choices(relation, column, contract):
                raise UsageError(
                    f"table {name!r}: no value is known for column {column.name!r} of type "
                    f"{column.type}; write a row strategy for it (docs/extending.md)"
                )
