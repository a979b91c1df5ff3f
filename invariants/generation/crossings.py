"""Sweeps of what goes from one tenant to another: each reference, each value that is shown.

Rows of the other tenant are made lawfully, with all that they need, however deep that is. Then a
row of one's own refers to one of them, by each foreign key and each reference of the contract; or
every relation is read while the other tenant has rows with each of the values that a condition may
ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.checks.references import Reference, references
from invariants.contract.contract import Contract
from invariants.generation.columns import valid_choices
from invariants.generation.lawful import LawfulRow, inserting, key_of, lawful
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog, Relation
from invariants.workload.operations import Delete, Operation, Refresh, Select, Update

Make = Callable[[World], list[Operation]]
Stories = Iterator[tuple[str, Make]]

# So many different rows of a table show what a condition lets through; more would be the same.
_VARIANTS_MAX = 12


def crossing(contract: Contract, catalog: Catalog) -> Stories:
    """Rows that refer to another tenant's, by each reference there is; the tenants' own rows."""
    for table, known in references(contract, catalog).items():
        for reference in known:
            if table in contract.tenancy.rooted and reference.target in contract.tenancy.rooted:
                yield "", partial(_crossed, table=table, reference=reference)
    root = contract.tenancy.root
    if root is not None and root in catalog.tables:
        for role in contract.application_roles:
            if any(contract.may(role, v, root) for v in ("update", "delete")):
                yield "", partial(_rooted, root=root, role=role)


def _crossed(world: World, table: str, reference: Reference) -> list[Operation]:
    tenant, other = world.tenants
    contract, keys = world.contract, {*world.catalog.tables[table].primary_key}
    made: list[Operation] = []
    roles = [
        *(r for r in contract.application_roles if contract.may(r, "insert", table)),
        *(r for r in contract.application_roles if contract.may(r, "update", table)),
    ]
    for role in dict.fromkeys(roles):
        *theirs, foreign = lawful(world, reference.target, other, TOTAL)
        *before, row = lawful(world, table, tenant, TOTAL)
        made += [r.inserted() for r in (*theirs, foreign, *before)]
        named = {
            c: foreign.values[t]
            for c, t in zip(reference.columns, reference.target_columns, strict=True)
            if foreign.values.get(t) is not None
        }
        if len(named) < len(reference.columns):
            continue
        actor = world.actor(role, tenant)
        if contract.may(role, "insert", table):
            crossed = row.renewed(world, **named)
            made.append(inserting(world, actor, table, crossed.values))
        made.append(row.inserted())
        where = key_of(world, row)
        if contract.may(role, "update", table) and where and not keys & named.keys():
            made.append(Operation(actor, (Update(table, tuple(named.items()), where),)))
    return made


def _rooted(world: World, root: str, role: str) -> list[Operation]:
    """The row of another tenant in the table of the tenants, changed and removed."""
    tenant, other = world.tenants
    relation, key = world.catalog.tables[root], world.id_column(root)
    where = ((key, world.cast.value(other)),)
    made: list[Operation] = []
    for setting in (tenant, "", None):
        actor = world.actor(role, setting)
        for column in relation.columns.values():
            values = valid_choices(world, relation, column)
            free = not column.generated and column.name not in relation.primary_key
            if world.contract.may(role, "update", root) and free and values:
                change = ((column.name, values[-1]),)
                made.append(Operation(actor, (Update(root, change, where),)))
        if world.contract.may(role, "delete", root):
            made.append(Operation(actor, (Delete(root, where),)))
    return made


def _counted(world: World, table: str, columns: tuple[str, ...]) -> list[Operation]:
    """Rows that sequences number, of two tenants, and what the second one sees of its own."""
    made: list[Operation] = []
    for tenant in world.tenants:
        *before, row = lawful(world, table, tenant, TOTAL)
        without = {c: v for c, v in row.values.items() if c not in columns}
        made += [*(r.inserted() for r in before), inserting(world, row.actor, table, without)]
    reader = world.writer("select", table)
    return [*made, world.operation(reader, world.tenants[-1], Select(table))]


def shown(contract: Contract, catalog: Catalog) -> Stories:
    """Every relation read, while another tenant has rows of each kind that conditions know.

    And one's own, when rows of both were numbered by a sequence.
    """
    for table in contract.tenancy.owned:
        columns = tuple(c.name for c in catalog.tables[table].columns.values() if c.counted)
        if columns:
            yield "", partial(_counted, table=table, columns=columns)
        if len(_kinds(catalog, catalog.tables[table])) > 0 and _readers(catalog, table):
            yield "", partial(_shown, table=table)


def _readers(catalog: Catalog, table: str) -> list[Relation]:
    """The relations that may show some rows of a table: itself, its partitions, every view."""
    apart = ("view", "matview")
    return [
        r for r in catalog.relations.values() if table in (r.name, r.part_of) or r.kind in apart
    ]


def _kinds(catalog: Catalog, relation: Relation) -> list[str]:
    """The columns with few values, or with values that a condition or a partition asks for."""
    keys = {c for k in relation.foreign_keys for c in k.columns} | {*relation.primary_key}
    kinds = []
    for column in relation.columns.values():
        found = catalog.samples.of(relation.name, column.name)
        routed = column.name in relation.routed_by
        if found is None or column.generated or (column.name in keys and not routed):
            continue
        if column.type == "boolean" or found.listed or found.asked or routed:
            kinds.append(column.name)
    return kinds


def _shown(world: World, table: str) -> list[Operation]:
    watched, watching = world.tenants
    contract, catalog = world.contract, world.catalog
    relation = catalog.tables[table]
    made: list[Operation] = []
    for row in _variants(world, relation, watched):
        made += [r.inserted() for r in row]
    made += [world.maintenance(Refresh(v)) for v in catalog.materialized_views]
    for found in _readers(catalog, table):
        for role in contract.application_roles:
            if contract.may(role, "select", found.name) or found.kind != "table":
                made += [world.operation(role, s, Select(found.name)) for s in (watching, "")]
    return made


def _variants(world: World, relation: Relation, tenant: str) -> Iterator[list[LawfulRow]]:
    """Lawful rows that differ in one column of few values at a time, and one with nothing more."""
    made = 0
    for name in _kinds(world.catalog, relation):
        column = relation.columns[name]
        values = list(valid_choices(world, relation, column))
        if not column.not_null:
            values.append(None)
        found = world.catalog.samples.of(relation.name, name)
        asked = found.asked if found is not None else ()
        for value in dict.fromkeys((*asked, *values)):
            if made >= _VARIANTS_MAX:
                return
            made += 1
            *before, row = lawful(world, relation.name, tenant, TOTAL)
            yield [*before, row.having(**{name: value})]
