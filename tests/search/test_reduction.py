"""What the reducer leaves is 1-minimal: nothing can go, and nothing can go even the next time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from invariants import generation
from invariants.checks import INVARIANTS, Invariant, Violation
from invariants.contract.contract import Contract
from invariants.search.judge import Fails, Judge, by_signature, failing_with
from invariants.search.reduction import reduce
from invariants.workload.operations import (
    Copy,
    Delete,
    Insert,
    Json,
    Operation,
    Select,
    Statement,
    Update,
    Value,
    Workload,
    inserted,
)
from tests.engine import (
    A,
    B,
    Lab,
    allocation,
    altered,
    correction,
    dead_event,
    drawn,
    event,
    maintenance,
    of,
    posting,
    workload,
)

# The documented schema keeps its taxonomy.
VIOLATED = ("cross-tenant", "append-only", "allocation-sum", "idempotent-ingest", "liveness")
CAUSES = 2


@cache
def _failing(judge: Judge, name: str) -> list[tuple[Workload, Violation]]:
    """Generated workloads that violate the invariant, one for each of the first causes found."""
    invariant = INVARIANTS[name]
    found: dict[str, tuple[Workload, Violation]] = {}
    generated = generation.workloads(judge.contract, judge.catalog, invariant)
    for number in range(4):
        for one in drawn(generated, 40, number):
            for signature, violation in by_signature(judge.violations(invariant, one)[1]).items():
                found.setdefault(signature, (one, violation))
            if len(found) >= CAUSES:
                return list(found.values())
    return list(found.values())


def without_one(shown: Workload) -> Iterator[Workload]:
    """The workload without each of its operations, statements, rows and tenants in turn."""
    for i, operation in enumerate(shown.operations):

        def put(*instead: Operation, i: int = i) -> Workload:
            operations = shown.operations
            return replace(shown, operations=(*operations[:i], *instead, *operations[i + 1 :]))

        yield put()
        statements = operation.statements
        for j, statement in enumerate(statements):
            if len(statements) > 1:
                yield put(replace(operation, statements=statements[:j] + statements[j + 1 :]))
            for smaller in without_one_row(statement):
                rest = (*statements[:j], smaller, *statements[j + 1 :])
                yield put(replace(operation, statements=rest))
    for i in range(len(shown.tenants)):
        yield replace(shown, tenants=shown.tenants[:i] + shown.tenants[i + 1 :])


def without_one_row(statement: Statement) -> Iterator[Statement]:
    if isinstance(statement, Insert | Copy) and len(statement.rows) > 1:
        for i in range(len(statement.rows)):
            yield replace(statement, rows=statement.rows[:i] + statement.rows[i + 1 :])


@pytest.mark.parametrize("name", VIOLATED)
def test_nothing_can_be_left_out(judge: Judge, name: str) -> None:
    failing = _failing(judge, name)
    assert failing
    for one, violation in failing:
        fails = _failing_like(judge, INVARIANTS[name], one, violation)
        reduced = _reduced(judge, one, fails)
        assert fails(reduced) is not None
        assert len(reduced.operations) <= 4
        for smaller in without_one(reduced):
            assert fails(smaller) is None, (violation.signature, smaller)


@pytest.mark.parametrize("name", VIOLATED)
def test_reducing_is_deterministic_and_idempotent(judge: Judge, name: str) -> None:
    one, violation = _failing(judge, name)[0]

    def reduced(failing: Workload) -> Workload:
        fails = _failing_like(judge, INVARIANTS[name], failing, violation)
        return _reduced(judge, failing, fails)

    smallest = reduced(one)
    assert reduced(one) == smallest
    assert reduced(smallest) == smallest


def _failing_like(judge: Judge, invariant: Invariant, one: Workload, violation: Violation) -> Fails:
    return failing_with(judge, invariant, judge.case(invariant, one), violation)


def _reduced(judge: Judge, failing: Workload, fails: Fails) -> Workload:
    return reduce(failing, lambda w: fails(w) is not None, judge.contract, judge.catalog)


def test_a_long_story_becomes_a_short_one(lab: Lab, contract: Contract) -> None:
    """What matters is kept, and told as plainly as it can be."""
    flaw = "ALTER TABLE dead_events DISABLE ROW LEVEL SECURITY"
    noise = [
        of(A, event(7, cents=12345), event(8, external_event_id=None, correlation_id=None)),
        of(A, allocation(3, of_event=7, cents=12345)),
        of(A, posting(2, of_allocation=3, cents=12345)),
        maintenance(Update("channel_taxonomy", (("is_active", False),), (("code", "email"),))),
    ]
    both = dead_event(5, B)
    long = workload(
        *noise,
        of(B, replace(both, rows=both.rows + dead_event(6, B).rows), event(9, B)),
        *noise,
        of(A, Select("attribution_events"), Select("dead_events"), Delete("dead_events")),
        of(A, Select("dead_events", (("source", "shopify"),)), role="app_ro"),
    )
    invariant = INVARIANTS["cross-tenant"]
    signature = "cross-tenant/select/dead_events/row security disabled"
    with altered(lab.environment, flaw) as environment, Judge(environment, contract) as judge:
        violation = by_signature(judge.violations(invariant, long)[1])[signature]
        reduced = _reduced(judge, long, _failing_like(judge, invariant, long, violation))
    made, read = reduced.operations
    assert made.actor.role == read.actor.role == "app_rw"
    (insert,) = made.statements
    assert isinstance(insert, Insert)
    assert insert.relation == "dead_events"
    assert len(insert.rows) == 1
    # Only what the table demands.
    assert set(insert.columns) == {
        "id", "tenant_id", "source", "error_code", "error_detail", "raw_payload"
    }  # fmt: skip
    assert read.statements == (Select("dead_events"),)
    # Whoever has no tenant sees the row as well, which takes one tenant less.
    assert len(reduced.tenants) == 1
    assert read.actor.tenant is None


@pytest.mark.parametrize(
    ("document", "wanted", "left"),
    [
        ({"id": 7, "to": {"email": "x", "zip": [1]}, "z": [{"a": None}]}, "email", {"email": 1}),
        ([{"id": 1}, {"items": [[{"ip": {"v": 4}, "b": 2}], "c"]}], "ip", {"ip": {}}),
        ({"items": [{"a": 1}, {"a": 2}, {"b": "far"}]}, "far", {"b": "far"}),
        ({"a": {"b": [1, 2]}}, "", {}),
    ],
)
def test_of_a_document_only_what_matters_is_left(
    judge: Judge, document: object, wanted: str, left: object
) -> None:
    def fails(shown: Workload) -> bool:
        return any(wanted in d.text for d in _documents(shown))

    made = event(1, raw_payload=Json.of(document))
    assert fails(workload(of(A, made)))
    reduced = reduce(workload(of(A, made)), fails, judge.contract, judge.catalog)
    assert [d.document for d in _documents(reduced)] == [left]


def _documents(shown: Workload) -> list[Json]:
    return [value for value in _values(shown) if isinstance(value, Json)]


def _values(shown: Workload) -> Iterator[Value]:
    """Every value that is inserted."""
    for operation in shown.operations:
        for statement in operation.statements:
            for row in inserted(statement):
                yield from row.values()


@pytest.mark.parametrize(
    ("least", "left"), [(-1, -1), (-2, -2), (-4, -10), (-5000, -12345), (0, 0)]
)
def test_a_negative_number_comes_closer_to_nothing(
    head_judge: Judge, least: int, left: int
) -> None:
    def cents(shown: Workload) -> list[int]:
        return [value for value in _values(shown) if isinstance(value, int)]

    shown = workload(of(A, correction(1, cents=-12345)))
    reduced = reduce(
        shown,
        lambda w: any(c <= least for c in cents(w)),
        head_judge.contract,
        head_judge.catalog,
    )
    assert cents(reduced) == [left]


def test_a_ledger_that_is_below_nothing_becomes_the_smallest(head_lab: Lab) -> None:
    flaw = "DROP TRIGGER trg_check_ledger_net_of_correction ON revenue_ledger"
    long = workload(
        of(A, event(1, cents=12345, raw_payload=Json.of({"id": 7, "product_name": ["x"]}))),
        of(A, allocation(1, cents=12345)),
        of(A, posting(1, cents=12345), correction(2, cents=-345)),
        of(A, correction(3, cents=-6000), correction(4, cents=-12001), role="app_admin"),
    )
    reduced = _reduced_on(head_lab, flaw, "ledger", "insert/revenue_ledger/net below zero", long)
    rows = [(s.relation, r) for o in reduced.operations for s in o.statements for r in inserted(s)]
    assert [relation for relation, _ in rows] == [
        "attribution_events", "attribution_allocations", "revenue_ledger", "revenue_ledger"
    ]  # fmt: skip
    # What is nothing by default is not told.
    assert [r.get("revenue_cents") for _, r in rows] == [None, None, None, -1]
    assert rows[0][1]["raw_payload"] == Json("{}")


def test_a_stored_document_becomes_the_one_key(head_lab: Lab) -> None:
    flaw = "ALTER TABLE dead_events DROP CONSTRAINT ck_dead_events_error_detail_names_no_pii"
    detail = {"errors": [{"field": "x", "shipping-address": {"zip": 1}}], "emailed_at": None}
    shown = workload(
        of(A, event(1), dead_event(1)),
        of(A, dead_event(2, error_detail=Json.of(detail), raw_payload=Json.of({"a": [1]}))),
    )
    signature = "insert/dead_events/error_detail"
    reduced = _reduced_on(head_lab, flaw, "pii", signature, shown)
    (insert,) = reduced.operations[0].statements
    assert isinstance(insert, Insert)
    row = dict(zip(insert.columns, insert.rows[0], strict=True))
    assert row["error_detail"] == Json.of({"shipping-address": {}})
    assert len(reduced.operations) == len(insert.rows) == 1


def test_what_leads_up_to_it_stays_lawful(lab: Lab) -> None:
    """The documented schema would accept less: no key, and postings of nothing."""
    shown = workload(
        of(A, event(1, cents=12345)),
        of(A, allocation(1, cents=12345)),
        of(A, posting(1, cents=12345), dead_event(1)),
        of(A, allocation(2, of_event=1, cents=12345, model_version="b")),
        of(A, posting(2, of_allocation=2, cents=12345)),
        maintenance(Update("channel_taxonomy", (("is_active", False),), (("code", "email"),))),
        of(A, Update("attribution_allocations", (("allocated_revenue_cents", 12344),))),
    )
    name, signature = "ledger", "update/attribution_allocations/revenue_cents posted"
    reduced = _reduced_on(lab, "SELECT", name, signature, shown)
    made, split, post, changed = reduced.operations
    assert {"external_event_id", "correlation_id"} & set(_row(made))
    assert _row(split).get("allocated_revenue_cents", 0) == _row(post).get("revenue_cents", 0)
    (update,) = changed.statements
    assert isinstance(update, Update)


def test_a_key_that_matters_in_itself_may_be_missing(lab: Lab) -> None:
    keyless = event(1, external_event_id=None, correlation_id=None)
    shown = workload(
        of(A, keyless, delivery=1),
        of(A, replace(keyless, rows=event(2, external_event_id=None, correlation_id=None).rows),
           delivery=1),
    )  # fmt: skip
    signature = "insert/attribution_events/no key"
    reduced = _reduced_on(lab, "SELECT", "idempotent-ingest", signature, shown)
    assert len(reduced.operations) == 2
    assert not {"external_event_id", "correlation_id"} & set(_row(reduced.operations[0]))


def _row(operation: Operation) -> dict[str, Value]:
    (insert,) = operation.statements
    (row,) = inserted(insert)
    return row


def _reduced_on(lab: Lab, flaw: str, name: str, signature: str, shown: Workload) -> Workload:
    """The smallest that shows the same on the broken schema."""
    with altered(lab.environment, flaw) as environment, Judge(environment, lab.contract) as judge:
        found = by_signature(judge.violations(INVARIANTS[name], shown)[1])
        fails = _failing_like(judge, INVARIANTS[name], shown, found[f"{name}/{signature}"])
        return _reduced(judge, shown, fails)
