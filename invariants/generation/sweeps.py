"""Sweeps: what is finite is enumerated before anything is drawn at random.

Privileges, columns with their bounds, and ways to change a row that must stay are lists. A search
tries all of each list first, in workloads made from the contract and the catalog, with the plainest
rows that the strategies make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from invariants.checks.base import Invariant
from invariants.contract import premises
from invariants.contract.contract import ANYBODY, Contract
from invariants.contract.sections import VERBS
from invariants.generation import crossings, rules
from invariants.generation.alike import alike
from invariants.generation.columns import new_value, valid_choices
from invariants.generation.commons import commons
from invariants.generation.drawing import plainest
from invariants.generation.edges import edges
from invariants.generation.elsewhere import elsewhere
from invariants.generation.handovers import handovers
from invariants.generation.inquiries import inquiries
from invariants.generation.lawful import identified, inserting, key_of, lawful
from invariants.generation.ledgers import ledgers
from invariants.generation.loading import strategies_of
from invariants.generation.magnitudes import magnitudes
from invariants.generation.parents import parents
from invariants.generation.parts import parts
from invariants.generation.plans import plans
from invariants.generation.routines import routines, writers
from invariants.generation.sayings import becoming, settings, unlocking, unlocking_as
from invariants.generation.shadows import shadows
from invariants.generation.tenants import tenants
from invariants.generation.through_views import through_views
from invariants.generation.trespasses import trespasses, twins
from invariants.generation.unplaced import unnamed, unplaced
from invariants.generation.world import Draw, World
from invariants.schema.catalog import COMMENTED, Catalog, Column, Relation
from invariants.workload.operations import (
    Actor,
    Assignments,
    Attach,
    Comment,
    Conflict,
    Delete,
    Insert,
    Json,
    Merge,
    Operation,
    Refresh,
    Select,
    Statement,
    Truncate,
    Update,
    Value,
    Workload,
    ident,
)

# A workload this long is reduced in as few steps as one that was drawn.
_OPERATIONS_MAX = 40


def sweeps(contract: Contract, catalog: Catalog, invariant: Invariant) -> Iterator[Workload]:
    """Workloads to try before any other; made as they are asked for."""
    for name in invariant.sweeps:
        yield from sweep(contract, catalog, name)


def sweep(contract: Contract, catalog: Catalog, name: str) -> Iterator[Workload]:
    """The workloads of one list."""
    for premise, make in _SWEEPS[name](contract, catalog):
        yield plainest(_workload(contract, catalog, premise, make))


T = TypeVar("T")
_Make = Callable[[World], list[Operation]]
_Sweep = Callable[[Contract, Catalog], Iterator[tuple[str, _Make]]]


def _workload(
    contract: Contract, catalog: Catalog, premise: str, make: _Make
) -> SearchStrategy[Workload]:
    strategies = strategies_of(contract)

    @st.composite
    def build(draw: Draw[Any]) -> Workload:
        world = World(contract, catalog, draw, strategies, plain=True)
        people = tenants(world, 2)
        made = make(world)
        return Workload(people, (*world.given, *made), premise)

    return build()


def _chunks(asked: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(asked), _OPERATIONS_MAX):
        yield asked[start : start + _OPERATIONS_MAX]


def _privileges(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """Every statement that the contract promises to a role, or does not, on tables without rows."""
    asked = [
        (role, statement)
        for role in (*contract.roles, ANYBODY)
        for relation in catalog.relations.values()
        for statement in _asking(contract, relation, role)
    ]
    asked += [
        (role, statement)
        for role in (*contract.application_roles, ANYBODY)
        for statement in _taking(catalog)
    ]
    for chunk in _chunks(asked):
        yield "", partial(_asked, chunk)
    for table in _tables(contract):
        yield "", partial(_unpromised_inserts, table=table)


def _tables(contract: Contract) -> tuple[str, ...]:
    return (
        *contract.tenancy.owned,
        *_root(contract),
        *(t.table for t in contract.taxonomies),
    )


def _root(contract: Contract) -> tuple[str, ...]:
    return (contract.tenancy.root,) if contract.tenancy.root else ()


def _asked(statements: list[tuple[str, Statement]], world: World) -> list[Operation]:
    return [world.operation(role, world.tenants[0], s) for role, s in statements]


def _taking(catalog: Catalog) -> Iterator[Statement]:
    """Attempts at what belongs to somebody else."""
    for relation in catalog.relations.values():
        yield Comment(relation.name, COMMENTED[relation.kind])
    for routine in catalog.routines:
        yield Comment(routine.signature, "procedure" if routine.procedure else "function")
        if routine.is_trigger and routine.security_definer:
            yield Attach(routine.signature)


def _asking(contract: Contract, relation: Relation, role: str) -> Iterator[Statement]:
    """Statements that need a privilege and no row."""
    name = relation.name
    yield Select(name)
    if not contract.may(role, "select", name):
        yield from (Select(name, columns=(column,)) for column in relation.columns)
    if relation.kind == "matview":
        return
    if not contract.may(role, "update", name):
        yield from (
            Update(name, ((column.name, None),))
            for column in relation.columns.values()
            if not column.generated
        )
    if not contract.may(role, "delete", name):
        yield Delete(name)
    if relation.kind in ("table", "partition") and not contract.may(role, "truncate", name):
        yield Truncate(name)


def _unpromised_inserts(world: World, table: str) -> list[Operation]:
    """A lawful row, cut down to columns without which there is none, by unpromised roles."""
    contract, tenant = world.contract, world.tenants[0]
    *before, row = lawful(world, table, tenant)
    columns = world.catalog.tables[table].columns
    needed = {
        c: v for c, v in row.values.items() if columns[c].not_null and not columns[c].has_default
    }
    return [
        *(r.inserted() for r in before),
        *(
            inserting(world, world.actor(role, tenant), table, needed)
            for role in (*contract.roles, ANYBODY)
            if not contract.may(role, "insert", table)
        ),
    ]


def _columns(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """Every column of every table with each value at the edge of what is promised of it."""
    for table in _tables(contract):
        relation = catalog.tables.get(table)
        columns = [] if relation is None else list(relation.columns.values())
        for column in columns:
            if not column.generated:
                yield "", partial(edges, table=table, column=column)


def _layers(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """Every way to change a row that must stay, with each layer that protects it on its own."""
    del catalog
    for rule in contract.append_only:
        for premise in ("", premises.GRANTED, premises.UNTRIGGERED):
            for role in contract.application_roles:
                yield premise, partial(_attacks, table=rule.table, role=role)
    for root, premise in product(_root(contract), ("", premises.GRANTED, premises.UNTRIGGERED)):
        yield premise, partial(_attacks_on_root, table=root)


def _attacks(world: World, table: str, role: str) -> list[Operation]:
    tenant = world.tenants[0]
    *before, row = lawful(world, table, tenant, 100)
    relation = world.catalog.tables[table]
    key = relation.primary_key
    where = key_of(world, row)
    statements: list[Statement] = []
    for column in relation.columns.values():
        if column.generated or column.name in key:
            continue
        value = _another(world, table, column, row.values.get(column.name))
        statements.append(Update(table, ((column.name, value),), where))
        changed = {**row.values, column.name: value}
        names, values = tuple(changed), tuple(changed.values())
        if column.name != world.contract.tenancy.column:
            conflict = Conflict(key, updates=(column.name,))
            statements.append(Insert(table, names, (values,), conflict, row.overriding))
            if world.catalog.server_version >= 150000:
                statements.append(Merge(table, names, values, key, (column.name,)))
    statements += [Delete(table, where), Delete(table), Truncate(table, cascade=True)]
    statements += [Truncate(table)]
    return [
        *(r.inserted() for r in before),
        row.inserted(),
        *(Operation(world.actor(role, tenant), (s,)) for s in statements),
    ]


def _attacks_on_root(world: World, table: str) -> list[Operation]:
    tenant = world.tenants[0]
    made = [
        r.inserted()
        for rule in world.contract.append_only
        for r in lawful(world, rule.table, tenant)
    ]
    key = world.id_column(table)
    statements = (Delete(table, ((key, world.cast.value(tenant)),)), Truncate(table, cascade=True))
    return made + [
        Operation(world.actor(role, tenant), (s,))
        for role in world.contract.application_roles
        for s in statements
    ]


def _another(world: World, table: str, column: Column, now: Value) -> Value:
    """A value that the column takes and does not have."""
    values = valid_choices(world, world.catalog.tables[table], column)
    others = [v for v in values if v != now]
    if column.name == world.contract.tenancy.column:
        return world.cast.value(world.other(world.tenants[0]))
    return others[-1] if others else ident("another", 1) if column.type == "uuid" else None


def _leaks(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """Every relation read by a tenant without rows of its own, while another one has some."""
    yield "", partial(_readings, leaks=False)
    for relation in catalog.relations.values():
        if (
            contract.tenancy.column in relation.columns
            or relation.name in contract.tenancy.scoped_by
        ):
            yield "", partial(_readings, leaks=True, only=relation.name)


def _readings(world: World, leaks: bool, only: str = "") -> list[Operation]:
    watched, watching = world.tenants
    contract, catalog = world.contract, world.catalog
    made = [r.inserted() for t in contract.tenancy.owned for r in lawful(world, t, watched, 100)]
    made += [world.maintenance(Refresh(v)) for v in catalog.materialized_views]
    for relation in catalog.relations.values():
        for role in contract.application_roles:
            if leaks and relation.name == only and contract.may(role, "select", relation.name):
                made += [
                    world.operation(role, watching, Select(relation.name, leak=column))
                    for column in relation.columns
                ]
            elif not leaks:
                made += [
                    Operation(stranger, (Select(relation.name),))
                    for stranger in world.cast.strangers(role, watched, watching)
                ]
    return made


def _writes(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """Rows of one tenant written, changed and removed by a session for another one, or for none."""
    del catalog
    for table in contract.tenancy.owned:
        for role in (*contract.application_roles, *sorted(contract.repair_roles)):
            verbs = [v for v in ("insert", "update", "delete") if contract.may(role, v, table)]
            if verbs:
                yield "", partial(_intrusions, table=table, role=role, verbs=verbs)


def _intrusions(world: World, table: str, role: str, verbs: list[str]) -> list[Operation]:
    owner, other = world.tenants
    *before, row = lawful(world, table, owner, 100)
    made = [*(r.inserted() for r in before), row.inserted()]
    relation = world.catalog.tables[table]
    where = key_of(world, row)
    whose = world.contract.tenancy.column
    for stranger in world.cast.strangers(role, owner, other):
        if "insert" in verbs:
            *parents, another = lawful(world, table, owner, 100)
            made += [*(r.inserted() for r in parents)]
            made.append(inserting(world, stranger, table, another.values))
        if "update" in verbs:
            # Whatever a row takes: the plainest values may be those it has.
            for column in relation.columns.values():
                if column.name not in (*relation.primary_key, whose) and not column.generated:
                    value = _another(world, table, column, row.values.get(column.name))
                    changed = Update(table, ((column.name, value),), where)
                    made.append(Operation(stranger, (changed,)))
                    break
        if "delete" in verbs:
            made.append(Operation(stranger, (Delete(table, where),)))
    if "update" in verbs and whose in relation.columns:
        moved = Update(table, ((whose, world.cast.value(other)),), where)
        made.append(Operation(world.actor(role, owner), (moved,)))
    return made


def _promised(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    yield from _permitted(contract, catalog)
    yield from commons(contract, catalog)


def _permitted(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """What the contract promises a role, on a row of its own tenant."""
    del catalog
    for table in contract.tenancy.owned:
        for role in (*contract.application_roles, *sorted(contract.repair_roles)):
            if any(contract.may(role, v, table) for v in VERBS):
                yield "", partial(_own, table=table, role=role)


def _own(world: World, table: str, role: str) -> list[Operation]:
    contract, tenant = world.contract, world.tenants[0]
    relation = world.catalog.tables[table]
    made: list[Operation] = []

    def written() -> Assignments:
        *before, row = lawful(world, table, tenant, 100)
        made.extend(r.inserted() for r in before)
        by_itself = contract.may(role, "insert", table)
        made.append(
            inserting(
                world, world.actor(role, tenant) if by_itself else row.actor, table, row.values
            )
        )
        return key_of(world, row)

    where = written()
    actor = world.actor(role, tenant)
    by_key = any(i.table == table for i in contract.idempotency)
    if contract.may(role, "insert", table) and identified(world.catalog, table) and not by_key:
        # Alike in all but the key, and written at the same moment.
        *before, row = lawful(world, table, tenant)
        made.extend(r.inserted() for r in before)
        key = world.id_column(table)
        telling = [c for c in world.catalog.samples.distinct.get(table, ()) if c in row.values]
        twins = [
            {
                **row.values,
                **{c: new_value(world, table, c) for c in telling},
                key: world.new_id(table),
            }
            for _ in "ab"
        ]
        rows = tuple(tuple(t.values()) for t in twins)
        alike = Insert(table, tuple(twins[0]), rows, overriding=row.overriding)
        made.append(Operation(actor, (alike,)))
    if contract.may(role, "select", table):
        made += [Operation(actor, (Select(table),)), Operation(actor, (Select(table, where),))]
    for column in relation.columns.values() if contract.may(role, "update", table) else ():
        if column.generated or column.name in (*relation.primary_key, contract.tenancy.column):
            continue
        value = _another(world, table, column, None)
        made.append(Operation(actor, (Update(table, ((column.name, value),), where),)))
        if not column.not_null:
            made.append(Operation(actor, (Update(table, ((column.name, None),), where),)))
    if contract.may(role, "delete", table):
        made += [Operation(actor, (Delete(table, written()),)), Operation(actor, (Delete(table),))]
    return made


def _documents(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """Every key that names personal data, in every document that must not hold any."""
    del catalog
    for table, column in contract.pii.columns if contract.pii else ():
        yield "", partial(_planted, table=table, column=column)


def _planted(world: World, table: str, column: str) -> list[Operation]:
    pii, tenant = world.contract.pii, world.tenants[0]
    assert pii is not None
    made: list[Operation] = []
    words = [*pii.whole, *pii.last_words]
    spelled = [w.replace(" ", "_") for w in words]
    spelled += [w.title().replace(" ", "") for w in words]
    spelled += [f"their_{w.replace(' ', '_')}" for w in pii.last_words]
    documents: list[Any] = [{w: "x"} for w in spelled]
    documents += [{"a": [{"b": {words[0]: None}}]}, [[{words[0]: 1}]]]
    documents += [{w: "x"} for w in ("sku", "named", "emailed_at", "note")]
    documents += [{"a": words[0]}, [words[0]]]
    for document in documents:
        *before, row = lawful(world, table, tenant)
        made += [r.inserted() for r in before]
        made.append(row.inserted(**{column: Json.of(document)}))
    return made


def _refreshes(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """Materialized views refreshed and read, without rows and with many."""
    del contract
    for concurrently in (False, True) if catalog.materialized_views else ():
        yield "", partial(_refreshed, concurrently=concurrently)


def _refreshed(world: World, concurrently: bool) -> list[Operation]:
    contract = world.contract
    refreshes = [
        world.maintenance(Refresh(v, concurrently)) for v in world.catalog.materialized_views
    ]
    reads = [
        world.operation(role, tenant, Select(path.view))
        for path in contract.read_paths
        for role in contract.application_roles
        if contract.may(role, "select", path.view)
        for tenant in world.tenants
    ]
    made: list[Operation] = [*refreshes, *reads]
    for _ in range(2):
        for tenant in world.tenants:
            for table in contract.tenancy.owned:
                made += [r.inserted() for r in lawful(world, table, tenant, 100)]
        made += [*refreshes, *reads]
    return made


def _truncations(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, _Make]]:
    """TRUNCATE by the role that repairs, of what it repairs."""
    del catalog
    for rule in contract.append_only:
        if rule.repaired_by:
            yield "", partial(_truncated, table=rule.table, role=rule.repaired_by)


def _truncated(world: World, table: str, role: str) -> list[Operation]:
    made = [
        r.inserted()
        for tenant in world.tenants
        for rule in world.contract.append_only
        for r in lawful(world, rule.table, tenant, 100)
    ]
    truncations = (Truncate(table), Truncate(table, cascade=True))
    return [*made, *(Operation(Actor(role), (t,)) for t in truncations)]


_SWEEPS: Mapping[str, _Sweep] = {
    "alike": alike,
    "elsewhere": elsewhere,
    "handovers": handovers,
    "magnitudes": magnitudes,
    "parents": parents,
    "parts": parts,
    "plans": plans,
    "privileges": _privileges,
    "columns": _columns,
    "crossing": crossings.crossing,
    "documents": _documents,
    "layers": _layers,
    "erasures": rules.erasures,
    "keys": rules.keys,
    "leaks": _leaks,
    "ledgers": ledgers,
    "sums": rules.sums,
    "taxonomies": rules.taxonomies,
    "trespasses": trespasses,
    "truncations": _truncations,
    "twins": twins,
    "unnamed": unnamed,
    "unplaced": unplaced,
    "permitted": _promised,
    "inquiries": inquiries,
    "refreshes": _refreshes,
    "routines": routines,
    "settings": settings,
    "unlocking": unlocking,
    "becoming": becoming,
    "unlocking as another": unlocking_as,
    "shadows": shadows,
    "shown": crossings.shown,
    "views": through_views,
    "writers": writers,
    "writes": _writes,
}
