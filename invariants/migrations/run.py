"""Step after step is tried; what fails is reduced and kept, and a verdict comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from invariants.contract.contract import Contract, load
from invariants.counterexamples.files import ensure_writable, save
from invariants.errors import (
    InfrastructureError,
    MigrationFailed,
    UsageError,
)
from invariants.migrations import chain, data
from invariants.migrations.course import Course, Step, course_of
from invariants.migrations.finding import KINDS, Finding, Kind
from invariants.migrations.reduction import reduced
from invariants.migrations.shelf import LOADED, Shelf, require_own_server
from invariants.migrations.stage import Side, Stage, kept_loaded, lawful_above
from invariants.migrations.telling import counterexample_of
from invariants.migrations.trials import AFTER, AGAIN, BEFORE, UPWARDS, Trial
from invariants.options import RunOptions
from invariants.search.events import Found, InvariantFinished, Listener
from invariants.search.run import Report, known_causes, new_seed, source
from invariants.servers.environment import Environment, open_environment

Say = Callable[[str], None]
_REDUCING_SECONDS_MIN = 8.0
# How often a step is tried again without the rows that it was refused for.
_ROUNDS_BY_ROW = 2
_ROUNDS_MAX = 4
# Kinds of which nothing can be said where no row is taken up the step.
_NEED_ROWS: frozenset[Kind] = frozenset({"data", "downgrade", "owner", "locks"})


@dataclass(frozen=True)
class MigrationsOptions(RunOptions):
    """Which steps of a chain are tried, besides what `run` is told. `invariants` are kinds."""

    first: str | None = None
    last: str = "head"
    since: str | None = None


@dataclass(frozen=True)
class Accepted:
    """A failure that the contract accepts, with its reason."""

    signature: str
    reason: str


@dataclass(frozen=True)
class Result:
    """What came of a chain: `report` has the kinds in the place of invariants."""

    report: Report
    steps: tuple[str, ...]
    accepted: tuple[Accepted, ...]
    remarks: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """As of a run."""
        return self.report.exit_status


def migrations(options: MigrationsOptions, listener: Listener, say: Say) -> Result:
    """Try the steps of a chain. Raises `UsageError` and `InfrastructureError`."""
    started = time.monotonic()
    kinds = _kinds(options.invariants)
    contract = load(options.contract)
    ensure_writable(options.artifacts)
    known = known_causes(options)
    named = contract.revisions
    last = named.get(options.last, options.last)
    course = course_of(source(replace(options, revision="head"), contract), last)
    _check(contract, course)
    tried = _tried(course, options, named)
    require_own_server(options)
    with open_environment(
        options.server,
        course.ground(),
        say=say,
        cache=not options.no_cache,
        disposable=options.disposable_server,
    ) as environment:
        seed = new_seed() if options.seed is None else options.seed
        run = _Run(options, contract, course, kinds, listener, say, seed)
        run.go(environment, tried)
        report = Report(
            environment.server,
            course.steps[-1].revision,
            seed,
            options.profile,
            time.monotonic() - started,
            tuple(run.finished()),
            known,
        )
        return Result(report, tuple(s.revision for s in tried), *run.told())


@dataclass
class _Run:
    """One run: what was found so far."""

    options: MigrationsOptions
    contract: Contract
    course: Course
    kinds: tuple[Kind, ...]
    listener: Listener
    say: Say
    seed: int
    found: dict[Kind, list[Found]] = field(default_factory=dict)
    seconds: dict[Kind, float] = field(default_factory=dict)
    tries: dict[Kind, int] = field(default_factory=dict)
    errors: dict[Kind, str] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    fault: str | None = None
    reducing: float = 0.0
    _seen: set[str] = field(default_factory=set)

    def go(self, environment: Environment, tried: Sequence[Step]) -> None:
        """Build the chain, and try the steps that are to be tried."""
        if "chain" in self.kinds:
            self._judged(None, chain.heads(self.course))
            self.remarks += chain.idle(tried)
        plain = self.contract.migrations.owner if "owner" in self.kinds else None
        with Shelf(environment, self.course) as shelf:
            owned = Shelf(environment, self.course, plain) if plain else None
            try:
                self._steps(shelf, owned, tried)
            except InfrastructureError as error:
                if not self._seen:
                    raise
                self.fault = str(error)
            finally:
                if owned is not None:
                    owned.close()

    def _steps(self, shelf: Shelf, owned: Shelf | None, tried: Sequence[Step]) -> None:
        before: Side | None = None
        if tried[0].number > 1:
            below = self.course.steps[tried[0].number - 2]
            shelf.build_at_once(below)
            owned = self._built_by_owner(owned, self.course.steps[: below.number])
            before = kept_loaded(self._lawful_at(shelf, below), below.revision, shelf)
        for step in tried:
            self.say(
                f"revision {step.revision} ({tried.index(step) + 1} of {len(tried)})"
                f"{': ' + step.title if step.title else ''}"
            )
            stage = Stage(self.course, step, shelf, self.contract, before, owned=owned)
            above, findings = chain.first_look(stage, down="chain" in self.kinds)
            stage = replace(stage, after=above)
            self._judged(stage, findings)
            stage = self._upwards(stage)
            self._try(stage, BEFORE)
            shelf.build(step)
            self._try(stage, AFTER)
            owned = self._built_by_owner(owned, [step])
            shelf.forget(step.below, LOADED)
            if step.below is not None:
                shelf.forget(step.below)
            before = kept_loaded(above, step.revision, shelf)

    def _lawful_at(self, shelf: Shelf, step: Step) -> Side | None:
        stage = Stage(self.course, step, shelf, self.contract, None)
        with shelf.scratch(step.revision) as scratch:
            return lawful_above(stage, scratch)

    def _built_by_owner(self, owned: Shelf | None, steps: Sequence[Step]) -> Shelf | None:
        """The owner's databases go on, as long as the chain runs for that role at all."""
        if owned is None:
            return None
        if len(steps) > 1:
            with suppress(MigrationFailed):
                owned.build_at_once(steps[-1])
                return owned
        for step in steps:
            try:
                owned.build(step)
            except MigrationFailed as failure:
                self._owner_fails(owned, step, failure)
                return None
            if step.below is not None:
                owned.forget(step.below)
        return owned

    def _owner_fails(self, owned: Shelf, step: Step, failure: MigrationFailed) -> None:
        """The role cannot run the chain: that is told once, and nothing more is of it."""
        self.errors["owner"] = f"not judged after {step.revision}, which {owned.owner} cannot run"
        if any(s.startswith(f"migrations/owner/{step.revision}/") for s in self._seen):
            return
        found = Finding(
            "owner",
            step.revision,
            "fails",
            f"the upgrade fails as {owned.owner}, without any rows: {failure}",
            "do what needs a superuser apart from the chain, and only where it is missing",
        )
        self._judged(None, [found])

    def _upwards(self, stage: Stage) -> Stage:
        """Take rows up the step. Those that keep it from being taken are left out afterwards.

        Returns the stage with the others alone, so that it can be seen what becomes of them.
        """
        wanted = [k for k in self.kinds if k in UPWARDS]
        begun = time.monotonic()
        side = stage.before
        found = self._judged(stage, data.upwards(stage))
        for number in range(_ROUNDS_MAX):
            refused = [f.workload for f in found if f.kind == "upgrade" and f.workload is not None]
            if side is None or not refused:
                break
            # The last is the one that was too much; where there is no end to them, its table is.
            blamed = {o for workload in refused for o in workload.operations[-1:]}
            if number >= _ROUNDS_BY_ROW:
                tables = {s.relation for o in blamed for s in o.statements}
                blamed = {
                    o
                    for o in side.workload.operations
                    if any(s.relation in tables for s in o.statements)
                }
                self.remarks.append(
                    f"{stage.step.revision}: tried without rows of {', '.join(sorted(tables))}, "
                    "too many of which keep the upgrade from going on"
                )
            side = kept_loaded(side.without(blamed), stage.step.before, stage.shelf)
            stage = replace(stage, before=side)
            found = self._judged(stage, data.upwards(stage))
        if any(f.kind == "upgrade" for f in found):
            for kind in self.kinds:
                if kind in _NEED_ROWS and kind not in self.errors:
                    self.errors[kind] = (
                        f"not judged at {stage.step.revision}: rows keep the upgrade from going on"
                    )
        self._note_time(wanted, begun)
        return stage

    def _try(self, stage: Stage, trials: Sequence[tuple[Trial, frozenset[Kind]]]) -> None:
        for trial, kinds in trials:
            wanted = [k for k in self.kinds if k in kinds]
            if not wanted:
                continue
            begun = time.monotonic()
            self._judged(stage, trial(stage))
            self._note_time(wanted, begun)

    def _note_time(self, kinds: Iterable[Kind], begun: float) -> None:
        for kind in kinds:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.monotonic() - begun
            self.tries[kind] = self.tries.get(kind, 0) + 1

    def _judged(self, stage: Stage | None, findings: Iterable[Finding]) -> Sequence[Finding]:
        """Reduce, keep and tell what is new; returns all of it, as small as it got."""
        told: list[Finding] = []
        for finding in list(findings):
            if finding.kind not in self.kinds:
                # Of use to whoever tries the step without these rows.
                told.append(self._reduced(stage, finding) if finding.kind == "upgrade" else finding)
                continue
            reason = self.contract.migrations.why_accepted(finding.signature)
            if reason is None or finding.kind == "upgrade":
                finding = self._reduced(stage, finding)
            told.append(finding)
            if finding.signature in self._seen:
                continue
            self._seen.add(finding.signature)
            if reason is not None:
                self.accepted[finding.signature] = reason
                continue
            made = counterexample_of(finding, self.contract, seed=self.seed)
            saved = save(made, self.options.artifacts)
            found = Found(finding.kind, made, saved)
            self.found.setdefault(finding.kind, []).append(found)
            self.listener(found)
        return told

    def _reduced(self, stage: Stage | None, finding: Finding) -> Finding:
        again = AGAIN.get(finding.kind)
        if stage is None or finding.workload is None or again is None:
            return finding
        if finding.signature in self._seen and finding.kind != "upgrade":
            return finding
        # The budget is for this: all else is tried to its end.
        begun = time.monotonic()
        small = reduced(
            finding,
            lambda tried: again(stage, finding, tried),
            max(_REDUCING_SECONDS_MIN, (self.options.seconds - self.reducing) / 2),
            thoroughly=finding.signature not in self._seen,
        )
        self.reducing += time.monotonic() - begun
        return replace(finding, workload=small)

    def finished(self) -> Iterator[InvariantFinished]:
        """What came of each kind."""
        for kind in self.kinds:
            found = tuple(self.found.get(kind, ()))
            error = self.errors.get(kind)
            done = InvariantFinished(
                kind,
                "violated" if found else "error" if error or self.fault else "held",
                self.tries.get(kind, 0),
                0,
                self.seconds.get(kind, 0.0),
                found,
                error=error,
                fault=self.fault,
                examined=self.tries.get(kind, 0),
                note=_note(kind, self.contract, self.course, error),
            )
            self.listener(done)
            yield done

    def told(self) -> tuple[tuple[Accepted, ...], tuple[str, ...]]:
        """What is accepted, and what else is to be said."""
        accepted = tuple(Accepted(s, r) for s, r in sorted(self.accepted.items()))
        return accepted, tuple(self.remarks)


