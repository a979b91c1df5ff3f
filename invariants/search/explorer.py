"""The search: Hypothesis draws workloads, the judge decides, the reducer makes findings minimal.

A search does not stop at the first violation. Causes already known by their signature are passed
over, and it goes on until the budget is spent.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hypothesis import given
from hypothesis import seed as hypothesis_seed
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from invariants import interrupts
from invariants.checks.base import Case, Invariant, Signature
from invariants.checks.together import one_by_one
from invariants.contract.contract import Contract
from invariants.counterexamples.files import (
    Counterexample,
    counterexample,
    load,
    save,
    save_json,
    write,
)
from invariants.counterexamples.fitting import check
from invariants.counterexamples.narration import narrate
from invariants.coverage.met import Coverage
from invariants.coverage.recorder import Recorder
from invariants.coverage.unreached import Outstanding, Unreached, asked, astray, in_short
from invariants.errors import InfrastructureError, InvariantsError, UsageError
from invariants.reading import Misfit
from invariants.schema.privileges import read_reached
from invariants.search.events import (
    Flaky,
    Found,
    InvariantFinished,
    InvariantStarted,
    Listener,
    PassedOver,
    Progress,
    Status,
)
from invariants.search.judge import Judge, Pending, by_signature, failing_with
from invariants.search.reduction import reduce
from invariants.servers.environment import Environment
from invariants.workload.operations import Workload

_TICK_SECONDS = 0.2

Stage = Literal["sweeps", "duets", "draws"]


@dataclass(frozen=True)
class Search:
    """How to look: seeds, limits, and where to keep what is found.

    Examples and seconds are shared out evenly among the seed and the further ones.
    `seconds` limits one invariant's search; what is enumerated may take `sweeping` of them, where
    that is more: it is gone through to its end if there is any time for it. `failed` is a folder of
    counterexamples that outlives the run; with `retry` what is in it is tried first. `first` ends
    it with the first cause found.
    `sessions` is how many may go on side by side: none, two or three. `stages` are gone through in
    their order: what is enumerated, two transactions side by side in every order, random draws.
    """

    seed: int
    examples: int
    seconds: float | None = None
    sweeping: float = 0.0
    artifacts: Path | None = None
    failed: Path | None = None
    retry: bool = False
    first: bool = False
    further_seeds: tuple[int, ...] = ()
    sessions: int = 0
    stages: tuple[Stage, ...] = ("sweeps", "duets", "draws")


class _Spent(BaseException):
    """The budget is spent; not an Exception, so that Hypothesis lets it pass at once."""


class _Broken(BaseException):
    """The server or the input failed: no example of anything, so Hypothesis must not see it."""

    def __init__(self, error: InvariantsError) -> None:
        super().__init__(str(error))
        self.error = error


class _New(Exception):
    """A workload shows a cause that is not known yet."""

    def __init__(self, case: Case, signatures: tuple[Signature, ...]) -> None:
        super().__init__(", ".join(map(str, signatures)))
        self.case, self.signatures = case, signatures


@dataclass
class _Tally:
    """What one search has done so far."""

    operations_before: int
    started: float = field(default_factory=time.monotonic)
    examples: int = 0
    duets: int = 0
    told: float = 0.0
    examined: int = 0
    recorder: Recorder | None = None
    outstanding: Outstanding | None = None
    # The lists that were gone through to their end, and those that the budget cut short.
    swept: list[str] = field(default_factory=list)
    unswept: list[str] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    flaky: list[Flaky] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def budgeted(self) -> int:
        """Examples that count against the budget. Duets are few, and leave the others theirs."""
        return self.examples - self.duets

    def used_up(self, search: Search) -> bool:
        """Whether its examples are spent."""
        return self.budgeted >= search.examples

    @property
    def coverage(self) -> Coverage:
        return self.recorder.coverage if self.recorder else Coverage()

    def observe(self, invariant: Invariant, case: Case) -> None:
        """Count what a case met, and what the check looked at in it."""
        if self.recorder:
            self.recorder.observe(case)
        if self.outstanding:
            self.outstanding.observe(case)
        self.examined += invariant.examined(case)


class Explorer:
    """Searches for violations of one invariant after the other on one environment."""

    def __init__(self, environment: Environment, contract: Contract, listener: Listener) -> None:
        self.environment, self.listener = environment, listener
        self.judge = Judge(environment, contract)
        self._interruptible: Callable[[], None] = lambda: None

    @property
    def contract(self) -> Contract:
        """The contract at the revision of the environment."""
        return self.judge.contract

    def close(self) -> None:
        """Drop the scratch databases."""
        self.judge.close()

    def prepare(self) -> None:
        """Make the first scratch database now, not when the first workload is executed."""
        self.judge.executor("")

    def has_rule(self, invariant: Invariant) -> bool:
        """Whether the contract says anything that the invariant could check."""
        return invariant.unruled(self.contract, self.judge.catalog) is None

    def explore(self, invariant: Invariant, search: Search) -> InvariantFinished:
        """Search until the examples or the seconds are spent, and report each cause once.

        When the server goes away what was found so far is reported, with the fault beside it.
        """
        with interrupts.insistent() as self._interruptible:
            return self._explore(invariant, search)

    def _explore(self, invariant: Invariant, search: Search) -> InvariantFinished:
        from invariants import generation

        self.listener(InvariantStarted(invariant.name, invariant.promise, search.examples))
        fault: str | None = None
        tally = _Tally(operations_before=self.judge.operations)
        note: str | None = None
        unreached: tuple[Unreached, ...] = ()
        try:
            generation.check(self.contract, self.judge.catalog)
            tally.recorder = Recorder(self.contract, self.judge.catalog)
            note = invariant.unruled(self.contract, self.judge.catalog)
            if note is None:
                self._search(invariant, search, tally)
                unreached = tuple(self._unreached(invariant, tally))
        except InfrastructureError as gone:
            fault = str(gone)
        error = fault or (
            None if tally.found else _unexamined(invariant, tally) or in_short(unreached)
        )
        status: Status = "violated" if tally.found else "error" if tally.flaky or error else "held"
        finished = InvariantFinished(
            name=invariant.name,
            status=status,
            examples=tally.examples,
            operations=self.judge.operations - tally.operations_before,
            seconds=tally.seconds,
            found=tuple(tally.found),
            flaky=tuple(tally.flaky),
            error=error,
            fault=fault,
            examined=tally.examined,
            note=note and f"nothing to examine: {note}",
            coverage=tally.coverage,
            unreached=unreached,
            unswept=tuple(tally.unswept),
        )
        self.listener(finished)
        return finished

    def _search(self, invariant: Invariant, search: Search, tally: _Tally) -> None:
        from invariants import generation

        if search.retry:
            self._retry(invariant, search, tally)
        of = self.contract, self.judge.catalog, invariant
        if "sweeps" in search.stages:
            if not search.first:
                tally.outstanding = Outstanding(self.contract, self.judge.catalog)
            for name in invariant.sweeps:
                whole = self._sweep(invariant, search, tally, name)
                (tally.swept if whole else tally.unswept).append(name)
        if "duets" in search.stages and search.sessions and invariant.concurrent:
            for duet in generation.duets(*of):
                if self._spent(tally, search):
                    return
                tally.duets += 1
                self._try_next(invariant, search, tally, duet)
        workloads = generation.workloads(*of, search.sessions)
        seeds = (*search.further_seeds, search.seed) if "draws" in search.stages else ()
        for number, seed in enumerate(seeds, 1):
            # A seed may use what the ones before it have left.
            part = replace(
                search,
                seed=seed,
                examples=search.examples * number // len(seeds),
                seconds=search.seconds and search.seconds * number / len(seeds),
            )
            self._draw(invariant, part, tally, workloads)

    def _sweep(self, invariant: Invariant, search: Search, tally: _Tally, name: str) -> bool:
        """Try one list; returns whether it was gone through to its end."""
        from invariants import generation

        if search.seconds is not None:
            search = replace(search, seconds=max(search.seconds, search.sweeping))
        for workload in generation.sweep(self.contract, self.judge.catalog, name):
            if self._spent(tally, search) or tally.used_up(search):
                return False
            self._try_next(invariant, search, tally, workload)
        return True

    def _unreached(self, invariant: Invariant, tally: _Tally) -> Iterator[Unreached]:
        """What was not reached, of what this invariant and its finished sweeps cover."""
        if tally.outstanding is None:
            return
        contract, catalog = self.contract, self.judge.catalog
        if invariant.of_tenants:
            reached = self.judge.asked(lambda c: read_reached(c, catalog, contract.roles))
            yield from astray(contract, catalog, reached)
            yield from asked(contract, catalog)
        yield from tally.outstanding.left(tally.swept)

    def _draw(
        self,
        invariant: Invariant,
        search: Search,
        tally: _Tally,
        workloads: SearchStrategy[Workload],
    ) -> None:
        """Draw from one seed until its examples or seconds are spent."""
        round_ = 0
        while not (tally.used_up(search) or self._spent(tally, search)):
            so_far = tally.examples
            if self._round(invariant, search, tally, workloads, round_) or (
                tally.examples == so_far
            ):
                return
            round_ += 1

    def _try_next(
        self, invariant: Invariant, search: Search, tally: _Tally, workload: Workload
    ) -> None:
        """Try one more example that was not drawn."""
        tally.examples += 1
        self._tell(invariant, search, tally, "searching")
        self._try(invariant, search, tally, workload)

    def _round(
        self,
        invariant: Invariant,
        search: Search,
        tally: _Tally,
        workloads: SearchStrategy[Workload],
        round_: int,
    ) -> bool:
        """Draw workloads until one shows a new cause.

        The server works on a workload while the next one is drawn, so Hypothesis learns of a
        failure one example late; it is asked to explore, not to remember.
        """
        from invariants import generation

        limit = search.examples - tally.budgeted
        seen: list[_New] = []
        begun: list[Pending] = []

        def look() -> None:
            case, violations = self.judge.decide(begun.pop(0))
            tally.observe(invariant, case)
            shown = by_signature(violations)
            if new := tuple(v.signature for s, v in shown.items() if s not in tally.known):
                seen.append(_New(case, new))

        def test(workload: Workload) -> None:
            if not seen:
                if self._spent(tally, search) or tally.used_up(search):
                    raise _Spent
                tally.examples += 1
                self._tell(invariant, search, tally, "searching")
                try:
                    begun.append(self.judge.begin(invariant, workload))
                    if len(begun) > 1:
                        look()
                except InvariantsError as error:
                    raise _Broken(error) from None
            if seen:
                raise seen[0]

        explore: Callable[[], None] = generation.exploring(limit)(
            hypothesis_seed(_derived(search.seed, invariant.name, round_))(given(workloads)(test))
        )
        spent = False
        try:
            explore()
        except (_New, Unsatisfiable):
            pass
        except _Spent:
            spent = True
        except _Broken as broken:
            raise broken.error from None
        while begun:
            look()
        for new in seen:
            for found in new.signatures:
                self._pursue(invariant, search, tally, new.case, found)
        return spent or (search.first and bool(tally.found))

    def _retry(self, invariant: Invariant, search: Search, tally: _Tally) -> None:
        """Try what failed in an earlier run, before anything new."""
        for path in sorted(search.failed.glob(f"{invariant.name}-*.json")) if search.failed else ():
            try:
                workload = load(path).workload
                check(workload, self.contract, self.judge.catalog)
            except UsageError as error:
                # Kept by another version, or by nobody: it is no example of ours.
                self.listener(PassedOver(str(error)))
            except Misfit as misfit:
                self.listener(PassedOver(str(misfit.under("workload").of(path))))
            else:
                if invariant.unjudged(workload) is None:
                    self._try(invariant, search, tally, workload)

    def _try(self, invariant: Invariant, search: Search, tally: _Tally, workload: Workload) -> None:
        """Execute one workload and pursue whatever it shows."""
        case, violations = self.judge.violations(invariant, workload)
        tally.observe(invariant, case)
        for violation in by_signature(violations).values():
            self._pursue(invariant, search, tally, case, violation.signature)

    def _pursue(
        self,
        invariant: Invariant,
        search: Search,
        tally: _Tally,
        first: Case,
        found: Signature,
    ) -> None:
        """Reduce a failing workload, confirm it on a fresh database, keep it."""
        signature = str(found)
        if signature in tally.known or (search.first and tally.found):
            return
        tally.known.add(signature)
        workload = first.history.workload
        if workload.sessions and not found.together:
            # It takes no sessions: it is told without them.
            workload = one_by_one(first.history)
        again, shown = self.judge.violations(invariant, workload)
        if signature not in by_signature(shown):
            self._doubt(invariant, search, tally, signature, first, again)
            return
        fails = failing_with(self.judge, invariant, again, by_signature(shown)[signature])

        def attempt(candidate: Workload) -> bool:
            self._tell(invariant, search, tally, "reducing")
            return fails(candidate) is not None

        reduced = reduce(workload, attempt, self.contract, self.judge.catalog)
        with Judge(self.environment, self.contract) as fresh:
            case, violations = fresh.violations(invariant, reduced)
            violation = by_signature(violations).get(signature)
            if violation is None:
                # Not the reduction's fault? The workload as found decides.
                case, violations = fresh.violations(invariant, workload)
                violation = by_signature(violations).get(signature)
            if violation is None:
                self._doubt(invariant, search, tally, signature, first, case)
                return
            made = counterexample(
                case, violation, seed=search.seed, revision=self.environment.revision
            )
        self._keep(invariant, search, tally, made)

    def _keep(
        self, invariant: Invariant, search: Search, tally: _Tally, made: Counterexample
    ) -> None:
        saved = save(made, search.artifacts) if search.artifacts else None
        if search.failed:
            save_json(made, search.failed)
        found = Found(invariant.name, made, saved)
        tally.found.append(found)
        self.listener(found)

    def _doubt(
        self,
        invariant: Invariant,
        search: Search,
        tally: _Tally,
        signature: str,
        first: Case,
        second: Case,
    ) -> None:
        text = "\n".join(
            f"{caption}:\n{_told(case)}" for caption, case in (("once", first), ("again", second))
        )
        flaky = Flaky(invariant.name, signature, text)
        if search.artifacts:
            path = search.artifacts / f"flaky-{invariant.name}-{len(tally.flaky) + 1}.txt"
            write(path, f"{signature}\n{text}\n")
            flaky = Flaky(invariant.name, signature, text, (str(path),))
        tally.flaky.append(flaky)
        self.listener(flaky)

    def _spent(self, tally: _Tally, search: Search) -> bool:
        if search.first and tally.found:
            return True
        return search.seconds is not None and tally.seconds >= search.seconds

    def _tell(self, invariant: Invariant, search: Search, tally: _Tally, doing: Any) -> None:
        self._interruptible()
        now = time.monotonic()
        if now - tally.told < _TICK_SECONDS:
            return
        tally.told = now
        total = search.examples + tally.duets
        left = None if search.seconds is None else max(0.0, search.seconds - tally.seconds)
        if tally.examples and doing == "searching":
            by_examples = (total - tally.examples) * tally.seconds / tally.examples
            left = by_examples if left is None else min(left, by_examples)
        self.listener(
            Progress(
                invariant.name,
                tally.examples,
                total,
                self.judge.operations - tally.operations_before,
                tally.seconds,
                left,
                doing,
            )
        )


def _derived(seed: int, name: str, round_: int) -> int:
    """One seed per invariant and round, so that leaving one out does not change the others."""
    return int.from_bytes(
        hashlib.blake2s(f"{seed}/{name}/{round_}".encode(), digest_size=8).digest()
    )


def _unexamined(invariant: Invariant, tally: _Tally) -> str | None:
    """A check that had nothing to look at proves nothing."""
    if tally.examined or not tally.examples:
        return None
    return (
        f"nothing was examined: none of {tally.examples:,} workloads had {invariant.examines}; "
        "raise --max-examples, or write a strategy that makes one (docs/extending.md)"
    )


def _told(case: Case) -> str:
    """A history without a violation, told like one with."""
    from invariants.checks.base import Violation

    nothing = Violation(Signature("", "", "", ""), -1, "", "nothing to point at", ())
    return narrate(case, nothing)
