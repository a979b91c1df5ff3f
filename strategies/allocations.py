"""Allocations: splits that add up, that miss by the tolerance or by more, changes and removals."""

from __future__ import annotations

from invariants.generation.derived import column_value
from invariants.generation.references import codes
from invariants.generation.registry import Values, operation, rows
from invariants.generation.world import Known, World
from invariants.workload.operations import (
    Conflict,
    Delete,
    Insert,
    Operation,
    Statement,
    Update,
    Value,
)
from strategies.events import ingest

TABLE = "attribution_allocations"
MODELS = ("linear-v1", "last-touch-v2")
INT_MAX = 2**31 - 1


@rows(TABLE)
def allocation_row(world: World, tenant: str) -> Values:
    """One allocation of a recent event, for all of its revenue."""
    event = world.reference("attribution_events", tenant, hostile=25)
    return _row(world, tenant, event, world.pick(MODELS), world.pick(codes(world)), _revenue(event))


def _row(
    world: World, tenant: str, event: Known | None, model: str, code: str, amount: int
) -> Values:
    row: Values = {
        "id": world.new_id(TABLE),
        "tenant_id": tenant,
        "event_id": event.id if event else world.new_id("attribution_events"),
        "channel_code": code,
        "allocated_revenue_cents": amount,
        "model_version": model,
    }
    if world.chance(20):
        row["allocation_ratio"] = world.pick(("0", "0.5", "1", "1.5"))
    return row


def _revenue(event: Known | None) -> int:
    revenue = event.values.get("revenue_cents") if event else 0
    return revenue if isinstance(revenue, int) else 0


def split(world: World, revenue: int) -> list[int]:
    """Parts that add up to the revenue, or miss it by one cent or by many."""
    shape = world.below(10)
    half = revenue // 2
    if revenue == INT_MAX and shape < 6:
        # One cent more than an integer holds, and still within the tolerance.
        return [revenue, 1]
    if shape < 2:
        return [revenue]
    if shape < 5:
        return [revenue, 0]
    if shape < 7:
        return [half, revenue - half]
    if shape == 7:
        return [half, revenue - half, 0]
    if shape == 8:
        # One cent over in all: within the tolerance, even where no single part could take it.
        return [revenue, 1]
    return [max(0, revenue - world.pick((1, 2, 50)))]


@operation(
    "allocate",
    weight=12,
    tables=(TABLE, "attribution_events"),
    focus={
        "allocation-sum": 16,
        "append-only": 6,
        "cross-tenant": 12,
        "idempotent-ingest": 6,
        "ledger": 10,
        "liveness": 12,
        "pii": 0,
        "read-path": 8,
        "taxonomy": 12,
    },
    opening=True,
)
def allocate(world: World) -> Operation:
    """The parts of one event under one model, in one statement or in several."""
    tenant = world.tenant()
    event = world.reference("attribution_events", tenant, hostile=22)
    if event is None:
        return ingest(world)
    parts = split(world, _revenue(event))
    model = world.pick(MODELS)
    available = codes(world, hostile=6)
    start = world.below(len(available))
    made = [
        _row(
            world, tenant, event, model, available[(start + i) % len(available)], min(part, INT_MAX)
        )
        for i, part in enumerate(parts)
    ]
    for row in made:
        world.remember(TABLE, tenant, row)
    role = world.writer("insert", TABLE)
    if len(made) > 1 and world.chance(20):
        return world.operation(role, tenant, *(_insert([row]) for row in made))
    if world.chance(25):
        return world.deliver(role, tenant, _insert(made, Conflict()))
    return world.operation(role, tenant, _insert(made))


def _insert(made: list[Values], conflict: Conflict | None = None) -> Insert:
    columns = tuple(dict.fromkeys(c for row in made for c in row))
    filled = [{"allocation_ratio": "0", **row} for row in made]
    return Insert(TABLE, columns, tuple(tuple(row[c] for c in columns) for row in filled), conflict)


