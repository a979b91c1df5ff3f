"""The executor: transactions as in production, a clean start every time, the true way's answers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql as pgsql

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.errors import UsageError
from invariants.execution.executor import Executor
from invariants.execution.history import History, Record, State, Step
from invariants.execution.plain import PlainExecutor
from invariants.execution.wire import Reply
from invariants.search.judge import Judge
from invariants.servers import roles
from invariants.servers.environment import Environment
from invariants.workload.operations import (
    Call,
    Copy,
    Delete,
    Json,
    Merge,
    Refresh,
    Row,
    Select,
    Shadow,
    Tenant,
    Truncate,
    Update,
    Workload,
)
from tests.conftest import SpawnChild
from tests.engine import (
    DOCUMENTED,
    UNKNOWN,
    A,
    B,
    allocation,
    altered,
    dead_event,
    drawn,
    event,
    event_id,
    key,
    maintenance,
    of,
    posting,
    row,
    workload,
)

TENANTS = {A, B}


@pytest.fixture
def executor(judge: Judge) -> Executor:
    """One on the documented schema, which earlier tests have used."""
    return judge.executor("")


def sqlstates(history: History) -> list[str | None]:
    return [s.error.sqlstate if s.error else None for s in history.steps]


def keys(state: State, table: str) -> set[object]:
    return {r.key[0] for r in state.rows(table)}


def test_an_operation_is_one_transaction(executor: Executor) -> None:
    """A statement that fails takes the statements before it along, and none after it runs."""
    fails = allocation(1, cents=7)
    history = executor.run(workload(of(A, event(1), fails, dead_event(1)), of(A, event(2))))
    assert sqlstates(history) == ["P0001", None]
    assert [len(s.answers) for s in history.steps] == [1, 1]
    assert history.steps[0].failed_statement == fails
    assert history.steps[0].after is history.steps[0].before
    assert keys(history.final, "attribution_events") == {event_id(2)}
    assert keys(history.final, "dead_events") == set()


def test_deferred_constraints_fire_at_the_end_of_the_operation(
    documented: Environment, contract: Contract
) -> None:
    later = """
        ALTER TABLE attribution_allocations
            ALTER CONSTRAINT attribution_allocations_event_id_fkey DEFERRABLE INITIALLY DEFERRED
    """
    unchecked = "DROP TRIGGER trg_check_allocation_sum ON attribution_allocations"
    with (
        altered(documented, later, unchecked) as environment,
        Judge(environment, contract) as judge,
    ):
        history = judge.executor("").run(
            workload(
                of(A, allocation(1), event(1)),
                of(A, allocation(2, of_event=2), dead_event(1)),
                of(A, event(2)),
            )
        )
    assert sqlstates(history) == [None, "23503", None]
    refused = history.steps[1]
    assert refused.error is not None
    assert refused.error.constraint == "attribution_allocations_event_id_fkey"
    assert len(refused.answers) == 2  # both statements ran; the commit was refused
    assert refused.failed_statement == dead_event(1)
    assert keys(history.final, "dead_events") == set()


def test_states_before_and_after(executor: Executor) -> None:
    update = Update("dead_events", (("source", "stripe"),))
    history = executor.run(
        workload(
            of(A, dead_event(1)),
            of(A, Select("dead_events")),
            of(A, update),
            of(A, Delete("dead_events")),
        )
    )
    effects = [[(c.table, c.effect) for c in s.changes] for s in history.steps]
    assert effects == [
        [("dead_events", "insert")],
        [],
        [("dead_events", "update")],
        [("dead_events", "delete")],
    ]
    for earlier, later in zip(history.steps, history.steps[1:], strict=False):
        assert earlier.after is later.before
    (change,) = history.steps[2].changes
    assert change.before is not None
    assert change.after is not None
    assert (change.before["source"], change.after["source"]) == ("shopify", "stripe")
    assert keys(history.initial, "tenants") == TENANTS
    assert len(history.initial.rows("channel_taxonomy")) == 9


def test_rows_stay_the_same_however_many_there_were(
    documented: Environment, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are kept by their text, up to a number; what did not change is no change ever after."""
    monkeypatch.setattr("invariants.execution.executor._RECORDS_KEPT", 20)
    with Judge(documented, contract) as judge:
        executor = judge.executor("")
        for number in range(10):
            shown = workload(*(of(A, event(10 * number + n)) for n in range(8)))
            history = executor.run(shown)
            assert [len(s.changes) for s in history.steps] == [1] * 8
            assert history.initial.rows("channel_taxonomy") == executor.baseline.rows(
                "channel_taxonomy"
            )
        assert len(executor._records) < 60


