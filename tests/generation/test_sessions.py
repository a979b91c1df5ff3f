"""What the strategies make of sessions side by side, and what is kept of it in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.counterexamples.files import load
from invariants.errors import UsageError
from invariants.generation.drawing import plainest
from invariants.generation.duets import _SCENES, _stage, orders
from invariants.search.judge import Judge
from invariants.workload.format import workload_from_json, workload_to_json
from invariants.workload.operations import (
    ISOLATIONS,
    Operation,
    Value,
    Workload,
    inserted,
)
from invariants.workload.schedules import expanded
from tests.engine import (
    A,
    allocation,
    at_once,
    dead_event,
    drawn,
    event,
    of,
    transaction,
    workload,
)

CONCURRENT = [name for name, i in INVARIANTS.items() if i.concurrent]
RC, RR, SER = ISOLATIONS
LEVELS = {(RC, RC), (RR, RR), (SER, SER), (RC, RR), (RR, RC)}


@cache
def duets(judge: Judge, name: str) -> list[Workload]:
    return list(generation.duets(judge.contract, judge.catalog, INVARIANTS[name]))


def acts(shown: Workload) -> tuple[Operation, ...]:
    return tuple(t.operation for s in shown.sessions for t in s)


@pytest.mark.parametrize("name", INVARIANTS)
def test_there_are_duets_where_it_is_asked_of_sessions(head_judge: Judge, name: str) -> None:
    assert bool(duets(head_judge, name)) is (name in CONCURRENT)


@pytest.mark.parametrize("name", CONCURRENT)
def test_every_level_and_every_order_once(head_judge: Judge, name: str) -> None:
    """Of every two acts of every scene."""
    of_these = head_judge.contract, head_judge.catalog
    made = duets(head_judge, name)
    whole = [replace(w, schedule=expanded(w.sessions, w.schedule)) for w in made]
    assert max(Counter(whole).values()) == 1
    for shown in whole:
        assert [len(s) for s in shown.sessions] == [1, 1]
        assert all(t.commits for s in shown.sessions for t in s)
    found = Counter(
        (w.operations, frozenset(acts(w)), tuple(s[0].isolation for s in w.sessions)) for w in made
    )
    wanted: Counter[object] = Counter()
    for makes in INVARIANTS[name].duets:
        for make in _SCENES[makes](*of_these):
            _, scene = plainest(_stage(*of_these, make))
            assert len(scene.acts) > 1
            for pair in combinations(scene.acts, 2):
                one, two = map(transaction, pair)
                for levels in LEVELS:
                    count = len(set(orders(one, two)))
                    wanted[scene.before, frozenset(pair), levels] += count
    assert found == wanted


def test_the_orders_are_those_in_which_two_can_meet() -> None:
    """Of two that write, the work, the check and the commit of each come in every relation."""
    one, two = transaction(of(A, event(1), event(2))), transaction(of(A, dead_event(1)))
    told = {"".join(str(p + 1) for p in s) for s in orders(one, two)}
    assert told == {
        # Work, then checks, then commits.
        "1121212", "1122121",
        # One is checked before the other begins.
        "1112212", "2211121",
        # All of the other in between.
        "1122211", "2111122",
        # Statement by statement; a turn of who is done is passed over.
        "12121212",
    }  # fmt: skip


@pytest.mark.parametrize("name", CONCURRENT)
def test_every_act_is_lawful_on_its_own(head_judge: Judge, name: str) -> None:
    """What comes before it as well; and it does something."""
    executor = head_judge.executor("")
    seen = set()
    for shown in duets(head_judge, name):
        for act in acts(shown):
            alone = replace(shown, operations=(*shown.operations, act), sessions=(), schedule=())
            if alone in seen:
                continue
            seen.add(alone)
            history = executor.run(alone)
            assert [s.error for s in history.steps] == [None] * len(history.steps), act
            *_, last = history.steps
            assert [a.count for a in last.answers if a.count == 0] == [], act
    assert len(seen) > 1


@cache
def sessions(judge: Judge, name: str, most: int) -> list[Workload]:
    """The concurrent ones of the workloads drawn for an invariant."""
    generated = generation.workloads(judge.contract, judge.catalog, INVARIANTS[name], most)
    return [w for w in drawn(generated, 120) if w.sessions]


@pytest.mark.parametrize("most", [2, 3])
def test_two_or_three_sessions_are_drawn(head_judge: Judge, most: int) -> None:
    made = [w for name in CONCURRENT for w in sessions(head_judge, name, most)]
    assert {len(w.sessions) for w in made} == set(range(2, most + 1))
    for shown in made:
        assert Counter(shown.schedule) == {
            p: n for p, s in enumerate(shown.sessions) if (n := sum(t.turns for t in s))
        }
    every = [t for w in made for s in w.sessions for t in s]
    assert {t.isolation for t in every} == set(ISOLATIONS)
    assert {t.commits for t in every} == {True, False}
    assert max(len(s) for w in made for s in w.sessions) > 1
    assert max(len(t.operation.statements) for t in every) > 1
    mixed = [{t.isolation for s in w.sessions for t in s} for w in made]
    assert {len(levels) > 1 for levels in mixed} == {True, False}


@pytest.mark.parametrize("name", CONCURRENT)
def test_some_are_drawn_for_each(head_judge: Judge, name: str) -> None:
    assert len(sessions(head_judge, name, 3)) > 3


@pytest.mark.parametrize("name", [n for n in INVARIANTS if n not in CONCURRENT])
def test_none_are_drawn_where_it_is_not_asked(head_judge: Judge, name: str) -> None:
    assert sessions(head_judge, name, 3) == []


def test_none_are_drawn_without_sessions(head_judge: Judge) -> None:
    assert sessions(head_judge, "allocation-sum", 0) == []


def ids(operation: Operation) -> Iterator[tuple[str, Value]]:
    for s in operation.statements:
        for row in inserted(s):
            if "id" in row:
                yield s.relation, row["id"]


@pytest.mark.parametrize("name", CONCURRENT)
def test_what_one_session_makes_no_other_makes(head_judge: Judge, name: str) -> None:
    """A message sent again apart: it is meant to be the same."""
    for shown in sessions(head_judge, name, 3):
        before = {i for o in shown.operations for i in ids(o)}
        own: list[set[tuple[str, Value]]] = []
        for session in shown.sessions:
            made = [t.operation for t in session if t.operation.delivery is None]
            own.append({i for o in made for i in ids(o)} - before)
        for one, other in combinations(own, 2):
            assert one & other == set()


@pytest.mark.parametrize("name", CONCURRENT)
def test_sessions_survive_json(head_judge: Judge, name: str) -> None:
    for shown in [*sessions(head_judge, name, 3), *duets(head_judge, name)[:20]]:
        text = json.dumps(workload_to_json(shown))
        assert workload_from_json(json.loads(text)) == shown


def test_without_sessions_a_file_is_as_it_was() -> None:
    assert set(workload_to_json(workload(of(A, event(1))))) == {
        "premise", "tenants", "operations"
    }  # fmt: skip


def _document() -> dict[str, Any]:
    shown = at_once(
        workload(of(A, event(1))),
        (transaction(of(A, allocation(1)), "serializable"),),
        (transaction(of(A, dead_event(1)), commits=False),),
        schedule="1212",
    )
    return {
        "format": 1,
        "invariant": "allocation-sum",
        "signature": "x",
        "workload": workload_to_json(shown),
    }


MALFORMED: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "a session that is not there": (("schedule",), [0, 2]),
    "a session before the first": (("schedule",), [-1]),
    "a session by another name": (("schedule",), ["one"]),
    "a session that is half": (("schedule",), [0.5]),
    "a session that is true": (("schedule",), [True]),
    "a schedule that is none": (("schedule",), 7),
    "sessions that are none": (("sessions",), 7),
    "a session that is none": (("sessions", 0), 7),
    "a transaction that is none": (("sessions", 0, 0), "BEGIN"),
    "an unknown isolation": (("sessions", 0, 0, "isolation"), "snapshot"),
    "an isolation in capitals": (("sessions", 0, 0, "isolation"), "SERIALIZABLE"),
    "an unknown end": (("sessions", 0, 0, "end"), "abort"),
    "an unknown statement": (("sessions", 0, 0, "statements", 0, "kind"), "grant"),
    "a statement that takes no turns": (("sessions", 0, 0, "statements", 0), {
        "kind": "copy", "relation": "dead_events", "columns": [], "rows": [],
    }),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_file_with_malformed_sessions(tmp_path: Path, what: str) -> None:
    document = _document()
    path, value = MALFORMED[what]
    place: Any = document["workload"]
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"broken\.json: not a counterexample: workload\.s.*; "):
        load(file)


@pytest.mark.parametrize("missing", ["isolation", "end", "role", "statements"])
def test_a_transaction_that_lacks_something(tmp_path: Path, missing: str) -> None:
    document = _document()
    del document["workload"]["sessions"][0][0][missing]
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"broken\.json: not a counterexample"):
        load(file)


def test_a_schedule_without_sessions(tmp_path: Path) -> None:
    document = _document()
    del document["workload"]["sessions"]
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"broken\.json: not a counterexample"):
        load(file)


def test_sessions_without_a_schedule_are_one_after_the_other(tmp_path: Path) -> None:
    document = _document()
    del document["workload"]["schedule"]
    file = tmp_path / "kept.json"
    file.write_text(json.dumps(document))
    shown = load(file).workload
    assert shown.schedule == ()
    assert len(shown.sessions) == 2
