"""Tenants, their users and places: who is there before the first operation."""

from __future__ import annotations

from invariants.errors import UsageError
from invariants.generation.lawful import lawful
from invariants.generation.rank import ranked
from invariants.generation.references import required, taxonomy_of
from invariants.generation.registry import made_row, new_row
from invariants.generation.world import World
from invariants.schema.catalog import ForeignKey
from invariants.workload.operations import Insert, Statement, Tenant, Value
from invariants.workload.templates import USER


def tenants(world: World, count: int) -> tuple[Tenant, ...]:
    """The first `count` tenants, whose ids are the same in every workload.

    Unless a row strategy chooses them. What else sessions need to act for them is sent first
    (`World.given`), and so are the tenants' own rows where those refer to others, as to an owner.
    Raises `UsageError` when a strategy gives two the same id.
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
    needed = _needed(world, root)
    before = _before(world, root, needed, identity)
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
    if needed:
        values.update(_owned_by(world, root, identity))
        made = world.catalog.chosen(Insert(root, tuple(values), (tuple(values.values()),)))
        world.given.append(world.maintenance(*before, made))
        return Tenant(identity)
    return Tenant(identity, tuple(values), tuple(values.values()))


def _needed(world: World, root: str) -> set[str]:
    """The tables without whose rows there is no tenant, and that migrations leave empty."""
    relation, there = world.catalog.tables[root], world.catalog.samples.there
    if root in world.strategies.rows:
        return set()
    named = {key.target for key in required(world, relation)} - {root, *there}
    return {t for t in named if taxonomy_of(world, t) is None}


def _before(world: World, root: str, needed: set[str], identity: str) -> list[Statement]:
    """The rows that a tenant's row names: of its user, and what else has to be there."""
    users = {key.target for key in _naming_users(world)}
    made = _users(world, identity) if needed & users else []
    for table in sorted(needed - users):
        if not world.rows_of(table):
            made += [row.statement() for row in lawful(world, table, "", 0, (root,))]
    return made


def _owned_by(world: World, root: str, identity: str) -> dict[str, Value]:
    """What the tenant's row says of its user, where it has to."""
    users = {key.target for key in _naming_users(world)}
    user = world.cast.user_value(world.cast.user_of(identity))
    return {
        k.columns[0]: user
        for k in required(world, world.catalog.tables[root])
        if k.target in users and len(k.columns) == 1
    }


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
    made, members = _users(world, tenant), world.contract.tenancy.members
    kept = {key.target for key in _naming_users(world)}
    if members is not None and members.table in world.catalog.tables and members.table not in kept:
        user = world.cast.user_value(world.cast.user_of(tenant))
        own = {members.user: user, members.tenant: world.cast.value(tenant)}
        made.append(_inserted(world, members.table, tenant, own))
    return made


def _users(world: World, tenant: str) -> list[Statement]:
    """The rows of the user himself, but for those that are there already."""
    user = world.cast.user_value(world.cast.user_of(tenant))
    made: list[Statement] = []
    for key in _naming_users(world):
        (column,) = key.target_columns
        if not any(known.values.get(column) == user for known in world.rows_of(key.target)):
            made.append(_inserted(world, key.target, tenant, {column: user}))
    return made


def _naming_users(world: World) -> list[ForeignKey]:
    """The foreign keys by which columns that name the session's user do so, one a table."""
    tenancy, tables = world.contract.tenancy, world.catalog.tables
    members = tenancy.members
    named = [(members.table, members.user)] if members else []
    named += [c for c, template in tenancy.tied.items() if template == f"{{{USER}}}"]
    keys = [tables[t].foreign_key_of(c) for t, c in named if t in tables]
    found = [k for k in keys if k is not None and len(k.columns) == 1 and k.target in tables]
    return list({k.target: k for k in reversed(found)}.values())


def _inserted(world: World, table: str, tenant: str, own: dict[str, Value]) -> Insert:
    """A row with these values, known to what comes later.

    What has a default is left to it, or is what policies ask for: whoever acts is in good standing,
    unless a strategy says else.
    """
    values = new_row(world, table, tenant, lawful=True)
    relation = world.catalog.tables[table]
    if table not in world.strategies.rows:
        named = {*relation.primary_key, *(c for k in relation.foreign_keys for c in k.columns)}
        spare = {c for c, column in relation.columns.items() if column.has_default} - named
        values = {c: v for c, v in values.items() if c not in spare}
        ranks = {c: ranked(world, table, c) for c in sorted(spare)}
        values |= {c: rank for c, rank in ranks.items() if rank is not None}
    values.update(own)
    known = world.known[table].pop()
    world.remember(table, known.tenant, values)
    return Insert(table, tuple(values), (tuple(values.values()),))
