"""No false alarm: what is found on a broken schema holds on the mended one, and no label, order or
spelling in a file makes a schema look violated that keeps its promises.

The same at length: `python -m tests.search.false_alarms`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from invariants.checks import INVARIANTS
from invariants.checks.messages import identical
from invariants.contract.contract import Contract
from invariants.contract.premises import GRANTED
from invariants.counterexamples.files import Kept, load
from invariants.errors import UsageError
from invariants.mutants import OPERATORS
from invariants.mutants.base import Mutant
from invariants.mutants.hunt import Hunt, hunt
from invariants.search.explorer import Search
from invariants.search.judge import Judge, by_signature, failing_with
from invariants.search.reduction import reduce
from invariants.search.run import replay
from invariants.servers.environment import Environment
from invariants.workload.operations import (
    Actor,
    Conflict,
    Delete,
    Insert,
    Json,
    Merge,
    Operation,
    Refresh,
    Select,
    Truncate,
    Update,
    Value,
    Workload,
    ident,
)
from tests.engine import (
    KEEP_FIRST,
    MATERIALIZED,
    A,
    B,
    Lab,
    allocation,
    altered,
    concurrent,
    correction,
    dead_event,
    event,
    event_id,
    key,
    maintenance,
    of,
    posting,
    reconciliation,
    refresh,
    repair,
    workload,
)
from tests.search.false_alarms import KEPT, found_on, mutants_of, perturbed

UNIQUE = (
    "idx_attribution_events_tenant_external_event_id",
    "idx_attribution_events_tenant_correlation_id",
    "idx_attribution_allocations_tenant_event_model_channel",
    "idx_revenue_ledger_tenant_allocation_id",
)
UNSUMMED = "DROP TRIGGER trg_check_allocation_sum ON attribution_allocations"
SWEEPS = Search(0, sys.maxsize, stages=("sweeps",))


def delivered(insert: Insert, tenant: str = A, number: int = 1) -> Operation:
    """A delivery, which leaves what is there."""
    return of(tenant, replace(insert, conflict=KEEP_FIRST), delivery=number)


def shouted(tenant: str) -> str:
    """The same uuid in another spelling."""
    return f"{{{tenant.upper()}}}"


def judged(judge: Judge, invariant: str, shown: Workload) -> list[str]:
    return list(by_signature(judge.violations(INVARIANTS[invariant], shown)[1]))


def one_message(judge: Judge, first: Operation, second: Operation) -> bool:
    """Whether both say the same, whatever they are called."""
    one, other = (replace(o, delivery=1) for o in (first, second))
    return identical(one, other, judge.contract, judge.catalog)


class TestDeliveries:
    @pytest.mark.parametrize("index", UNIQUE)
    def test_what_is_found_without_a_unique_index_holds_with_it(
        self, head: Environment, head_judge: Judge, contract: Contract, index: str
    ) -> None:
        with altered(head, f"DROP INDEX {index}") as broken:
            found = list(found_on(broken, contract, [INVARIANTS["idempotent-ingest"]], SWEEPS))
        assert found
        for one in found:
            assert judged(head_judge, one.invariant, one.workload) == []
            *_, first, second = one.workload.operations
            assert one_message(head_judge, first, second)

    def test_reduction_changes_all_deliveries_alike(self, head_lab: Lab) -> None:
        """A column of one of them would go: the channel has a default model to fall back on."""

        def sent(number: int) -> Operation:
            row = allocation(number, cents=12345, model_version="long", allocation_ratio="0.5")
            return delivered(row, number=7)

        shown = workload(of(A, event(1, cents=12345)), sent(1), sent(2), sent(3))
        invariant = INVARIANTS["idempotent-ingest"]
        with (
            altered(head_lab.environment, f"DROP INDEX {UNIQUE[2]}", UNSUMMED) as broken,
            Judge(broken, head_lab.contract) as judge,
        ):
            case, violations = judge.violations(invariant, shown)
            (violation,) = by_signature(violations).values()
            fails = failing_with(judge, invariant, case, violation)
            reduced = reduce(shown, lambda w: fails(w) is not None, judge.contract, judge.catalog)
            assert fails(reduced) is not None
            _, first, second = reduced.operations
            assert one_message(judge, first, second)
            (one,), (other,) = first.statements, second.statements
            assert isinstance(one, Insert)
            assert isinstance(other, Insert)
            assert one.rows != other.rows
            # Simpler than it was, in both.
            assert "allocation_ratio" not in one.columns
            assert "a" in one.rows[0]
        with Judge(head_lab.environment, head_lab.contract) as judge:
            assert judged(judge, invariant.name, reduced) == []

    @pytest.mark.parametrize(
        "again",
        [
            delivered(event(2, external_event_id="other")),
            delivered(event(2, external_event_id=None, correlation_id=event_id(1))),
            delivered(dead_event(1)),
            replace(delivered(event(2, external_event_id="x")), actor=Actor("app_ro", A)),
            of(A, event(2, external_event_id="x"), delivery=1),
            of(A, Select("attribution_events"), dead_event(1), delivery=1),
            of(A, Delete("attribution_events"), delivery=1),
            repair(Delete("attribution_events")),
            delivered(event(2, external_event_id="x", cents=-1)),
            replace(delivered(event(2, tenant=B, external_event_id="x")), actor=Actor("app_rw", A)),
        ],
        ids=range(10),
    )
    def test_a_number_does_not_make_two_messages_one(
        self, head_judge: Judge, again: Operation
    ) -> None:
        first = delivered(event(1, external_event_id="x"))
        again = replace(again, delivery=1)
        assert judged(head_judge, "idempotent-ingest", workload(first, again)) == []
        assert judged(head_judge, "idempotent-ingest", workload(first, again, first, again)) == []

    def test_rows_that_the_contract_does_not_recognise_may_come_again(
        self, head_judge: Judge
    ) -> None:
        """Dead events have no key, and corrections are told apart by their id."""
        shown = workload(
            *(delivered(dead_event(n)) for n in (1, 2)),
            of(A, event(1)),
            of(A, allocation(1)),
            of(A, posting(1)),
            *(delivered(correction(n, cents=-1), number=2) for n in (2, 3)),
        )
        assert judged(head_judge, "idempotent-ingest", shown) == []

    def test_what_the_first_delivery_did_not_make_may_have_gone(self, head_judge: Judge) -> None:
        one, two = event(1), event(2)
        both = replace(one, rows=one.rows + two.rows)
        shown = workload(
            of(A, one),
            delivered(both),
            repair(Delete("attribution_events", key("attribution_events", 1))),
            delivered(both),
        )
        assert judged(head_judge, "idempotent-ingest", shown) == []

    def test_a_key_that_is_spelled_otherwise_is_there(self, head_judge: Judge) -> None:
        named: dict[str, Value] = {"external_event_id": None, "correlation_id": event_id(9).upper()}
        shown = workload(*(delivered(event(n, A, 100, **named)) for n in (1, 2)))
        assert judged(head_judge, "idempotent-ingest", shown) == []

    @pytest.mark.parametrize("row_id", ["x", None, event_id(3)])
    def test_a_row_id_that_is_none_or_another_rows(
        self, head_judge: Judge, row_id: str | None
    ) -> None:
        insert = event(1, external_event_id="x")
        (row,) = insert.rows
        again = replace(insert, rows=((row_id, *row[1:]),))
        shown = workload(delivered(insert), of(A, event(3)), delivered(again))
        assert judged(head_judge, "idempotent-ingest", shown) == []

    def test_what_removes_its_row_again_has_not_lost_it(self, head_judge: Judge) -> None:
        (insert,) = delivered(allocation(1)).statements
        both = of(A, insert, Delete("attribution_allocations"), delivery=1)
        shown = workload(of(A, event(1)), both)
        assert judged(head_judge, "idempotent-ingest", shown) == []


LEDGER = (of(A, event(1)), of(A, allocation(1)), of(A, posting(1)))
VIEWS = ("v_realtime_revenue", "v_reconciliation_status")


@pytest.mark.parametrize(
    ("invariant", "shown"),
    [
        pytest.param(*case, id=name)
        for name, case in {
            "a tenant in another spelling reads": (
                "cross-tenant",
                workload(of(A, event(1)), of(shouted(A), Select("attribution_events"))),
            ),
            "a tenant in another spelling writes": (
                "cross-tenant",
                workload(of(shouted(A), event(1)), of(A.replace("-", ""), event(2))),
            ),
            "a tenant in another spelling is accepted": (
                "liveness",
                workload(of(shouted(A), event(1)), of(shouted(A), Select("attribution_events"))),
            ),
            "a tenant in another spelling sees its view": (
                "read-path",
                workload(*LEDGER, refresh(), *(of(shouted(A), Select(v)) for v in VIEWS)),
            ),
            "maintenance gives a tenant what was another's": (
                "cross-tenant",
                workload(
                    of(B, dead_event(1, B)),
                    maintenance(Update("dead_events", (("tenant_id", A),))),
                    of(A, Select("dead_events")),
                    of(B, Select("dead_events")),
                    of(A, Select("dead_events")),
                ),
            ),
            "a repair gives a row another key": (
                "append-only",
                workload(
                    of(A, event(1)),
                    repair(
                        Update(
                            "attribution_events",
                            (("id", event_id(7)),),
                            key("attribution_events", 1),
                        )
                    ),
                ),
            ),
            "a repair says what is there, in another spelling": (
                "append-only",
                workload(
                    of(A, event(1, correlation_id=event_id(9))),
                    repair(
                        Update("attribution_events", (("correlation_id", event_id(9).upper()),))
                    ),
                    repair(Update("attribution_events", (("revenue_cents", "100"),))),
                ),
            ),
            "a list is emptied with all that uses it": (
                "taxonomy",
                workload(*LEDGER[:2], maintenance(Truncate("channel_taxonomy", cascade=True))),
            ),
            "a refresh by who may not": (
                "read-path",
                workload(of(A, Refresh("mv_realtime_revenue"))),
            ),
            "a refresh with something else that fails": (
                "read-path",
                workload(
                    maintenance(Refresh("mv_realtime_revenue"), Insert("tenants", ("id",), ((A,),)))
                ),
            ),
            "a refresh in the middle of something else": (
                "read-path",
                workload(
                    *LEDGER,
                    maintenance(reconciliation(1), *(Refresh(v) for v in MATERIALIZED)),
                    *(of(A, Select(v)) for v in VIEWS),
                ),
            ),
            "some columns of a view": (
                "read-path",
                workload(*LEDGER, refresh(), of(A, Select(VIEWS[0], columns=("verified",)))),
            ),
            "a time beyond what Python knows": (
                "read-path",
                workload(
                    of(A, reconciliation(1, last_run_at="20000-01-01 00:00:00+00")),
                    of(A, reconciliation(2, last_run_at="2024-01-01 00:00:00+00")),
                    of(A, reconciliation(3, last_run_at="0044-03-15 00:00:00+00 BC")),
                    refresh(),
                    of(A, Select(VIEWS[1])),
                ),
            ),
            "a condition in another spelling": (
                "liveness",
                workload(
                    of(A, dead_event(1)),
                    of(A, Select("dead_events", (("id", ident("dead_events", 1).upper()),))),
                    of(A, Update("dead_events", (("source", "b"),), (("source", 1),))),
                    of(A, Delete("dead_events", (("id", ident("dead_events", 1).upper()),))),
                ),
            ),
            "an erasure that names no uuid": (
                "liveness",
                workload(of(None, Delete("tenants", (("id", "x"),)), role="migration_owner")),
            ),
            "a time and a document that are none": (
                "liveness",
                workload(
                    of(A, event(1, session_id=None, raw_payload=Json.of({"a": "\0"}))),
                    of(A, reconciliation(1, last_run_at="2024-02-30 00:00:00+00")),
                ),
            ),
            "an upsert of columns it does not say": (
                "liveness",
                workload(
                    of(A, reconciliation(1, state="running")),
                    of(
                        A,
                        replace(
                            reconciliation(1),
                            conflict=Conflict(("id",), "", ("state", "error_message")),
                        ),
                    ),
                    of(
                        A,
                        Merge(
                            "reconciliation_runs",
                            ("id", "tenant_id"),
                            (ident("reconciliation_runs", 1), A),
                            ("id",),
                            ("state",),
                        ),
                    ),
                ),
            ),
        }.items()
    ],
)
def test_it_holds_at_head(head_judge: Judge, invariant: str, shown: Workload) -> None:
    assert judged(head_judge, invariant, shown) == []


@pytest.mark.parametrize(
    ("invariant", "shown", "reason"),
    [
        (
            "liveness",
            workload(of(A, event(1)), premise=GRANTED),
            "liveness is not judged on the altered schema 'privileges-granted'",
        ),
        (
            "read-path",
            concurrent(workload(), event(1), event(2)),
            "read-path is not judged of sessions that go on side by side",
        ),
        ("pii", workload(), "pii is not judged of a workload without operations"),
    ],
)
def test_what_an_invariant_does_not_judge_is_no_input_for_it(
    head: Environment, contract: Contract, invariant: str, shown: Workload, reason: str
) -> None:
    kept = Kept(Path("x.json"), invariant, "", shown)
    with pytest.raises(UsageError, match=f"^x.json: {reason}; "):
        list(replay([kept], head, contract))


def test_what_is_said_of_the_schema_as_migrated_is_kept_and_replayed(
    head: Environment, contract: Contract, tmp_path: Path
) -> None:
    """A code that ingestion maps to is missing: that takes no operation."""
    search = replace(SWEEPS, examples=1, artifacts=tmp_path)
    with altered(head, "DELETE FROM channel_taxonomy WHERE code = 'direct'") as broken:
        assert list(found_on(broken, contract, [INVARIANTS["taxonomy"]], search))
        (path,) = tmp_path.glob("taxonomy-*.json")
        kept = load(path)
        assert kept.workload.all_operations == ()
        assert [r.fails for r in replay([kept], broken, contract)] == [True]
    assert [r.fails for r in replay([kept], head, contract)] == [False]


@pytest.fixture(scope="module")
def one_of_each(head: Environment, contract: Contract) -> dict[str, Mutant]:
    """A mutant of each operator that has one here."""
    return {m.operator: m for m in mutants_of(head, contract, each=1)}


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_found_on_a_mutant_holds_without_it(
    head: Environment,
    head_judge: Judge,
    contract: Contract,
    one_of_each: dict[str, Mutant],
    operator: str,
    tmp_path: Path,
) -> None:
    if operator not in one_of_each:
        pytest.skip("the schema has nothing for it")
    plan = Hunt(tuple(INVARIANTS), seed=0, seconds=5, artifacts=tmp_path, sessions=0)
    outcome = hunt(head, contract, one_of_each[operator], plan)
    # Whether every mutant is noticed is for the mutation tests to say.
    if outcome.kill and outcome.kill.saved:
        kept = load(outcome.kill.saved.json)
        assert judged(head_judge, kept.invariant, kept.workload) == []


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_what_another_hand_left_of_a_counterexample_holds_at_head(
    head_judge: Judge, path: Path
) -> None:
    for changed, found in perturbed(head_judge, load(path).workload, count=5, seed=1):
        assert found == [], changed
