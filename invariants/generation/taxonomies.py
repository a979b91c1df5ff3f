"""Changes to a taxonomy: maintenance adds, retires, renames and removes codes; others try to."""

from __future__ import annotations

from invariants.generation.derived import column_value
from invariants.generation.references import codes
from invariants.generation.registry import engine_operation
from invariants.generation.world import World
from invariants.workload.operations import Delete, Insert, Operation, Statement, Update


@engine_operation("taxonomy", weight=1)
def change_taxonomy(world: World) -> Operation | None:
    """One change to a taxonomy table, by maintenance or by a role that must not."""
    if not world.contract.taxonomies:
        return None
    rule = world.pick(world.contract.taxonomies)
    used = [
        str(known.values[column])
        for table, column in rule.used_by
        for known in world.known.get(table, ())
        if known.values.get(column)
    ]
    code = used[-1] if used and world.chance(60) else world.pick(codes(world, hostile=0))
    where = ((rule.code, code),)
    shape = world.below(5)
    statement: Statement
    if shape == 0 and rule.active:
        statement = Update(rule.table, ((rule.active, False),), where)
    elif shape == 1:
        statement = Update(rule.table, ((rule.code, "renamed_code"),), where)
    elif shape == 2:
        statement = Delete(rule.table, where)
    elif shape == 3 and rule.active:
        statement = Update(rule.table, ((rule.active, True),), where)
    else:
        relation = world.catalog.tables[rule.table]
        row = {
            c.name: column_value(world, rule.table, c.name, "", hostile=0)
            for c in relation.columns.values()
            if not c.has_default
        }
        row[rule.code] = f"new_code_{world.below(3)}"
        statement = Insert(rule.table, tuple(row), (tuple(row.values()),))
    if world.chance(25):
        return world.operation(world.any_role(), world.tenant(), statement)
    return world.maintenance(statement)
