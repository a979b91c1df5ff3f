"""The model says what the contract does of every kind of operation, and the schema at head agrees.

Each case is one operation after the same beginning, with the verdict: it must be accepted, refused
by a rule, or the contract does not say. Where head is broken on purpose, liveness tells that case.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from invariants.checks import INVARIANTS, model, values
from invariants.checks.liveness import _WHY
from invariants.schema.catalog import Column
from invariants.search.judge import Judge
from invariants.workload.operations import (
    Attach,
    Call,
    Comment,
    Conflict,
    Copy,
    Delete,
    Insert,
    Json,
    Merge,
    Operation,
    Refresh,
    Select,
    Shadow,
    Statement,
    Truncate,
    Update,
    Value,
    ident,
)
from tests.engine import (
    KEEP_FIRST,
    MATERIALIZED,
    UNKNOWN,
    A,
    B,
    Lab,
    allocation,
    allocation_id,
    correction,
    dead_event,
    erasure,
    event,
    event_id,
    key,
    maintenance,
    of,
    posting,
    reconciliation,
    refresh,
    repair,
    row,
    workload,
)

EVENTS, ALLOCATIONS, LEDGER = "attribution_events", "attribution_allocations", "revenue_ledger"
DEAD, RUNS, CODES = "dead_events", "reconciliation_runs", "channel_taxonomy"
ACCEPTED, OPEN = "accepted", "open"
EMAIL = Json.of({"to": {"customerEmail": "x"}})

BEGINNING = (
    of(A, event(1), allocation(1), posting(1)),
    # Event 2 is split, and not posted.
    of(A, event(2, correlation_id=event_id(2))),
    of(A, allocation(21, of_event=2, cents=60)
       , allocation(22, of_event=2, cents=40, channel_code="email")),
    # Event 3 has no allocations.
    of(A, event(3), dead_event(1), reconciliation(1)),
    of(A, correction(11, cents=20), correction(12, cents=-50)),
    # Posting 4 is below zero but for the first of its corrections.
    of(A, event(4), allocation(4, of_event=4), posting(4, of_allocation=4)),
    of(A, *(correction(41 + i, cents=c, of_posting=4, of_allocation=4)
            for i, c in enumerate((20, -50, -50, -10)))),
    of(B, event(5, B), allocation(5, B, of_event=5), posting(5, B, of_allocation=5)),
    of(B, dead_event(5, B)),
)  # fmt: skip


def a(*statements: Statement) -> Operation:
    return of(A, *statements)


def set_(table: str, number: int, **assign: Value) -> Update:
    """UPDATE of one row."""
    return Update(table, tuple(assign.items()), key(table, number))


def gone(table: str, number: int) -> Delete:
    """DELETE of one row."""
    return Delete(table, key(table, number))


def merged(made: Insert, *updates: str) -> Merge:
    return Merge(made.relation, made.columns, made.rows[0], ("id",), updates)


def overwriting(made: Insert, *updates: str) -> Insert:
    return replace(made, conflict=Conflict(("id",), updates=updates))


def without(made: Insert, column: str) -> Insert:
    at = made.columns.index(column)
    return replace(
        made,
        columns=made.columns[:at] + made.columns[at + 1 :],
        rows=tuple(r[:at] + r[at + 1 :] for r in made.rows),
    )


def nothing(made: Insert, column: str) -> Insert:
    """The row with NULL in a column."""
    values = {**dict(zip(made.columns, made.rows[0], strict=True)), column: None}
    return replace(made, rows=(tuple(values.values()),))


INSERTS: dict[str, tuple[str, Operation]] = {
    "an event": (ACCEPTED, a(event(9))),
    "an event of nothing": (ACCEPTED, a(event(9, cents=0))),
    "the biggest event": (ACCEPTED, a(event(9, cents=2**31 - 1))),
    "a negative event": ("domain", a(event(9, cents=-1))),
    "an event that is too big": ("type", a(event(9, cents=2**31))),
    "an event by a role that only reads": ("privilege", of(A, event(9), role="app_ro")),
    "an event by the admin": ("privilege", of(A, event(9), role="app_admin")),
    "an event for another tenant": ("tenant", a(event(9, B))),
    "an event for no tenant": ("tenant", of(None, event(9))),
    "an event for an unknown tenant": ("reference", of(UNKNOWN, event(9, UNKNOWN))),
    "an event without a payload": ("not null", a(without(event(9), "raw_payload"))),
    "an event with a null payload": ("not null", a(event(9, raw_payload=None))),
    "an event with JSON's null": (ACCEPTED, a(event(9, raw_payload=Json.of(None)))),
    "an event with PII": ("pii", a(event(9, raw_payload=EMAIL))),
    "an event with PII in a value": (
        ACCEPTED,
        a(event(9, raw_payload=Json.of({"note": {"emailed_at": "email"}}))),
    ),
    "an event without a key": ("key", a(event(9, external_event_id=None))),
    "an event with the second key": (
        ACCEPTED,
        a(event(9, external_event_id=None, correlation_id=event_id(9))),
    ),
    "an event again": ("unique", a(event(9, external_event_id="order-1"))),
    "an event again, kept out": (
        ACCEPTED,
        a(replace(event(9, external_event_id="order-1"), conflict=KEEP_FIRST)),
    ),
    "a correlation that another key has": (
        ACCEPTED,
        a(event(9, correlation_id=event_id(2))),
    ),
    "another tenant's key": (ACCEPTED, a(event(9, external_event_id="order-5"))),
    "another tenant's id": ("unique", a(event(5, external_event_id="order-9"))),
    "an event without an id": (OPEN, a(without(event(9), "id"))),
    "two events with one key": (
        "unique",
        a(event(9, external_event_id="x"), event(8, external_event_id="x")),
    ),
    "an allocation": (ACCEPTED, a(allocation(9, of_event=3))),
    "an allocation under another model": (ACCEPTED, a(allocation(9, model_version="m2"))),
    "a split over statements": (
        ACCEPTED,
        a(allocation(9, of_event=3, cents=30),
          allocation(8, of_event=3, cents=70, channel_code="email")),
    ),
    "a cent too much": (ACCEPTED, a(allocation(9, of_event=3, cents=101))),
    "two cents too much": ("sum", a(allocation(9, of_event=3, cents=102))),
    "two cents too little": ("sum", a(allocation(9, of_event=3, cents=98))),
    "a further part": ("sum", a(allocation(9, of_event=1, cents=2, channel_code="email"))),
    "a part of nothing": (ACCEPTED, a(allocation(9, cents=0, channel_code="email"))),
    "a channel twice": ("unique", a(allocation(9, of_event=1, cents=0))),
    "a negative part": ("domain", a(allocation(9, of_event=3, cents=-1))),
    "a ratio of one": (ACCEPTED, a(allocation(9, of_event=3, allocation_ratio="1"))),
    "a ratio above one": ("domain", a(allocation(9, of_event=3, allocation_ratio="1.5"))),
    "a ratio below nothing": ("domain", a(allocation(9, of_event=3, allocation_ratio="-0.5"))),
    "an allocation of another tenant's event": ("reference", a(allocation(9, of_event=5))),
    "an allocation of no event": ("reference", a(allocation(9, of_event=99))),
    "an unknown channel": ("reference", a(allocation(9, of_event=3, channel_code="nowhere"))),
    "an allocation of the default model": (
        OPEN,
        a(without(allocation(9, of_event=3), "model_version")),
    ),
    "a posting": (
        ACCEPTED,
        a(allocation(9, of_event=3), posting(9, of_allocation=9)),
    ),
    "a posting by the admin": (
        ACCEPTED,
        of(A, posting(9, of_allocation=21, cents=60), role="app_admin"),
    ),
    "a posting of another amount": ("amount", a(posting(9, of_allocation=21, cents=61))),
    "a negative posting": ("amount", a(posting(9, of_allocation=21, cents=-60))),
    "a second posting": ("unique", a(posting(9))),
    "a second posting, kept out": (ACCEPTED, a(replace(posting(9), conflict=KEEP_FIRST))),
    "a posting of another tenant's allocation": ("reference", a(posting(9, of_allocation=5))),
    "a posting of no allocation": ("reference", a(posting(9, of_allocation=99))),
    "a posting of nothing": ("not null", a(nothing(posting(9), "allocation_id"))),
    "a posting without an amount": ("not null", a(nothing(posting(9), "revenue_cents"))),
    "a correction to nothing": (ACCEPTED, a(correction(9, cents=-70))),
    "a correction of no cent": (ACCEPTED, a(correction(9, cents=0))),
    "a correction by the admin": (ACCEPTED, of(A, correction(9, cents=-1), role="app_admin")),
    "a correction below nothing": ("net below zero", a(correction(9, cents=-71))),
    "corrections below nothing in between": (
        ACCEPTED,
        a(correction(9, cents=-100), correction(8, cents=30)),
    ),
    "corrections below nothing together": (
        "net below zero",
        a(correction(9, cents=-40), correction(8, cents=-40)),
    ),
    "a posting and its correction": (
        ACCEPTED,
        a(posting(9, of_allocation=21, cents=60),
          correction(8, cents=-60, of_posting=9, of_allocation=21)),
    ),
    "the smallest correction": (
        ACCEPTED,
        a(event(9, cents=2**31 - 1), allocation(9, of_event=9, cents=2**31 - 1),
          posting(9, of_allocation=9, cents=2**31 - 1),
          correction(8, cents=-(2**31), of_posting=9, of_allocation=9),
          correction(7, cents=1, of_posting=9, of_allocation=9)),
    ),
    "a correction that is too small": ("type", a(correction(9, cents=-(2**31) - 1))),
    "a correction of a correction": (
        "correction of a correction",
        a(correction(9, cents=-1, of_posting=11)),
    ),
    "a correction of its own": (
        "reference",
        a(correction(9, cents=-1, of_posting=9)),
    ),
    "a correction of no posting": ("reference", a(correction(9, cents=-1, of_posting=99))),
    "a correction of another tenant's posting": (
        "reference",
        a(correction(9, cents=-1, of_posting=5, of_allocation=5)),
    ),
    "a correction of another allocation": (
        "reference",
        a(correction(9, cents=-1, of_allocation=21)),
    ),
    "a correction by a role that only reads": (
        "privilege",
        of(A, correction(9, cents=-1), role="app_ro"),
    ),
    "a dead event": (ACCEPTED, a(dead_event(9))),
    "a dead event with PII": ("pii", a(dead_event(9, error_detail=EMAIL))),
    "a dead event with PII in its payload": ("pii", a(dead_event(9, raw_payload=EMAIL))),
    "an unknown state": ("domain", a(reconciliation(9, state="lost"))),
    "an idle run": (ACCEPTED, a(reconciliation(9, state="idle"))),
    "a run at the end of time": (ACCEPTED, a(reconciliation(9, last_run_at="infinity"))),
    "a time that is none": (OPEN, a(reconciliation(9, last_run_at="soon"))),
    "a column that is not there": (OPEN, a(dead_event(9, colour="red"))),
    "a table that is not there": (OPEN, a(row("nowhere", 9, A))),
    "a tenant": ("privilege", of(A, Insert("tenants", ("id", "name"), ((UNKNOWN, "x"),)))),
    "a copied row": (OPEN, a(Copy(DEAD, dead_event(9).columns, dead_event(9).rows))),
    "a copied row with PII": (
        "pii",
        a(Copy(DEAD, dead_event(9).columns, dead_event(9, raw_payload=EMAIL).rows)),
    ),
    "a merged row": (ACCEPTED, a(merged(dead_event(9)))),
    "a merged row for another tenant": ("tenant", a(merged(dead_event(9, B)))),
    "a merged event": (ACCEPTED, a(merged(event(9)))),
    "a merged event with another's id": ("unique", a(merged(event(5)))),
}  # fmt: skip

CHANGES: dict[str, tuple[str, Operation]] = {
    "a dead event": (ACCEPTED, a(set_(DEAD, 1, source="stripe"))),
    "a dead event to PII": ("pii", a(set_(DEAD, 1, raw_payload=EMAIL))),
    "a dead event to another payload": (ACCEPTED, a(set_(DEAD, 1, raw_payload=Json.of([1])))),
    "a dead event to no payload": ("not null", a(set_(DEAD, 1, raw_payload=None))),
    "a dead event for another tenant": ("tenant", a(set_(DEAD, 1, tenant_id=B))),
    "a dead event to its own tenant": (ACCEPTED, a(set_(DEAD, 1, tenant_id=A))),
    "another tenant's dead event": (ACCEPTED, a(set_(DEAD, 5, source="stripe"))),
    "all dead events": (ACCEPTED, a(Update(DEAD, (("source", "stripe"),)))),
    "a dead event's id": (OPEN, a(set_(DEAD, 1, id=ident(DEAD, 9)))),
    "a dead event for a role that only reads": (
        "privilege",
        of(A, set_(DEAD, 1, source="x"), role="app_ro"),
    ),
    "a dead event that is inserted again": (
        ACCEPTED,
        a(overwriting(dead_event(1, error_detail=Json.of([])), "error_detail")),
    ),
    "another tenant's dead event that is inserted again": (
        "tenant",
        a(overwriting(dead_event(5), "source")),
    ),
    "an event that is inserted again": ("privilege", a(overwriting(event(1), "revenue_cents"))),
    "a dead event that is merged": (
        ACCEPTED,
        a(merged(dead_event(1, error_detail=Json.of([])), "error_detail")),
    ),
    "an event that is merged": ("privilege", a(merged(event(1), "revenue_cents"))),
    "an event that is merged without a change": (ACCEPTED, a(merged(event(1)))),
    "a run's state": (ACCEPTED, a(set_(RUNS, 1, state="failed"))),
    "a run's state to an unknown one": ("domain", a(set_(RUNS, 1, state="lost"))),
    "an event": ("privilege", a(set_(EVENTS, 1, revenue_cents=1))),
    "a ledger row": ("privilege", a(set_(LEDGER, 1, is_verified=True))),
    "a part": ("sum", a(set_(ALLOCATIONS, 21, allocated_revenue_cents=62))),
    "a part by a cent": (ACCEPTED, a(set_(ALLOCATIONS, 21, allocated_revenue_cents=61))),
    "parts that balance": (
        ACCEPTED,
        a(set_(ALLOCATIONS, 21, allocated_revenue_cents=0),
          set_(ALLOCATIONS, 22, allocated_revenue_cents=100)),
    ),
    "a posted amount": ("amount", a(set_(ALLOCATIONS, 1, allocated_revenue_cents=99))),
    "a posted allocation's amount to what it is": (
        ACCEPTED,
        a(set_(ALLOCATIONS, 1, allocated_revenue_cents=100)),
    ),
    "a posted allocation's model": (ACCEPTED, a(set_(ALLOCATIONS, 1, model_version="m3"))),
    "a model of a part": ("sum", a(set_(ALLOCATIONS, 21, model_version="m3"))),
    "a model of a whole group": (
        ACCEPTED,
        a(Update(ALLOCATIONS, (("model_version", "m3"),), (("event_id", event_id(2)),))),
    ),
    "an event of a part": ("sum", a(set_(ALLOCATIONS, 21, event_id=event_id(3)))),
    "an event of an allocation": (ACCEPTED, a(set_(ALLOCATIONS, 1, event_id=event_id(3)))),
    "an allocation to another tenant's event": (
        "reference",
        a(set_(ALLOCATIONS, 1, event_id=event_id(5))),
    ),
    "a channel": (ACCEPTED, a(set_(ALLOCATIONS, 21, channel_code="referral"))),
    "a channel that its event has": ("unique", a(set_(ALLOCATIONS, 21, channel_code="email"))),
    "a channel to an unknown one": ("reference", a(set_(ALLOCATIONS, 21, channel_code="x"))),
    "a ratio above one": ("domain", a(set_(ALLOCATIONS, 21, allocation_ratio="1.01"))),
    "a model to none": ("not null", a(set_(ALLOCATIONS, 21, model_version=None))),
    "nothing at all": (ACCEPTED, a(set_(DEAD, 99, source="x"))),
    "without a tenant": (ACCEPTED, of(None, Update(DEAD, (("source", "x"),)))),
    "for a malformed tenant": (OPEN, of("not-a-uuid", Update(DEAD, (("source", "x"),)))),
}  # fmt: skip

REMOVALS: dict[str, tuple[str, Operation]] = {
    "a dead event": (ACCEPTED, a(gone(DEAD, 1))),
    "another tenant's dead event": (ACCEPTED, a(gone(DEAD, 5))),
    "all dead events": (ACCEPTED, a(Delete(DEAD))),
    "a run": (ACCEPTED, a(gone(RUNS, 1))),
    "an event": ("privilege", a(gone(EVENTS, 3))),
    "a ledger row": ("privilege", a(gone(LEDGER, 1))),
    "a part": ("sum", a(gone(ALLOCATIONS, 21))),
    "a whole group": (ACCEPTED, a(Delete(ALLOCATIONS, (("event_id", event_id(2)),)))),
    "a whole group, statement by statement": (
        ACCEPTED,
        a(gone(ALLOCATIONS, 21), gone(ALLOCATIONS, 22)),
    ),
    "a posted allocation": ("reference", a(gone(ALLOCATIONS, 1))),
    "by a role that only reads": ("privilege", of(A, gone(DEAD, 1), role="app_ro")),
    "the ledger, truncated": ("privilege", a(Truncate(LEDGER))),
    "dead events, truncated": ("privilege", a(Truncate(DEAD))),
    "the ledger, truncated by the owner": (ACCEPTED, repair(Truncate(LEDGER))),
    "events, truncated by the owner alone": ("reference", repair(Truncate(EVENTS))),
    "dead events, truncated by the owner of others": (OPEN, repair(Truncate(DEAD))),
    "a table, taken": ("ownership", a(Comment(LEDGER, "table"))),
    "a function, taken": ("ownership", a(Comment("public.check_ledger_net()", "function"))),
    "a function that runs as its owner": ("execution", a(Attach("public.check_ledger_net()"))),
    "a function that runs as who calls it": (OPEN, a(Attach("public.fn_prevent_truncate()"))),
    "with a type in the place of another": (
        OPEN,
        a(Shadow("pg_catalog.text", "type"), gone(DEAD, 1)),
    ),
    "with a type in the place of another, by a role that only reads": (
        "privilege",
        of(A, Shadow("pg_catalog.text", "type"), gone(DEAD, 1), role="app_ro"),
    ),
    "a tenant": (ACCEPTED, erasure(A)),
    "a tenant by an application role": ("privilege", erasure(A, "app_rw")),
    "a tenant that is not there": (ACCEPTED, erasure(UNKNOWN)),
    "all tenants": (OPEN, of(None, Delete("tenants"), role="migration_owner")),
}

REPAIRS: dict[str, tuple[str, Operation]] = {
    "an event's payload": (ACCEPTED, repair(set_(EVENTS, 1, raw_payload=Json.of([])))),
    "an event's payload to PII": ("pii", repair(set_(EVENTS, 1, raw_payload=EMAIL))),
    "the revenue of an event without allocations": (
        ACCEPTED,
        repair(set_(EVENTS, 3, revenue_cents=7)),
    ),
    "an allocated revenue": ("sum", repair(set_(EVENTS, 2, revenue_cents=102))),
    "an allocated revenue by a cent": (ACCEPTED, repair(set_(EVENTS, 2, revenue_cents=101))),
    "a revenue to less than nothing": ("domain", repair(set_(EVENTS, 3, revenue_cents=-1))),
    "an event's key to another's": ("unique", repair(set_(EVENTS, 3, external_event_id="order-1"))),
    "an event's only key": ("key", repair(set_(EVENTS, 3, external_event_id=None))),
    "one of two keys": (ACCEPTED, repair(set_(EVENTS, 2, external_event_id=None))),
    "an event for another tenant": ("tenant", repair(set_(EVENTS, 3, tenant_id=B))),
    "another tenant's event": (ACCEPTED, repair(set_(EVENTS, 5, revenue_cents=1))),
    "an event away": (ACCEPTED, repair(gone(EVENTS, 3))),
    "an event away, with its allocations": (ACCEPTED, repair(gone(EVENTS, 2))),
    "a posted event away": ("reference", repair(gone(EVENTS, 1))),
    "a posting's flag": (ACCEPTED, repair(set_(LEDGER, 1, is_verified=True))),
    "a posting's amount": ("amount", repair(set_(LEDGER, 1, revenue_cents=99))),
    "a corrected posting away": ("reference", repair(gone(LEDGER, 1))),
    "a posting away, its corrections first": (
        ACCEPTED,
        repair(gone(LEDGER, 11), gone(LEDGER, 12), gone(LEDGER, 1)),
    ),
    "a posting away, all at once": (ACCEPTED, repair(Delete(LEDGER))),
    "a correction away": (ACCEPTED, repair(gone(LEDGER, 12))),
    "a correction's amount": (ACCEPTED, repair(set_(LEDGER, 12, revenue_cents=-120))),
    "a correction to below nothing": (
        "net below zero",
        repair(set_(LEDGER, 12, revenue_cents=-121)),
    ),
    "a correction away that others need": (
        "net below zero",
        repair(set_(LEDGER, 12, revenue_cents=-120), gone(LEDGER, 11)),
    ),
    "a correction away that another needs": ("net below zero", repair(gone(LEDGER, 41))),
    "a correction to a second posting": ("unique", repair(set_(LEDGER, 11, corrects_id=None))),
    "a corrected posting to a correction": (
        "correction of a correction",
        repair(set_(LEDGER, 1, corrects_id=ident(LEDGER, 11))),
    ),
    "a correction for another allocation": (
        "reference",
        repair(set_(LEDGER, 11, allocation_id=allocation_id(21))),
    ),
    "a new event": ("privilege", repair(event(9))),
    "an allocation": ("privilege", repair(gone(ALLOCATIONS, 21))),
}

MAINTENANCE: dict[str, tuple[str, Operation]] = {
    "every view": (ACCEPTED, refresh()),
    "every view, concurrently": (ACCEPTED, refresh(concurrently=True)),
    "a view by an application role": (OPEN, a(Refresh(MATERIALIZED[0]))),
    "a channel retired": (
        ACCEPTED,
        maintenance(Update(CODES, (("is_active", False),), (("code", "direct"),))),
    ),
    "a channel in use away": ("reference", maintenance(Delete(CODES, (("code", "direct"),)))),
    "a channel away": (ACCEPTED, maintenance(Delete(CODES, (("code", "referral"),)))),
    "a channel in use renamed": (
        "reference",
        maintenance(Update(CODES, (("code", "x"),), (("code", "email"),))),
    ),
    "a channel renamed": (
        ACCEPTED,
        maintenance(Update(CODES, (("code", "x"),), (("code", "referral"),))),
    ),
    "a channel renamed to another": (
        "unique",
        maintenance(Update(CODES, (("code", "email"),), (("code", "referral"),))),
    ),
    "a channel by an application role": (
        "privilege",
        a(Update(CODES, (("is_active", False),), (("code", "direct"),))),
    ),
    "anything else": (OPEN, maintenance(gone(DEAD, 1))),
}

READS: dict[str, tuple[str, Operation]] = {
    **{
        f"{table} by {role}": (ACCEPTED, of(A, Select(table), role=role))
        for table in (EVENTS, DEAD, ALLOCATIONS, LEDGER, RUNS, CODES, "v_realtime_revenue")
        for role in ("app_rw", "app_ro")
    },
    "one row": (ACCEPTED, a(Select(DEAD, key(DEAD, 1)))),
    "another tenant's row": (ACCEPTED, a(Select(DEAD, key(DEAD, 5)))),
    "without a tenant": (ACCEPTED, of(None, Select(DEAD))),
    "for a malformed tenant": (OPEN, of("not-a-uuid", Select(DEAD))),
    "the tenants": ("privilege", a(Select("tenants"))),
    "a materialized view": ("privilege", a(Select("mv_realtime_revenue"))),
    "events by the admin": ("privilege", of(A, Select(EVENTS), role="app_admin")),
    "one row of a view": (OPEN, a(Select("v_realtime_revenue", (("tenant_id", A),)))),
    "rows by a time": (OPEN, a(Select(DEAD, (("ingested_at", "2024-03-01 00:00:00+00"),)))),
    "rows by what repairs may read": (ACCEPTED, repair(Select(LEDGER))),
    "a function": (OPEN, a(Call("names_pii"))),
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in (
        ("insert", INSERTS),
        ("change", CHANGES),
        ("remove", REMOVALS),
        ("repair", REPAIRS),
        ("maintain", MAINTENANCE),
        ("read", READS),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_the_contracts_and_heads(head_judge: Judge, name: str) -> None:
    verdict, operation = CASES[name]
    case, violations = head_judge.violations(
        INVARIANTS["liveness"], workload(*BEGINNING, operation)
    )
    *before, step = case.history.steps
    assert all(s.committed for s in before)
    prediction = model.predict(case.contract, case.catalog, step.before, operation)
    if verdict == OPEN:
        assert prediction is None or prediction.commits is None
        return
    assert prediction is not None
    assert (prediction.commits, prediction.rule) == (
        (True, "") if verdict == ACCEPTED else (False, verdict)
    )
    assert step.committed is prediction.commits
    assert [str(v.signature) for v in violations] == []


def test_every_rule_has_a_case() -> None:
    verdicts = Counter(verdict for verdict, _ in CASES.values())
    assert verdicts.keys() == {ACCEPTED, OPEN, *_WHY}


def dropped(table: str, constraint: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {constraint}"


def meddling(table: str, event_: str, body: str, before: str = "BEFORE") -> str:
    """A trigger that runs as the superuser."""
    return f"""
        CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = public AS $$ BEGIN {body} END $$;
        CREATE TRIGGER a_meddling {before} {event_} ON {table}
            FOR EACH ROW EXECUTE FUNCTION meddle();
    """


def weakened(function: str, condition: str) -> str:
    """A function in which a condition never holds."""
    return f"""
        DO $do$ DECLARE
            body text := pg_get_functiondef('{function}'::regproc);
        BEGIN
            IF body NOT LIKE '%{condition}%' THEN
                RAISE EXCEPTION 'there is no such condition in %', body;
            END IF;
            EXECUTE replace(body, '{condition}', 'false');
        END $do$
    """


ANY_TENANT = "ALTER POLICY tenant_isolation_policy ON {} USING (true) WITH CHECK (true)"
NO_SUMS = "DROP TRIGGER trg_check_allocation_sum ON attribution_allocations"
NO_NETS = weakened("check_ledger_net", "net < 0")
NO_AMOUNTS = dropped(LEDGER, "fk_revenue_ledger_posted_allocation")
ANY_EVENT = dropped(ALLOCATIONS, "fk_attribution_allocations_tenant_event_id")
ANY_POSTING = dropped(LEDGER, "fk_revenue_ledger_corrected_posting")
ANY_CODE = dropped(ALLOCATIONS, "fk_attribution_allocations_channel_code")
ANY_KEY = dropped(EVENTS, "ck_attribution_events_has_key")
ANY_REVENUE = dropped(EVENTS, "attribution_events_revenue_cents_check")
ANY_PAYLOAD = dropped(EVENTS, "ck_attribution_events_raw_payload_names_no_pii")
ANY_DETAIL = dropped(DEAD, "ck_dead_events_error_detail_names_no_pii")
ANY_DEAD_PAYLOAD = dropped(DEAD, "ck_dead_events_raw_payload_names_no_pii")
MANY_EVENTS = "DROP INDEX idx_attribution_events_tenant_external_event_id"
UNGUARDED = f"""
    GRANT SELECT, UPDATE, DELETE ON {EVENTS}, {LEDGER} TO app_rw;
    DROP TRIGGER trg_events_prevent_mutation ON {EVENTS};
    DROP TRIGGER trg_ledger_prevent_mutation ON {LEDGER};
