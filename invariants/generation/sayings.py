"""Sweeps of what a session may say for itself: settings of the schema's own, and other roles.

Every setting that a policy, function, view, default, CHECK or trigger asks for is set to what it is
compared with, to what usually opens a door, and to ids; every role is become that an application
role is a member of. Then another tenant's rows are read, changed, removed and made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice, product

from invariants.checks.sayings import own_tenancy
from invariants.contract import premises
from invariants.contract.contract import Contract
from invariants.generation.lawful import LawfulRow, key_of, lawful
from invariants.generation.routines import callable_routines, vectors
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.schema.reach import Reach, Reached
from invariants.workload.operations import (
    Become,
    Call,
    Delete,
    Insert,
    Operation,
    Refresh,
    Select,
    Set,
    Statement,
    Update,
    Value,
)

Make = Callable[[World], list[Operation]]
# What usually stands for yes, and for whoever may do anything.
_PLAUSIBLE = ("on", "true", "1", "t", "yes", "admin", "*")
# Of the literals of whatever asks for a setting, where none is compared with it itself.
_LITERALS_MAX = 16
_LITERAL_LENGTH_MAX = 40
_CALLS_MAX = 6
_OWN_SETTING_PARTS = 2
_VALUES_MAX = 6
# Stand for ids that only a world knows: another tenant's, its user's, one's own.
_IDS = ("{theirs}", "{their user}", "{mine}")


def settings(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Each setting with each value, by each role, where something that it reaches asks for it."""
    for name, values in asked_for(contract, catalog).items():
        for role, some in product(contract.application_roles, _few(values)):
            says = partial(_setting, name=name, values=some)
            yield "", partial(_beyond, says=says, role=role, setting=name)


def unlocking(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """The same at rows of one's own that must stay, with each layer of protection on its own."""
    for name, values in asked_for(contract, catalog).items():
        for rule, role, some in product(
            contract.append_only, contract.application_roles, _few(values)
        ):
            says = partial(_setting, name=name, values=some)
            for premise in ("", premises.GRANTED):
                yield premise, partial(_own, says=says, role=role, table=rule.table)


def becoming(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Each role that an application role may become, by it."""
    for role in contract.application_roles:
        for other in catalog.standing.member_of.get(role, ()):
            yield "", partial(_beyond, says=partial(_become, other=other), role=role, setting="")


def unlocking_as(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """The same at rows of one's own that must stay."""
    for rule in contract.append_only:
        for role in contract.application_roles:
            for other in catalog.standing.member_of.get(role, ()):
                says = partial(_become, other=other)
                yield "", partial(_own, says=says, role=role, table=rule.table)


def asked_for(contract: Contract, catalog: Catalog) -> Mapping[str, tuple[str, ...]]:
    """The settings of the schema's own, each with what it is worth setting it to."""
    reach = Reach(catalog, catalog.definitions)
    everything = reach.everything
    found: dict[str, tuple[str, ...]] = {}
    for asked in sorted(everything.settings, key=lambda s: s.name):
        parts = asked.name.split(".")
        if len(parts) < _OWN_SETTING_PARTS or own_tenancy(asked.name, contract):
            continue
        near = [*sorted(asked.literals)]
        if not near:
            texts = (t for t in everything.literals if 0 < len(t) <= _LITERAL_LENGTH_MAX)
            words = sorted(t for t in texts if t.isprintable() and "." not in t)
            near = list(islice(words, _LITERALS_MAX))
        found[asked.name] = tuple(dict.fromkeys([*near, *_PLAUSIBLE, *_IDS]))
    return found


def _few(values: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Some at a time, so that a workload is not long."""
    for start in range(0, len(values), _VALUES_MAX):
        yield values[start : start + _VALUES_MAX]


def _setting(world: World, name: str, values: tuple[str, ...]) -> list[Statement]:
    owner, other = world.tenants
    ids = dict(zip(_IDS, (owner, world.cast.user_of(owner), other), strict=True))
    return [Set(name, ids.get(value, value)) for value in values]


def _become(world: World, other: str) -> list[Statement]:
    del world
    return [Become(other)]


_Says = Callable[[World], list[Statement]]


def _beyond(world: World, says: _Says, role: str, setting: str) -> list[Operation]:
    """Another tenant's rows met with all doors as they are, then after each thing said."""
    owner, other = world.tenants
    contract, catalog = world.contract, world.catalog
    made: list[Operation] = []
    theirs: dict[str, LawfulRow] = {}
    rows: dict[str, dict[str, dict[str, Value]]] = {owner: {}, other: {}}
    for tenant in (owner, other):
        for table in contract.tenancy.owned:
            for row in lawful(world, table, tenant, TOTAL):
                made.append(row.inserted())
                rows[tenant][row.table] = row.values
                if tenant == owner:
                    theirs[row.table] = row
    made += [world.maintenance(Refresh(v)) for v in catalog.materialized_views]
    actor = world.actor(role, other)
    reach = Reach(catalog, catalog.definitions)

    def asks(reached: Reached) -> bool:
        return not setting or reached.opaque or setting in {s.name for s in reached.settings}

    reads = [Select(n) for n in catalog.relations if asks(reach.of_read(n))]
    made += [Operation(actor, (read,)) for read in reads]
    calls = [
        Call(routine.called, vector, routine.procedure)
        for routine, _ in callable_routines(contract, catalog)
        if role in routine.executable_by and asks(reach.of_call(routine.known_as))
        for vector in islice(vectors(world, routine, rows), _CALLS_MAX)
    ]
    met: list[Statement] = [*reads, *calls]
    new = {}
    for table in theirs:
        if asks(reach.of_write(table, "insert")) and table in contract.tenancy.owned:
            *before, row = lawful(world, table, owner, TOTAL)
            made += [r.inserted() for r in before]
            new[table] = row
    for said in says(world):
        made += [Operation(actor, (said, statement)) for statement in met]
        for table, row in new.items():
            values = row.renewed(world).values
            insert = Insert(table, tuple(values), (tuple(values.values()),))
            made.append(Operation(actor, (said, insert)))
        for table, row in theirs.items():
            where = key_of(world, row)
            if not where or table not in contract.tenancy.owned:
                continue
            if asks(reach.of_write(table, "update")):
                change = _change(world, row)
                made += [Operation(actor, (said, Update(table, c, where))) for c in change]
    for said in says(world):
        made += [
            Operation(actor, (said, Delete(table, key_of(world, row))))
            for table, row in reversed(theirs.items())
            if key_of(world, row)
            and table in contract.tenancy.owned
            and asks(reach.of_write(table, "delete"))
        ]
    return made


def _change(world: World, row: LawfulRow) -> list[tuple[tuple[str, Value], ...]]:
    """A column with the value of another row."""
    relation = world.catalog.tables[row.table]
    fixed = (*relation.primary_key, world.contract.tenancy.column)
    other = lawful(world, row.table, row.actor.tenant or "", TOTAL)[-1].values
    for column, value in row.values.items():
        changed = other.get(column)
        if column not in fixed and changed is not None and changed != value:
            return [((column, changed),)]
    return []


def _own(world: World, says: _Says, role: str, table: str) -> list[Operation]:
    tenant = world.tenants[0]
    *before, row = lawful(world, table, tenant, TOTAL)
    made = [*(r.inserted() for r in before), row.inserted()]
    actor, where = world.actor(role, tenant), key_of(world, row)
    tries: list[Statement] = [Update(table, c, where) for c in _change(world, row)]
    tries.append(Delete(table, where))
    for attempt in tries:
        made += [Operation(actor, (said, attempt)) for said in says(world)]
    return made
