"""A sweep of routines: each is called by whoever may, with its own and with another's ids and keys.

Arguments are taken from the rows of both tenants, by type and best by name, and from the edges of
their types: NULL, empty, zero, the largest. What a body reaches decides whether it is worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice, product

from invariants.contract.contract import Contract
from invariants.generation.lawful import lawful
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.schema.effects import SERVER_WIDE
from invariants.schema.reach import Reach
from invariants.schema.routines import Argument, Routine
from invariants.workload.operations import (
    Call,
    Json,
    Operation,
    Refresh,
    Row,
    Value,
)

Make = Callable[[World], list[Operation]]
_CALLS_MAX = 28
_VECTORS_MAX = 4096
# Of the values of a tenant's rows, for one argument.
_TAKEN_MAX = 8
_TEXTS = ("text", "character varying", "character", "citext", "name")
_NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
_EDGES: Mapping[str, tuple[Value, ...]] = {
    **dict.fromkeys(_TEXTS, ("", "%", "true")),
    "smallint": (0, 1, -1, 2**15 - 1),
    "integer": (0, 1, -1, 2**31 - 1),
    "bigint": (0, 1, -1, 2**63 - 1),
    **dict.fromkeys(("numeric", "real", "double precision"), (0, 1, -1, "NaN")),
    "boolean": (True, False),
    **dict.fromkeys(("json", "jsonb"), (Json.of({}), Json.of([]))),
    **dict.fromkeys(
        ("date", "timestamp with time zone", "timestamp without time zone"),
        ("infinity", "-infinity", "2000-01-01"),
    ),
    "interval": ("100 years", "0"),
    "bytea": ("",),
}
_ANYTHING = ("anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray")


def routines(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Every routine that an application role may execute, and that reaches anything."""
    for routine, _ in callable_routines(contract, catalog):
        for role in callers(contract, routine):
            yield "", partial(_called, routine=routine, role=role)


