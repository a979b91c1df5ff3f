"""Executes a workload with the worlds a check asks for, and lets the check decide.

One executor, and so one scratch database, for each premise; they are made when first needed. While
a search goes on there are two: the server works in one lane while the other is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

import psycopg

from invariants.checks.base import Case, Invariant, Violation
from invariants.checks.model import predict
from invariants.checks.together import endless, marked, one_by_one
from invariants.contract import premises
from invariants.contract.contract import Contract
from invariants.contract.placing import settled
from invariants.errors import InfrastructureError, InvariantsError, server_lost
from invariants.execution.executor import Executor, Started
from invariants.execution.history import History
from invariants.schema.catalog import Catalog
from invariants.schema.privileges import read_reached
from invariants.schema.reader import read_catalog
from invariants.servers.base import is_gone
from invariants.servers.environment import Environment, Scratch
from invariants.workload.operations import Workload

T = TypeVar("T")


@dataclass(frozen=True)
class Pending:
    """A workload that a server is working on."""

    invariant: Invariant
    executor: Executor
    started: Started


class Judge:
    """Judges workloads on scratch databases of its own; closing it drops them."""

    def __init__(self, environment: Environment, contract: Contract) -> None:
        self.environment = environment
        self._contract = contract.at(environment.lineage.applied, environment.lineage.known)
        self._executors: dict[tuple[str, int], tuple[Scratch, Executor]] = {}
        self._lane = 0
        self._under_way: list[Pending] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the scratch databases."""
        executors, self._executors = self._executors, {}
        self._under_way.clear()
        # All connections first. Where a workload was interrupted, its backend may be waiting for us
        # to read, and until it is gone no database of the server can be dropped.
        for _, executor in executors.values():
            executor.close()
        for scratch, _ in executors.values():
            # A server that is gone has taken its databases with it.
            with suppress(InvariantsError):
                scratch.drop()

    @property
    def contract(self) -> Contract:
        """The contract at this revision, with what it does not place put where it seems to be."""
        if self._contract.unplaced is None:
            self.executor("")
        return self._contract

    @property
    def catalog(self) -> Catalog:
        """The catalog of the schema as migrated."""
        return self.executor("").catalog

    def asked(self, question: Callable[[psycopg.Connection], T]) -> T:
        """What the scratch database answers, of the schema as migrated."""
        conninfo = self.executor("").conninfo
        with server_answers(), psycopg.connect(conninfo, autocommit=True) as conn:
            return question(conn)

    @property
    def operations(self) -> int:
        """Operations executed so far, those of further worlds included."""
        return sum(e.operations for _, e in self._executors.values())

    def executor(self, premise: str, lane: int = 0) -> Executor:
        """The executor for a premise, in one of two lanes."""
        if (premise, lane) not in self._executors:
            scratch = self.environment.scratch()
            try:
                executor = self._open(scratch, premise)
            except BaseException:
                # Why it failed matters more than that it cannot be dropped either.
                with suppress(InvariantsError):
                    scratch.drop()
                raise
            self._executors[premise, lane] = scratch, executor
        return self._executors[premise, lane][1]

    def case(self, invariant: Invariant, workload: Workload, *, worlds: bool = True) -> Case:
        """Execute the workload and, unless told not to, the worlds that the invariant asks for."""
        executor = self.executor(workload.premise)
        asked = invariant.worlds(workload) if worlds else {}
        return self._case(executor, executor.run(workload), asked)

    def _case(self, executor: Executor, history: History, asked: Mapping[str, Workload]) -> Case:
        histories = {name: executor.run(world, states=False) for name, world in asked.items()}
        return Case(self.contract, executor.catalog, history, histories)

    def begin(self, invariant: Invariant, workload: Workload) -> Pending:
        """Let a server start on a workload; decide what was begun before, then this one."""
        self._lane = 1 - self._lane
        executor = self.executor(workload.premise, self._lane)
        self._advance()
        pending = Pending(invariant, executor, executor.start(workload))
        self._under_way.append(pending)
        return pending

    def _advance(self) -> None:
        """Let the servers go on with what was begun."""
        for pending in self._under_way:
            pending.started.relay.advance()

    def decide(self, pending: Pending) -> tuple[Case, list[Violation]]:
        """The case of what was begun, and every violation of the invariant in it."""
        invariant, executor = pending.invariant, pending.executor
        self._under_way.remove(pending)
        history = executor.finish(pending.started)
        case = self._case(executor, history, invariant.worlds(history.workload))
        return case, self._judged(invariant, case, executor)

    def violations(
        self, invariant: Invariant, workload: Workload, *, worlds: bool = True
    ) -> tuple[Case, list[Violation]]:
        """The case of a workload and every violation of the invariant in it."""
        case = self.case(invariant, workload, worlds=worlds)
        return case, self._judged(invariant, case, self.executor(workload.premise))

    def _judged(self, invariant: Invariant, case: Case, executor: Executor) -> list[Violation]:
        """Every violation in a case; `executor` is one that has nothing else to do.

        Of sessions side by side those are marked that the same transactions do not show when they
        come one after the other: the others have nothing to do with sessions.
        """
        found = list(invariant.check(case))
        history = case.history
        if history.workload.sessions:
            if found:
                in_turn = self._case(executor, executor.run(one_by_one(history)), {})
                known = by_signature(list(invariant.check(in_turn)))
                found = [v if str(v.signature) in known else marked(v) for v in found]
            found += endless(invariant, case)
        return found

    def _open(self, scratch: Scratch, premise: str) -> Executor:
        with server_answers(), psycopg.connect(scratch.conninfo, autocommit=True) as conn:
            catalog = read_catalog(conn)
            self._contract.bind(catalog)
            if self._contract.unplaced is None:
                reached = read_reached(conn, catalog, self._contract.roles)
                self._contract = settled(self._contract, catalog, reached)
            if changes := premises.statements(premise, self._contract, catalog):
                for change in changes:
                    conn.execute(change.encode())
                catalog = read_catalog(conn)
            catalog = self._contract.promised(catalog)
            catalog = replace(catalog, samples=self.environment.samples)
        executor = Executor(scratch.conninfo, self._contract, catalog, scratch.login)
        executor.meanwhile = self._advance
        return executor


