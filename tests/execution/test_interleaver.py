"""Sessions side by side on a server: who waits, who is refused, what each of them sees.

Turns are told in a short form, for example `2.1.1 waits for 1`: of the second session the first
transaction, its first part. A transaction that is sent again alone has a star.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.errors import InfrastructureError
from invariants.execution import interleaver as interleave
from invariants.execution.executor import Executor
from invariants.execution.history import History, Record, State, Step
from invariants.search.judge import Judge
from invariants.servers.environment import Environment
from invariants.workload.operations import (
    ISOLATIONS,
    Isolation,
    Refresh,
    Select,
    Session,
    Statement,
    Update,
)
from tests.conftest import SpawnChild
from tests.engine import (
    DOCUMENTED,
    A,
    Lab,
    altered,
    at_once,
    concurrent,
    dead_event,
    drawn,
    erasure,
    event,
    event_id,
    key,
    maintenance,
    of,
    reconciliation,
    story,
    transaction,
    workload,
)

RUNS = "reconciliation_runs"
TWO_RUNS = workload(of(A, reconciliation(1), reconciliation(2)))
SNAPSHOTS: tuple[Isolation, ...] = ("repeatable read", "serializable")


@pytest.fixture
def executor(judge: Judge) -> Executor:
    """One on the documented schema, which earlier tests have used."""
    return judge.executor("")


def sets(number: int, state: str) -> Statement:
    return Update(RUNS, (("state", state),), key(RUNS, number))


def states(state: State) -> list[str]:
    """The states of the runs, in the order of their numbers."""
    return [r["state"] for r in sorted(state.rows(RUNS), key=lambda r: str(r.key))]


def ended(history: History) -> list[str]:
    """The transactions of the sessions in the order in which they ended, and how."""
    told = []
    for step in history.steps:
        if step.place is not None:
            again = "*" if step.place.again else ""
            how = step.error.sqlstate if step.error else "ok" if step.committed else "rolled back"
            told.append(f"{step.place.session + 1}.{step.place.number + 1}{again} {how}")
    return told


def apart_from_tenants(state: State) -> set[Record]:
    """The rows whose times are the same in every run."""
    return {r for r in state.records if r.table != "tenants"}


def own(history: History) -> list[Step]:
    return [s for s in history.steps if s.place is not None]


def both_set(first: str, second: str, level: Isolation = "read committed") -> tuple[Session, ...]:
    """Two sessions that change the same run."""
    return (
        (transaction(of(A, sets(1, first)), level),),
        (transaction(of(A, sets(1, second)), level),),
    )


def test_a_wait_is_noted_with_whom_it_is_for(executor: Executor) -> None:
    history = executor.run(at_once(TWO_RUNS, *both_set("running", "failed"), schedule="1211"))
    assert story(history) == [
        "1.1.1 1 row",
        "2.1.1 waits for 1",
        "1.1.2 done",
        "1.1.3 done",
        "2.1.1 goes on: 1 row",
        "2.1.2 done",
        "2.1.3 done",
    ]
    assert ended(history) == ["1.1 ok", "2.1 ok"]
    assert states(history.final) == ["failed", "completed"]


@pytest.mark.parametrize("level", SNAPSHOTS)
def test_whoever_wrote_second_is_sent_again_alone(executor: Executor, level: Isolation) -> None:
    history = executor.run(
        at_once(TWO_RUNS, *both_set("running", "failed", level), schedule="1211")
    )
    assert story(history) == [
        "1.1.1 1 row",
        "2.1.1 waits for 1",
        "1.1.2 done",
        "1.1.3 done",
        "2.1.1 goes on: 40001",
        "2.1.1* 1 row",
        "2.1.2* done",
        "2.1.3* done",
    ]
    first, refused, again = own(history)
    assert ended(history) == ["1.1 ok", "2.1 40001", "2.1* ok"]
    assert [s.gave_way for s in own(history)] == [False, True, False]
    assert refused.after is refused.before is first.after is again.before
    assert states(history.final) == ["failed", "completed"]


@pytest.mark.parametrize(
    ("levels", "second"),
    [
        (("read committed", "read committed"), "ok"),
        (("repeatable read", "repeatable read"), "ok"),
        (("serializable", "serializable"), "40001"),
        # Serializable promises nothing beside others that are not.
        (("serializable", "repeatable read"), "ok"),
    ],
)
def test_only_serializable_notices_what_was_read(
    executor: Executor, levels: tuple[Isolation, Isolation], second: str
) -> None:
    """Each looks at all runs and then writes one that the other has not seen."""
    sessions = tuple(
        (transaction(of(A, Select(RUNS), reconciliation(n)), level),)
        for n, level in zip((3, 4), levels, strict=True)
    )
    history = executor.run(at_once(TWO_RUNS, *sessions, schedule="12121212"))
    assert ended(history)[:2] == ["1.1 ok", f"2.1 {second}"]
    assert ended(history)[2:] == (["2.1* ok"] if second == "40001" else [])
    seen = [s.answers[0].count for s in own(history) if s.answers]
    assert seen == ([2, 2, 3] if second == "40001" else [2, 2])
    assert len(history.final.rows(RUNS)) == 4


@pytest.mark.parametrize("level", ISOLATIONS)
@pytest.mark.parametrize("closing", [1, 2])
def test_of_a_circle_whoever_closes_it_is_refused_every_time(
    executor: Executor, level: Isolation, closing: int
) -> None:
    one, two = sets(1, "running"), sets(2, "running")
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, one, two), level),),
        (transaction(of(A, two, one), level),),
        schedule="1221" if closing == 1 else "1212",
    )
    waiting = 3 - closing
    told = [
        "1.1.1 1 row",
        "2.1.1 1 row",
        f"{waiting}.1.2 waits for {closing}",
        f"{closing}.1.2 40P01",
        f"{waiting}.1.2 goes on: 1 row",
    ]
    runs = [executor.run(shown) for _ in range(10)]
    assert story(runs[0])[:5] == told
    assert all(story(r) == story(runs[0]) for r in runs)
    assert ended(runs[0]) == [f"{closing}.1 40P01", f"{waiting}.1 ok", f"{closing}.1* ok"]


def test_a_circle_of_three(executor: Executor) -> None:
    """Two wait already when the third comes: one of them was called off, so there is no circle."""
    shown = at_once(
        workload(of(A, *map(reconciliation, (1, 2, 3)))),
        *((transaction(of(A, sets(a, "running"), sets(b, "running"))),)
          for a, b in ((1, 2), (2, 3), (3, 1))),
        schedule="123123",
    )  # fmt: skip
    history = executor.run(shown)
    assert story(history)[3:6] == ["1.1.2 waits for 2", "2.1.2 called off", "1.1.2 goes on: 1 row"]
    assert ended(history) == ["2.1 57014", "1.1 ok", "3.1 ok", "2.1* ok"]
    # Who goes on may be heard before who is called off has said so.
    assert all(story(executor.run(shown)) == story(history) for _ in range(40))


def test_a_second_waiter_is_called_off_and_sent_again(executor: Executor) -> None:
    shown = at_once(
        TWO_RUNS,
        *((transaction(of(A, sets(1, s))),) for s in ("running", "failed", "idle")),
        schedule="123",
    )
    history = executor.run(shown)
    assert story(history) == [
        "1.1.1 1 row",
        "2.1.1 waits for 1",
        "3.1.1 called off",
        "1.1.2 done",
        "1.1.3 done",
        "2.1.1 goes on: 1 row",
        "2.1.2 done",
        "2.1.3 done",
        "3.1.1* 1 row",
        "3.1.2* done",
        "3.1.3* done",
    ]
    assert [t.ended_by for t in history.turns].count("order") == 1
    assert states(history.final) == ["idle", "completed"]


def test_one_may_wait_for_two(executor: Executor) -> None:
    view = "mv_reconciliation_status"
    shown = at_once(
        workload(of(A, reconciliation(1))),
        (transaction(maintenance(Select(view))),),
        (transaction(maintenance(Select(view))),),
        (transaction(maintenance(Refresh(view))),),
        schedule="12312",
    )
    history = executor.run(shown)
    assert story(history)[2:] == [
        "3.1.1 waits for 1, 2",
        "1.1.2 done",
        "3.1.1 waits for 2",
        "2.1.2 done",
        "3.1.1 goes on: None rows",
        "3.1.2 done",
        "3.1.3 done",
    ]


def test_what_is_left_in_a_view_is_not_there_for_the_next_sessions(executor: Executor) -> None:
    view = "mv_reconciliation_status"
    refreshed = executor.run(workload(of(A, reconciliation(1)), maintenance(Refresh(view))))
    assert [s.error for s in refreshed.steps] == [None, None]
    look = at_once(workload(), (transaction(maintenance(Select(view))),), schedule="")
    assert [s.answers[0].count for s in own(executor.run(look))] == [0]
    # Nor is what a session has left there.
    one_run = workload(of(A, reconciliation(1)))
    busy = at_once(one_run, (transaction(maintenance(Refresh(view))),), schedule="")
    assert ended(executor.run(busy)) == ["1.1 ok"]
    assert [s.answers[0].count for s in own(executor.run(look))] == [0]


def test_one_may_wait_for_one_after_the_other(executor: Executor) -> None:
    """Both share a lock on the tenant, and the third comes by them in their order."""
    shown = at_once(
        workload(),
        (transaction(of(A, dead_event(1))),),
        (transaction(of(A, dead_event(2))),),
        (transaction(erasure(role="")),),
        schedule="123" + "11" + "22",
    )
    history = executor.run(shown)
    assert [s for s in story(history) if "waits" in s] == [
        "3.1.1 waits for 1", "3.1.1 waits for 2"
    ]  # fmt: skip
    assert ended(history) == ["1.1 ok", "2.1 ok", "3.1 ok"]
    assert history.final.find("tenants", (A,)) is None
    assert history.final.rows("dead_events") == ()


def test_an_error_ends_the_transaction_and_frees_what_it_held(executor: Executor) -> None:
    failing = transaction(of(A, sets(1, "running"), sets(2, "no such state"), sets(2, "idle")))
    shown = at_once(
        TWO_RUNS,
        (failing, transaction(of(A, sets(2, "idle")))),
        (transaction(of(A, sets(1, "failed"))),),
        schedule="121111" + "222",
    )
    history = executor.run(shown)
    assert story(history)[:4] == [
        "1.1.1 1 row",
        "2.1.1 waits for 1",
        "1.1.2 23514",
        "2.1.1 goes on: 1 row",
    ]
    # Its last statement is not sent: the next turn is the next transaction's.
    assert story(history)[4] == "1.2.1 1 row"
    assert ended(history) == ["1.1 23514", "1.2 ok", "2.1 ok"]
    assert own(history)[0].failed_statement == sets(2, "no such state")
    assert not own(history)[0].changes
    assert states(history.final) == ["failed", "idle"]


@pytest.mark.parametrize("level", ISOLATIONS)
def test_a_rollback_changes_nothing_and_lets_others_go_on(
    executor: Executor, level: Isolation
) -> None:
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"), reconciliation(3)), level, commits=False),),
        (transaction(of(A, sets(1, "failed")), level),),
        schedule="12111",
    )
    history = executor.run(shown)
    assert story(history)[:5] == [
        "1.1.1 1 row",
        "2.1.1 waits for 1",
        "1.1.2 1 row",
        "1.1.3 done",
        "2.1.1 goes on: 1 row",
    ]
    assert ended(history) == ["1.1 rolled back", "2.1 ok"]
    rolled_back, kept = own(history)
    assert (rolled_back.committed, rolled_back.error, rolled_back.changes) == (False, None, ())
    assert [a.count for a in rolled_back.answers] == [1, 1]
    assert len(kept.changes) == 1
    assert states(history.final) == ["failed", "completed"]


def test_a_session_sends_one_transaction_after_the_other(executor: Executor) -> None:
    shown = at_once(
        TWO_RUNS,
        tuple(transaction(of(A, sets(1, s))) for s in ("running", "failed", "idle")),
        (transaction(of(A, Select(RUNS))), transaction(of(A, Select(RUNS)), "repeatable read")),
        schedule="1112" + "111" + "22" + "1" * 3,
    )
    history = executor.run(shown)
    # What only reads has no constraints to check: one turn for the statement, one for the end.
    assert story(history)[3] == "2.1.1 2 rows"
    assert [t.split()[0] for t in ended(history)] == ["1.1", "1.2", "2.1", "1.3", "2.2"]
    read = [s for s in own(history) if s.operation.reads_only]
    assert [_states_read(s) for s in read] == [["completed", "running"], ["completed", "failed"]]


def _states_read(step: Step, answer: int = 0) -> list[str]:
    """The states that a SELECT of all runs has returned, in the order of the alphabet."""
    told = step.answers[answer]
    at = told.columns.index("state")
    return sorted((r[at] or b"").decode() for r in told.rows)


@pytest.mark.parametrize("level", ISOLATIONS)
def test_the_snapshot_is_taken_by_the_first_statement(executor: Executor, level: Isolation) -> None:
    """What is committed before it is seen; what comes after it only at READ COMMITTED."""
    reading = transaction(of(A, Select(RUNS), Select(RUNS)), level)
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"))), transaction(of(A, sets(2, "failed")))),
        (reading,),
        schedule="111" + "2" + "111" + "2",
    )
    (read,) = [s for s in own(executor.run(shown)) if s.operation.reads_only]
    assert _states_read(read) == ["completed", "running"]
    later = ["failed", "running"] if level == "read committed" else ["completed", "running"]
    assert _states_read(read, 1) == later


def test_a_session_without_a_setting_is_as_if_it_was_never_made(executor: Executor) -> None:
    """On the documented schema a setting that is not there is an error of its own."""
    nobody = transaction(of(None, Select(RUNS)))
    empty = transaction(of("", Select(RUNS)))
    ours = transaction(of(A, Select(RUNS)))
    shown = at_once(TWO_RUNS, (ours, nobody, ours, nobody, empty), (nobody, ours), schedule="12")
    for _ in range(2):
        history = executor.run(shown)
        found = [(s.place.session, s.place.number, s.error and s.error.sqlstate)
                 for s in own(history) if s.place]  # fmt: skip
        assert sorted(found, key=lambda f: f[:2]) == [
            (0, 0, None),
            (0, 1, "42704"),
            (0, 2, None),
            (0, 3, "42704"),
            (0, 4, "22P02"),
            (1, 0, "42704"),
            (1, 1, None),
        ]


def test_each_commit_has_its_own_changes(executor: Executor) -> None:
    """Also where another session waits, and goes on the moment the first has committed."""
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"), dead_event(1))), transaction(of(A, dead_event(2)))),
        (transaction(of(A, sets(1, "failed"), dead_event(3))),),
        schedule="12111" + "2" + "1111" + "222",
    )
    history = executor.run(shown)
    assert "2.1.1 waits for 1" in story(history)
    assert ended(history) == ["1.1 ok", "1.2 ok", "2.1 ok"]
    changed = [[(c.table, c.effect) for c in s.changes] for s in own(history)]
    assert changed == [
        [("dead_events", "insert"), (RUNS, "update")],
        [("dead_events", "insert")],
        [("dead_events", "insert"), (RUNS, "update")],
    ]
    (_, update) = own(history)[2].changes
    assert update.before is not None
    assert update.after is not None
    assert (update.before["state"], update.after["state"]) == ("running", "failed")
    first, second, third = own(history)
    start = history.steps[0].after
    assert first.during == (start,)
    assert second.during == (first.after,)
    assert third.during == (start, first.after, second.after)
    assert third.since == (*third.during, third.after)
    assert [s.before for s in own(history)] == [start, first.after, second.after]
    assert history.final is third.after


def test_one_that_has_not_begun_has_lived_through_nothing(executor: Executor) -> None:
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"))),),
        (transaction(of(A, sets(2, "failed"))),),
        schedule="111222",
    )
    first, second = own(executor.run(shown))
    assert second.during == (first.after,)


def test_one_that_is_sent_again_begins_anew(executor: Executor) -> None:
    shown = at_once(TWO_RUNS, *both_set("running", "failed", "serializable"), schedule="1211")
    first, refused, again = own(executor.run(shown))
    assert refused.during == (first.before, first.after)
    assert again.during == (first.after,)


@pytest.mark.parametrize("schedule", ["", "1" * 9, "2222111"])
def test_what_the_schedule_leaves_out_comes_in_order(executor: Executor, schedule: str) -> None:
    """Entries of a session that is done are passed over."""
    history = executor.run(at_once(TWO_RUNS, *both_set("running", "failed"), schedule=schedule))
    order = ["2.1 ok", "1.1 ok"] if schedule.startswith("2") else ["1.1 ok", "2.1 ok"]
    assert ended(history) == order
    assert not [t for t in history.turns if t.waits_for]
    assert len(history.turns) == 6


def test_turns_of_one_that_waits_are_passed_over(executor: Executor) -> None:
    plain = executor.run(at_once(TWO_RUNS, *both_set("running", "failed"), schedule="1211222"))
    more = executor.run(
        at_once(TWO_RUNS, *both_set("running", "failed"), schedule="12" + "2" * 7 + "11222")
    )
    assert story(more) == story(plain)


def test_nothing_is_left_for_the_next_workload(judge: Judge, executor: Executor) -> None:
    look = workload(of(A, dead_event(1)), of(A, Select("dead_events")), of(A, Select(RUNS)))
    before = executor.run(look)
    busy = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"), event(1))), transaction(of(A, dead_event(1)))),
        (transaction(of(A, sets(1, "failed"), event(2))), transaction(of(A, dead_event(1)))),
        (transaction(of(A, reconciliation(3)), commits=False),),
        schedule="1231231212",
    )
    told = story(executor.run(busy))
    after = executor.run(look)
    assert [[a.count for a in s.answers] for s in after.steps] == [[1], [1], [0]]
    assert apart_from_tenants(after.initial) == apart_from_tenants(before.initial)
    assert story(executor.run(busy)) == told
    # A world of which no states are kept leaves as little.
    executor.run(look, states=False)
    assert story(executor.run(busy)) == told
    assert len(judge.executor("").run(workload()).initial.rows("dead_events")) == 0


def test_a_workload_may_be_sessions_alone(executor: Executor) -> None:
    shown = at_once(workload(), (transaction(of(A, event(1))),), schedule="")
    history = executor.run(shown)
    assert ended(history) == ["1.1 ok"]
    assert [r.key[0] for r in history.final.rows("attribution_events")] == [event_id(1)]


ENDLESS = """
    CREATE FUNCTION never_ends() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
    CREATE TRIGGER never_ends BEFORE INSERT ON dead_events
        FOR EACH ROW EXECUTE FUNCTION never_ends();
