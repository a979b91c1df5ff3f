"""What is told of sessions that went on at once; what psql and the isolation tester make of it."""

from __future__ import annotations

import subprocess

import pytest

from invariants.checks.base import Case, Condition, Signature, Violation
from invariants.environment import Environment
from invariants.judge import Judge
from invariants.operations import Statement, Update, Workload, ident
from invariants.servers.binaries import find_binaries
from tests.engine import (
    A,
    Finding,
    Lab,
    allocation,
    at_once,
    event,
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
CAUSE = "insert/attribution_allocations/trg_check_allocation_sum"
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
    program = find_binaries(18).bin.parent / (
        "lib/postgresql/pgxs/src/test/isolation/isolationtester"
    )
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
