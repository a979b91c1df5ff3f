"""What a finding is kept as: JSON that replays it, and a script that psql alone can judge."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.contract.premises import GRANTED
from invariants.counterexamples.files import Kept, load, save
from invariants.errors import UsageError
from invariants.search.explorer import Explorer, Search
from invariants.search.judge import Judge
from invariants.search.run import replay
from invariants.workload.format import workload_from_json, workload_to_json
from invariants.workload.operations import (
    STATEMENTS,
    Actor,
    Attach,
    Become,
    Call,
    Comment,
    Conflict,
    Copy,
    Delete,
    Inquire,
    Insert,
    Json,
    Leftover,
    Merge,
    Operation,
    Refresh,
    Select,
    Set,
    Shadow,
    Statement,
    Tenant,
    Truncate,
    Update,
    Workload,
)
from invariants.workload.sql import literal
from tests.checks.test_checks import COMPOSITE_KEYS, DEFERRED_SUMS
from tests.conftest import ROOT
from tests.engine import (
    KEEP_FIRST,
    A,
    B,
    Lab,
    allocation,
    altered,
    event,
    maintenance,
    of,
    posting,
    psql,
    row,
    workload,
)

ODD = ("a\n\t\"'\\$1; --", Json.of({"b": [1, None, "Ü"]}), None, True, 2**31 - 1, -1)
COLUMNS = ("id", "a column", "c", "d", "e", "f")
EVERY_KIND: tuple[Statement, ...] = (
    Insert("t", COLUMNS, (ODD, ODD)),
    Insert("t", ("id",), ((1,),), Conflict(("id", "c"), "c IS NOT NULL", ("c", "d"))),
    Insert("t", ("id",), ((1,),), Conflict()),
    Insert("t", (), ((),)),
    Update("t", (("c", None), ("d", Json("{}"))), (("id", 1), ("c", None))),
    Delete("t", (("id", "x"),)),
    Delete("t"),
    Select("t", (("c", False),)),
    Truncate("t", cascade=True),
    Merge("t", COLUMNS, ODD, ("id", "c"), ("d",)),
    Copy("t", COLUMNS, (ODD, ODD)),
    Refresh("v", concurrently=True),
    Call("other.f"),
    Call("f(uuid, text, VARIADIC integer[])", (None, "a", "{1}")),
    Call('"A b".p(jsonb)', (Json.of({}),), procedure=True),
    Set("app.flag", "it's"),
    Set("app.flag", None),
    Become("a role"),
    Inquire("t", "INSERT WITH GRANT OPTION", "relation"),
    Leftover("app.flag", "setting"),
    Comment("public.f(a integer)", "function"),
    Comment("t", "materialized view"),
    Attach("public.f()"),
    Shadow("pg_catalog.text", "type"),
    Shadow("public.t", "relation"),
    Select("t", columns=("c", "d"), leak="c"),
    Select("t", (("c", None),), prepared=True),
)


def through_json(shown: Workload) -> Workload:
    return workload_from_json(json.loads(json.dumps(workload_to_json(shown))))


@pytest.mark.parametrize("statement", EVERY_KIND, ids=lambda s: s.kind)
def test_every_kind_of_statement_survives_json(statement: Statement) -> None:
    tenants = (Tenant(A, ("id", "name"), (A, "Tenant")), Tenant("bare"))
    shown = Workload(
        tenants,
        (
            Operation(Actor("app_rw", A), (statement,), delivery=3),
            Operation(Actor("app_rw", A), (Select("t"), Delete("t"))),
            Operation(Actor("", None), (statement,)),
            Operation(Actor("app_ro", ""), (statement,)),
        ),
        premise="triggers-disabled",
    )
    assert through_json(shown) == shown


def test_no_kind_is_left_out() -> None:
    assert {type(s) for s in EVERY_KIND} == set(STATEMENTS.values())


def test_generated_workloads_survive_json(contract: Contract, judge: Judge) -> None:
    generated = st.one_of(
        *(generation.workloads(contract, judge.catalog, i) for i in INVARIANTS.values())
    )

    @settings(
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(generated)
    def survives(one: Workload) -> None:
        assert through_json(one) == one

    survives()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 99}',
        '{"format": 1, "invariant": "liveness", "signature": "x", "workload": {"tenants": 7}}',
    ],
)
def test_a_file_that_is_no_counterexample(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"broken\.json") as raised:
        load(file)
    assert "\n" not in str(raised.value)


def test_a_statement_of_another_kind(tmp_path: Path, kept: Kept) -> None:
    document = json.loads(kept.path.read_text())
    document["workload"]["operations"][0]["statements"][0]["kind"] = "vacuum"
    file = tmp_path / "strange.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"strange\.json: not a counterexample"):
        load(file)


@pytest.fixture
def keep(lab: Lab, tmp_path: Path) -> Callable[[str], Kept]:
    """Find, on the documented schema, what a handwritten workload shows, and keep it in files."""

    def kept(signature: str) -> Kept:
        name, _, cause = signature.partition("/")
        finding = lab.findings(name, SHOWN[signature])[cause]
        return load(save(finding.counterexample, tmp_path).json)

    return kept


@pytest.fixture
def kept(keep: Callable[[str], Kept]) -> Kept:
    """One counterexample."""
    return keep(UNREADABLE)


UNREADABLE = "liveness/select/channel_taxonomy/privilege"
RUN = row("reconciliation_runs", 1, B, last_run_at="2024-03-01 00:00:00+00")
STATUS = "mv_reconciliation_status"
KEYLESS = replace(event(1, external_event_id=None), conflict=KEEP_FIRST)
SHOWN = {
    UNREADABLE: workload(of(A, Select("channel_taxonomy"))),
    "cross-tenant/reference/attribution_allocations/attribution_allocations_event_id_fkey": (
        workload(of(B, event(1, B)), of(A, allocation(1)))
    ),
    "liveness/insert/attribution_allocations/check_allocation_sum": workload(
        of(A, event(1)),
        of(A, allocation(1, cents=40), allocation(2, cents=60, channel_code="email")),
    ),
    f"cross-tenant/select/{STATUS}/matview without tenant filter": workload(
        of(B, RUN), maintenance(Refresh(STATUS)), of(A, Select(STATUS))
    ),
    "idempotent-ingest/insert/attribution_events/no key": workload(
        of(A, KEYLESS, delivery=1),
        of(A, replace(event(2, external_event_id=None), conflict=KEEP_FIRST), delivery=1),
    ),
    "append-only/truncate/revenue_ledger/no trigger": workload(
        of(A, event(1)),
        of(A, allocation(1)),
        of(A, posting(1)),
        of(A, Truncate("revenue_ledger")),
        premise=GRANTED,
    ),
}
REPAIRS = dict(
    zip(
        SHOWN,
        (
            "GRANT SELECT ON channel_taxonomy TO app_rw",
            COMPOSITE_KEYS,
            DEFERRED_SUMS,
            f"REVOKE SELECT ON {STATUS} FROM app_rw, app_ro",
            "ALTER TABLE attribution_events ADD CHECK"
            " (external_event_id IS NOT NULL OR correlation_id IS NOT NULL)",
            "CREATE TRIGGER kept BEFORE TRUNCATE ON revenue_ledger"
            " EXECUTE FUNCTION fn_ledger_prevent_mutation()",
        ),
        strict=True,
    )
)


@pytest.mark.parametrize("signature", SHOWN)
def test_after_the_repair_script_and_file_hold(
    lab: Lab, keep: Callable[[str], Kept], signature: str
) -> None:
    one = keep(signature)
    script = one.path.with_suffix(".sql").read_text()
    before = lab.psql(lab.environment, script)
    assert (before.returncode, "violated: " in before.stderr) == (3, True), before.stderr
    assert [r.fails for r in replay([one], lab.environment, lab.contract)] == [True]
    with altered(lab.environment, REPAIRS[signature]) as environment:
        after = lab.psql(environment, script)
        assert (after.returncode, "holds" in after.stdout) == (0, True), after.stderr
        assert [r.fails for r in replay([one], environment, lab.contract)] == [False]


@pytest.mark.slow
def test_all_that_a_search_finds_is_there_for_psql_and_replay(lab: Lab, tmp_path: Path) -> None:
    explorer = Explorer(lab.environment, lab.contract, lambda _: None)
    try:
        for invariant in INVARIANTS.values():
            explorer.explore(invariant, Search(seed=2, examples=25, artifacts=tmp_path))
    finally:
        explorer.close()
    found = [load(path) for path in sorted(tmp_path.glob("*.json"))]
    assert len(found) >= 5
    assert not list(tmp_path.glob("flaky*"))
    wrong = {}
    for one in found:
        done = lab.psql(lab.environment, one.path.with_suffix(".sql").read_text())
        if (done.returncode, "violated: " in done.stderr) != (3, True):
            wrong[one.signature] = done.stdout + done.stderr
        assert "Promised" in one.path.with_suffix(".txt").read_text()
    assert wrong == {}
    outcomes = replay(found, lab.environment, lab.contract)
    assert [o.kept.signature for o in outcomes if not o.fails] == []


def test_a_script_refuses_a_database_with_tenants(kept: Kept, lab: Lab) -> None:
    scratch = lab.environment.scratch()
    try:
        name = literal("Somebody")
        added = psql(scratch.conninfo, f"INSERT INTO tenants (name) VALUES ({name});")
        assert added.returncode == 0, added.stderr
        done = psql(scratch.conninfo, kept.path.with_suffix(".sql").read_text())
        assert done.returncode == 3
        assert "nothing was done: this database has tenants" in done.stderr
        assert "violated" not in done.stderr
        left = psql(scratch.conninfo, "\\t\nSELECT count(*) FROM tenants;")
        assert left.stdout.split() == ["1"]
    finally:
        scratch.drop()


def invariants(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in the project's folder."""
    return subprocess.run(
        [sys.executable, "-m", "invariants", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.usefixtures("cache")
def test_replay_says_whether_it_still_fails(kept: Kept, tmp_path: Path) -> None:
    options = "--revision", "documented", "--server", "embedded"
    fails = invariants("replay", *options, str(kept.path))
    assert (fails.returncode, fails.stdout.split("\n")[0]) == (1, f"fails  {kept.path}")
    assert "app_rw may select channel_taxonomy here and is refused" in fails.stdout
    fix = tmp_path / "fix.sql"
    fix.write_text(REPAIRS[UNREADABLE])
    mended = invariants("replay", *options, "--apply-sql", str(fix), str(kept.path))
    assert (mended.returncode, mended.stdout) == (0, f"holds  {kept.path}\n")


def test_a_guard_of_another_name_mends_nothing(lab: Lab) -> None:
    name = "cross-tenant-reference-attribution_allocations-attribution_allocations_event_id_fkey"
    one = load(ROOT / "tests" / "counterexamples" / f"{name}.json")
    renamed = (
        "ALTER TABLE attribution_allocations"
        " RENAME CONSTRAINT attribution_allocations_event_id_fkey TO event"
    )
    with altered(lab.environment, renamed) as environment:
        (outcome,) = replay([one], environment, lab.contract)
    assert outcome.fails
    assert "refers to another tenant's row in attribution_events, through event" in outcome.text


def test_replaying_garbage_is_a_usage_error(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.json"
    garbage.write_text("\x00 not JSON")
    done = invariants("replay", str(garbage))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"invariants: {garbage}: not valid JSON: ")
    assert done.stderr.count("\n") == 1


def test_an_invariant_of_another_version(kept: Kept, lab: Lab) -> None:
    strange = replace(kept, invariant="serializability")
    with pytest.raises(UsageError, match="'serializability' is not known to this version"):
        list(replay([strange], lab.environment, lab.contract))
