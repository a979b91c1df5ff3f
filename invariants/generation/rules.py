"""Sweeps of the contract's rules: each one kept, kept by a hair, and broken by a hair.

A story is a workload about one rule. Whether each of its operations is to be accepted is not said
here: the invariants know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from invariants.contract.contract import Contract
from invariants.contract.sections import Idempotency, Sum, Taxonomy
from invariants.generation.lawful import LawfulRow, identified, inserting, key_of, lawful
from invariants.generation.ruled import (
    TOTAL,
    changer,
    codes_of,
    correcting,
    erasing,
    in_one,
    parts_of_total,
    posted,
    repairers,
    sums_of,
    with_key,
)
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Conflict,
    Delete,
    Operation,
    Refresh,
    Select,
    Statement,
    Update,
    Value,
    ident,
)

Story = Callable[[World], list[Operation]]
Stories = Iterator[tuple[str, Story]]


def sums(contract: Contract, catalog: Catalog) -> Stories:
    """Parts that add up to their total, that miss it by the tolerance, and by one more."""
    for rule in sums_of(contract, catalog):
        for story in (
            _splits,
            _changes_of_parts,
            _removals_of_parts,
            _moves,
            _changes_of_total,
            _totals_side_by_side,
            _side_by_side,
        ):
            yield "", partial(story, rule=rule)


def _splits(world: World, rule: Sum) -> list[Operation]:
    tenant, hair = world.tenants[0], int(rule.tolerance)
    made: list[Operation] = []
    for amounts in (
        (60, 40),
        (60, 40 - hair),
        (60, 39 - hair),
        (60, 40 + hair),
        (60, 41 + hair),
        (TOTAL,),
        (0,),
    ):
        for statements in (1, len(amounts)):
            before, rows = parts_of_total(world, rule, tenant, amounts)
            together = [in_one(rows)] if statements == 1 else [in_one([r]) for r in rows]
            made += [*before, Operation(rows[0].actor, tuple(together))]
    before, rows = parts_of_total(world, rule, tenant, (60, 40))
    made += [*before, Operation(rows[0].actor, (in_one(rows),))]
    for column in rule.group_by:
        if column != rule.total_key:
            # The same total split once more.
            twice = [r.renewed(world, **{column: f"{r.values[column]}-again"}) for r in rows]
            made.append(Operation(rows[0].actor, (in_one(twice),)))
    return made


def _changes_of_parts(world: World, rule: Sum) -> list[Operation]:
    tenant, hair = world.tenants[0], int(rule.tolerance)
    before, rows = parts_of_total(world, rule, tenant, (60, 40))
    actor = changer(world, "update", rows[1])

    def change(row: LawfulRow, amount: int) -> Update:
        return Update(rule.table, ((rule.amount, amount),), key_of(world, row))

    first, second = rows
    single = [change(second, a) for a in (40 + hair, 41 + hair, 40 - hair, 39 - hair, 40)]
    conflict = Conflict(tuple(c for c, _ in key_of(world, second)), updates=(rule.amount,))
    upsert = replace(in_one([second.having(**{rule.amount: 42 + hair})]), conflict=conflict)
    return [
        *before,
        Operation(rows[0].actor, (in_one(rows),)),
        *(Operation(actor, (s,)) for s in single),
        Operation(actor, (upsert,)),
        Operation(actor, (change(first, 50), change(second, 50))),
        Operation(actor, (change(first, 0), change(second, 50))),
    ]


def _removals_of_parts(world: World, rule: Sum) -> list[Operation]:
    tenant = world.tenants[0]
    before, rows = parts_of_total(world, rule, tenant, (60, 40))
    actor = changer(world, "delete", rows[0])
    group = tuple((c, rows[0].values[c]) for c in rule.group_by)
    return [
        *before,
        Operation(rows[0].actor, (in_one(rows),)),
        Operation(actor, (Delete(rule.table, key_of(world, rows[1])),)),
        Operation(actor, (Delete(rule.table, key_of(world, rows[0])),)),
        Operation(actor, tuple(Delete(rule.table, key_of(world, r)) for r in rows)),
        Operation(rows[0].actor, (in_one(rows),)),
        Operation(actor, (Delete(rule.table, group),)),
    ]


def _moves(world: World, rule: Sum) -> list[Operation]:
    tenant = world.tenants[0]
    made: list[Operation] = []
    for column in rule.group_by:
        before, rows = parts_of_total(world, rule, tenant, (60, 40))
        actor = changer(world, "update", rows[0])
        if column == rule.total_key:
            *elsewhere, total = lawful(world, rule.total_table, tenant, TOTAL)
            made += [*(r.inserted() for r in elsewhere), total.inserted()]
            value = total.values[world.id_column(rule.total_table)]
        else:
            value = f"{rows[0].values[column]}-other"
        moves = tuple(Update(rule.table, ((column, value),), key_of(world, r)) for r in rows)
        made += [
            *before,
            Operation(rows[0].actor, (in_one(rows),)),
            Operation(actor, moves[:1]),
            Operation(actor, moves[1:]),
            Operation(actor, moves),
        ]
    return made


def _neighbours(world: World, rule: Sum) -> list[Operation]:
    """Groups that have nothing to do with the one at hand, of both tenants."""
    made: list[Operation] = []
    for tenant in world.tenants:
        *before, row = lawful(world, rule.table, tenant, 7)
        made += [*(r.inserted() for r in before), row.inserted()]
    return made


def _changes_of_total(world: World, rule: Sum) -> list[Operation]:
    tenant, hair = world.tenants[0], int(rule.tolerance)
    earlier = _neighbours(world, rule)
    before, rows = parts_of_total(world, rule, tenant, (60, 40))
    repairing = repairers(world, rule.total_table) or [rows[0].actor.role]
    where = ((world.id_column(rule.total_table), rows[0].values[rule.total_key]),)
    amounts = (TOTAL + hair, TOTAL + hair + 1, TOTAL - hair, TOTAL - hair - 1, 0, TOTAL)
    actor = world.actor(repairing[0], tenant)

    def change(amount: int) -> Update:
        return Update(rule.total_table, ((rule.total_column, amount),), where)

    return [
        *earlier,
        *before,
        Operation(rows[0].actor, (in_one(rows),)),
        *_neighbours(world, rule),
        *(Operation(actor, (change(a),)) for a in amounts),
        # What counts is the end of the transaction.
        Operation(actor, (change(TOTAL + hair + 1), change(TOTAL))),
        Operation(actor, (change(TOTAL), change(TOTAL + hair + 1))),
        Operation(actor, (Delete(rule.total_table, where),)),
    ]


def _totals_side_by_side(world: World, rule: Sum) -> list[Operation]:
    """Three totals, each of them changed: whichever is taken for another's, two are then wrong."""
    tenant, hair = world.tenants[0], int(rule.tolerance)
    groups = [parts_of_total(world, rule, tenant, (60, 40)) for _ in "abc"]
    made = [
        o for before, rows in groups for o in (*before, Operation(rows[0].actor, (in_one(rows),)))
    ]
    key = world.id_column(rule.total_table)
    for _, (row, _) in groups:
        role = (repairers(world, rule.total_table) or [row.actor.role])[0]
        where = ((key, row.values[rule.total_key]),)
        made += [
            Operation(
                world.actor(role, tenant),
                (Update(rule.total_table, ((rule.total_column, a),), where),),
            )
            for a in (TOTAL + hair + 1, TOTAL)
        ]
    return made