def test_counts_and_rows(executor: Executor) -> None:
    history = executor.run(
        workload(
            of(A, dead_event(1), dead_event(2)),
            of(A, Update("dead_events", (("source", "stripe"),))),
            of(A, Select("dead_events", (("source", "stripe"), ("correlation_id", None)))),
            of(A, Delete("dead_events", key("dead_events", 1))),
        )
    )
    assert [[a.count for a in s.answers] for s in history.steps] == [[1, 1], [2], [2], [1]]
    (read,) = history.steps[2].answers
    at = read.columns.index("source")
    assert {r[at] for r in read.rows} == {b"stripe"}


@pytest.mark.parametrize(
    ("setting", "sqlstate"),
    [(None, "42704"), ("", "22P02"), ("not-a-uuid", "22P02"), (UNKNOWN, None)],
)
def test_every_kind_of_setting(
    executor: Executor, setting: str | None, sqlstate: str | None
) -> None:
    """An unset setting stays unset, whatever other operations have set before."""
    read = of(setting, Select("dead_events"))
    history = executor.run(workload(of(A, dead_event(1)), read, of(A, dead_event(2)), read))
    assert sqlstates(history) == [None, sqlstate, None, sqlstate]
    if sqlstate is None:
        assert [a.count for a in history.steps[1].answers] == [0]


def test_settings_and_roles_end_with_their_operation(executor: Executor) -> None:
    history = executor.run(
        workload(
            of(A, dead_event(1)),
            of(B, Select("dead_events")),
            maintenance(Select("dead_events")),
            of(A, Select("dead_events"), role="app_ro"),
            of(A, dead_event(2), role="app_ro"),
        )
    )
    assert [s.answers[0].count for s in history.steps[1:4]] == [0, 1, 1]
    assert sqlstates(history)[4] == "42501"


def test_copy_and_merge(executor: Executor) -> None:
    made = dead_event(1)
    odd = "a\tb\\c\n\"'$1 Ünï"
    named = dict(zip(made.columns, made.rows[0], strict=True)) | {
        "source": odd,
        "error_detail": Json.of({"text": odd}),
        "external_event_id": None,
    }
    merge = Merge("reconciliation_runs", *_merged("running"), ("id",), ("state",))
    history = executor.run(
        workload(
            # Row security does not go with COPY, whatever its policies say.
            of(A, Copy(made.relation, made.columns, made.rows)),
            maintenance(Copy("dead_events", tuple(named), (tuple(named.values()),))),
            of(A, Select("dead_events")),
            of(A, merge),
            of(A, replace(merge, row=_merged("failed")[1])),
            of(B, replace(merge, row=_merged("idle")[1])),
        )
    )
    assert sqlstates(history) == ["0A000", None, None, None, None, "42501"]
    (copied,) = history.steps[1].after.rows("dead_events")
    assert copied["source"] == odd
    assert copied["error_detail"] == {"text": odd}
    assert copied["external_event_id"] is None
    assert [len(s.answers) for s in history.steps] == [0, 1, 1, 1, 1, 0]
    assert [r["state"] for r in history.final.rows("reconciliation_runs")] == ["failed"]


def _merged(state: str) -> tuple[tuple[str, ...], Row]:
    made = row("reconciliation_runs", 1, A, last_run_at="2024-03-01 00:00:00+00", state=state)
    return made.columns, made.rows[0]


def test_temporary_objects_end_with_their_operation(
    documented: Environment, contract: Contract
) -> None:
    """A function that took a shadow for its type would look for it in that session ever after."""
    shadows = tuple(Shadow(f"pg_catalog.{t}", "type") for t in ("text", "uuid"))
    catalog = Shadow("pg_catalog.pg_class", "relation")
    shown = workload(
        of(A, event(1)),
        of(A, *shadows, catalog, allocation(1)),
        of(None, *shadows, Select("channel_taxonomy")),
        of(A, event(2), allocation(2, of_event=2)),
        of(A, Select("pg_temp.pg_class")),
    )
    with Judge(documented, contract) as judge:
        executor = judge.executor("")
        for _ in range(2):
            history = executor.run(shown)
            assert sqlstates(history) == [None, None, "42501", None, "42P01"]
            assert len(keys(history.final, "attribution_allocations")) == 2
        left = "SELECT FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace"
        until = time.monotonic() + 30
        with psycopg.connect(executor.conninfo, autocommit=True) as conn:
            # The server clears up when it has noticed that the session is over.
            while conn.execute(f"{left} WHERE nspname ~ '^pg_temp'").fetchall():
                assert time.monotonic() < until
                time.sleep(0.02)


