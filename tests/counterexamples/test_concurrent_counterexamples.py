"""What is told of sessions that went on at once; what psql and the isolation tester make of it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from invariants.checks.base import Case, Condition, Signature, Violation
from invariants.counterexamples.files import load, save
from invariants.reports.json_report import _found
from invariants.search.events import Found
from invariants.search.judge import Judge
from invariants.servers.binaries import find_binaries
from invariants.servers.environment import Environment
from invariants.workload.operations import Json, Select, Statement, Update, Workload, ident
from tests.engine import (
    A,
    Finding,
    Lab,
    allocation,
    at_once,
    event,
    event_id,
    key,
    of,
    psql_program,
    reconciliation,
    transaction,
    workload,
)
from tests.psql_windows import Windows, in_windows

BOTH_ALLOCATE = at_once(
    workload(of(A, event(1))),
    (transaction(of(A, allocation(1))),),
    (transaction(of(A, allocation(2, channel_code="email"))),),
    schedule="121212",
)
CAUSE = "insert/attribution_allocations/trg_check_allocation_sum/sessions together"
RUNS = "reconciliation_runs"
TIMELINE = """
   1  BEGIN                                         |
      INSERT INTO attribution_allocations (id,      |
        tenant_id, event_id,                        |
        allocated_revenue_cents, channel_code,      |
        model_version) VALUES                       |
        (attribution_allocations#1, tenant A,       |
        attribution_events#1, 100, 'direct', 'm1')  |
      = 1 row                                       |
   2                                                | BEGIN
                                                    | INSERT INTO attribution_allocations (id,
                                                    |   tenant_id, event_id,
                                                    |   allocated_revenue_cents, channel_code,
                                                    |   model_version) VALUES
                                                    |   (attribution_allocations#2, tenant A,
                                                    |   attribution_events#1, 100, 'email', 'm1')
                                                    | = 1 row
   3  SET CONSTRAINTS ALL IMMEDIATE                 |
   4                                                | SET CONSTRAINTS ALL IMMEDIATE
   5  COMMIT                                        |
-> 6                                                | COMMIT
"""


def sets(number: int, state: str) -> Statement:
    return Update(RUNS, (("state", state),), key(RUNS, number))


def is_in(number: int, state: str) -> str:
    return f"EXISTS (SELECT FROM {RUNS} WHERE id = '{ident(RUNS, number)}' AND state = '{state}')"


WAITS = """
   1  BEGIN                                         |
      UPDATE reconciliation_runs SET state =        |
        'running' WHERE id = reconciliation_runs#1  |
      = 1 row                                       |
   2                                                | BEGIN
                                                    | UPDATE reconciliation_runs SET state =
                                                    |   'failed' WHERE id = reconciliation_runs#1
                                                    | = waits for session 1
   3  SET CONSTRAINTS ALL IMMEDIATE                 |
   4  COMMIT                                        | = goes on: refused: could not serialize
                                                    |   access due to concurrent update (40001)
                                                    | ROLLBACK
   5                                                | (sent again, alone)
                                                    | BEGIN
                                                    | UPDATE reconciliation_runs SET state =
                                                    |   'failed' WHERE id = reconciliation_runs#1
                                                    | = 1 row
   6                                                | SET CONSTRAINTS ALL IMMEDIATE
-> 7                                                | COMMIT
"""
DEADLOCK = """
   3  UPDATE reconciliation_runs SET state =        |
        'running' WHERE id = reconciliation_runs#2  |
      = waits for session 2                         |
   4  = goes on: 1 row                              | UPDATE reconciliation_runs SET state =
                                                    |   'failed' WHERE id = reconciliation_runs#1
                                                    | = refused: deadlock detected (40P01)
                                                    | ROLLBACK
   5  SET CONSTRAINTS ALL IMMEDIATE                 |
-> 6  COMMIT                                        |
"""
THREE = """
   1  BEGIN                         |                               |
      UPDATE reconciliation_runs    |                               |
        SET state = 'running' WHERE |                               |
        id = reconciliation_runs#1  |                               |
      = 1 row                       |                               |
   2                                | BEGIN                         |
                                    | UPDATE reconciliation_runs    |
                                    |   SET state = 'failed' WHERE  |
                                    |   id = reconciliation_runs#1  |
                                    | = waits for session 1         |
   3                                |                               | BEGIN: app_rw for tenant A,
                                    |                               |   read committed
                                    |                               | UPDATE reconciliation_runs
                                    |                               |   SET state = 'idle' WHERE id
                                    |                               |   = reconciliation_runs#1
                                    |                               | = would wait as well: called
                                    |                               |   off
                                    |                               | ROLLBACK
   4  SET CONSTRAINTS ALL IMMEDIATE |                               |
   5  COMMIT                        | = goes on: 1 row              |
   6                                | ROLLBACK                      |
   7                                |                               | BEGIN: app_ro, no tenant
                                    |                               |   setting, serializable
                                    |                               | SELECT * FROM dead_events
                                    |                               | = 0 rows
   8                                |                               | ROLLBACK
   9                                |                               | (sent again, alone)
                                    |                               | BEGIN: app_rw for tenant A,
                                    |                               |   read committed
                                    |                               | UPDATE reconciliation_runs
                                    |                               |   SET state = 'idle' WHERE id
                                    |                               |   = reconciliation_runs#1
                                    |                               | = 1 row
  10                                |                               | SET CONSTRAINTS ALL IMMEDIATE
->11                                |                               | COMMIT
"""
TWO_RUNS = workload(of(A, reconciliation(1), reconciliation(2)))


@pytest.fixture
def both_allocate(lab: Lab) -> Finding:
    return lab.findings("allocation-sum", BOTH_ALLOCATE)[CAUSE]


def claimed(judge: Judge, shown: Workload, operation: int, *proof: Condition) -> Finding:
    """A violation that somebody claims there is, of whatever the proof says."""
    history = judge.executor("").run(shown)
    case = Case(judge.contract, judge.catalog, history)
    signature = Signature("claim", "update", RUNS, "none")
    return Finding(case, Violation(signature, operation, "as claimed", "not so", proof))


def play(environment: Environment, finding: Finding) -> Windows:
    scratch = environment.scratch()
    script = finding.counterexample.script
    try:
        return in_windows(psql_program(), scratch.conninfo, script, finding.windows)
    finally:
        scratch.drop()


def isolation_tester(environment: Environment, finding: Finding) -> str:
    """What the isolation tester prints; it leaves the database without tenants."""
    (program,) = find_binaries(18).bin.parent.glob("lib/**/isolation/isolationtester")
    scratch = environment.scratch()
    try:
        # Twice: the second time it finds the database as it was.
        for _ in range(2):
            done = subprocess.run(
                [str(program), scratch.conninfo],
                input=finding.counterexample.spec,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout
    finally:
        scratch.drop()


def timeline(finding: Finding) -> list[str]:
    """The lines of the timeline, without its heading."""
    lines = finding.counterexample.text.split("\n")
    first, last = (i for i, line in enumerate(lines) if set(line) == {"-", "+"})
    return lines[first + 1 : last]


def test_the_sessions_are_told_side_by_side(both_allocate: Finding) -> None:
    assert timeline(both_allocate) == TIMELINE.split("\n")[1:-1]
    assert (
        "turn  session 1: app_rw for tenant A,               | session 2: app_rw for tenant A,\n"
        "        read committed                              |   read committed\n"
    ) in both_allocate.counterexample.text
    assert max(map(len, both_allocate.counterexample.text.split("\n"))) <= 100
    # What there was before is told as ever.
    assert "   1  app_rw for tenant A\n      INSERT INTO attr" in both_allocate.counterexample.text


def test_two_windows_show_what_two_sessions_did(lab: Lab, both_allocate: Finding) -> None:
    windows = play(lab.environment, both_allocate)
    assert [d.returncode for d in windows.done] == [3, 0]
    assert "violated: rows of attribution_allocations add up to 200" in windows.done[0].stderr
    assert windows.order == [
        "2: turn 2",
        "1: turn 3",
        "2: turn 4",
        "1: turn 5",
        "2: turn 6",
        "1: the verdict",
    ]
    assert windows.waited == []


def test_on_the_mended_schema_a_window_waits_and_the_verdict_is_another(
    head: Environment, both_allocate: Finding
) -> None:
    windows = play(head, both_allocate)
    assert [d.returncode for d in windows.done] == [0, 0], windows.done
    assert "holds: the violation is not there" in windows.done[0].stdout
    assert windows.waited == [2]
    assert "sum to 200 cents, its revenue is 100 cents" in windows.done[1].stderr
    assert "nothing to send: the transaction is over\nturn 6 is done" in windows.done[1].stdout


def test_the_isolation_tester_sees_it_too(
    lab: Lab, head: Environment, both_allocate: Finding
) -> None:
    order = "s1_1 s2_1 s1_2 s2_2 s1_3 s2_3 verdict_1"
    printed = isolation_tester(lab.environment, both_allocate)
    assert f"starting permutation: {order}" in printed
    assert "violated\n--------\nt       \n(1 row)" in printed
    assert "ERROR" not in printed
    printed = isolation_tester(head, both_allocate)
    assert "step s2_2: SET CONSTRAINTS ALL IMMEDIATE; <waiting ...>" in printed
    assert "step s2_2: <... completed>\nERROR:  Allocations of event" in printed
    assert "violated\n--------\nf       \n(1 row)" in printed


def test_one_that_waits_gives_way_and_is_sent_again(judge: Judge, lab: Lab) -> None:
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"))),),
        (transaction(of(A, sets(1, "failed")), "repeatable read"),),
        schedule="1211",
    )
    finding = claimed(
        judge,
        shown,
        3,
        Condition("state", 0, f"NOT {is_in(1, 'running')}"),
        Condition("state", 1, is_in(1, "running")),
        Condition("refused", 2),
        Condition("accepted", 3),
        Condition("seen", 3, is_in(1, "failed")),
    )
    assert timeline(finding) == WAITS.split("\n")[1:-1]
    windows = play(lab.environment, finding)
    assert ([d.returncode for d in windows.done], windows.waited) == ([3, 0], [2]), windows.done
    # What the first has done must have been looked at before the second changes it once more.
    assert windows.order == [
        "2: turn 2, in which window 2 then waits for window 1",
        "1: turn 3",
        "2: turn 5",
        "1: the verdict",
    ]
    printed = isolation_tester(lab.environment, finding)
    assert "step s2_1: <... completed>\nERROR:  could not serialize access" in printed
    assert printed.count("step s2_3: COMMIT;") == 2
    assert printed.count("\nt          \n") == 2
    not_so = replace(finding.violation, proof=(Condition("accepted", 2),))
    assert [d.returncode for d in play(lab.environment, Finding(finding.case, not_so)).done] == [
        0,
        0,
    ]


def test_of_two_who_wait_for_each_other_the_same_one_is_refused(judge: Judge, lab: Lab) -> None:
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"), sets(2, "running"))),),
        (transaction(of(A, sets(2, "failed"), sets(1, "failed"))),),
        schedule="1212",
    )
    proof = Condition("refused", 1), Condition("state", 2, is_in(2, "running"))
    finding = claimed(judge, shown, 2, *proof)
    wanted = DEADLOCK.split("\n")[1:-1]
    assert timeline(finding)[8 : 8 + len(wanted)] == wanted
    windows = play(lab.environment, finding)
    assert ([d.returncode for d in windows.done], windows.waited) == ([3, 0], [1]), windows.done
    printed = isolation_tester(lab.environment, finding)
    assert "ERROR:  deadlock detected" in printed[printed.index("\nstep s2_2:") :]


def test_three_sessions_and_one_without_a_tenant(head_judge: Judge, head: Environment) -> None:
    nobody = of(None, Select("dead_events"), role="app_ro")
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"))),),
        (transaction(of(A, sets(1, "failed")), commits=False),),
        (transaction(of(A, sets(1, "idle"))), transaction(nobody, "serializable", commits=False)),
        schedule="123",
    )
    finding = claimed(head_judge, shown, 5, Condition("state", 5, is_in(1, "idle")))
    assert timeline(finding) == THREE.split("\n")[1:-1]
    windows = play(head, finding)
    assert ([d.returncode for d in windows.done], windows.waited) == ([3, 0, 0], [2]), windows.done
    assert windows.order[-1] == "1: the verdict"
    assert "\nstep s3_4: \n" in isolation_tester(head, finding)
    assert 'session "s3_unset"' in finding.counterexample.spec


def test_a_setup_that_the_tester_would_end_at_is_a_step(judge: Judge, lab: Lab) -> None:
    before = (of(A, event(1)), of(A, event(1)), of(A, event(2, raw_payload=Json.of({"a": "}'\\"}))))
    shown = at_once(
        workload(*before),
        (transaction(of(A, allocation(1))),),
        (transaction(of(A, allocation(2, of_event=2))),),
        schedule="12",
    )
    there = f"EXISTS (SELECT FROM attribution_events WHERE id = '{event_id(2)}')"
    finding = claimed(judge, shown, 4, Condition("refused", 1), Condition("state", 2, there))
    printed = isolation_tester(lab.environment, finding)
    assert "starting permutation: given_2 given_3 verdict_1 s1_1 s2_1" in printed
    assert [d.returncode for d in play(lab.environment, finding).done] == [3, 0]


def test_one_session_needs_nobody_to_press_enter(judge: Judge, lab: Lab) -> None:
    shown = at_once(TWO_RUNS, (transaction(of(A, sets(1, "failed")), "serializable"),), schedule="")
    finding = claimed(judge, shown, 1, Condition("state", 1, is_in(1, "failed")))
    windows = play(lab.environment, finding)
    assert ([d.returncode for d in windows.done], windows.order) == ([3], []), windows.done
    assert "\nt       \n" in isolation_tester(lab.environment, finding)


@pytest.mark.parametrize("chosen", [[], ["-v", "window=3"], ["-v", "window=1"]])
def test_a_window_that_cannot_go_on_has_a_status_of_its_own(
    lab: Lab, both_allocate: Finding, tmp_path: Path, chosen: list[str]
) -> None:
    """Without a number, with one too many, and with nobody to press Enter."""
    saved = save(both_allocate.counterexample, tmp_path)
    scratch = lab.environment.scratch()
    try:
        done = subprocess.run(
            [psql_program(), "-X", "-q", *chosen, "-d", scratch.conninfo, "-f", str(saved.sql)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    finally:
        scratch.drop()
    assert done.returncode == 2
    wanted = "nobody is there" if "window=1" in chosen else "-v window=1 or -v window=2"
    assert wanted in done.stderr
    assert "done" not in done.stdout or "window=1" in chosen


def test_what_is_kept_of_it(both_allocate: Finding, tmp_path: Path) -> None:
    made = both_allocate.counterexample
    saved = save(made, tmp_path)
    assert saved.spec is not None
    assert saved.spec.read_text() == made.spec
    assert saved.txt.read_text() == made.text + "\n"
    assert load(saved.json).workload == BOTH_ALLOCATE
    assert saved.replay_commands(" --revision documented") == (
        f"invariants replay --revision documented {saved.json}",
        f"psql -X -q -v window=1 -d DATABASE -f {saved.sql}",
        f"psql -X -q -v window=2 -d DATABASE -f {saved.sql}",
    )
    told = _found(Found("allocation-sum", made, saved))
    assert (told["operations"], told["sessions"]) == (3, 2)
    assert told["spec"] == str(saved.spec)


def test_a_counterexample_in_one_session_has_no_spec(lab: Lab, tmp_path: Path) -> None:
    shown = workload(of(A, event(1)), of(A, allocation(1, cents=1)))
    (finding,) = lab.findings(
        "allocation-sum", shown, "DROP TRIGGER trg_check_allocation_sum ON attribution_allocations"
    ).values()
    saved = save(finding.counterexample, tmp_path)
    assert (saved.spec, sorted(p.suffix for p in tmp_path.iterdir())) == (
        None,
        [".json", ".sql", ".txt"],
    )
    assert saved.replay_commands() == (
        f"invariants replay {saved.json}",
        f"psql -X -q -d DATABASE -f {saved.sql}",
    )
    told = _found(Found("allocation-sum", finding.counterexample, saved))
    assert told["sessions"] == 1
    assert "spec" not in told
