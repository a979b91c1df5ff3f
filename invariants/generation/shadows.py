"""Lawful operations with temporary objects in the place of what functions look for.

Temporary types and relations are found before all others, unless the search_path says otherwise. A
function that runs with more rights than its caller has then runs the caller's code with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from invariants.contract.contract import Contract
from invariants.contract.sections import Ledger
from invariants.generation.lawful import identified, key_of, lawful
from invariants.generation.ruled import correcting, in_one, posted
from invariants.generation.rules import Stories
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Delete, Operation, Select, Shadow, Statement, Update


def shadows(contract: Contract, catalog: Catalog) -> Stories:
    """Every lawful use of a table with temporary objects of the names that functions look for."""
    if not catalog.sought:
        return
    for table in contract.tenancy.owned:
        yield "", partial(_written_in_shadow, table=table)
    for rule in contract.ledgers:
        tables = (rule.table, rule.source_table)
        if rule.corrects and all(identified(catalog, t) for t in tables):
            yield "", partial(_corrected_in_shadow, rule=rule)
    yield "", _read_in_shadow
    if contract.tenancy.erased_by:
        yield "", partial(_erased_in_shadow, role=contract.tenancy.erased_by)


def _written_in_shadow(world: World, table: str) -> list[Operation]:
    contract, tenant = world.contract, world.tenants[0]
    made: list[Operation] = []
    for role in (*contract.application_roles, *sorted(contract.repair_roles)):
        for verb in ("insert", "update", "delete"):
            *before, row = lawful(world, table, tenant, 100)
            where = key_of(world, row)
            # What the row has already: it stays lawful, and the triggers of every column fire.
            same = tuple(pair for pair in row.values.items() if pair not in where)
            if not contract.may(role, verb, table) or (verb == "update" and not same):
                continue
            statements: Mapping[str, Statement] = {
                "insert": in_one([row]),
                "update": Update(table, same, where),
                "delete": Delete(table, where),
            }
            made += [r.inserted() for r in (before if verb == "insert" else (*before, row))]
            made.append(world.operation(role, tenant, *_shadowing(world, table), statements[verb]))
    return made


def _corrected_in_shadow(world: World, rule: Ledger) -> list[Operation]:
    before, posting = posted(world, rule, world.tenants[0])
    correction = in_one([correcting(world, rule, posting, -1)])
    statements = (*_shadowing(world, rule.table), correction)
    return [*before, posting.inserted(), Operation(posting.actor, statements)]


def _read_in_shadow(world: World) -> list[Operation]:
    contract, tenant = world.contract, world.tenants[0]
    made = [r.inserted() for t in contract.tenancy.owned for r in lawful(world, t, tenant, 100)]
    for role in contract.application_roles:
        read = [r for r in world.catalog.relations if contract.may(role, "select", r)]
        made.append(
            world.operation(role, tenant, *_shadowing(world, *read), *(Select(r) for r in read))
        )
    return made


def _erased_in_shadow(world: World, role: str) -> list[Operation]:
    contract, tenant = world.contract, world.tenants[0]
    root = contract.tenancy.root
    assert root is not None
    made = [r.inserted() for t in contract.tenancy.owned for r in lawful(world, t, tenant, 100)]
    erasure = Delete(root, ((world.id_column(root), world.cast.value(tenant)),))
    return [*made, world.operation(role, None, *_shadowing(world, root), erasure)]


def _shadowing(world: World, *used: str) -> list[Statement]:
    """Everything but what the actor uses itself, and would not any more."""
    own = {relation if "." in relation else f"public.{relation}" for relation in used}
    return [Shadow(s.name, s.kind) for s in world.catalog.sought if s.name not in own]
