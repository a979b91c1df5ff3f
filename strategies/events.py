"""Events and dead events: webhooks ingested, delivered again, and those that could not be read."""

from __future__ import annotations

from dataclasses import replace

from invariants.generation.registry import Values, new_row, operation, rows
from invariants.generation.world import World
from invariants.schema.spellings import TIMES
from invariants.workload.operations import Conflict, Insert, Operation, ident
from strategies.payloads import VENDORS, payload

REVENUES = (0, 1, 2, 100, 100, 101, 2500, 2**31 - 1)
KEEP_FIRST = Conflict()


@rows("attribution_events")
def event_row(world: World, tenant: str) -> Values:
    """An event with an external id, a correlation id, both, or (one in ten) neither.

    External ids come from a small set, so that tenants use the same ones.
    """
    vendor = world.pick(VENDORS)
    shape = world.below(10)
    row: Values = {
        "id": world.new_id("attribution_events"),
        "tenant_id": tenant,
        "occurred_at": world.pick(TIMES),
        "revenue_cents": world.pick(REVENUES),
        "raw_payload": payload(world, vendor),
    }
    if shape < 6:
        row["external_event_id"] = f"{vendor}-{world.below(5)}"
    if shape in (0, 6, 7, 8):
        row["correlation_id"] = ident("correlation", world.below(5))
    if shape in (1, 7):
        row["session_id"] = ident("session", world.below(3))
    return row


@rows("dead_events")
def dead_event_row(world: World, tenant: str) -> Values:
    """A webhook that ingestion could not read."""
    vendor = world.pick(VENDORS)
    row: Values = {
        "id": world.new_id("dead_events"),
        "tenant_id": tenant,
        "source": vendor,
        "error_code": world.pick(("schema_mismatch", "unknown_channel", "bad_signature")),
        "error_detail": payload(world, vendor),
        "raw_payload": payload(world, vendor),
    }
    if world.chance(30):
        row["external_event_id"] = f"{vendor}-{world.below(5)}"
    return row


@operation(
    "ingest",
    weight=12,
    tables=("attribution_events",),
    focus={
        "allocation-sum": 8,
        "append-only": 8,
        "idempotent-ingest": 16,
        "ledger": 5,
        "pii": 16,
        "read-path": 6,
        "taxonomy": 6,
    },
    opening=True,
)
def ingest(world: World) -> Operation:
    """One event, sometimes two, the way ingestion writes them: a second delivery is ignored."""
    tenant = world.tenant()
    role = world.writer("insert", "attribution_events")
    made = [new_row(world, "attribution_events", tenant)]
    if world.chance(15):
        made.append({**new_row(world, "attribution_events", tenant)})
    columns = tuple(dict.fromkeys(c for row in made for c in row))
    insert = Insert(
        "attribution_events",
        columns,
        tuple(tuple(row.get(c) for c in columns) for row in made),
        None if world.chance(12) else KEEP_FIRST,
    )
    if insert.conflict is None:
        return world.operation(role, tenant, insert)
    return world.deliver(role, tenant, insert)


@operation("redeliver", weight=6, focus={"idempotent-ingest": 16})
def redeliver(world: World) -> Operation | None:
    """An earlier message once more: its sender makes new row ids and keeps its keys."""
    if not world.messages:
        return None
    delivery, actor, insert = world.messages[-1 - world.below(len(world.messages))]
    key = world.catalog.tables[insert.relation].primary_key
    rows_ = []
    for row in insert.rows:
        values = dict(zip(insert.columns, row, strict=True))
        for column in key:
            if column in values:
                values[column] = world.new_id(insert.relation)
        rows_.append(tuple(values.values()))
    again = replace(insert, rows=tuple(rows_))
    return Operation(actor, (again,), delivery)


@operation(
    "misread", weight=2, tables=("dead_events",), focus={"ledger": 0, "pii": 16, "read-path": 0}
)
def misread(world: World) -> Operation:
    """A webhook for the dead-letter queue."""
    tenant = world.tenant()
    row = new_row(world, "dead_events", tenant)
    return world.operation(
        world.writer("insert", "dead_events"),
        tenant,
        Insert("dead_events", tuple(row), (tuple(row.values()),)),
    )
