"""A whole run: open the schema, search invariant after invariant, say what came of it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from invariants.checks import INVARIANTS, Invariant, chosen
from invariants.contract.contract import Contract, load
from invariants.counterexamples.files import Kept, counterexample, ensure_writable
from invariants.counterexamples.fitting import check
from invariants.coverage.met import Coverage
from invariants.coverage.unreached import Unreached
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_VIOLATED, UsageError
from invariants.options import RunOptions, SchemaOptions
from invariants.reading import Misfit, quoted
from invariants.schema.sources import Source, source_of
from invariants.search import baseline
from invariants.search.baseline import Baseline, Compared
from invariants.search.events import InvariantFinished, Listener
from invariants.search.explorer import Explorer, Search
from invariants.search.judge import Judge, by_signature
from invariants.servers.base import ServerInfo
from invariants.servers.binaries import pg_dump
from invariants.servers.environment import Environment, open_environment

Say = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What came of a run."""

    server: ServerInfo
    revision: str
    seed: int
    profile: str
    seconds: float
    invariants: tuple[InvariantFinished, ...]
    known: Baseline | None = None

    @cached_property
    def causes(self) -> Compared:
        """The causes found, those of the baseline apart; without one all are new."""
        known = self.known or Baseline(Path())
        return known.compared(
            baseline.signatures(self.invariants), baseline.judged(self.invariants)
        )

    @cached_property
    def coverage(self) -> Coverage:
        """What all searches together met."""
        return Coverage.merged(i.coverage for i in self.invariants)

    @cached_property
    def unreached(self) -> tuple[Unreached, ...]:
        """What was not reached by a search that covers it: no verdict speaks of it."""
        found = [u for i in self.invariants for u in i.unreached]
        return tuple({(u.kind, u.name): u for u in reversed(found)}.values())[::-1]

    @cached_property
    def unswept(self) -> tuple[str, ...]:
        """What is enumerated and was cut short by the budget."""
        return tuple(f"{i.name} ({', '.join(i.unswept)})" for i in self.invariants if i.unswept)

    @property
    def fault(self) -> str | None:
        """What went wrong with the server or the disk, if the run ended early."""
        return next((i.fault for i in self.invariants if i.fault), None)

    @property
    def exit_status(self) -> int:
        """1 when a cause was found that is not known, 3 when something was not judged, else 0.

        After a fault of the server it is 3 all the same: what was found before is in the report.
        """
        if self.fault:
            return EXIT_INFRASTRUCTURE
        if self.causes.new:
            return EXIT_VIOLATED
        unjudged = any(i.status == "error" for i in self.invariants)
        return EXIT_INFRASTRUCTURE if unjudged or self.unreached else EXIT_HELD


def new_seed() -> int:
    """A seed short enough to type."""
    return secrets.randbelow(10**9)


def source(options: SchemaOptions, contract: Contract | None = None) -> Source:
    """Where the schema comes from, names of the contract resolved."""
    named = contract.revisions if contract else {}
    return source_of(
        options.schema,
        options.alembic_config,
        named.get(options.revision, options.revision),
        options.migration_timeout,
        options.before,
        options.with_data,
        pg_dump,
    )


@contextmanager
def opened(options: SchemaOptions, contract: Contract | None, say: Say) -> Iterator[Environment]:
    """The migrated schema; everything is stopped and dropped at the end."""
    for patch in options.apply_sql:
        if not patch.is_file():
            raise UsageError(f"--apply-sql {patch}: no such file; name an SQL script")
    with open_environment(
        options.server,
        source(options, contract),
        patches=options.apply_sql,
        say=say,
        cache=not options.no_cache,
        disposable=options.disposable_server,
    ) as environment:
        yield environment


@contextmanager
def schema(options: SchemaOptions, say: Say) -> Iterator[tuple[Environment, Contract]]:
    """The migrated schema and its contract; everything is stopped and dropped at the end."""
    contract = load(options.contract)
    with opened(options, contract, say) as environment:
        yield environment, contract


# So much of what is left of the time one invariant's lists may take; others have lists, too.
_SWEEPING = 0.7


def search_for(options: RunOptions, seed: int, seconds: float | None) -> Search:
    """How one invariant is searched under these options."""
    return Search(
        seed=seed,
        examples=options.examples,
        seconds=seconds,
        artifacts=options.artifacts,
        failed=failed_before(),
        retry=options.seed is None,
        further_seeds=options.fixed_seeds,
        sessions=options.at_once,
    )


def failed_before() -> Path:
    """Where counterexamples are kept from run to run: what failed before is tried first."""
    return Path(os.environ.get("INVARIANTS_FAILED", ".invariants/failed"))


