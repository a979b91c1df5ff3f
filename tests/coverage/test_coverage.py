"""Coverage: which guards a workload meets, and searches that had nothing to look at."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import pytest

from invariants.checks import INVARIANTS, Case, Invariant
from invariants.checks.idempotent_ingest import IdempotentIngest
from invariants.contract.contract import Contract
from invariants.contract.premises import GRANTED, UNTRIGGERED
from invariants.coverage.guards import Guard
from invariants.coverage.met import Coverage, Met
from invariants.coverage.recorder import Recorder
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE
from invariants.front import cli
from invariants.reports.json_report import report_to_json
from invariants.reports.terminal import Terminal
from invariants.search.events import InvariantFinished
from invariants.search.explorer import Explorer, Search
from invariants.search.judge import Judge
from invariants.search.run import Report
from invariants.servers.base import ServerInfo
from invariants.servers.environment import Environment
from invariants.workload.operations import (
    Become,
    Call,
    Delete,
    Insert,
    Json,
    Operation,
    Select,
    Set,
    Truncate,
    Update,
    Workload,
)
from tests.conftest import ROOT
from tests.engine import (
    KEEP_FIRST,
    UNKNOWN,
    A,
    B,
    allocation,
    altered,
    correction,
    dead_event,
    erasure,
    event,
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
POLICY = "tenant_isolation_policy"
UNSOURCED = row("dead_events", 1, A, error_code="x", source=None)
PAID = of(A, event(1)), of(A, allocation(1)), of(A, posting(1))


def covered(judge: Judge, *operations: Operation, premise: str = "") -> Coverage:
    """What a handwritten workload meets."""
    recorder = Recorder(judge.contract, judge.catalog)
    executor = judge.executor(premise)
    history = executor.run(workload(*operations, premise=premise))
    recorder.observe(Case(judge.contract, executor.catalog, history))
    return recorder.coverage


def met(judge: Judge, guard: Guard, *operations: Operation, premise: str = "") -> Met:
    """How the workload meets one guard, which the catalog or the contract has."""
    return covered(judge, *operations, premise=premise).guards[guard]


# A guard, what it lets pass, what it refuses, and what does not reach it.
CASES = [
    pytest.param(
        Guard("check", EVENTS, "ck_attribution_events_has_key"),
        [of(A, event(1))],
        [of(A, event(1, external_event_id=None))],
        [of(A, dead_event(1))],
        id="check",
    ),
    pytest.param(
        Guard("foreign key", ALLOCATIONS, "fk_attribution_allocations_tenant_event_id"),
        [of(A, event(1)), of(A, allocation(1))],
        [of(A, allocation(1))],
        [of(A, event(1))],
        id="foreign key",
    ),
    pytest.param(
        # Of a posting that corrects none there is nothing to look up.
        Guard("foreign key", LEDGER, "fk_revenue_ledger_corrected_posting"),
        [*PAID, of(A, correction(2, cents=-1))],
        [of(A, event(1)), of(A, allocation(1)), of(A, correction(2, cents=-1))],
        PAID,
        id="foreign key with an empty column",
    ),
    pytest.param(
        Guard("unique", EVENTS, "idx_attribution_events_tenant_external_event_id"),
        [of(A, event(1))],
        [of(A, event(1)), of(A, event(2, external_event_id="order-1"))],
        [of(A, event(1, external_event_id=None, correlation_id=UNKNOWN))],
        id="unique and partial",
    ),
    pytest.param(
        Guard("unique", "dead_events", "dead_events_pkey"),
        [of(A, dead_event(1))],
        [of(A, dead_event(1)), of(A, dead_event(1))],
        [of(A, event(1))],
        id="primary key",
    ),
    pytest.param(
        Guard("not null", "dead_events", "source"),
        [of(A, dead_event(1))],
        [of(A, UNSOURCED)],
        [of(A, event(1))],
        id="not null",
    ),
    pytest.param(
        Guard("policy", EVENTS, POLICY),
        [of(A, event(1))],
        [of(A, event(1, B))],
        [of(A, dead_event(1))],
        id="policy for a new row",
    ),
    pytest.param(
        Guard("trigger", EVENTS, "trg_events_prevent_mutation"),
        [of(A, event(1)), repair(Update(EVENTS, (("revenue_cents", 5),), key(EVENTS, 1)))],
        None,
        [of(A, event(1))],
        id="trigger",
    ),
    pytest.param(
        Guard("trigger", ALLOCATIONS, "trg_check_allocation_sum"),
        [of(A, event(1)), of(A, allocation(1))],
        [of(A, event(1)), of(A, allocation(1, cents=7))],
        [of(A, event(1))],
        id="deferred trigger",
    ),
    pytest.param(
        Guard("privilege", EVENTS, "app_rw insert"),
        [of(A, event(1))],
        None,
        [of(A, event(1, external_event_id=None)), of(A, Select(EVENTS))],
        id="privilege",
    ),
    pytest.param(
        Guard("privilege", "tenants", "migration_owner delete"),
        [erasure()],
        None,
        [erasure(role="app_rw")],
        id="privilege of erasure",
    ),
    pytest.param(
        Guard("no privilege", EVENTS, "app_rw"),
        None,
        [of(A, event(1)), of(A, Delete(EVENTS))],
        [of(A, event(1)), of(A, Delete(EVENTS), role="app_ro")],
        id="no privilege",
    ),
    pytest.param(
        Guard("no privilege", "mv_realtime_revenue", "app_ro"),
        None,
        [of(A, Select("mv_realtime_revenue"), role="app_ro")],
        [of(A, Select("v_realtime_revenue"), role="app_ro")],
        id="no privilege on a view",
    ),
]


@pytest.mark.parametrize(("guard", "passing", "refused", "unmet"), CASES)
def test_a_guard_is_met_by_what_it_lets_pass_and_by_what_it_refuses(
    head_judge: Judge,
    guard: Guard,
    passing: list[Operation] | None,
    refused: list[Operation] | None,
    unmet: list[Operation],
) -> None:
    if passing is not None:
        assert met(head_judge, guard, *passing) == Met(0, 1)
    if refused is not None:
        assert met(head_judge, guard, *refused).refused == 1
    assert met(head_judge, guard, *unmet) == Met()


@pytest.mark.parametrize(
    "statement",
    [
        Select(EVENTS),
        Select(EVENTS, key(EVENTS, 2)),
        Select(EVENTS, (("tenant_id", B),)),
    ],
)
def test_a_policy_refuses_by_leaving_out(head_judge: Judge, statement: Select) -> None:
    guard = Guard("policy", EVENTS, POLICY)
    others = met(head_judge, guard, of(B, event(2, B)))
    assert met(head_judge, guard, of(B, event(2, B)), of(A, statement)) == others + Met(1, 0)
    # Nothing is left out where nothing of another tenant is there.
    alone = of(B, statement)
    assert met(head_judge, guard, of(B, event(2, B)), alone).refused == 0


def test_a_policy_refuses_by_changing_only_the_own(head_judge: Judge) -> None:
    guard = Guard("policy", "dead_events", POLICY)
    rows = of(A, dead_event(1)), of(B, dead_event(2, B))
    changed = of(A, Update("dead_events", (("source", "x"),)))
    removed = of(A, Delete("dead_events"))
    assert met(head_judge, guard, *rows, changed, removed) == Met(2, 4)


def test_a_policy_that_is_not_there_hides_nothing(head: Environment, contract: Contract) -> None:
    change = "ALTER TABLE dead_events DISABLE ROW LEVEL SECURITY"
    rows = of(A, dead_event(1)), of(B, dead_event(2, B)), of(A, Select("dead_events"))
    with altered(head, change) as environment, Judge(environment, contract) as judge:
        assert Guard("policy", "dead_events", POLICY) not in covered(judge, *rows).guards


def test_of_several_policies_the_one_for_the_verb_is_met(
    head: Environment, contract: Contract
) -> None:
    own = "tenant_id::text = current_setting('app.current_tenant_id', true)"
    changes = (
        f"DROP POLICY {POLICY} ON dead_events",
        f"CREATE POLICY reading ON dead_events FOR SELECT USING ({own})",
        f"CREATE POLICY adding ON dead_events FOR INSERT WITH CHECK ({own})",
        "CREATE POLICY removing ON dead_events FOR DELETE USING (false)",
        "CREATE POLICY never ON dead_events FOR DELETE USING (false)",
    )
    operations = (
        of(A, dead_event(1)),
        of(A, dead_event(2, B)),
        of(B, Select("dead_events")),
        of(A, Delete("dead_events")),
    )
    with altered(head, *changes) as environment, Judge(environment, contract) as judge:
        found = covered(judge, *operations).guards
    counted = {g.name: m for g, m in found.items() if (g.kind, g.relation) == _DEAD_POLICY}
    assert counted == {
        "adding": Met(1, 1),
        "reading": Met(1, 0),
        "removing": Met(),
        "never": Met(),
    }


_DEAD_POLICY = ("policy", "dead_events")


def test_an_exclusion_constraint_is_met(head: Environment, contract: Contract) -> None:
    change = "ALTER TABLE dead_events ADD CONSTRAINT apart EXCLUDE (source WITH =)"
    guard = Guard("exclusion", "dead_events", "apart")
    with altered(head, change) as environment, Judge(environment, contract) as judge:
        assert met(judge, guard, of(A, event(1))) == Met()
        assert met(judge, guard, of(A, dead_event(1)), of(B, dead_event(2, B))) == Met(1, 1)


def test_a_trigger_refuses_where_privileges_do_not(head_judge: Judge) -> None:
    mutation = Guard("trigger", EVENTS, "trg_events_prevent_mutation")
    tampering = of(A, event(1)), of(A, Delete(EVENTS))
    assert met(head_judge, mutation, *tampering) == Met()
    assert met(head_judge, mutation, *tampering, premise=GRANTED) == Met(1, 0)


@pytest.mark.parametrize("table", [EVENTS, "tenants"])
def test_truncate_is_refused_by_the_table_it_names(head_judge: Judge, table: str) -> None:
    found = covered(head_judge, of(A, event(1)), of(A, Truncate(table, True)), premise=GRANTED)
    refusing = [g for g, m in found.guards.items() if m.refused]
    assert [(g.relation, "truncate" in g.name) for g in refusing] == [(table, True)]


def test_a_disabled_trigger_is_not_met(head_judge: Judge) -> None:
    guard = Guard("trigger", EVENTS, "trg_events_prevent_mutation")
    mending = repair(Update(EVENTS, (("revenue_cents", 5),), key(EVENTS, 1)))
    assert met(head_judge, guard, of(A, event(1)), mending, premise=UNTRIGGERED) == Met()


def test_a_trigger_with_a_condition_is_met_by_refusing_alone(head_judge: Judge) -> None:
    guard = Guard("trigger", LEDGER, "trg_check_ledger_net_of_correction")
    assert met(head_judge, guard, *PAID, of(A, correction(2, cents=-1))) == Met()
    assert met(head_judge, guard, *PAID, of(A, correction(2, cents=-101))) == Met(1, 0)


def test_privileges_that_a_premise_grants_are_not_counted(head_judge: Judge) -> None:
    found = covered(head_judge, *PAID, of(A, Delete("tenants"), role="app_ro"), premise=GRANTED)
    privileges = {g: m for g, m in found.guards.items() if "privilege" in g.kind}
    assert set(privileges.values()) == {Met()}


def test_a_message_that_is_kept_back_in_silence_meets_no_more(head_judge: Judge) -> None:
    again = replace(event(1), conflict=KEEP_FIRST)
    assert isinstance(again, Insert)
    first = covered(head_judge, of(A, again))
    both = covered(head_judge, of(A, again), of(A, again))
    unique = [g for g in first.guards if g.kind == "unique"]
    assert {g: first.guards[g] for g in unique} == {g: both.guards[g] for g in unique}


def test_what_was_never_done_is_told(head_judge: Judge) -> None:
    found = covered(head_judge, *PAID, of(A, UNSOURCED))
    assert found.kinds_never_accepted == ("select", "update", "delete", "merge", "refresh")
    assert found.roles_never_acting == ("app_ro", "app_admin", "migration_owner")
    assert found.tables_never_written == ("dead_events", "reconciliation_runs", "channel_taxonomy")
    assert not found.complete
    assert {
        "policy dead_events.tenant_isolation_policy was never met",
        "privilege app_ro select on revenue_ledger was never met",
        "no select was ever accepted",
        "role app_ro never acted",
        "no row ever came into dead_events",
    } <= set(found.gaps)
    assert Guard("not null", "dead_events", "source") in found.never_passed
    assert Guard("not null", EVENTS, "tenant_id") in found.never_refused
    first, *others = found.lines
    assert first.startswith(f"guards: {len(found.guards) - len(found.never_met)} of ")
    assert "; never met: check " in first
    assert first.endswith(" more")
    assert others == [
        "statements never accepted: select, update, delete, merge, refresh",
        "roles that never acted: app_ro, app_admin, migration_owner",
        "tables never written: dead_events, reconciliation_runs, channel_taxonomy",
    ]


def test_copy_is_expected_where_row_security_does_not_forbid_it(
    head: Environment, contract: Contract
) -> None:
    change = "ALTER TABLE dead_events DISABLE ROW LEVEL SECURITY"
    with altered(head, change) as environment, Judge(environment, contract) as judge:
        assert "copy" in covered(judge).kinds_never_accepted
        assert "truncate" not in covered(judge).kinds


def test_parts_are_merged(head_judge: Judge) -> None:
    one = covered(head_judge, *PAID)
    other = covered(head_judge, of(B, dead_event(1, B)), of(B, Select(EVENTS), role="app_ro"))
    both = Coverage.merged([one, other])
    assert both.guards == {g: one.guards[g] + other.guards[g] for g in one.guards}
    assert (both.roles["app_rw"], both.roles["app_ro"]) == (4, 1)
    assert both.tables[EVENTS] == 1
    assert "dead_events" not in both.tables_never_written
    # As it comes from another process.
    sent = json.loads(json.dumps(one.to_json()))
    assert Coverage.from_json(sent) == one


def test_nothing_recorded_is_not_complete() -> None:
    nothing = Coverage.merged([])
    assert not nothing.complete
    assert nothing.gaps == ("nothing was recorded: no search went far enough",)
    assert nothing.lines == ()


def test_everything_met_is_complete() -> None:
    guard = Guard("check", "t", "c")
    full = Coverage({guard: Met(1, 0)}, {"insert": 1}, {"r": 1}, {"t": 1})
    assert full.complete
    assert full.lines == ("guards: 1 of 1 met",)
    assert (full.never_passed, full.never_refused) == ((guard,), ())


def report_of(*finished: InvariantFinished) -> Report:
    return Report(ServerInfo("embedded", "18.4", "as asked for"), "r1", 1, "dev", 1.0, finished)


def finished_with(coverage: Coverage, name: str = "ledger") -> InvariantFinished:
    return InvariantFinished(name, "held", 1, 1, 1.0, (), examined=3, coverage=coverage)


def test_the_report_has_the_coverage_of_all_searches(head_judge: Judge) -> None:
    one = covered(head_judge, *PAID)
    other = covered(head_judge, of(A, dead_event(1)))
    report = report_of(finished_with(one), finished_with(other, "pii"))
    assert report.coverage == one + other
    document = json.loads(json.dumps(report_to_json(report)))
    told = document["coverage"]
    assert {
        "kind": "trigger",
        "relation": ALLOCATIONS,
        "name": "trg_check_allocation_sum",
        "refused": 0,
        "passed": 1,
    } in told["guards"]
    assert "trigger tenants.trg_tenants_prevent_removal" in told["never_met"]
    assert told["kinds_never_accepted"] == ["select", "update", "delete", "merge", "refresh"]
    assert told["roles_never_acting"] == ["app_ro", "app_admin", "migration_owner"]
    assert told["tables_never_written"] == ["reconciliation_runs", "channel_taxonomy"]
    assert [i["examined"] for i in document["invariants"]] == [3, 3]


def test_the_terminal_tells_it_after_the_verdict(head_judge: Judge) -> None:
    report = report_of(finished_with(covered(head_judge, *PAID)))
    terminal = Terminal()
    terminal.out.file = io.StringIO()
    terminal.verdict(report)
    lines = terminal.out.file.getvalue().splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("all 1 invariants held"))
    assert tuple(lines[place + 1 :]) == report.coverage.lines
    assert len(report.coverage.lines) == 4


# For each invariant the least in which its check has something to look at.
TELLING = {
    "cross-tenant": (of(B, event(1, B)), of(A, Select(EVENTS))),
    "append-only": (of(A, event(1)), of(A, Delete(EVENTS))),
    "allocation-sum": (of(A, event(1)), of(A, allocation(1))),
    "idempotent-ingest": tuple(
        of(A, replace(event(1), conflict=KEEP_FIRST), delivery=1) for _ in "12"
    ),
    "taxonomy": (of(A, event(1)), of(A, allocation(1))),
    "ledger": PAID,
    "read-path": (refresh(), of(A, Select("v_realtime_revenue"))),
    "pii": (of(A, event(1, raw_payload=Json('{"a":1}'))),),
    "liveness": (of(A, event(1)),),
}


@pytest.mark.parametrize("name", INVARIANTS)
def test_a_check_counts_what_it_examined(head_judge: Judge, name: str) -> None:
    invariant = INVARIANTS[name]

    def examined(shown: Workload) -> int:
        case, violations = head_judge.violations(invariant, shown)
        assert violations == []
        return invariant.examined(case)

    assert examined(workload()) == 0
    # Operations alone are nothing: these are what the check does not look at.
    beside = {
        "liveness": maintenance(Delete("dead_events")),
        "pii": of(A, reconciliation(1)),
        "read-path": refresh(),
    }.get(name, of(A, Select(EVENTS)))
    assert examined(workload(beside)) == 0
    assert examined(workload(*TELLING[name])) > 0


def test_a_repair_that_finds_its_row_is_examined(head_judge: Judge) -> None:
    invariant = INVARIANTS["append-only"]
    mending = repair(Update(EVENTS, (("revenue_cents", 5),), key(EVENTS, 1)))
    case = head_judge.case(invariant, workload(of(A, event(1)), mending))
    assert invariant.examined(case) == 1


class NeverAgain(IdempotentIngest):
    """As if no strategy ever delivered a message twice."""

    focus = {**IdempotentIngest.focus, "redeliver": 0}
    sweeps = ()


@contextmanager
def searching(environment: Environment, contract: Contract) -> Iterator[Explorer]:
    explorer = Explorer(environment, contract, lambda _: None)
    try:
        yield explorer
    finally:
        explorer.close()


def test_an_invariant_that_examined_nothing_is_an_error(
    head: Environment, contract: Contract
) -> None:
    with searching(head, contract) as explorer:
        finished = explorer.explore(NeverAgain(), Search(seed=1, examples=20))
    assert (finished.status, finished.examined, finished.examples) == ("error", 0, 20)
    assert finished.error == (
        "nothing was examined: none of 20 workloads had a message that was delivered again; "
        "raise --max-examples, or write a strategy that makes one (docs/extending.md)"
    )
    assert report_of(finished).exit_status == EXIT_INFRASTRUCTURE


@pytest.mark.usefixtures("cache")
def test_one_workload_is_not_enough_to_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(cast("dict[str, Invariant]", INVARIANTS), "idempotent-ingest", NeverAgain())
    arguments = ["run", "--invariant", "idempotent-ingest", "--server", "embedded", "--seed", "1"]
    arguments += ["--max-examples", "1", "--sessions", "0"]
    assert cli.main(arguments) == EXIT_INFRASTRUCTURE
    said = capsys.readouterr().out
    assert "none of 1 workloads had a message that was delivered again" in said
    assert "\nnot judged: idempotent-ingest (" in said
    assert "\nguards: " in said


@pytest.mark.parametrize(
    ("name", "section", "emptied"),
    [
        ("append-only", "[[append_only]]", {"append_only": ()}),
        ("allocation-sum", "[[sums]]", {"sums": ()}),
        ("idempotent-ingest", "[[idempotency]]", {"idempotency": ()}),
        ("taxonomy", "[[taxonomies]]", {"taxonomies": ()}),
        ("ledger", "[[ledger]]", {"ledgers": ()}),
        ("pii", "[pii]", {"pii": None}),
    ],
)
def test_without_a_rule_there_is_nothing_to_examine(
    head: Environment,
    contract: Contract,
    head_judge: Judge,
    name: str,
    section: str,
    emptied: dict[str, object],
) -> None:
    invariant: Invariant = INVARIANTS[name]
    silent = replace(contract, **emptied)  # type: ignore[arg-type]
    assert invariant.unruled(head_judge.contract, head_judge.catalog) is None
    with searching(head, silent) as explorer:
        finished = explorer.explore(invariant, Search(seed=1, examples=5))
    assert (finished.status, finished.error, finished.examples) == ("held", None, 0)
    assert finished.note == f"nothing to examine: the contract has no {section}"
    assert report_of(finished).exit_status == EXIT_HELD


def test_before_there_are_views_refreshes_are_examined(judge: Judge) -> None:
    invariant = INVARIANTS["read-path"]
    assert judge.contract.read_paths == ()
    assert invariant.unruled(judge.contract, judge.catalog) is None
    assert invariant.examined(judge.case(invariant, workload(refresh()))) == 1


def test_a_door_that_was_never_tried_is_not_met(head: Environment, contract: Contract) -> None:
    doors = (
        "CREATE FUNCTION letters(p_id uuid) RETURNS SETOF dead_events LANGUAGE sql"
        " SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
        " AS $$ SELECT * FROM public.dead_events WHERE id = p_id AND tenant_id ="
        " NULLIF(current_setting('app.current_tenant_id', true), '')::pg_catalog.uuid"
        " AND current_setting('app.closed', true) IS DISTINCT FROM 'yes' $$",
        "GRANT app_ro TO app_rw WITH INHERIT FALSE",
    )
    routine = Guard("routine", "letters(uuid)", "app_rw")
    setting = Guard("setting", "app.closed", "app_ro")
    membership = Guard("membership", "app_ro", "app_rw")
    with altered(head, *doors) as made, Judge(made, contract) as judge:
        untried = covered(judge, of(A, event(1))).never_met
        assert {routine, setting, membership} <= {*untried}
        assert "routine letters(uuid) called by app_rw" in map(str, untried)
        tried = (
            of(A, Call("letters(uuid)", (None,))),
            of(A, Set("app.closed", "no"), Select("dead_events"), role="app_ro"),
            of(A, Become("app_ro"), Select("dead_events")),
        )
        met = covered(judge, *tried)
        assert met.guards[routine] == met.guards[setting] == met.guards[membership] == Met(0, 1)
        assert not {routine, setting, membership} & {*met.never_met, *met.never_refused}
