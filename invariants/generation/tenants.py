"""Tenants, their users and places: who is there before the first operation."""

from __future__ import annotations

from invariants.errors import UsageError
from invariants.generation.registry import made_row, new_row
from invariants.generation.world import World
from invariants.workload.operations import Insert, Statement, Tenant, Value
from invariants.workload.templates import USER


def tenants(world: World, count: int) -> tuple[Tenant, ...]:
    """The first `count` tenants, whose ids are the same in every workload.

    Unless a row strategy chooses them. What else sessions need to act for them is sent first
    (`World.given`). Raises `UsageError` when a strategy gives two the same id.
    """
    made = []
    for number in range(1, count + 1):
        tenant = _tenant(world, world.cast.tenant(number))
        if tenant.id not in world.tenants:
            world.tenants.append(tenant.id)
            made.append(tenant)
    if len(made) < count and count > 1:
        raise UsageError(
            f"{world.contract.path}: tenancy: there is but one tenant, {world.tenants[0]!r}; "
            "two are needed to tell them apart: name the roles of two tenants, or another root"
        )
    opening = _opening(world)
    if opening:
        world.given.append(world.maintenance(*opening))
    return tuple(made)


def _tenant(world: World, identity: str) -> Tenant:
    root = world.contract.tenancy.root
    if root is None or world.contract.tenancy.role is not None:
        # Those that have a role of their own are brought by the migrations.
        return Tenant(identity)
    key = world.id_column(root)
    values = made_row(world, root, identity, lawful=True)
    if key not in values or root not in world.strategies.rows:
        values[key] = world.cast.value(identity)
    identity = str(values[key])
    if identity in world.tenants:
        raise UsageError(
            f"rows({root!r}): two tenants have the {key} {identity!r}; the row strategy must "
            "choose another one for each, or use the one it is given"
        )
    world.remember(root, identity, values)
    return Tenant(identity, tuple(values), tuple(values.values()))


def _opening(world: World) -> list[Statement]:
    """The users, memberships and places by which sessions act for the tenants."""
    made: list[Statement] = []
    for tenant in world.tenants:
        for level in world.contract.tenancy.within:
            for number in (1, 2):
                place = world.cast.place_of(level, tenant, number)
                own = {world.id_column(level.root): world.cast.place_value(level, place)}
                made.append(_inserted(world, level.root, tenant, own))
        made += _user(world, tenant)
    return made


def _user(world: World, tenant: str) -> list[Statement]:
    """The user who acts for a tenant, where the schema keeps users and whose they are."""
    tenancy, tables = world.contract.tenancy, world.catalog.tables
    members = tenancy.members
    user = world.cast.user_value(world.cast.user_of(tenant))
    named = [(members.table, members.user)] if members else []
    named += [c for c, template in tenancy.tied.items() if template == f"{{{USER}}}"]
    made: list[Statement] = []
    seen = set()
    for table, column in named:
        key = tables[table].foreign_key_of(column) if table in tables else None
        if key is None or key.target in seen or key.target not in tables:
            continue
        seen.add(key.target)
        told = dict(zip(key.columns, key.target_columns, strict=True))
        made.append(_inserted(world, key.target, tenant, {told[column]: user}))
    if members is not None and members.table in tables and members.table not in seen:
        own = {members.user: user, members.tenant: world.cast.value(tenant)}
        made.append(_inserted(world, members.table, tenant, own))
    return made


def _inserted(world: World, table: str, tenant: str, own: dict[str, Value]) -> Insert:
    """A row with these values, known to what comes later."""
    values = new_row(world, table, tenant, lawful=True)
    values.update(own)
    known = world.known[table].pop()
    world.remember(table, known.tenant, values)
    return Insert(table, tuple(values), (tuple(values.values()),))