def _side_by_side(world: World, rule: Sum) -> list[Operation]:
    """Two totals, of which the later one is split first: neither is of the other's business."""
    tenant = world.tenants[0]
    groups = [parts_of_total(world, rule, tenant, (60, 40)) for _ in "ab"]
    made = [o for before, _ in groups for o in before]
    for _, rows in reversed(groups):
        made.append(Operation(rows[0].actor, (in_one(rows),)))
    for _, rows in groups:
        actor = changer(world, "update", rows[0])
        moves = tuple(Update(rule.table, ((rule.amount, 50),), key_of(world, r)) for r in rows)
        made += [Operation(actor, moves[:1]), Operation(actor, moves)]
    return made


def keys(contract: Contract, catalog: Catalog) -> Stories:
    """The same message twice, by each key; the same key in another tenant; no key."""
    for rule in contract.idempotency:
        if identified(catalog, rule.table):
            for position in range(len(rule.keys)):
                yield "", partial(_deliveries, rule=rule, position=position)
            yield "", partial(_keyless, rule=rule)


def _deliveries(world: World, rule: Idempotency, position: int) -> list[Operation]:
    tenant, other = world.tenants
    made: list[Operation] = []
    rows: list[LawfulRow] = []
    for owner in (tenant, other):
        *before, row = lawful(world, rule.table, owner, TOTAL)
        row = with_key(world, rule, row, position)
        if rows:
            # The same key in another tenant, where it is no reference.
            relation = world.catalog.tables[rule.table]
            for column in rule.keys[position]:
                if relation.foreign_key_of(column) is None:
                    row.values[column] = rows[0].values[column]
        rows.append(row)
        made += [r.inserted() for r in before]
    for row in rows:
        delivery = world.next("delivery")
        for _ in range(3):
            message = replace(in_one([row.renewed(world)]), conflict=Conflict())
            made.append(Operation(row.actor, (message,), delivery))
        made.append(row.renewed(world).inserted())
    # The other tenant sends the first one's message, to be ignored if it is there.
    message = in_one(
        [rows[0].renewed(world, **{world.contract.tenancy.column: world.cast.value(other)})]
    )
    stolen = replace(message, conflict=Conflict())
    made.append(Operation(rows[1].actor, (stolen,)))
    return [*made, *_other_keys(world, rule, rows[0], position)]