"""


@pytest.mark.parametrize(
    "body",
    ["PERFORM pg_sleep(1000000); RETURN NEW;", "LOOP NULL; END LOOP;"],
    ids=["sleep", "loop"],
)
def test_a_statement_without_end(lab: Lab, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """It is ended, and not sent again; what the others do goes on."""
    monkeypatch.setattr(interleave, "PATIENCE_SECONDS", 0.2)
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"), dead_event(1))),),
        (transaction(of(A, sets(1, "failed"))),),
        schedule="1211222",
    )
    with (
        altered(lab.environment, ENDLESS.format(body=body)) as environment,
        Judge(environment, lab.contract) as judge,
    ):
        case, violations = judge.violations(INVARIANTS["append-only"], shown)
        assert story(case.history)[:4] == [
            "1.1.1 1 row",
            "2.1.1 waits for 1",
            "1.1.2 patience",
            "2.1.1 goes on: 1 row",
        ]
        assert ended(case.history) == ["1.1 57014", "2.1 ok"]
        assert [str(v.signature) for v in violations] == [
            "append-only/endless/dead_events/never_ends/sessions together"
        ]
        assert violations[0].summary == "app_rw writing dead_events has no end"
        # The sessions are as good as before.
        assert states(case.history.final) == ["failed", "completed"]
        assert ended(judge.executor("").run(concurrent(TWO_RUNS, sets(1, "idle")))) == ["1.1 ok"]


@contextmanager
def stranger(conninfo: str, statement: str) -> Iterator[int]:
    """Somebody else in the scratch database, in the middle of a transaction; its process."""
    with psycopg.connect(conninfo) as connection:
        connection.execute(statement.encode())
        yield connection.info.backend_pid
        connection.rollback()


@pytest.mark.parametrize("wanted", ["table", "row"])
def test_a_lock_of_a_stranger_is_no_violation(
    documented: Environment, contract: Contract, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    code = (("code", "direct"),)
    retired = Update("channel_taxonomy", (("is_active", False),), code)
    shown = at_once(
        workload(),
        (transaction(of(A, event(1))),),
        (transaction(of(None, retired, role="")),),
        schedule="1212",
    )
    lock = {
        "table": "LOCK TABLE channel_taxonomy IN SHARE MODE",
        "row": "SELECT 1 FROM channel_taxonomy WHERE code = 'direct' FOR UPDATE",
    }[wanted]
    with Judge(documented, contract) as judge:
        executor = judge.executor("")
        # Else the stranger is in the way of preparing the statement already.
        assert ended(executor.run(shown)) == ["1.1 ok", "2.1 ok"]
        with stranger(executor.conninfo, lock) as pid:
            monkeypatch.setattr(interleave, "PATIENCE_SECONDS", 0.2)
            wanted_error = rf"session 2 has waited .* for process {pid}, which is none of ours"
            with pytest.raises(InfrastructureError, match=wanted_error):
                judge.violations(INVARIANTS["taxonomy"], shown)


def test_a_session_behind_one_that_waits_for_a_stranger(
    documented: Environment, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first waits for a stranger, so whoever is behind it does as well."""
    monkeypatch.setattr(interleave, "PATIENCE_SECONDS", 0.2)
    codes = ["direct", "email"]
    retired = [Update("channel_taxonomy", (("is_active", False),), (("code", c),)) for c in codes]
    shown = at_once(
        workload(),
        (transaction(of(None, retired[0], retired[1], role="")),),
        (transaction(of(None, retired[0], role="")),),
        schedule="121",
    )
    with Judge(documented, contract) as judge:
        executor = judge.executor("")
        lock = "SELECT 1 FROM channel_taxonomy WHERE code = 'email' FOR UPDATE"
        with (
            stranger(executor.conninfo, lock) as pid,
            pytest.raises(InfrastructureError, match=rf"session 1 .* for process {pid},"),
        ):
            executor.run(shown)


