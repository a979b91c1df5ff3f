"""Rows that a new row refers to: all columns of a reference come from the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from invariants.contract.sections import Taxonomy
from invariants.generation.columns import nth
from invariants.generation.registry import Values
from invariants.generation.world import Known, World
from invariants.schema.catalog import ForeignKey, Relation
from invariants.workload.operations import Value

# In how many of a hundred rows a reference that need not be there is not.
_EMPTY_PERCENT = 30
# The number of a row that is never made.
_NOBODYS = 999


def refer(
    world: World,
    relation: Relation,
    tenant: str,
    row: Values,
    there: Mapping[str, bool],
    hostile: int,
) -> None:
    """Fill the columns of a new row that refer to others.

    `there` says of some columns whether they must have a value or must have none.
    """
    # The widest first: what it names the others have to agree with.
    for key in sorted(relation.foreign_keys, key=lambda k: -len(k.columns)):
        free = [c for c in key.columns if c not in row and relation.columns[c].choosable]
        if not free:
            continue
        nullable = [c for c in free if not relation.columns[c].not_null]
        wanted = any(there.get(c) is True for c in free)
        unwanted = any(there.get(c) is False for c in nullable)
        if unwanted or (nullable and not wanted and world.chance(_EMPTY_PERCENT)):
            row.update(dict.fromkeys(nullable))
            continue
        told = dict(zip(key.columns, key.target_columns, strict=True))
        if (rule := taxonomy_of(world, key.target)) and [told[c] for c in free] == [rule.code]:
            row[free[0]] = world.pick(codes(world, hostile, rule))
            continue
        known = referable(world, key, tenant, row, hostile)
        for column in free:
            if known is not None:
                row[column] = known.values.get(told[column])
            elif column in nullable and not wanted:
                row[column] = None
            elif key.target == relation.name and told[column] in row:
                # The first of all is its own parent.
                row[column] = row[told[column]]
            else:
                row[column] = nobodys(world, key, key.columns.index(column))


def referable(
    world: World, key: ForeignKey, tenant: str, row: Mapping[str, Value], hostile: int
) -> Known | None:
    """A row that the key can name, given what the new row has already."""
    whose = world.contract.tenancy.column
    agreed = {
        t: row[c]
        for c, t in zip(key.columns, key.target_columns, strict=True)
        if c in row and c != whose
    }

    def fits(known: Known) -> bool:
        values = known.values
        return all(values.get(t) == v for t, v in agreed.items()) and all(
            values.get(t) is not None for t in key.target_columns
        )

    if not world.is_owned(key.target):
        there = [k for k in world.rows_of(key.target) if fits(k)]
        # In turn: a row may have to differ from others by what it refers to.
        return there[(world.next(f"turn {key.target}") - 1) % len(there)] if there else None
    return world.reference(key.target, tenant, hostile, fits)


def nobodys(world: World, key: ForeignKey, position: int) -> Value:
    """What a key names where there is no row for it."""
    return nth(world, key.target, key.target_columns[position], _NOBODYS)


def taxonomy_of(world: World, table: str) -> Taxonomy | None:
    """The taxonomy that a table is."""
    return next((t for t in world.contract.taxonomies if t.table == table), None)


def codes(world: World, hostile: int = 10, rule: Taxonomy | None = None) -> Sequence[str]:
    """Codes of a taxonomy, or of all: those that its mapping names, or that it has.

    Sometimes an unknown one.
    """
    from invariants.checks.taxonomy import mapped_codes

    found: list[str] = []
    for taxonomy in (rule,) if rule else world.contract.taxonomies:
        if taxonomy.mapping:
            found += sorted(mapped_codes(taxonomy.mapping))
        elif rule:
            found += [str(k.values[rule.code]) for k in world.rows_of(rule.table)]
    return ("no_such_code",) if not found or world.chance(hostile // 2) else found


def required(world: World, relation: Relation) -> list[ForeignKey]:
    """The foreign keys without which there is no row."""
    whose = world.contract.tenancy.column
    return [
        k
        for k in relation.foreign_keys
        if all(relation.columns[c].not_null for c in k.columns)
        and not (k.target == world.contract.tenancy.root and set(k.columns) == {whose})
    ]
