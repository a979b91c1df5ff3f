"""What the tests of the engine share: handwritten operations, altered schemas, psql."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import psycopg
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from invariants.checks import INVARIANTS, Case, Violation
from invariants.contract.contract import Contract
from invariants.counterexamples.files import Counterexample, counterexample
from invariants.execution.history import History, Turn
from invariants.search.judge import Judge, by_signature
from invariants.servers import roles
from invariants.servers.binaries import find_binaries
from invariants.servers.environment import Environment
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Conflict,
    Delete,
    Insert,
    Isolation,
    Json,
    Operation,
    Refresh,
    Session,
    Statement,
    Tenant,
    Transaction,
    Value,
    Workload,
    ident,
)
from tests.psql_windows import in_windows

DOCUMENTED = "202511141311"
A, B = ident("tenants", 1), ident("tenants", 2)
UNKNOWN = ident("unknown tenant", 0)
KEEP_FIRST = Conflict()
MATERIALIZED = ("mv_realtime_revenue", "mv_reconciliation_status")


def of(
    tenant: str | None, *statements: Statement, role: str = "app_rw", delivery: int | None = None
) -> Operation:
    """One transaction of a role for a tenant."""
    return Operation(Actor(role, tenant), statements, delivery)


def maintenance(*statements: Statement) -> Operation:
    """One transaction of the superuser."""
    return Operation(Actor(OPERATOR), statements)


def workload(*operations: Operation, premise: str = "") -> Workload:
    """The operations in a world of two tenants, A and B."""
    people = tuple(Tenant(t, ("id", "name"), (t, f"Tenant {t[-1]}")) for t in (A, B))
    return Workload(people, operations, premise)


def transaction(
    operation: Operation, isolation: Isolation = "read committed", *, commits: bool = True
) -> Transaction:
    """An operation in a session of its own, or part of one."""
    return Transaction(operation, isolation, commits)


def at_once(shown: Workload, *sessions: Session, schedule: str) -> Workload:
    """The workload, then the sessions side by side; the schedule names them by digits from 1."""
    turns = tuple(int(digit) - 1 for digit in schedule)
    return replace(shown, sessions=sessions, schedule=turns)


def concurrent(
    shown: Workload,
    *statements: Statement,
    schedule: str = "",
    level: Isolation = "read committed",
) -> Workload:
    """The workload, then each statement in a session of its own, for tenant A."""
    sessions = (((transaction(of(A, s), level)),) for s in statements)
    return at_once(shown, *sessions, schedule=schedule)


def story(history: History) -> list[str]:
    """What came of each turn, as `SESSION.TRANSACTION.PART` and a few words."""
    return [_told(turn) for turn in history.turns]


def _told(turn: Turn) -> str:
    place = turn.place
    parts = f"{place.session + 1}.{place.number + 1}.{turn.part + 1}{'*' if place.again else ''}"
    if turn.waits_for:
        return f"{parts} waits for {', '.join(str(s + 1) for s in turn.waits_for)}"
    if turn.ended_by:
        return f"{parts} {'called off' if turn.ended_by == 'order' else turn.ended_by}"
    goes_on = " goes on:" if turn.resumed else ""
    if turn.error:
        return f"{parts}{goes_on} {turn.error.sqlstate}"
    if turn.part >= len(place.transaction.operation.statements):
        return f"{parts}{goes_on} done"
    return f"{parts}{goes_on} {turn.count} row{'' if turn.count == 1 else 's'}"


def row(table: str, number: int, tenant: str, **values: Value) -> Insert:
    """INSERT of the `number`th row of a table."""
    columns = {"id": ident(table, number), "tenant_id": tenant, **values}
    return Insert(table, tuple(columns), (tuple(columns.values()),))


def event(number: int, tenant: str = A, cents: int = 100, **values: Value) -> Insert:
    """INSERT of an event; its external id is `order-NUMBER` unless given."""
    filled: dict[str, Value] = {
        "raw_payload": Json("{}"),
        "external_event_id": f"order-{number}",
        **values,
    }
    return row(
        "attribution_events",
        number,
        tenant,
        occurred_at="2024-03-01 00:00:00+00",
        revenue_cents=cents,
        **filled,
    )


def event_id(number: int) -> str:
    return ident("attribution_events", number)


def allocation(
    number: int, tenant: str = A, *, of_event: int = 1, cents: int = 100, **values: Value
) -> Insert:
    """INSERT of an allocation of an event, to `direct` under model m1 unless given."""
    filled: dict[str, Value] = {"channel_code": "direct", "model_version": "m1", **values}
    return row(
        "attribution_allocations",
        number,
        tenant,
        event_id=event_id(of_event),
        allocated_revenue_cents=cents,
        **filled,
    )


def allocation_id(number: int) -> str:
    return ident("attribution_allocations", number)


def posting(
    number: int, tenant: str = A, *, of_allocation: int = 1, cents: int = 100, **values: Value
) -> Insert:
    """INSERT of a ledger row that posts an allocation."""
    return row(
        "revenue_ledger",
        number,
        tenant,
        allocation_id=allocation_id(of_allocation),
        revenue_cents=cents,
        **values,
    )


def correction(
    number: int,
    tenant: str = A,
    *,
    cents: int,
    of_posting: int = 1,
    of_allocation: int = 1,
) -> Insert:
    """INSERT of a ledger row that corrects a posting of an allocation."""
    posted = ident("revenue_ledger", of_posting)
    return posting(number, tenant, of_allocation=of_allocation, cents=cents, corrects_id=posted)


def reconciliation(number: int, tenant: str = A, **values: Value) -> Insert:
    """INSERT of a completed reconciliation run."""
    filled: dict[str, Value] = {
        "last_run_at": "2024-03-01 00:00:00+00",
        "state": "completed",
        **values,
    }
    return row("reconciliation_runs", number, tenant, **filled)


def repair(*statements: Statement, tenant: str = A) -> Operation:
    """One transaction of the role that repairs."""
    return of(tenant, *statements, role="migration_owner")


def erasure(tenant: str = A, role: str = "migration_owner") -> Operation:
    """The removal of a tenant."""
    return of(None, Delete("tenants", (("id", tenant),)), role=role)


def refresh(*views: str, concurrently: bool = False) -> Operation:
    """A REFRESH of materialized views, of all when none is named."""
    return maintenance(*(Refresh(v, concurrently) for v in views or MATERIALIZED))


def dead_event(number: int, tenant: str = A, **values: Value) -> Insert:
    """INSERT of an event that could not be read."""
    filled: dict[str, Value] = {
        "error_detail": Json("{}"),
        "raw_payload": Json("{}"),
        "error_code": "bad_signature",
        **values,
    }
    return row("dead_events", number, tenant, source="shopify", **filled)


def key(table: str, number: int) -> tuple[tuple[str, Value], ...]:
    """The condition that names the `number`th row of a table."""
    return (("id", ident(table, number)),)


@contextmanager
def altered(environment: Environment, *statements: str) -> Iterator[Environment]:
    """An environment whose scratch databases are changed by SQL; roles are put back at the end."""
    handle = environment.handle()
    with psycopg.connect(handle["conninfo"], autocommit=True) as admin:
        before = roles.snapshot(admin)
        try:
            with Environment.attach(handle, statements) as made:
                yield made
        finally:
            roles.restore(admin, before)


@dataclass(frozen=True)
class Finding:
    """A violation with the execution that showed it."""

    case: Case
    violation: Violation

    @property
    def counterexample(self) -> Counterexample:
        return counterexample(self.case, self.violation)

    @property
    def windows(self) -> int:
        """How many windows of psql its script is for; none where one will do."""
        return len(self.case.history.workload.sessions)

    @property
    def rows(self) -> list[Mapping[str, object]]:
        """The rows that show it."""
        return [r for e in self.violation.evidence for r in e.rows]


@dataclass(frozen=True)
class Lab:
    """Judges handwritten workloads on altered copies of a schema."""

    environment: Environment
    contract: Contract

    def findings(
        self, invariant: str, shown: Workload, *changes: str, contract: Contract | None = None
    ) -> dict[str, Finding]:
        """What the check finds on the changed schema, by signature without the invariant's name.

        psql must agree about each: its script exits with status 3 on the same schema.
        """
        with (
            altered(self.environment, *changes) as environment,
            Judge(environment, contract or self.contract) as judge,
        ):
            case, violations = judge.violations(INVARIANTS[invariant], shown)
            found = {
                signature.removeprefix(f"{invariant}/"): Finding(case, violation)
                for signature, violation in by_signature(violations).items()
            }
            for signature, finding in found.items():
                done = self.psql(environment, finding.counterexample.script, finding.windows)
                assert (done.returncode, "violated: " in done.stderr) == (3, True), (
                    f"{signature}: {done.stdout}{done.stderr}"
                )
        return found

    def tells_apart(
        self,
        invariant: str,
        shown: Workload,
        *,
        broken: str = "",
        mended: str = "",
        contract: Contract | None = None,
    ) -> dict[str, Finding]:
        """What is found on the broken schema; on the mended one nothing is, and psql agrees."""
        found = self.findings(invariant, shown, *filter(None, [broken]), contract=contract)
        with altered(self.environment, *filter(None, [mended])) as environment:
            with Judge(environment, self.contract) as judge:
                _, violations = judge.violations(INVARIANTS[invariant], shown)
                assert [str(v.signature) for v in violations] == []
            for finding in found.values():
                done = self.psql(environment, finding.counterexample.script, finding.windows)
                assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return found

    def psql(
        self, environment: Environment, script: str, windows: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a script with psql on a fresh database; in that many windows, if it is one for them.

        What comes of one for windows is what comes of the first.
        """
        scratch = environment.scratch()
        try:
            if windows:
                return in_windows(psql_program(), scratch.conninfo, script, windows).done[0]
            return psql(scratch.conninfo, script)
        finally:
            scratch.drop()


def refused_without_violation(judge: Judge, invariant: str, shown: Workload) -> list[int]:
    """The operations that are refused; the check finds nothing, in these or in the others."""
    case, violations = judge.violations(INVARIANTS[invariant], shown)
    assert [str(v.signature) for v in violations] == []
    return [step.index for step in case.history.steps if not step.committed]


@cache
def psql_program() -> str:
    """The psql of the embedded package, which needs no installation."""
    return str(find_binaries(18).bin / "psql")


def psql(conninfo: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as its first lines tell the user to."""
    # From a file, not standard input: `\\connect` and COPY data behave differently there.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "script.sql")
        file.write_text(script)
        return subprocess.run(
            [psql_program(), "-X", "-q", "-d", conninfo, "-f", str(file)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PGOPTIONS": ""},
        )


def drawn(strategy: SearchStrategy[Workload], count: int, number: int = 0) -> list[Workload]:
    """The same `count` workloads every time, for a seed."""
    made: list[Workload] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(one: Workload) -> None:
        made.append(one)

    draw()
    return made