def writers(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Those of them that write, or may."""
    for routine, writes in callable_routines(contract, catalog):
        for role in callers(contract, routine) if writes else ():
            yield "", partial(_called, routine=routine, role=role)


def callable_routines(contract: Contract, catalog: Catalog) -> Iterator[tuple[Routine, bool]]:
    """The routines worth a call, each with whether it may write.

    None that reaches beyond its database, or that makes and drops objects: the rows alone are put
    back afterwards.
    """
    reach = Reach(catalog, catalog.definitions)
    for routine in catalog.routines:
        if not routine.called:
            continue
        if any(a.pseudo and a.type not in _ANYTHING for a in routine.arguments):
            continue
        if not callers(contract, routine):
            continue
        reached = reach.of_call(routine.known_as)
        if routine.effects.utilities or reached.utilities & SERVER_WIDE:
            continue
        writes = bool(reached.writes) or reached.opaque
        if writes or reached.reads or reached.settings or reached.identities or reached.sets:
            yield routine, writes


def callers(contract: Contract, routine: Routine) -> tuple[str, ...]:
    """The roles that call it; one is enough where it runs as its owner whoever calls."""
    callers = [r for r in contract.application_roles if r in routine.executable_by]
    return tuple(callers[:1] if routine.security_definer else callers)


def _called(world: World, routine: Routine, role: str) -> list[Operation]:
    owner, other = world.tenants
    contract = world.contract
    made: list[Operation] = []
    rows: dict[str, dict[str, dict[str, Value]]] = {owner: {}, other: {}}
    for tenant in (owner, other):
        for table in contract.tenancy.owned:
            for row in lawful(world, table, tenant, TOTAL):
                made.append(row.inserted())
                rows[tenant][row.table] = row.values
    made += [world.maintenance(Refresh(v)) for v in world.catalog.materialized_views]
    given = list(vectors(world, routine, rows))
    calls = [Call(routine.called, v, routine.procedure) for v in given]
    asked: list[tuple[str | None, Call]] = [(other, call) for call in calls]
    asked += [(s, call) for s in (None, "", world.cast.unknown) for call in calls[:2]]
    return made + [Operation(world.actor(role, setting), (call,)) for setting, call in asked]


def vectors(
    world: World, routine: Routine, rows: Mapping[str, Mapping[str, Mapping[str, Value]]]
) -> Iterator[Row]:
    """Values for all arguments; those first that stand early in the list of each."""
    lists = [_values(world, routine, a, rows) for a in routine.arguments]
    most = max(1, int(_VECTORS_MAX ** (1 / max(1, len(lists)))))
    numbered = (tuple(enumerate(values[:most])) for values in lists)
    ordered = sorted(product(*numbered), key=lambda v: sum(place for place, _ in v))
    yield from (tuple(value for _, value in v) for v in islice(ordered, _CALLS_MAX))


def _values(
    world: World,
    routine: Routine,
    argument: Argument,
    rows: Mapping[str, Mapping[str, Mapping[str, Value]]],
) -> list[Value]:
    """What an argument is given: what is another tenant's, what is one's own, the type's edges."""
    kind = argument.base.removesuffix("[]")
    if kind in _ANYTHING:
        kind = "text"
    owner, other = world.tenants
    theirs, mine = (_taken(world, routine, argument, kind, t, rows[t]) for t in (owner, other))
    found: list[Value] = [*theirs[:2], *mine[:1], *theirs[2:], *mine[1:], *argument.enum[:3]]
    if kind == "regclass" or (kind in _TEXTS and routine.effects.opaque):
        found += world.contract.tenancy.owned
    if argument.base.endswith("[]"):
        lists: list[Value] = [f'{{"{v}"}}' for v in found if isinstance(v, str | int)]
        return list(dict.fromkeys([*lists[:4], "{}", None]))
    if kind in ("json", "jsonb"):
        # Whatever keys it takes from the document, a tenant's id may be under one of them.
        keys = sorted(k for k in routine.effects.literals if k.isidentifier())
        keys.append(world.contract.tenancy.column)
        found += [Json.of(dict.fromkeys(keys, world.cast.value(t))) for t in (owner, other)]
    return list(dict.fromkeys([*found, None, *_EDGES.get(kind, ())]))


def _taken(
    world: World,
    routine: Routine,
    argument: Argument,
    kind: str,
    tenant: str,
    rows: Mapping[str, Mapping[str, Value]],
) -> list[Value]:
    """Values of a tenant's rows that an argument takes, the likeliest first."""
    contract, catalog = world.contract, world.catalog
    bare = argument.name.removeprefix("p_").removeprefix("in_").strip("_").lower()
    reached = Reach(catalog, catalog.definitions).of_call(routine.known_as)
    near = reached.reads | reached.written
    ranked: list[tuple[int, Value]] = []
    if _alike(kind, world.cast.kind or "uuid"):
        named = bare in ("", "tenant", contract.tenancy.column) or "tenant" in bare
        ranked.append((0 if named else 1, world.cast.value(tenant)))
    for table, values in rows.items():
        relation = catalog.tables[table]
        for column, value in values.items():
            found = relation.columns.get(column)
            if value is None or found is None or found.is_array or not _alike(kind, found.type):
                continue
            key = column in relation.primary_key
            whole = bare in (column.lower(), f"{table}_{column}".lower())
            if key:
                whole = whole or bare.removesuffix(f"_{column}".lower()) in _singular(table)
            far = 0 if table in near or reached.opaque else 2
            ranked.append((0 if whole else far + (1 if key else 2), value))
    ranked.sort(key=lambda r: r[0])
    return list(dict.fromkeys(value for _, value in ranked))[:_TAKEN_MAX]


def _singular(table: str) -> tuple[str, ...]:
    """Words for one row of a table: its name's last, with and without the plural."""
    name = table.rpartition(".")[2].lower()
    return (name, name.removesuffix("s"), name.rpartition("_")[2].removesuffix("s"))


def _alike(kind: str, other: str) -> bool:
    return kind == other or any(kind in k and other in k for k in (_TEXTS, _NUMBERS))
