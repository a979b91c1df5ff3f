"""Operations on any table of any schema: every kind of write, by every role, at anyone's rows."""

from __future__ import annotations

from invariants.generation.derived import column_value
from invariants.generation.references import required
from invariants.generation.registry import engine_operation, new_row
from invariants.generation.world import Known, World
from invariants.workload.operations import (
    Call,
    Conflict,
    Copy,
    Delete,
    Insert,
    Merge,
    Operation,
    Refresh,
    Select,
    Statement,
    Truncate,
    Update,
)

# In how many of a hundred cases a row comes before what it refers to.
_TOO_SOON_PERCENT = 10


@engine_operation("record", weight=4)
def record(world: World) -> Operation:
    """A new row in any tenant-scoped table, by a role that may insert it."""
    tenant = world.tenant()
    table = _first(world, world.pick(world.contract.tenancy.owned), tenant)
    row = new_row(world, table, tenant)
    role = world.writer("insert", table)
    insert = Insert(table, tuple(row), (tuple(row.values()),))
    return world.operation(role, tenant, world.catalog.chosen(insert))


def _first(world: World, table: str, tenant: str) -> str:
    """The table, or one whose rows it needs while the tenant has none."""
    waiting = [table]
    while True:
        keys = required(world, world.catalog.tables[waiting[-1]])
        parents = (k.target for k in keys if k.target in world.contract.tenancy.owned)
        lacking = [p for p in parents if p not in waiting and world.recent(p, tenant) is None]
        if not lacking or world.chance(_TOO_SOON_PERCENT):
            return waiting[-1]
        waiting.append(lacking[0])


@engine_operation("tamper", weight=8)
def tamper(world: World) -> Operation:
    """Any kind of write to any tenant-scoped table, aimed at anyone's row, by any role."""
    table = world.pick(world.contract.tenancy.owned)
    tenant = world.tenant()
    setting = world.any_setting() if world.chance(15) else tenant
    known = (
        world.recent(table, world.other(tenant))
        if world.chance(30)
        else world.recent(table, tenant)
    )
    known = known or world.recent(table)
    if known is not None and not known.named:
        known = None
    role = world.writer("update", table) if world.chance(60) else world.any_role()
    return world.operation(role, setting, _write(world, table, tenant, known))


def _write(world: World, table: str, tenant: str, known: Known | None) -> Statement:
    relation = world.catalog.tables[table]
    where = (
        tuple(zip(relation.primary_key, known.key, strict=True))
        if known and world.chance(85)
        else ()
    )
    shape = world.below(10)
    whose = world.contract.tenancy.column
    if shape < 3:
        if world.chance(15) and whose in relation.columns:
            # Whose a row is matters most, and is but one column of many.
            return Update(table, ((whose, world.cast.value(world.other(tenant))),), where)
        column = world.pick(tuple(relation.columns))
        return Update(
            table, ((column, column_value(world, table, column, tenant, hostile=25)),), where
        )
    if shape < 5:
        return Delete(table, where)
    row = {**new_row(world, table, tenant)}
    if world.chance(10) and whose in row:
        row[whose] = world.cast.value(world.other(tenant))
    if known is not None:
        row.update(zip(relation.primary_key, known.key, strict=True))
    settable = tuple(c for c in row if c not in relation.primary_key)
    updates = (world.pick(settable),) if settable else ()
    key, chosen = relation.primary_key, relation.overrides(row)
    columns, values = tuple(row), tuple(row.values())
    if shape < 7 and key:
        conflict = Conflict(target=key, updates=updates)
        return Insert(table, columns, (values,), conflict, chosen)
    if shape < 9 and key and world.catalog.server_version >= 150000:
        return Merge(table, columns, values, key, updates, chosen)
    if world.chance(50):
        return Copy(table, columns, (values,))
    return Insert(table, columns, (values,), overriding=chosen)