def test_who_logs_in_runs_what_it_made_itself(
    documented: Environment, contract: Contract, judge: Judge, login: str
) -> None:
    """By SET ROLE and by a login of its own, where the setting of the role says nothing."""
    shown = workload(
        of(A, event(1)), of(A, Shadow("pg_catalog.text", "type"), allocation(1)), of(A, event(2))
    )
    scratch = documented.scratch()
    try:
        for direct in (False, True):
            with PlainExecutor(
                scratch.conninfo,
                contract,
                judge.catalog,
                scratch.login,
                direct=direct,
                password=login,
            ) as plain:
                assert [r.error for r in plain.run(shown)] == [None] * 3
                plain.reset()
    finally:
        scratch.drop()


def test_a_workload_starts_from_the_baseline(documented: Environment, contract: Contract) -> None:
    """Rows of every table, the taxonomy among them, materialized views and sequences."""
    counted = """
        ALTER TABLE dead_events ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY;
        CREATE TABLE notes (
            id integer PRIMARY KEY, twice integer GENERATED ALWAYS AS (id * 2) STORED
        );
        INSERT INTO notes VALUES (7)
    """
    run = row("reconciliation_runs", 1, A, last_run_at="2024-03-01 00:00:00+00")
    view = "mv_reconciliation_status"
    busy = workload(
        of(A, event(1)),
        of(A, allocation(1)),
        of(A, posting(1)),
        of(A, dead_event(1)),
        of(A, run),
        maintenance(Refresh(view)),
        maintenance(Update("channel_taxonomy", (("is_active", False),))),
        maintenance(Delete("channel_taxonomy", (("code", "email"),))),
        maintenance(Update("notes", (("id", 8),))),
        of(A, Update("dead_events", (("source", "x"),))),
    )
    look = workload(
        of(A, dead_event(2)),
        of(A, Select("dead_events")),
        maintenance(Select(view)),
        of(A, Call("f")),
    )
    with altered(documented, counted) as environment, Judge(environment, contract) as judge:
        executor = judge.executor("")
        first = executor.run(look)
        for states in (True, False):
            executor.run(busy, states=states)
            again = executor.run(look)
            assert _apart_from_tenants(again.initial) == _apart_from_tenants(first.initial)
            assert _masked(again.steps) == _masked(first.steps)
        (number,) = [r["number"] for r in again.final.rows("dead_events")]
        assert number == 1


def _apart_from_tenants(state: State) -> set[Record]:
    return {r for r in state.records if r.table != "tenants"}


def test_truncate_and_erasure_are_put_back_too(executor: Executor) -> None:
    busy = workload(
        of(A, event(1)),
        of(A, allocation(1)),
        maintenance(Truncate("channel_taxonomy", cascade=True)),
        maintenance(Truncate("attribution_events", cascade=True)),
        maintenance(Delete("tenants")),
    )
    history = executor.run(busy)
    assert sqlstates(history)[2:] == [None, None, None]
    assert history.final.records == frozenset()
    again = executor.run(workload(of(A, dead_event(1))))
    assert _apart_from_tenants(again.initial) == _apart_from_tenants(history.initial)
    assert keys(again.initial, "tenants") == TENANTS


def test_a_tenant_that_cannot_be_made_is_a_usage_error(executor: Executor) -> None:
    nameless = Workload((Tenant(A, ("id", "name"), (A, " ")),), ())
    with pytest.raises(UsageError, match="no tenant can be created in 'tenants'"):
        executor.run(nameless)
    assert sqlstates(executor.run(workload(of(A, event(1))))) == [None]


KILL = """
import threading
from pathlib import Path
from invariants.servers.environment import open_environment
from invariants.errors import InfrastructureError
from invariants.search.judge import Judge
from invariants.schema.chain import Migrations
from invariants.contract.contract import load
from tests.conftest import query
from tests.engine import A, dead_event, of, workload
from invariants.workload.operations import Delete

migrations = Migrations(Path("alembic.ini"), args[0])
with open_environment("embedded", migrations, say=lambda _: None) as environment:
    with Judge(environment, load(Path("invariants.toml"))) as judge:
        executor = judge.executor("")
        conninfo = environment.handle()["conninfo"]
        ((data,),) = query(conninfo, "SHOW data_directory")
        pid = int(Path(data, "postmaster.pid").read_text().split()[0])
        shown = workload(of(A, dead_event(1)), of(A, Delete("dead_events")))
        assert [s.error for s in executor.run(shown).steps] == [None, None]
        threading.Timer(0.3, os.kill, (pid, signal.SIGQUIT)).start()
        try:
            while True:
                assert [s.error for s in executor.run(shown).steps] == [None, None]
        except InfrastructureError as error:
            print(error)
print("done")
"""