def _other_keys(
    world: World, rule: Idempotency, row: LawfulRow, position: int
) -> Iterator[Operation]:
    """The same key with an earlier one beside it, which then is the one that counts."""
    columns = world.catalog.tables[rule.table].columns
    for earlier in rule.keys[:position]:
        for number in range(2):
            told: dict[str, Value] = {
                c: ident("earlier", number) if columns[c].type == "uuid" else f"earlier-{number}"
                for c in earlier
            }
            yield row.renewed(world, **told).inserted()


def _keyless(world: World, rule: Idempotency) -> list[Operation]:
    *before, row = lawful(world, rule.table, world.tenants[0])
    relation = world.catalog.tables[rule.table]
    named = {c for k in rule.keys for c in k if not relation.columns[c].not_null}
    values = {c: v for c, v in row.values.items() if c not in named}
    return [*(r.inserted() for r in before), inserting(world, row.actor, rule.table, values)]


def taxonomies(contract: Contract, catalog: Catalog) -> Stories:
    """Codes added, used, retired, renamed and removed."""
    for rule, table, column in codes_of(contract, catalog):
        yield "", partial(_codes, rule=rule, table=table, column=column)


def _codes(world: World, rule: Taxonomy, table: str, column: str) -> list[Operation]:
    tenant = world.tenants[0]
    (code,) = lawful(world, rule.table, "")
    (unused,) = lawful(world, rule.table, "")
    *before, row = lawful(world, table, tenant)
    *before_unknown, unknown = lawful(world, table, tenant)
    used = code.values[rule.code]

    def maintained(statement: Statement) -> Operation:
        return Operation(Actor(OPERATOR), (statement,))

    def renamed(to: LawfulRow) -> Operation:
        value = f"{to.values[rule.code]}_renamed"
        return maintained(
            Update(rule.table, ((rule.code, value),), ((rule.code, to.values[rule.code]),))
        )

    made = [
        code.inserted(),
        code.inserted(),
        unused.inserted(),
        *(r.inserted() for r in (*before, *before_unknown)),
        row.inserted(**{column: used}),
        unknown.inserted(**{column: "no_such_code"}),
        maintained(Delete(rule.table, ((rule.code, used),))),
        renamed(code),
    ]
    if rule.active:
        made.append(maintained(Update(rule.table, ((rule.active, False),), ((rule.code, used),))))
    return [
        *made,
        Operation(row.actor, (Select(table),)),
        renamed(unused),
        maintained(Delete(rule.table, ((rule.code, f"{unused.values[rule.code]}_renamed"),))),
        maintained(Delete(rule.table)),
    ]


def erasures(contract: Contract, catalog: Catalog) -> Stories:
    """A tenant with rows in every table removed, while another one has rows as well."""
    del catalog
    if contract.tenancy.erased_by:
        yield "", _erasure


def _erasure(world: World) -> list[Operation]:
    contract = world.contract
    made: list[Operation] = []
    for tenant in world.tenants:
        for table in contract.tenancy.owned:
            made += [r.inserted() for r in lawful(world, table, tenant, TOTAL)]
        for rule in contract.ledgers:
            if rule.corrects and identified(world.catalog, rule.table):
                before, posting = posted(world, rule, tenant)
                correction = correcting(world, rule, posting, -40)
                made += [*before, posting.inserted(), correction.inserted()]
    return [
        *made,
        *(world.maintenance(Refresh(v)) for v in world.catalog.materialized_views),
        *(operation for tenant in world.tenants for operation in erasing(world, tenant)),
    ]
