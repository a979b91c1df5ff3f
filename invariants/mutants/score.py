"""The score: how many mutants of a schema the invariants notice, and which they do not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psycopg

from invariants import generation
from invariants.checks import chosen
from invariants.contract.contract import Contract
from invariants.contract.placing import settled_by
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_VIOLATED, UsageError
from invariants.mutants import derive, equivalents
from invariants.mutants.base import OPERATORS, Mutant
from invariants.mutants.hunt import Hunt, Outcome
from invariants.mutants.pool import hunt_all
from invariants.options import MUTANT_BUDGET
from invariants.schema.catalog import Catalog
from invariants.schema.reader import read_catalog
from invariants.servers.base import ServerInfo, connect
from invariants.servers.environment import Environment
from invariants.servers.logins import members_of_nothing

# What is called equivalent is hunted too, for a shorter time: it may be noticed after all.
_EQUIVALENT_SHARE = 0.2

T = TypeVar("T")

# Told with every outcome: how many there are so far, and how many there will be.
Progress = Callable[[Outcome, int, int], None]


@dataclass(frozen=True)
class MutantOptions:
    """Which mutants to hunt, and how."""

    operators: tuple[str, ...] = ()
    invariants: tuple[str, ...] = ()
    seed: int | None = None
    mutant_budget: float = MUTANT_BUDGET.default
    jobs: int = 0
    sessions: int | None = None
    artifacts: Path = Path("artifacts")
    equivalents: Path = Path("mutants.toml")

    @property
    def at_once(self) -> int:
        """Sessions that go on side by side at most: two unless told otherwise."""
        return 2 if self.sessions is None else self.sessions

    @property
    def processes(self) -> int:
        """How many mutants are hunted at once: one a core unless told otherwise."""
        return self.jobs or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Score:
    """What became of all mutants, in the order they were derived in."""

    server: ServerInfo
    revision: str
    seed: int
    seconds: float
    outcomes: tuple[Outcome, ...]

    def having(self, status: str) -> tuple[Outcome, ...]:
        """The outcomes of one status."""
        return tuple(o for o in self.outcomes if o.status == status)

    @property
    def value(self) -> float:
        """The share of mutants killed among those that can be, from 0 to 1."""
        killed, judged = len(self.having("killed")), len(self.outcomes)
        judged -= len(self.having("equivalent"))
        return killed / judged if judged else 1.0

    @property
    def equivalent_share(self) -> float:
        """The share of all mutants that are called equivalent."""
        return len(self.having("equivalent")) / len(self.outcomes) if self.outcomes else 0.0

    @property
    def fuzzing_median(self) -> float:
        """Seconds of fuzzing until half of the killed mutants were noticed."""
        return median([o.fuzzing for o in self.having("killed")] or [0.0])

    @property
    def matrix(self) -> dict[str, dict[str, int]]:
        """For each operator: how many of its mutants each invariant killed."""
        found: dict[str, dict[str, int]] = {}
        for outcome in self.outcomes:
            row = found.setdefault(outcome.mutant.operator, {})
            if outcome.kill:
                row[outcome.kill.invariant] = row.get(outcome.kill.invariant, 0) + 1
        return found

    @property
    def exit_status(self) -> int:
        """1 when a mutant survived, 3 when one could not be judged, else 0."""
        if self.having("error"):
            return EXIT_INFRASTRUCTURE
        return EXIT_VIOLATED if self.having("survived") else EXIT_HELD


def mutants_of(environment: Environment, contract: Contract) -> tuple[Mutant, ...]:
    """The mutants of the migrated schema. Raises `InfrastructureError` when the server fails."""
    return _on_scratch(environment, lambda connection: derive(connection, contract))


def selected(mutants: Sequence[Mutant], operators: Sequence[str]) -> tuple[Mutant, ...]:
    """Those of the operators named, all when none is. Raises `UsageError` for an unknown one."""
    for operator in operators:
        if operator not in OPERATORS:
            raise UsageError(
                f"--operator: {operator!r} is not known; use one of: {', '.join(OPERATORS)}"
            )
    return tuple(m for m in mutants if not operators or m.operator in operators)


def score(
    environment: Environment, contract: Contract, options: MutantOptions, tell: Progress
) -> Score:
    """Hunt the mutants of a schema. Raises `UsageError` and `InfrastructureError`.

    A mutant that `mutants.toml` calls equivalent and that is noticed all the same is an error of
    that file.
    """
    started = time.monotonic()
    now = contract.at(environment.lineage.applied, environment.lineage.known)
    # Of the schema as it is: what a mutant opens is no relation that nobody placed.
    now = _on_scratch(environment, lambda connection: settled_by(connection, now))

    def read(connection: psycopg.Connection[Any]) -> Catalog:
        return replace(read_catalog(connection), samples=environment.samples)

    # Here, once: in the hunts it would be said of each mutant.
    _on_scratch(environment, lambda connection: generation.check(now, read(connection)))
    every = mutants_of(environment, now)
    mutants = selected(every, options.operators)
    claims = equivalents.load(options.equivalents)
    _on_scratch(environment, lambda connection: claims.check(connection, every))
    plan = Hunt(
        tuple(i.name for i in chosen(options.invariants)),
        # Without a seed every hunt is the same, so that the score of a schema is one number.
        options.seed or 0,
        options.mutant_budget,
        options.artifacts / "mutants",
        options.at_once,
    )
    short = replace(plan, seconds=options.mutant_budget * _EQUIVALENT_SHARE)
    tasks = [(m, short if claims.reason(m) else plan) for m in mutants]
    found: dict[str, Outcome] = {}
    for outcome in hunt_all(environment, now, tasks, options.processes):
        claimed = claims.claimed(outcome)
        found[outcome.mutant.name] = claimed
        tell(claimed, len(found), len(tasks))
    return Score(
        environment.server,
        environment.revision,
        plan.seed,
        time.monotonic() - started,
        tuple(found[m.name] for m in mutants),
    )


def _on_scratch(environment: Environment, ask: Callable[[psycopg.Connection], T]) -> T:
    scratch = environment.scratch()
    try:
        with connect(scratch.conninfo) as connection, members_of_nothing(connection):
            return ask(connection)
    finally:
        scratch.drop()