def test_a_server_killed_in_the_middle(spawn: SpawnChild) -> None:
    """No outcome is made up: what was in flight is an infrastructure error."""
    child = spawn(KILL, DOCUMENTED)
    said = child.finish().splitlines()
    assert said[0].startswith("the database server went away (")
    assert said[1:] == ["done"]


@pytest.fixture
def login(documented: Environment, contract: Contract) -> Iterator[str]:
    """A password with which every role of the contract can log in, for the length of a test."""
    password = "only here"
    with psycopg.connect(documented.handle()["conninfo"], autocommit=True) as admin:
        before = roles.snapshot(admin)
        for role in contract.roles:
            admin.execute(
                pgsql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
                    pgsql.Identifier(role), pgsql.Literal(password)
                )
            )
        yield password
        roles.restore(admin, before)


Outcome = tuple[object, ...]
# The clock's and chance's values: a time of these years, an id that is not one of ours.
_VOLATILE = re.compile(
    rb"20(2[5-9]|[3-9]\d)-\d\d-\d\d |[0-9a-f]{8}-(?!0000-4000-8000)[0-9a-f]{4}(-[0-9a-f]{4}){2}-"
)


def _masked(steps: tuple[Step, ...] | tuple[Reply, ...]) -> list[Outcome]:
    """What came of each operation, apart from times, random ids, and the order of rows."""
    made: list[Outcome] = []
    for step in steps:
        answers = [
            (
                a.count,
                a.columns,
                sorted(
                    [
                        tuple(
                            b"~"
                            if v is None or _VOLATILE.match(v) or column == "data_freshness_seconds"
                            else v
                            for column, v in zip(a.columns, r, strict=True)
                        )
                        for r in a.rows
                    ]
                ),
            )
            for a in step.answers
        ]
        refusal = step.error and (step.error.sqlstate, step.error.constraint, step.error.relation)
        made.append((answers, refusal))
    return made


@pytest.mark.parametrize("direct", [False, True], ids=["set-role", "direct"])
def test_the_fast_way_equals_the_true_way(
    documented: Environment, contract: Contract, judge: Judge, login: str, direct: bool
) -> None:
    """Generated workloads, all their kinds of statements, settings and roles."""
    generated = generation.workloads(contract, judge.catalog, INVARIANTS["cross-tenant"])
    workloads = [replace(w, premise="") for w in drawn(generated, 30)]
    # Views are read as well, and settings of every kind with every role.
    workloads.append(_everything(contract, judge))
    one_way, other_way = documented.scratch(), documented.scratch()
    try:
        with (
            Executor(one_way.conninfo, contract, judge.catalog, one_way.login) as fast,
            PlainExecutor(
                other_way.conninfo,
                contract,
                judge.catalog,
                other_way.login,
                direct=direct,
                password=login,
            ) as plain,
        ):
            committed = 0
            for one in workloads:
                history = fast.run(one)
                expected = plain.run(one)
                assert _masked(history.steps) == _masked(expected)
                committed += sum(s.committed for s in history.steps)
                plain.reset()
    finally:
        one_way.drop()
        other_way.drop()
    assert committed > 100


def _everything(contract: Contract, judge: Judge) -> Workload:
    made = [of(A, event(1)), of(A, allocation(1)), of(A, posting(1)), of(B, event(2, B))]
    for role in contract.roles:
        for setting in (A, None, "", "not-a-uuid", UNKNOWN):
            made += [
                of(setting, Select(r), role=role)
                for r in judge.catalog.relations
                if r not in judge.catalog.materialized_views
            ]
            made.append(of(setting, dead_event(1), role=role))
            made.append(of(setting, Copy("dead_events", ("id",), ((event_id(1),),)), role=role))
    return workload(*made)


def test_nothing_is_left_of_a_run_that_states_nothing(executor: Executor) -> None:
    """A world whose states are not kept leaves as little as one whose states are."""
    executor.run(workload(of(A, event(1)), of(B, dead_event(1, B))), states=False)
    history = executor.run(workload(of(A, dead_event(1))))
    assert keys(history.initial, "attribution_events") == set()
    assert keys(history.initial, "dead_events") == set()
    assert keys(history.initial, "tenants") == TENANTS
