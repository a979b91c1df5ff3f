"""Sessions made smaller: what is left keeps its order, and only what matters is left."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.search.judge import Judge, by_signature, failing_with
from invariants.search.reduction import reduce
from invariants.workload import schedules
from invariants.workload.operations import (
    ISOLATIONS,
    Delete,
    Insert,
    Isolation,
    Operation,
    Select,
    Statement,
    Transaction,
    Update,
    Workload,
)
from tests.engine import (
    A,
    Lab,
    allocation,
    altered,
    at_once,
    dead_event,
    drawn,
    event,
    key,
    maintenance,
    of,
    posting,
    reconciliation,
    transaction,
    workload,
)

ALLOCATIONS, EVENTS = "attribution_allocations", "attribution_events"
CAUSE = f"allocation-sum/insert/{ALLOCATIONS}/trg_check_allocation_sum/sessions together"

without_server = settings(
    max_examples=80, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@st.composite
def concurrent_workloads(draw: st.DrawFn) -> Workload:
    """Up to three sessions, each statement another, and any schedule at all."""
    number = 0

    def statement() -> Statement:
        nonlocal number
        number += 1
        kind = Select if draw(st.booleans()) else Delete
        return kind("dead_events", key("dead_events", number))

    sessions = tuple(
        tuple(
            Transaction(
                of(A, *(statement() for _ in range(draw(st.integers(1, 3))))),
                draw(st.sampled_from(ISOLATIONS)),
                draw(st.booleans()),
            )
            for _ in range(draw(st.integers(1, 3)))
        )
        for _ in range(draw(st.integers(1, 3)))
    )
    turns = draw(st.lists(st.integers(0, len(sessions) - 1), max_size=30))
    return Workload((), (), "", sessions, tuple(turns))


def full(shown: Workload) -> Workload:
    return replace(shown, schedule=schedules.expanded(shown.sessions, shown.schedule))


Label = tuple[object, str]


def labelled(shown: Workload) -> list[Label]:
    """Every turn in order, named by the statement, or by the transaction that it ends.

    A transaction goes by its last statement that was there from the beginning: here they differ.
    """
    waiting: list[list[Label]] = []
    for session in shown.sessions:
        labels: list[Label] = []
        for t in session:
            statements = t.operation.statements
            labels += [(s, "statement") for s in statements]
            labels += [(statements[0], "check")] if t.checked else []
            labels.append((statements[0], "end"))
        waiting.append(labels)
    return [waiting[p].pop(0) for p in shown.schedule]


def complete(shown: Workload) -> bool:
    turns = [sum(t.turns for t in s) for s in shown.sessions]
    return Counter(shown.schedule) == Counter({p: n for p, n in enumerate(turns) if n})


def kept(labels: list[Label], among: list[Label]) -> list[Label]:
    return [x for x in labels if x in among]


@given(concurrent_workloads())
@without_server
def test_an_expanded_schedule_has_every_turn_once(shown: Workload) -> None:
    made = full(shown)
    assert complete(made)
    assert full(made) == made
    left = [sum(t.turns for t in s) for s in shown.sessions]
    # What it had comes first, as far as there was something to do.
    said = []
    for p in shown.schedule:
        if left[p] > 0:
            said.append(p)
            left[p] -= 1
    assert made.schedule[: len(said)] == tuple(said)
    rest = made.schedule[len(said) :]
    assert list(rest) == sorted(rest)


@given(concurrent_workloads(), st.data())
@without_server
def test_without_a_transaction_the_others_keep_their_turns(
    shown: Workload, data: st.DataObject
) -> None:
    shown = full(shown)
    index = data.draw(st.integers(0, len(shown.all_operations) - 1))
    smaller = schedules.with_operation(shown, index, None)
    assert complete(smaller)
    assert smaller in list(schedules.simpler(shown))
    assert len(smaller.all_operations) == len(shown.all_operations) - 1
    assert all(smaller.sessions)
    assert labelled(smaller) == kept(labelled(shown), labelled(smaller))


@given(concurrent_workloads(), st.data())
@without_server
def test_without_a_statement_the_others_keep_their_turns(
    shown: Workload, data: st.DataObject
) -> None:
    shown = full(shown)
    index = data.draw(st.integers(0, len(shown.all_operations) - 1))
    operation = shown.all_operations[index]
    # The first stays: the transaction goes by it.
    gone = data.draw(st.integers(1, max(1, len(operation.statements) - 1)))
    rest = operation.statements[:gone] + operation.statements[gone + 1 :]
    smaller = schedules.with_operation(shown, index, replace(operation, statements=rest))
    assert complete(smaller)
    assert labelled(smaller) == kept(labelled(shown), labelled(smaller))


@given(concurrent_workloads(), st.data())
@without_server
def test_another_statement_changes_no_turn(shown: Workload, data: st.DataObject) -> None:
    shown = full(shown)
    index = data.draw(st.integers(0, len(shown.all_operations) - 1))
    operation = shown.all_operations[index]
    others = tuple(replace(s, relation="tenants") for s in operation.statements)
    changed = schedules.with_operation(shown, index, replace(operation, statements=others))
    assert changed.schedule == shown.schedule


@given(concurrent_workloads())
@without_server
def test_what_is_simpler_is_whole_and_no_bigger(shown: Workload) -> None:
    shown = full(shown)
    tried = list(schedules.simpler(shown))
    for smaller in tried:
        assert complete(smaller)
        # What goes first alone is not beside the others any more.
        assert len(smaller.all_operations) <= len(shown.all_operations)
        assert set(smaller.all_operations) <= set(shown.all_operations)
        ended = [t for s in smaller.sessions for t in s]
        if [t.commits for t in ended] == [t.commits for s in shown.sessions for t in s] and (
            smaller.schedule != shown.schedule and smaller.sessions == shown.sessions
        ):
            assert schedules.switches(smaller.schedule) < schedules.switches(shown.schedule)
    # Each session, each transaction and each level is tried on its own.
    one_less = [w.sessions for w in tried if len(w.all_operations) < len(shown.all_operations)]
    for position, session in enumerate(shown.sessions):
        rest = (*shown.sessions[:position], *shown.sessions[position + 1 :])
        assert rest in one_less
        for number in range(len(session)):
            left = (*session[:number], *session[number + 1 :])
            if left:
                changed = (*shown.sessions[:position], left, *shown.sessions[position + 1 :])
                assert changed in one_less


@given(concurrent_workloads())
@without_server
def test_in_the_order_of_appearance_nothing_else_changes(shown: Workload) -> None:
    shown = full(shown)
    *_, named = schedules.simpler(shown)
    assert labelled(named) == labelled(shown)
    assert list(dict.fromkeys(named.schedule)) == list(range(len(shown.sessions)))


def reduced(judge: Judge, name: str, shown: Workload, cause: str) -> Workload:
    invariant = INVARIANTS[name]
    case, violations = judge.violations(invariant, shown)
    fails = failing_with(judge, invariant, case, by_signature(violations)[cause])
    return reduce(shown, lambda w: fails(w) is not None, judge.contract, judge.catalog)


def shows(judge: Judge, name: str, shown: Workload, cause: str) -> bool:
    return cause in by_signature(judge.violations(INVARIANTS[name], shown)[1])


def in_all_orders(shown: Workload) -> set[Workload]:
    """The workload with its turns in every order there is."""
    return {replace(shown, schedule=s) for s in set(permutations(shown.schedule))}


def least(judge: Judge, shown: Workload) -> None:
    """Two transactions of one INSERT each, and no calmer order shows the same."""
    (one,), (two,) = shown.sessions
    for t in (one, two):
        assert (t.isolation, t.commits) == ("read committed", True)
        (statement,) = t.operation.statements
        assert isinstance(statement, Insert)
        assert statement.relation == ALLOCATIONS
    (before,) = shown.operations
    assert [s.relation for s in before.statements] == [EVENTS]
    now = schedules.switches(shown.schedule)
    calmer = [w for w in in_all_orders(shown) if schedules.switches(w.schedule) < now]
    assert calmer
    assert not any(shows(judge, "allocation-sum", w, CAUSE) for w in calmer)


def test_a_long_story_of_three_sessions_becomes_a_short_one(judge: Judge) -> None:
    noise = of(A, dead_event(1), reconciliation(1))
    shown = at_once(
        workload(noise, of(A, event(1), event(2)), of(A, allocation(5, of_event=2)),
                 maintenance(Update("channel_taxonomy", (("is_paid", True),)))),
        (
            transaction(of(A, Select(EVENTS), dead_event(2)), "serializable", commits=False),
            transaction(of(A, dead_event(3), allocation(1), Select(ALLOCATIONS)),
                        "repeatable read"),
            transaction(of(A, posting(1))),
        ),
        (
            transaction(of(A, dead_event(4)), "serializable"),
            transaction(
                of(A, Select(EVENTS), allocation(2, channel_code="email"), dead_event(5)),
                "repeatable read",
            ),
        ),
        (transaction(of(A, dead_event(6), Delete("dead_events"))), transaction(noise)),
        schedule="1231231231231212121233112233",
    )  # fmt: skip
    assert shows(judge, "allocation-sum", shown, CAUSE)
    smallest = reduced(judge, "allocation-sum", shown, CAUSE)
    least(judge, smallest)
    # It is the same every time, and the smallest there is already.
    assert reduced(judge, "allocation-sum", smallest, CAUSE) == smallest


def test_a_drawn_workload_becomes_two_inserts(judge: Judge) -> None:
    invariant = INVARIANTS["allocation-sum"]
    generated = generation.workloads(judge.contract, judge.catalog, invariant, 3)
    for number in range(50):
        for shown in drawn(generated, 100, number):
            if shown.sessions and shows(judge, invariant.name, shown, CAUSE):
                least(judge, reduced(judge, invariant.name, shown, CAUSE))
                return
    raise AssertionError("none was drawn")


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_transaction_that_was_refused_goes_with_the_turns_it_had(
    judge: Judge, refused: int
) -> None:
    """What it had left of its turns was taken by the next transaction of its session."""
    states = ["idle" if n != refused else "no such state" for n in (1, 2, 3)]
    wrong = of(A, *(reconciliation(n, state=s) for n, s in enumerate(states, 1)))
    shown = at_once(
        workload(of(A, event(1))),
        (transaction(wrong), transaction(of(A, allocation(1)))),
        (transaction(of(A, allocation(2, channel_code="email"))),),
        schedule="1" * refused + "1222" + "11",
    )
    smallest = reduced(judge, "allocation-sum", shown, CAUSE)
    least(judge, smallest)
    assert [len(s) for s in smallest.sessions] == [1, 1]


LOCKED = f"""
    DROP TRIGGER trg_check_allocation_sum ON {ALLOCATIONS};
    CREATE FUNCTION adds_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        wanted integer;
    BEGIN
        SELECT revenue_cents INTO wanted FROM {EVENTS} WHERE id = NEW.event_id
        FOR NO KEY UPDATE;
        IF abs((SELECT sum(allocated_revenue_cents) FROM {ALLOCATIONS}
                WHERE event_id = NEW.event_id) - wanted) > 1 THEN
            RAISE check_violation;
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER adds_up AFTER INSERT ON {ALLOCATIONS}
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION adds_up();
"""


@pytest.mark.parametrize("levels", [("serializable", "repeatable read"), ("repeatable read",) * 2])
def test_a_level_goes_down_as_far_as_it_still_fails(
    lab: Lab, levels: tuple[Isolation, Isolation]
) -> None:
    """Whoever checks last must have a snapshot of its own; the other need not."""
    operations: list[Operation] = [of(A, allocation(1)), of(A, allocation(2, channel_code="email"))]
    shown = at_once(
        workload(of(A, event(1))),
        *((transaction(o, level),) for o, level in zip(operations, levels, strict=True)),
        schedule="121212",
    )
    cause = f"allocation-sum/insert/{ALLOCATIONS}/adds_up/sessions together"
    with (
        altered(lab.environment, LOCKED) as environment,
        Judge(environment, lab.contract) as judge,
    ):
        smallest = reduced(judge, "allocation-sum", shown, cause)
        now = [t.isolation for s in smallest.sessions for t in s]
        assert sorted(now) == ["read committed", "repeatable read"]
        lower = tuple(
            tuple(replace(t, isolation=ISOLATIONS[0]) for t in s) for s in smallest.sessions
        )
        assert not any(
            shows(judge, "allocation-sum", w, cause)
            for w in in_all_orders(replace(smallest, sessions=lower))
        )
