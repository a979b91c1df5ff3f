"""Ledger postings and reconciliation runs."""

from __future__ import annotations

from invariants.operations import Conflict, Insert, Operation
from strategies.allocations import allocate
from strategies.derived import TIMES
from strategies.registry import Values, new_row, operation, rows
from strategies.world import World

TABLE = "revenue_ledger"


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
        row["updated_at"] = world.pick((TIMES[0], "1901-01-01 00:00:00+00"))
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


@operation("post_to_ledger", weight=8, tables=(TABLE, "attribution_allocations"))
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


@operation("reconcile", weight=4, tables=("reconciliation_runs",))
def reconcile(world: World) -> Operation:
    """A reconciliation run recorded."""
    tenant = world.tenant()
    row = new_row(world, "reconciliation_runs", tenant)
    return world.operation(
        world.writer("insert", "reconciliation_runs"),
        tenant,
        Insert("reconciliation_runs", tuple(row), (tuple(row.values()),)),
    )