@pytest.mark.parametrize("where", ["at work", "waiting"])
def test_a_session_that_is_ended_is_an_infrastructure_error(
    documented: Environment, contract: Contract, where: str
) -> None:
    """As by an administrator: no outcome is made up."""
    body = "BEGIN PERFORM pg_terminate_backend({}); RETURN NEW; END"
    victim = {
        "at work": "pg_backend_pid()",
        "waiting": "pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> ALL ('{}'",
    }[where]
    change = (
        "CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        f"$$ {body.format(victim)} $$;"
        "CREATE TRIGGER ends BEFORE INSERT ON dead_events FOR EACH ROW EXECUTE FUNCTION ends()"
    )
    shown = at_once(
        TWO_RUNS,
        (transaction(of(A, sets(1, "running"), dead_event(1))),),
        (transaction(of(A, sets(1, "failed"))),),
        schedule="1211222",
    )
    with (
        altered(documented, change) as environment,
        Judge(environment, contract) as judge,
        pytest.raises(InfrastructureError, match="the database server went away"),
    ):
        judge.executor("").run(shown)


def came_of(history: History) -> object:
    """All that is the same in every run: clocks are left out."""
    changes = [[(c.table, c.effect, c.record.key) for c in s.changes] for s in history.steps]
    lived = [[history.steps[0].before.records == x.records for x in s.during] for s in own(history)]
    return (history.turns, ended(history), changes, lived)


