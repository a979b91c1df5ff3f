"""A sweep of writes through views: what a view's WHERE keeps from being seen may still go in.

By every way to write a row: INSERT, ON CONFLICT, MERGE, COPY, UPDATE, DELETE, whatever makes the
view take them: itself, a rule, or an INSTEAD OF trigger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from invariants.contract.contract import Contract
from invariants.generation.lawful import lawful
from invariants.generation.ruled import TOTAL
from invariants.generation.world import World
from invariants.schema.catalog import Catalog, Relation
from invariants.workload.operations import (
    Conflict,
    Copy,
    Delete,
    Insert,
    Merge,
    Operation,
    Statement,
    Update,
    Value,
)

Make = Callable[[World], list[Operation]]
_MERGE_SINCE = 150000


def through_views(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """Each view that takes rows, by each role, with rows of each tenant-scoped table behind it."""
    for view in catalog.relations.values():
        for table in catalog.behind(view.name) if view.takes else ():
            for role in contract.application_roles if table in contract.tenancy.tables else ():
                for verb in sorted(view.takes):
                    yield "", partial(_written, view=view, table=table, role=role, verb=verb)


def _written(world: World, view: Relation, table: str, role: str, verb: str) -> list[Operation]:
    owner, other = world.tenants
    made: list[Operation] = []
    whose = world.contract.tenancy.column
    key = world.catalog.tables[table].primary_key

    def there(tenant: str) -> dict[str, Value]:
        """A row of the tenant, as the view has it."""
        *before, row = lawful(world, table, tenant, TOTAL)
        made.extend(r.inserted() for r in (*before, row))
        return {c: v for c, v in row.values.items() if c in view.columns}

    def new(tenant: str) -> dict[str, Value]:
        *before, row = lawful(world, table, tenant, TOTAL)
        made.extend(r.inserted() for r in before)
        return {c: v for c, v in row.values.items() if c in view.columns}

    def sent(statement: Statement, setting: str | None = other) -> None:
        made.append(Operation(world.actor(role, setting), (statement,)))

    theirs, mine = there(owner), there(other)
    if not theirs:
        return []
    where = tuple((c, theirs[c]) for c in key if c in theirs)
    free = [c for c in theirs if c not in (*key, whose)]
    if verb == "insert":
        for setting in (other, "", None, world.cast.unknown):
            sent(_inserting(view, new(owner)), setting)
        row = new(owner)
        sent(Copy(view.name, tuple(row), (tuple(row.values()),)))
        if where and len(where) == len(key):
            named = {c: v for c, v in theirs.items() if c in key}
            for row in (new(owner), {**new(other), **named}, theirs):
                for column in (*free[:1], *([whose] if whose in row else [])):
                    sent(_inserting(view, row, Conflict(key, updates=(column,))))
                    if world.catalog.server_version >= _MERGE_SINCE:
                        columns, values = tuple(row), tuple(row.values())
                        sent(Merge(view.name, columns, values, key, (column,)))
    elif verb == "update":
        for column in free[:2]:
            sent(Update(view.name, ((column, mine[column]),), where))
            sent(Update(view.name, ((column, mine[column]),)))
        if whose in view.columns:
            own = tuple((c, mine[c]) for c in key if c in mine)
            sent(Update(view.name, ((whose, world.cast.value(other)),), where))
            sent(Update(view.name, ((whose, world.cast.value(owner)),), own))
    else:
        for setting in (other, "", None, world.cast.unknown):
            sent(Delete(view.name, where), setting)
        sent(Delete(view.name))
    return made


def _inserting(view: Relation, row: dict[str, Value], conflict: Conflict | None = None) -> Insert:
    return Insert(view.name, tuple(row), (tuple(row.values()),), conflict)