"""
# Cases that the contract refuses, each with what must be taken away for them to be accepted.
NOT_ENFORCED = {
    "insert: a negative event": ANY_REVENUE,
    "insert: an event by a role that only reads": f"GRANT INSERT ON {EVENTS} TO app_ro",
    "insert: an event for another tenant": ANY_TENANT.format(EVENTS),
    "insert: an event for an unknown tenant": dropped(EVENTS, "attribution_events_tenant_id_fkey"),
    "insert: an event with a null payload": meddling(
        EVENTS, "INSERT", "NEW.raw_payload := coalesce(NEW.raw_payload, '{}'); RETURN NEW;"
    ),
    "insert: an event with PII": ANY_PAYLOAD,
    "insert: an event without a key": ANY_KEY,
    "insert: an event again": MANY_EVENTS,
    "insert: two cents too much": NO_SUMS,
    "insert: a channel twice": (
        "DROP INDEX idx_attribution_allocations_tenant_event_model_channel"
    ),
    "insert: a ratio above one": dropped(
        ALLOCATIONS, "ck_attribution_allocations_allocation_ratio_bounds"
    ),
    "insert: an allocation of another tenant's event": ANY_EVENT,
    "insert: an unknown channel": ANY_CODE,
    "insert: a posting of another amount": NO_AMOUNTS,
    "insert: a second posting": "DROP INDEX idx_revenue_ledger_tenant_allocation_id",
    "insert: a correction below nothing": NO_NETS,
    "insert: a correction of a correction": weakened(
        "check_ledger_net", "posting.corrects_id IS NOT NULL"
    ) + ";" + NO_NETS,
    "insert: a correction of no posting": ANY_POSTING,
    "insert: a correction of another tenant's posting": f"{ANY_POSTING}; {NO_AMOUNTS}",
    "insert: a correction of another allocation": ANY_POSTING,
    "insert: an unknown state": dropped(RUNS, "reconciliation_runs_state_check"),
    "insert: a dead event with PII": ANY_DETAIL,
    "insert: a copied row with PII": (
        f"{ANY_DEAD_PAYLOAD}; ALTER TABLE {DEAD} DISABLE ROW LEVEL SECURITY"
    ),
    "insert: a merged row for another tenant": ANY_TENANT.format(DEAD),
    "insert: a tenant": "GRANT INSERT ON tenants TO app_rw",
    "change: a dead event for another tenant": ANY_TENANT.format(DEAD),
    "change: a dead event to PII": ANY_DEAD_PAYLOAD,
    "change: another tenant's dead event that is inserted again": ANY_TENANT.format(DEAD),
    "change: an event": f"{UNGUARDED}; DROP TRIGGER trg_check_event_revenue ON {EVENTS}",
    "change: an event that is merged": UNGUARDED,
    "change: a part": NO_SUMS,
    "change: a posted amount": f"{NO_AMOUNTS}; {NO_SUMS}",
    "change: an allocation to another tenant's event": ANY_EVENT,
    "change: a channel to an unknown one": ANY_CODE,
    "change: a channel that its event has": (
        "DROP INDEX idx_attribution_allocations_tenant_event_model_channel"
    ),
    "remove: an event": UNGUARDED,
    "remove: a ledger row": f"{UNGUARDED}; {ANY_POSTING}; {NO_NETS}",
    "remove: a part": NO_SUMS,
    "remove: a posted allocation": NO_AMOUNTS,
    "remove: dead events, truncated": f"GRANT TRUNCATE ON {DEAD} TO app_rw",
    "remove: a tenant by an application role": (
        "GRANT SELECT, DELETE ON tenants TO app_rw;"
        "DROP TRIGGER trg_tenants_prevent_removal ON tenants"
    ),
    "repair: an event's payload to PII": ANY_PAYLOAD,
    "repair: an allocated revenue": "DROP TRIGGER trg_check_event_revenue ON attribution_events",
    "repair: a revenue to less than nothing": ANY_REVENUE,
    "repair: an event's key to another's": MANY_EVENTS,
    "repair: an event's only key": ANY_KEY,
    "repair: an event for another tenant": ANY_TENANT.format(EVENTS),
    "repair: a posted event away": f"{NO_AMOUNTS}; {ANY_POSTING}",
    "repair: a posting's amount": NO_AMOUNTS,
    "repair: a corrected posting away": f"{ANY_POSTING}; {NO_NETS}",
    "repair: a correction to below nothing": NO_NETS,
    "repair: a correction away that others need": NO_NETS,
    "repair: a corrected posting to a correction": weakened(
        "check_ledger_net", "posting.corrects_id IS NOT NULL"
    ) + ";" + NO_NETS,
    "maintain: a channel in use renamed": (
        f"{ANY_CODE}; ALTER TABLE {ALLOCATIONS} ADD FOREIGN KEY (channel_code)"
        f" REFERENCES {CODES} ON UPDATE CASCADE"
    ),
    "maintain: a channel by an application role": f"GRANT SELECT, UPDATE ON {CODES} TO app_rw",
    "read: the tenants": "GRANT SELECT ON tenants TO app_rw",
    "read: a materialized view": "GRANT SELECT ON mv_realtime_revenue TO app_rw",
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_ENFORCED)
def test_accepted_though_the_contract_refuses(head_lab: Lab, name: str) -> None:
    rule, operation = CASES[name]
    statement = operation.statements[-1]
    found = head_lab.findings("liveness", workload(*BEGINNING, operation), NOT_ENFORCED[name])
    assert {s: f.violation.operation for s, f in found.items()} == {
        f"{statement.kind}/{statement.relation}/{rule} not enforced": len(BEGINNING)
    }


# Cases that the contract permits, each with what refuses them, and what is told of it.
WRONGLY_REFUSED = {
    "insert: the biggest event": (
        f"ALTER TABLE {EVENTS} ADD CONSTRAINT modest CHECK (revenue_cents < 1000000)",
        "modest",
    ),
    "insert: an event with PII in a value": (
        f"ALTER TABLE {EVENTS} ADD CONSTRAINT strict CHECK (raw_payload::text !~ 'email')",
        "strict",
    ),
    "insert: another tenant's key": (
        f"CREATE UNIQUE INDEX one_order ON {EVENTS} (external_event_id)",
        "one_order",
    ),
    "insert: a correlation that another key has": (
        f"CREATE UNIQUE INDEX one_correlation ON {EVENTS} (tenant_id, correlation_id)",
        "one_correlation",
    ),
    "insert: a correction to nothing": (
        f"ALTER TABLE {LEDGER} ADD CONSTRAINT small CHECK (revenue_cents >= -50)",
        "small",
    ),
    "insert: corrections below nothing in between": (
        f"""
        DROP TRIGGER trg_check_ledger_net_of_correction ON {LEDGER};
        CREATE TRIGGER at_once AFTER INSERT ON {LEDGER} FOR EACH ROW
            WHEN (NEW.corrects_id IS NOT NULL) EXECUTE FUNCTION check_ledger_net();
        """,
        "check_ledger_net",
    ),
    "insert: a posting by the admin": (
        f"REVOKE INSERT ON {LEDGER} FROM app_admin",
        "privilege",
    ),
    "change: a posted allocation's model": (
        meddling(ALLOCATIONS, "UPDATE", "RAISE EXCEPTION 'posted';"),
        "meddle",
    ),
    "change: parts that balance": (
        f"DROP TRIGGER trg_check_allocation_sum ON {ALLOCATIONS};"
        f"CREATE TRIGGER at_once AFTER UPDATE ON {ALLOCATIONS} FOR EACH ROW"
        " EXECUTE FUNCTION check_allocation_sum()",
        "check_allocation_sum",
    ),
    "remove: a whole group, statement by statement": (
        f"DROP TRIGGER trg_check_allocation_sum ON {ALLOCATIONS};"
        f"CREATE TRIGGER at_once AFTER DELETE ON {ALLOCATIONS} FOR EACH ROW"
        " EXECUTE FUNCTION check_allocation_sum()",
        "check_allocation_sum",
    ),
    "remove: a tenant": (
        f"{dropped(DEAD, 'dead_events_tenant_id_fkey')};"
        f"ALTER TABLE {DEAD} ADD CONSTRAINT kept FOREIGN KEY (tenant_id) REFERENCES tenants",
        "kept",
    ),
    "repair: an event's payload": (
        f"REVOKE UPDATE ON {EVENTS} FROM migration_owner",
        "privilege",
    ),
    "repair: an event away, with its allocations": (
        weakened("fn_events_prevent_mutation", "current_user = ''migration_owner''"),
        "fn_events_prevent_mutation",
    ),
    "repair: a correction's amount": (
        weakened("fn_ledger_prevent_mutation", "current_user = ''migration_owner''"),
        "fn_ledger_prevent_mutation",
    ),
    "maintain: a channel retired": (
        meddling(CODES, "UPDATE", "RAISE EXCEPTION 'for ever';"),
        "meddle",
    ),
    "maintain: every view, concurrently": (
        "DROP INDEX idx_mv_realtime_revenue_tenant_id",
        "55000",
    ),
    "read: v_realtime_revenue by app_ro": (
        "REVOKE SELECT ON v_realtime_revenue FROM app_ro",
        "privilege",
    ),
    "read: rows by what repairs may read": (
        f"REVOKE SELECT ON {LEDGER} FROM migration_owner",
        "privilege",
    ),
}


@pytest.mark.parametrize("name", WRONGLY_REFUSED)
def test_refused_though_the_contract_permits(head_lab: Lab, name: str) -> None:
    operation = CASES[name][1]
    flaw, guard = WRONGLY_REFUSED[name]
    found = head_lab.findings("liveness", workload(*BEGINNING, operation), flaw)
    assert {s: f.violation.operation for s, f in found.items()} == {
        f"{s.kind}/{s.relation}/{guard}": len(BEGINNING)
        for s in operation.statements
        if s.kind != "refresh" or s.relation == MATERIALIZED[0]
    }


# Cases that are accepted and do something else, each with what does it, and to which table.
ANOTHER_EFFECT = {
    "insert: an event": (
        meddling(
            EVENTS,
            "INSERT",
            "IF NEW.external_event_id = 'order-9' THEN NEW.revenue_cents := 1; END IF; RETURN NEW;",
        ),
        EVENTS,
    ),
    "insert: an event again, kept out": (
        MANY_EVENTS,
        EVENTS,
    ),
    "insert: a correction of no cent": (
        meddling(
            LEDGER,
            "INSERT",
            "IF NEW.revenue_cents = 0 THEN NEW.revenue_cents := 1; END IF; RETURN NEW;",
        ),
        LEDGER,
    ),
    "insert: a dead event": (
        meddling(
            DEAD,
            "INSERT",
            "UPDATE dead_events SET source = 'x' WHERE id <> NEW.id AND tenant_id = NEW.tenant_id;"
            "RETURN NEW;",
        ),
        DEAD,
    ),
    "insert: an idle run": (
        meddling(RUNS, "INSERT", "DELETE FROM dead_events WHERE NEW.state = 'idle'; RETURN NEW;"),
        DEAD,
    ),
    "change: another tenant's dead event": (
        f"{ANY_TENANT.format(DEAD)}",
        DEAD,
    ),
    "change: a run's state": (
        meddling(RUNS, "UPDATE", "NEW.last_run_at := now(); NEW.state := 'idle'; RETURN NEW;"),
        RUNS,
    ),
    "change: without a tenant": (ANY_TENANT.format(DEAD), DEAD),
    "remove: all dead events": (ANY_TENANT.format(DEAD), DEAD),
    "remove: a run": (
        meddling(
            RUNS,
            "DELETE",
            "INSERT INTO reconciliation_runs SELECT (OLD).*; RETURN NULL;",
            "AFTER",
        ),
        RUNS,
    ),
    "remove: a tenant": (
        meddling("tenants", "DELETE", f"DELETE FROM {DEAD}; RETURN OLD;"),
        DEAD,
    ),
    "repair: an event's payload": (
        meddling(EVENTS, "UPDATE", "RETURN NULL;"),
        EVENTS,
    ),
    "repair: a posting's flag": (
        meddling(LEDGER, "UPDATE", "NEW.revenue_cents := OLD.revenue_cents; RETURN OLD;"),
        LEDGER,
    ),
    "repair: a correction away": (meddling(LEDGER, "DELETE", "RETURN NULL;"), LEDGER),
    "maintain: a channel away": (
        meddling(CODES, "DELETE", f"DELETE FROM {RUNS}; RETURN OLD;"),
        RUNS,
    ),
}


@pytest.mark.parametrize("name", ANOTHER_EFFECT)
def test_accepted_with_another_effect(head_lab: Lab, name: str) -> None:
    operation = CASES[name][1]
    flaw, table = ANOTHER_EFFECT[name]
    found = head_lab.findings("liveness", workload(*BEGINNING, operation), flaw)
    assert {s: f.violation.operation for s, f in found.items()} == {
        f"{operation.statements[-1].kind}/{table}/another effect": len(BEGINNING)
    }


def test_what_was_wrong_before_is_not_the_next_operations(head_lab: Lab) -> None:
    shown = workload(*BEGINNING, CASES["insert: two cents too much"][1], a(event(8)))
    found = head_lab.findings("liveness", shown, NO_SUMS)
    assert set(found) == {f"insert/{ALLOCATIONS}/sum not enforced"}


@pytest.mark.parametrize(
    ("kind", "scale", "stored", "sent", "differ"),
    [
        ("numeric", 5, 0.33333, "0.33333", False),
        ("numeric", 5, 0.3333, "0.33333", True),
        ("numeric", 4, 0.3334, "0.33335", False),
        ("numeric", 4, 0.3333, "0.33335", True),
        ("numeric", -1, 1, "2", False),
        ("numeric", 2, "NaN", "NaN", False),
        ("timestamp with time zone", 6, "2024-03-01T00:00:00+00:00", "2024-03-01", False),
        ("timestamp with time zone", 6, "2024-03-01T01:00:00+01:00", "2024-03-01 00:00+00", False),
        ("timestamp with time zone", 6, "2024-03-01T00:00:00+00:00", "2024-03-02", True),
        (
            "timestamp with time zone",
            6,
            "2024-03-01T00:00:00+00:00",
            "2024-03-01 00:00:00.5+00",
            True,
        ),
        ("timestamp with time zone", 6, "infinity", "infinity", False),
        ("timestamp with time zone", 6, "infinity", "2024-03-01", False),
        ("timestamp with time zone", 6, None, "2024-03-01", True),
        ("integer", -1, 1, 2, True),
        ("inet", -1, "192.0.2.1", "192.0.2.1/32", False),
    ],
)
def test_a_value_that_is_certainly_another(
    kind: str, scale: int, stored: object, sent: object, differ: bool
) -> None:
    column = Column("x", kind, not_null=False, has_default=False, scale=scale)
    assert values.differ(column, stored, sent) is differ