@pytest.mark.parametrize("invariant", ["append-only", "cross-tenant"])
def test_every_run_of_a_drawn_workload_is_the_same(
    head: Environment, contract: Contract, head_judge: Judge, invariant: str
) -> None:
    """Ten on one executor and one on another, whose sessions have no past."""
    generated = generation.workloads(contract, head_judge.catalog, INVARIANTS[invariant], 3)
    executor = head_judge.executor("")
    histories = [executor.run(w) for w in drawn(generated, 600) if w.sessions]
    # Those with the most waits: without one there is little that could differ.
    first = sorted(histories, key=lambda h: sum(bool(t.waits_for) for t in h.turns))[-12:]
    assert all(any(t.waits_for for t in h.turns) for h in first[-3:])
    workloads = [h.workload for h in first]
    for _ in range(9):
        assert [came_of(executor.run(w)) for w in workloads] == [came_of(h) for h in first]
    with Judge(head, contract) as fresh:
        others = [fresh.executor("").run(w) for w in workloads]
    assert [came_of(h) for h in others] == [came_of(h) for h in first]


KILL = """
import threading
from pathlib import Path
from invariants.servers.environment import open_environment
from invariants.errors import InfrastructureError
from invariants.search.judge import Judge
from invariants.schema.chain import Migrations
from invariants.contract.contract import load
from tests.conftest import query
from tests.engine import A, concurrent, of, reconciliation, workload
from invariants.workload.operations import Update

migrations = Migrations(Path("alembic.ini"), args[0])
with open_environment("embedded", migrations, say=lambda _: None) as environment:
    with Judge(environment, load(Path("invariants.toml"))) as judge:
        executor = judge.executor("")
        conninfo = environment.handle()["conninfo"]
        ((data,),) = query(conninfo, "SHOW data_directory")
        pid = int(Path(data, "postmaster.pid").read_text().split()[0])
        changes = [Update("reconciliation_runs", (("state", s),)) for s in ("idle", "failed")]
        shown = concurrent(workload(of(A, reconciliation(1))), *changes, schedule="1211")
        told = [(s.operation, s.error) for s in executor.run(shown).steps]
        threading.Timer(0.3, os.kill, (pid, signal.SIGQUIT)).start()
        try:
            while True:
                assert [(s.operation, s.error) for s in executor.run(shown).steps] == told
        except InfrastructureError as error:
            print(error)
print("done")
"""


def test_a_server_killed_in_the_middle(spawn: SpawnChild) -> None:
    said = spawn(KILL, DOCUMENTED).finish().splitlines()
    assert said[0].startswith("the database server went away (")
    assert said[1:] == ["done"]