def _note(kind: Kind, contract: Contract, course: Course, error: str | None) -> str | None:
    """Why there was nothing to try, where that is in order."""
    if error:
        return None
    if kind == "owner" and contract.migrations.owner is None:
        return "the contract names no [migrations] owner"
    if kind in ("downgrade", "killed") and not course.undoes:
        return "a folder of SQL files has no way back, and says nothing of transactions"
    return None


def _kinds(wanted: Sequence[str]) -> tuple[Kind, ...]:
    for name in wanted:
        if name not in KINDS:
            raise UsageError(f"--invariant {name}: no such kind; use one of: {', '.join(KINDS)}")
    return tuple(k for k in KINDS if not wanted or k in wanted)


def _check(contract: Contract, course: Course) -> None:
    for revision in contract.migrations.revisions:
        if revision not in course.known:
            raise contract.fault(
                f"migrations.revisions.{revision}",
                f"there is no revision {revision!r}",
                "name one by its full id",
            )


def _tried(
    course: Course, options: MigrationsOptions, named: Mapping[str, str]
) -> tuple[Step, ...]:
    """The steps that are tried: from one on, or those after one."""
    first = 0
    if options.first is not None:
        first = _number(course, "--from", options.first, named) - 1
    if options.since is not None:
        first = max(first, _number(course, "--since", options.since, named))
    tried = course.steps[first:]
    if not tried:
        raise UsageError(
            f"--since {options.since}: no revision comes after it up to {course.steps[-1].revision}"
            "; name an older one"
        )
    return tried


def _number(course: Course, option: str, wanted: str, named: Mapping[str, str]) -> int:
    meant = named.get(wanted, wanted)
    found = [s for s in course.steps if s.revision == meant] or [
        s for s in course.steps if meant and s.revision.startswith(meant)
    ]
    if len(found) != 1:
        shown = ", ".join(course.revisions[-20:])
        raise UsageError(f"{option} {wanted}: no such revision up to --to; known are {shown}")
    return found[0].number