@engine_operation("truncate", weight=1)
def truncate(world: World) -> Operation:
    """TRUNCATE of any tenant-scoped table, or of the tenants, by any role."""
    tenancy = world.contract.tenancy
    table = tenancy.root if world.chance(15) else None
    table = table or world.pick(tenancy.owned)
    return world.operation(world.any_role(), world.tenant(), Truncate(table, world.chance(60)))


@engine_operation("probe", weight=4)
def probe(world: World) -> Operation:
    """A read of any relation or function, by any role, with any tenant setting."""
    relations = (*world.catalog.relations, *(f"{f}()" for f in world.catalog.functions))
    relation = world.pick(relations)
    statement: Statement = Call(relation[:-2]) if relation.endswith("()") else Select(relation)
    return world.operation(world.any_role(), world.any_setting(), statement)


@engine_operation("read", weight=2)
def read(world: World) -> Operation | None:
    """A read through one of the API's views, by a role that may."""
    if not world.contract.read_paths:
        return None
    view = world.pick(world.contract.read_paths).view
    setting = world.any_setting() if world.chance(25) else world.tenant()
    return world.operation(world.writer("select", view), setting, Select(view))


@engine_operation("refresh", weight=1)
def refresh(world: World) -> Operation | None:
    """A refresh of a materialized view, or of all of them, plain or concurrently."""
    views = tuple(world.catalog.materialized_views)
    if not views:
        return None
    concurrently = world.chance(30)
    some = views if world.chance(35) else (world.pick(views),)
    return world.maintenance(*(Refresh(v, concurrently) for v in some))


@engine_operation("repair", weight=1)
def repair(world: World) -> Operation | None:
    """A repair of an append-only row by the role that may: one column set, or the row removed."""
    rules = [a for a in world.contract.append_only if a.repaired_by]
    if not rules:
        return None
    rule = world.pick(rules)
    known = world.recent(rule.table)
    if known is None:
        return None
    assert rule.repaired_by is not None
    relation = world.catalog.tables[rule.table]
    where = tuple(zip(relation.primary_key, known.key, strict=True))
    acting = world.other(known.tenant) if world.chance(8) else known.tenant
    if world.chance(30):
        return world.operation(rule.repaired_by, acting, Delete(rule.table, where))
    columns = [
        c
        for c in relation.columns
        if c not in relation.primary_key
        and c != world.contract.tenancy.column
        and relation.foreign_key_of(c) is None
    ]
    told = [c for c in columns if not relation.columns[c].type.startswith("timestamp")]
    # Whether a time was set cannot be told from its text as surely as for other values.
    column = world.pick(told if told and world.chance(80) else columns)
    documents = [c for c in columns if world.contract.pii_of(rule.table, c)]
    if documents and world.chance(25):
        column = world.pick(documents)
    value = column_value(world, rule.table, column, known.tenant, hostile=0)
    return world.operation(rule.repaired_by, acting, Update(rule.table, ((column, value),), where))


@engine_operation("erase", weight=1)
def erase(world: World) -> Operation | None:
    """The erasure of a tenant by the role that may, or tried by one that must not."""
    role, root = world.contract.tenancy.erased_by, world.contract.tenancy.root
    if root is None:
        return None
    key = world.id_column(root)
    tenant = world.tenant()
    removal = Delete(root, ((key, world.cast.value(tenant)),))
    if role is None or world.chance(30):
        return world.operation(world.any_role(), tenant, removal)
    return world.operation(role, None, removal)


def readings(world: World) -> list[Operation]:
    """Every relation read for every tenant and for none: what a workload lets each of them see."""
    reader = world.contract.application_roles
    roles = [
        r for r in reader if any("insert" in v for v in world.contract.roles[r].values())
    ] or list(reader)
    found: list[Operation] = []
    for setting in (*world.tenants, ""):
        role = roles[0]
        for relation in world.catalog.relations:
            found.append(world.operation(role, setting, Select(relation)))
        for function in world.catalog.functions:
            found.append(world.operation(role, setting, Call(function)))
    return found