@contextmanager
def server_answers() -> Iterator[None]:
    """Turns what goes wrong while a scratch database is read into one line."""
    try:
        yield
    except psycopg.Error as error:
        if is_gone(error):
            raise server_lost(str(error)) from None
        raise InfrastructureError(
            f"the scratch database cannot be read: {str(error).strip()}"
        ) from None


def by_signature(violations: list[Violation]) -> Mapping[str, Violation]:
    """The first violation of each signature, in order of occurrence."""
    found: dict[str, Violation] = {}
    for violation in sorted(violations, key=lambda v: v.operation):
        found.setdefault(str(violation.signature), violation)
    return found


Fails = Callable[[Workload], Violation | None]


def failing_with(judge: Judge, invariant: Invariant, case: Case, violation: Violation) -> Fails:
    """A predicate: the violation of the same signature that a workload shows, if it does.

    It is not shown on ground that is less firm: as few of the operations before it as ever may be
    such as the contract does not permit. Otherwise a counterexample would hold once its first step
    is refused, with the flaw still there. Other worlds are only run where the violation is a
    difference between worlds.
    """
    worlds = any(c.kind == "differs" for c in violation.proof)
    fewest = _unlawful(case, violation)

    def fails(workload: Workload) -> Violation | None:
        nonlocal fewest
        case, shown = judge.violations(invariant, workload, worlds=worlds)
        found = by_signature(shown).get(str(violation.signature))
        if found is None or (unlawful := _unlawful(case, found)) > fewest:
            return None
        fewest = unlawful
        return found

    return fails


def _unlawful(case: Case, violation: Violation) -> int:
    """How many operations before the violation were accepted although they are not permitted.

    Of sessions side by side each transaction is to be permitted where it began, the last one too.
    """
    count = 0
    for step in case.history.steps[: violation.operation + 1]:
        if step.committed and (step.place is not None or step.index < violation.operation):
            predicted = predict(case.contract, case.catalog, step.since[0], step.operation)
            count += predicted is not None and predicted.commits is False
    return count
