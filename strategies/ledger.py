"""Ledger postings, corrections and reconciliation runs."""

from __future__ import annotations

from invariants.contract.sections import Ledger
from invariants.generation.registry import Values, new_row, operation, rows
from invariants.generation.world import Known, World
from invariants.schema.spellings import TIMES
from invariants.workload.operations import Conflict, Insert, Operation
from strategies.allocations import allocate

TABLE = "revenue_ledger"
# A time long ago, none at all, and one to come.
UPDATED = (TIMES[0], "1901-01-01 00:00:00+00", "-infinity", "infinity", "2101-01-01 00:00:00+00")


@rows(TABLE)
def posting_row(world: World, tenant: str) -> Values:
    """A posting of a recent allocation, for its amount; some have an old date or a wrong amount."""
    allocation = world.reference("attribution_allocations", tenant, hostile=20)
    amount = allocation.values["allocated_revenue_cents"] if allocation else 0
    row: Values = {
        "id": world.new_id(TABLE),
        "tenant_id": tenant,
        "allocation_id": allocation.id if allocation else world.new_id("attribution_allocations"),
        "revenue_cents": world.pick((0, 1, 100)) if world.chance(8) else amount,
    }
    if world.chance(40):
        row["updated_at"] = world.pick(UPDATED)
    if world.chance(20):
        row["is_verified"] = True
        run = world.recent("reconciliation_runs", tenant)
        row["reconciliation_run_id"] = run.id if run else None
    return row


@rows("reconciliation_runs")
def run_row(world: World, tenant: str) -> Values:
    """A run; few distinct times, so that two runs share one."""
    return {
        "id": world.new_id("reconciliation_runs"),
        "tenant_id": tenant,
        "last_run_at": world.pick(TIMES[:2]),
        "state": world.pick(("idle", "running", "failed", "completed", "completed", "stuck")),
    }


@operation(
    "post_to_ledger",
    weight=8,
    tables=(TABLE, "attribution_allocations"),
    focus={
        "append-only": 14,
        "cross-tenant": 14,
        "idempotent-ingest": 6,
        "ledger": 20,
        "liveness": 8,
        "pii": 0,
        "read-path": 14,
    },
    opening=True,
)
def post_to_ledger(world: World) -> Operation:
    """A posting, the way the ledger service writes it: a second one is ignored."""
    tenant = world.tenant()
    if not world.known.get("attribution_allocations"):
        return allocate(world)
    row = new_row(world, TABLE, tenant)
    insert = Insert(
        TABLE, tuple(row), (tuple(row.values()),), Conflict() if world.chance(70) else None
    )
    role = world.writer("insert", TABLE)
    if insert.conflict is None:
        return world.operation(role, tenant, insert)
    return world.deliver(role, tenant, insert)


@operation("correct", weight=4, tables=(TABLE,), focus={"ledger": 20, "pii": 0, "read-path": 8})
def correct(world: World) -> Operation | None:
    """Corrections of a posting: of part of it, of all, of more, of another's, of a correction."""
    tenant = world.tenant()
    rule = world.contract.ledger_of(TABLE)
    if rule is None or rule.corrects is None:
        return None
    posting = world.reference(TABLE, tenant, hostile=12)
    if posting is None:
        return post_to_ledger(world)
    if posting.values.get(rule.corrects) is not None and world.chance(80):
        # Corrections are in the table as well; mostly their posting is meant.
        posting = _posting_of(world, posting, rule.corrects) or posting
    amount = posting.values.get(rule.amount)
    amount = amount if isinstance(amount, int) else 0
    parts = world.pick(((-amount,), (-1,), (-amount, -1), (-amount - 1,), (-(amount // 2),), (1,)))
    rows_ = [_correction(world, tenant, posting, rule, part) for part in parts]
    inserts = [Insert(TABLE, tuple(row), (tuple(row.values()),)) for row in rows_]
    return world.operation(world.writer("insert", TABLE), tenant, *inserts)


def _posting_of(world: World, correction: Known, corrects: str) -> Known | None:
    named = correction.values[corrects]
    return next((k for k in world.known[TABLE] if k.id == named), None)


def _correction(world: World, tenant: str, posting: Known, rule: Ledger, amount: int) -> Values:
    posts = posting.values.get(rule.posts)
    if world.chance(8) and (other := world.recent(rule.source_table, tenant)) is not None:
        posts = other.id
    assert rule.corrects is not None
    row: Values = {
        "id": world.new_id(TABLE),
        "tenant_id": tenant,
        rule.posts: posts,
        rule.corrects: posting.id,
        rule.amount: max(amount, -(2**31)),
    }
    world.remember(TABLE, tenant, row)
    return row


@operation(
    "reconcile",
    weight=4,
    tables=("reconciliation_runs",),
    focus={"ledger": 0, "liveness": 10, "pii": 0, "read-path": 14},
)
def reconcile(world: World) -> Operation:
    """A reconciliation run recorded."""
    tenant = world.tenant()
    row = new_row(world, "reconciliation_runs", tenant)
    return world.operation(
        world.writer("insert", "reconciliation_runs"),
        tenant,
        Insert("reconciliation_runs", tuple(row), (tuple(row.values()),)),
    )
