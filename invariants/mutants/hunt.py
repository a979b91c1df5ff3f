"""The hunt: does any invariant notice that a guard is weakened?

Each mutant gets its own clones of the template, and all invariants in turn until one of them
notices or the budget is spent: first what they enumerate, then ever more random workloads.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Literal

import psycopg

from invariants.checks import INVARIANTS, Invariant
from invariants.contract.contract import Contract
from invariants.counterexamples.files import Saved
from invariants.errors import InfrastructureError, InvariantsError
from invariants.mutants.base import Mutant
from invariants.search.events import InvariantFinished
from invariants.search.explorer import Explorer, Search
from invariants.servers.base import connect
from invariants.servers.environment import Environment

Status = Literal["killed", "survived", "equivalent", "error"]

# Random workloads for each invariant in the first turn; twice as many in every further one.
_FIRST_TURN = 25
# A duet takes some times as long as another workload, and there are many.
_TURNS_BEFORE_DUETS = 3

# Which invariants to ask first: no more than a matter of speed.
_FIRST_ASKED: Sequence[tuple[str, tuple[str, ...]]] = (
    ("deed|grant-option|create|sequence|role-attribute", ("liveness",)),
    ("function-handing|procedure|number|partition", ("cross-tenant",)),
    ("role-settable", ("cross-tenant", "append-only")),
    ("privilege|column-privilege|role-member|role-superuser|table-owner", ("liveness",)),
    ("row-security|policy|role-bypassrls|view", ("cross-tenant", "read-path", "liveness")),
    ("not-null|check|type|unique", ("liveness", "idempotent-ingest", "read-path")),
    ("trigger|function", ("allocation-sum", "ledger", "append-only", "pii", "liveness")),
    ("reference-row", ("taxonomy",)),
    ("reference", ("cross-tenant", "liveness", "taxonomy", "ledger")),
)
# Where one transaction after the other can hardly show anything.
_DUETS_FIRST = re.compile("function-lock|function-write")


@dataclass(frozen=True)
class Kill:
    """How a mutant was noticed: by which invariant, as what, with which counterexample."""

    invariant: str
    signature: str
    summary: str
    operations: int
    saved: Saved | None


@dataclass(frozen=True)
class Outcome:
    """What came of one mutant, after how many workloads and seconds.

    `error` says why it could not be judged: then it counts neither as killed nor as survived.
    `fuzzing` are the seconds without making the clones.
    """

    mutant: Mutant
    status: Status
    examples: int
    seconds: float
    fuzzing: float
    kill: Kill | None = None
    error: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Hunt:
    """How to hunt: with which invariants, from which seed, for how many seconds a mutant.

    `sessions` may go on side by side, none when it is 0.
    """

    invariants: tuple[str, ...]
    seed: int
    seconds: float
    artifacts: Path | None = None
    sessions: int = 2


def hunt(environment: Environment, contract: Contract, mutant: Mutant, plan: Hunt) -> Outcome:
    """Search on the mutant until an invariant notices it or the budget is spent.

    Raises `InfrastructureError` when the server fails. Roles are as before when it returns.
    """
    started = time.monotonic()
    if mutant.server_wide and not environment.owns_role(mutant.target):
        return Outcome(
            mutant,
            "error",
            0,
            0.0,
            0.0,
            error=f"role {mutant.target} was on the server before the run and is not altered; "
            "--disposable-server allows it, and --server embedded has a server of its own",
        )
    with connect(environment.handle()["conninfo"]) as admin:
        try:
            if mutant.server_wide:
                with (
                    environment.with_roles(mutant.target, *mutant.statements),
                    Environment.attach(environment.handle()) as altered,
                ):
                    return _hunted(altered, contract, mutant, plan)
            with Environment.attach(environment.handle(), mutant.statements) as altered:
                return _hunted(altered, contract, mutant, plan)
        except InvariantsError as wrong:
            # The mutant leaves nothing that can be judged, unless it is the server that failed.
            if admin.broken or not _answers(admin):
                raise
            seconds = time.monotonic() - started
            return Outcome(mutant, "error", 0, seconds, 0.0, error=str(wrong))


def _answers(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT")
    except psycopg.Error:
        return False
    return True


def _hunted(environment: Environment, contract: Contract, mutant: Mutant, plan: Hunt) -> Outcome:
    started = time.monotonic()
    examples = 0
    explorer = Explorer(environment, contract, lambda _: None)
    try:
        explorer.prepare()
        fuzzing = time.monotonic()
        for finished in _turns(explorer, mutant, plan, started + plan.seconds):
            examples += finished.examples
            if finished.fault:
                raise InfrastructureError(finished.fault)
            if finished.found:
                now = time.monotonic()
                kill = _kill(finished)
                return Outcome(mutant, "killed", examples, now - started, now - fuzzing, kill)
    finally:
        explorer.close()
    now = time.monotonic()
    return Outcome(mutant, "survived", examples, now - started, now - fuzzing)


def _turns(
    explorer: Explorer, mutant: Mutant, plan: Hunt, deadline: float
) -> Iterator[InvariantFinished]:
    asked = order(mutant, plan.invariants)
    artifacts = plan.artifacts and plan.artifacts / slug(mutant)
    plain = Search(plan.seed, sys.maxsize, artifacts=artifacts, first=True)
    # What is enumerated costs the same for every mutant and finds the most.
    sweeps = ((i, replace(plain, stages=("sweeps",))) for i in asked if i.sweeps)
    duets = (
        (i, replace(plain, stages=("duets",), sessions=plan.sessions))
        for i in asked
        if plan.sessions and i.concurrent and i.duets
    )

    def draws(turns: Iterable[int], sessions: int) -> Iterator[tuple[Invariant, Search]]:
        for turn in turns:
            drawn = replace(plain, seed=plan.seed + turn, examples=_FIRST_TURN * 2**turn)
            yield from ((i, replace(drawn, stages=("draws",), sessions=sessions)) for i in asked)

    first = draws(range(_TURNS_BEFORE_DUETS), 0)
    listed = (
        (duets, sweeps, first) if _DUETS_FIRST.match(mutant.operator) else (sweeps, first, duets)
    )
    for invariant, search in chain(*listed, draws(count(_TURNS_BEFORE_DUETS), plan.sessions)):
        left = deadline - time.monotonic()
        if left <= 0:
            return
        yield explorer.explore(invariant, replace(search, seconds=left))


def order(mutant: Mutant, names: Sequence[str]) -> list[Invariant]:
    """The invariants in the order in which they are asked about a mutant."""
    first = next((i for p, i in _FIRST_ASKED if re.match(p, mutant.operator)), ())
    chosen = [n for n in (*first, *INVARIANTS) if n in names]
    return [INVARIANTS[n] for n in dict.fromkeys(chosen)]


def slug(mutant: Mutant) -> str:
    """The mutant's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", mutant.name).strip("-")[:150]


def _kill(finished: InvariantFinished) -> Kill:
    found = finished.found[0]
    made = found.counterexample
    return Kill(
        finished.name,
        made.signature,
        made.summary,
        made.operations,
        found.saved,
    )