def run(options: RunOptions, listener: Listener, say: Say) -> Report:
    """Search all chosen invariants. Raises `UsageError` and `InfrastructureError`."""
    started = time.monotonic()
    invariants = chosen(options.invariants)
    ensure_writable(options.artifacts)
    known = known_causes(options)
    seed = new_seed() if options.seed is None else options.seed
    with schema(options, say) as (environment, contract):
        say(f"schema: revision {environment.revision}, seed {seed}, profile {options.profile}")
        finished = tuple(search_all(invariants, options, seed, environment, contract, listener))
        return Report(
            environment.server,
            environment.revision,
            seed,
            options.profile,
            time.monotonic() - started,
            finished,
            known,
        )


def known_causes(options: RunOptions) -> Baseline | None:
    """What the baseline says, where one is given. Raises `UsageError`."""
    return baseline.read(options.baseline) if options.baseline else None


def search_all(
    invariants: Sequence[Invariant],
    options: RunOptions,
    seed: int,
    environment: Environment,
    contract: Contract,
    listener: Listener,
) -> Iterator[InvariantFinished]:
    """Search invariants, one after the other, within the budget of the options."""
    explorer = Explorer(environment, contract, listener)
    try:
        searching = time.monotonic()
        fault = None
        for position, invariant in enumerate(invariants):
            if fault:
                yield unsearched(invariant, fault, listener)
                continue
            # What one invariant leaves of its share, the next ones have.
            left = options.seconds - (time.monotonic() - searching)
            follow = sum(i.share for i in invariants[position:] if explorer.has_rule(i))
            share = left * invariant.share / max(follow, invariant.share)
            search = search_for(options, seed, max(1.0, share))
            search = replace(search, sweeping=left * _SWEEPING)
            finished = explorer.explore(invariant, search)
            fault = finished.fault
            yield finished
    finally:
        explorer.close()


def unsearched(invariant: Invariant, fault: str, listener: Listener) -> InvariantFinished:
    """The result for an invariant that a fault left no chance to search."""
    finished = InvariantFinished(
        invariant.name, "error", 0, 0, 0.0, (), error="not searched", fault=fault
    )
    listener(finished)
    return finished


@dataclass(frozen=True)
class Replayed:
    """Whether a kept counterexample still fails, told as it happened now."""

    kept: Kept
    fails: bool
    text: str


Unfit = Callable[[Kept, UsageError], None]


def replay(
    kept: Sequence[Kept],
    environment: Environment,
    contract: Contract,
    unfit: Unfit | None = None,
) -> Iterator[Replayed]:
    """Execute kept counterexamples, each on databases without a past.

    One fails when it violates its invariant, whether in the way it did when it was found or not.
    What names something that the schema has not cannot be executed, and nothing of it is sent:
    `unfit` is told, or else `UsageError` raised, before any is executed.
    """
    for one in kept:
        if one.invariant not in INVARIANTS:
            raise UsageError(
                f"{one.path}: invariant {quoted(one.invariant)} is not known to this version; "
                f"it has {', '.join(INVARIANTS)}"
            )
        if reason := INVARIANTS[one.invariant].unjudged(one.workload):
            raise UsageError(f"{one.path}: {reason}; name a counterexample as a run wrote it")
    for one in fitting(kept, environment, contract, unfit):
        invariant = INVARIANTS[one.invariant]
        with Judge(environment, contract) as judge:
            judge.executor(one.workload.premise)
            try:
                case, violations = judge.violations(invariant, one.workload)
            except UsageError as error:
                raise UsageError(f"{one.path}: {error}") from None
            found = by_signature(violations)
            if not found:
                yield Replayed(one, False, "")
            else:
                # Another one, if need be: a guard may have another name by now and the same hole.
                violation = found.get(one.signature) or next(iter(found.values()))
                yield Replayed(one, True, counterexample(case, violation).text)


def fitting(
    kept: Sequence[Kept],
    environment: Environment,
    contract: Contract,
    unfit: Unfit | None = None,
) -> Sequence[Kept]:
    """Those of the counterexamples that can be executed on this schema.

    `unfit` is told of the others; without it the first of them raises `UsageError`.
    """
    if not kept:
        return ()
    fit = []
    with Judge(environment, contract) as judge:
        for one in kept:
            try:
                check(one.workload, judge.contract, judge.catalog)
            except Misfit as misfit:
                error = misfit.under("workload").of(one.path)
                if unfit is None:
                    raise error from None
                unfit(one, error)
            else:
                fit.append(one)
    return fit