@operation(
    "reassign",
    weight=6,
    tables=(TABLE,),
    focus={
        "allocation-sum": 16,
        "append-only": 0,
        "cross-tenant": 8,
        "ledger": 10,
        "liveness": 14,
        "pii": 0,
        "taxonomy": 8,
    },
)
def reassign(world: World) -> Operation:
    """A change to one column of an allocation, or a cent moved from one to another."""
    tenant = world.tenant()
    known = world.recent(TABLE, tenant)
    if known is None:
        return allocate(world)
    role = world.writer("update", TABLE)
    shape = world.below(10)
    if shape < 3:
        return world.operation(role, tenant, *_rebalance(world, known))
    if shape < 6:
        return world.operation(role, tenant, _regroup(world, known))
    column = world.pick(
        (
            "event_id",
            "model_version",
            "model_version",
            "allocated_revenue_cents",
            "channel_code",
            *world.catalog.tables[TABLE].columns,
        )
    )
    value: Value
    if column == "model_version":
        value = world.pick(MODELS)
    else:
        value = column_value(world, TABLE, column, tenant, hostile=25)
    return world.operation(role, tenant, Update(TABLE, ((column, value),), (("id", known.id),)))


def _regroup(world: World, known: Known) -> Update:
    """The biggest part of a split moved to another model or event: the rest no longer adds up."""
    biggest = max(_siblings(world, known), key=_amount)
    assign: tuple[str, Value]
    if world.chance(70):
        assign = ("model_version", MODELS[biggest.values["model_version"] == MODELS[0]])
    else:
        event = world.reference("attribution_events", known.tenant, hostile=20)
        assign = ("event_id", event.id if event else None)
    return Update(TABLE, (assign,), (("id", biggest.id),))


def _siblings(world: World, known: Known) -> list[Known]:
    """The parts of one split, this one among them."""
    group = ("event_id", "model_version")
    return [
        k
        for k in world.known[TABLE]
        if k.tenant == known.tenant and all(k.values[c] == known.values[c] for c in group)
    ]


def _amount(row: Known) -> int:
    amount = row.values["allocated_revenue_cents"]
    return amount if isinstance(amount, int) else 0


def _rebalance(world: World, known: Known) -> list[Statement]:
    posted = {k.values.get("allocation_id") for k in world.known.get("revenue_ledger", ())}
    pairs = [
        (one, two)
        for one in reversed(world.known[TABLE])
        if one.tenant == known.tenant and one.id not in posted
        for two in _siblings(world, one)
        if two is not one and two.id not in posted and _amount(one) + _amount(two) > 1
    ]
    known, other = pairs[0] if pairs else (known, known)
    amount = world.pick((2, 10, 50, 1))

    def move(row: Known, cents: int) -> Update:
        new = max(0, min(INT_MAX, _amount(row) + cents))
        row.values["allocated_revenue_cents"] = new
        return Update(TABLE, (("allocated_revenue_cents", new),), (("id", row.id),))

    giver, taker = sorted((known, other), key=_amount, reverse=True)
    amount = min(amount, _amount(giver))
    return [move(giver, -amount), move(taker, amount)]


@operation(
    "deallocate",
    weight=4,
    tables=(TABLE,),
    focus={"allocation-sum": 5, "append-only": 12, "ledger": 8, "liveness": 8, "pii": 0},
)
def deallocate(world: World) -> Operation:
    """One allocation removed, those of an event and model, those of an event, or all."""
    tenant = world.tenant()
    known = world.recent(TABLE, tenant)
    if known is None:
        return allocate(world)
    event = ("event_id", known.values["event_id"])
    model = ("model_version", known.values["model_version"])
    where = world.pick(((("id", known.id),), (event, model), (event, model), (event,), ()))
    return world.operation(world.writer("delete", TABLE), tenant, Delete(TABLE, where))
