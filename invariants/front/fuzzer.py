"""The engine as one pytest process uses it, and what its tests are given to judge.

pytest loads this in every run, so it imports what it needs late.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from invariants import escaping, options
from invariants.errors import InfrastructureError, InvariantsError
from invariants.escaping import shown
from invariants.masking import masked
from invariants.options import RunOptions
from invariants.unforeseen import foreseen

if TYPE_CHECKING:
    from invariants.contract.contract import Contract
    from invariants.coverage.met import Coverage
    from invariants.gate.release import Check, GateOptions
    from invariants.search.baseline import Baseline
    from invariants.search.events import Found, InvariantFinished
    from invariants.search.explorer import Explorer
    from invariants.servers.environment import Environment

PREFIX = "invariants-"
# Keys under which controller and worker tell each other things.
FROM_CONTROLLER = "invariants"
FROM_WORKER = "invariants_stopped"
COVERAGE = "invariants_coverage"
CAUSES = "invariants_causes"


@dataclass(frozen=True)
class Verdict:
    """What the search for violations of one invariant came to."""

    finished: InvariantFinished
    seed: int
    schema_arguments: str
    known: Baseline | None = None

    @property
    def new(self) -> tuple[Found, ...]:
        """The causes that no baseline knows."""
        reasons = self.known.reasons if self.known else {}
        return tuple(f for f in self.finished.found if f.counterexample.signature not in reasons)

    def assert_held(self) -> None:
        """Fail the test with the story of every violation that is not known."""
        __tracebackhide__ = True
        if self.new:
            pytest.fail(self._story(), pytrace=False)

    def _story(self) -> str:
        from invariants.coverage.unreached import unreached_lines

        causes = len(self.new)
        title = (
            f"{self.finished.name} violated, {causes} {'cause' if causes == 1 else 'causes'} "
            f"({self.finished.examples:,} examples, seed {self.seed})"
        )
        beside = "\n".join(map(shown, unreached_lines(self.finished.unreached)))
        parts = [title, *(self._finding(found) for found in self.new), beside]
        return "\n\n".join(filter(None, parts))

    def _finding(self, found: Found) -> str:
        lines = [
            f"VIOLATED {shown(found.counterexample.signature)}",
            escaping.lines(found.counterexample.text),
        ]
        if found.saved:
            commands = found.saved.replay_commands(self.schema_arguments)
            lines += [f"{w:<9} {c}" for w, c in zip_longest(("Replay",), commands, fillvalue="")]
        return "\n".join(lines)


@dataclass(frozen=True)
class GateVerdict:
    """What came of one part of the release gate."""

    checks: tuple[Check, ...]

    def assert_passed(self) -> None:
        """Fail the test with what did not pass."""
        __tracebackhide__ = True
        failed = [c for c in self.checks if c.status in ("failed", "error")]
        told = [f"{c.name}: {c.line}" for c in failed] + [d for c in failed for d in c.details]
        if failed:
            pytest.fail("\n".join(map(shown, told)), pytrace=False)


@dataclass
class Fuzzer:
    """The engine as one pytest process uses it: opened when first needed, closed with pytest."""

    config: pytest.Config
    # What pytest is to return, when the session was ended by an error.
    exit_status: int | None = None
    # What the searches met, as plain JSON values: one for each search or worker.
    met: list[dict[str, Any]] = field(default_factory=list)
    # For each invariant searched to the end: its name, and the causes found.
    causes: list[tuple[str, list[str]]] = field(default_factory=list)
    _resources: ExitStack = field(default_factory=ExitStack)
    # What came of the kinds of failure of a chain that were tried.
    _chain: dict[str, InvariantFinished] = field(default_factory=dict)

    def verdict(self, name: str, session: pytest.Session, among: Sequence[str]) -> Verdict:
        """Search for violations of one invariant: what a test then judges.

        What could not be judged fails or skips whoever asks; a server that fails ends the session.
        """
        __tracebackhide__ = True
        try:
            with foreseen():
                finished = self.search(name, among=among)
        except InvariantsError as error:
            self.stop(error, session)
        return self._judged(finished, session)

    def chain_verdict(self, kind: str, session: pytest.Session, among: Sequence[str]) -> Verdict:
        """Try the chain of migrations for one kind of failure, likewise.

        One try is for all kinds that are `among` the tests; a worker of pytest-xdist, which does
        not know which of them are its own, tries each by itself.
        """
        __tracebackhide__ = True
        try:
            if kind not in self._chain:
                with foreseen():
                    self._try_chain([kind] if self._is_worker else among)
        except InvariantsError as error:
            self.stop(error, session)
        return self._judged(self._chain[kind], session)

    def _judged(self, finished: InvariantFinished, session: pytest.Session) -> Verdict:
        __tracebackhide__ = True
        from invariants.coverage.unreached import unreached_lines

        if finished.fault:
            fault = InfrastructureError(finished.fault)
            # What was found before the fault is told by the test; it is the last one.
            if finished.found:
                self.stop_soon(fault, session)
            else:
                self.stop(fault, session)
        if finished.note:
            pytest.skip(finished.note)
        verdict = Verdict(finished, self.seed, options.schema_arguments(self.options), self.known)
        if finished.status == "error" or (finished.unreached and not verdict.new):
            reasons = [
                f"{shown(f.signature)}: failed once, not again\n{escaping.lines(f.text)}"
                for f in finished.flaky
            ]
            told = [*unreached_lines(finished.unreached)]
            reasons += ["\n".join(map(shown, told))] if told else []
            reasons += [shown(finished.error)] if finished.error and not told else []
            told_all = "\n\n".join([f"{finished.name} not judged", *reasons])
            pytest.fail(told_all, pytrace=False)
        return verdict

    def gate_verdict(self, name: str, session: pytest.Session) -> GateVerdict:
        """Look at one part of the release gate."""
        __tracebackhide__ = True
        try:
            with foreseen():
                return GateVerdict(tuple(self.gate_checks(name)))
        except InvariantsError as error:
            self.stop(error, session)

    @cached_property
    def options(self) -> RunOptions:
        """The options as given to pytest. Raises `UsageError`."""
        values = options.values(
            options.RUN,
            lambda option: self.config.getoption(f"--{PREFIX}{option.flag}"),
            prefix=PREFIX,
        )
        return RunOptions(**values)

    @cached_property
    def seed(self) -> int:
        """The seed of the session: the controller's under pytest-xdist."""
        from invariants.search.run import new_seed

        if self.given is not None:
            return int(self.given["seed"])
        return new_seed() if self.options.seed is None else self.options.seed

    @cached_property
    def environment(self) -> Environment:
        """The migrated schema: the controller's under pytest-xdist, else opened here."""
        return self._opened[0]

    def search(self, name: str, *, among: Sequence[str]) -> InvariantFinished:
        """Search for violations of one invariant, in its share of the time that `among` have."""
        from invariants.checks import chosen
        from invariants.search import baseline
        from invariants.search.run import search_for

        (invariant,) = chosen([name])
        budget = self._budgeted
        share = budget.seconds * invariant.share / sum(i.share for i in chosen(among))
        finished = self._explorer.explore(invariant, search_for(budget, self.seed, share))
        self.met.append(finished.coverage.to_json())
        if baseline.judged([finished]):
            self.causes.append((name, list(baseline.signatures([finished]))))
        if self._is_worker:
            self.config.workeroutput[COVERAGE] = self.met  # type: ignore[attr-defined]
            self.config.workeroutput[CAUSES] = self.causes  # type: ignore[attr-defined]
        return finished

    def _try_chain(self, kinds: Sequence[str]) -> None:
        from invariants.gate.chain import tried
        from invariants.search import baseline

        report = tried(self.options, kinds, self.seed, self.say).report
        self._chain.update({i.name: i for i in report.invariants})
        for finished in report.invariants:
            if baseline.judged([finished]):
                self.causes.append((finished.name, list(baseline.signatures([finished]))))
        if self._is_worker:
            self.config.workeroutput[CAUSES] = self.causes  # type: ignore[attr-defined]

    @cached_property
    def known(self) -> Baseline | None:
        """The known causes, where a file of them is given. Raises `UsageError`."""
        from invariants.search.run import known_causes

        return known_causes(self.options)

    def known_lines(self) -> Sequence[str]:
        """What the searches of the session found of the known causes, for people."""
        if not self.causes or self.known is None:
            return ()
        found = [s for _, signatures in self.causes for s in signatures]
        compared = self.known.compared(found, [name for name, _ in self.causes])
        known = [f"known    {self.known.told(s)}" for s in compared.known]
        return (*known, *map(self.known.told_gone, compared.gone))

    @property
    def coverage(self) -> Coverage:
        """What all searches of the session met."""
        from invariants.coverage.met import Coverage

        return Coverage.merged(Coverage.from_json(met) for met in self.met)

    def gate_checks(self, name: str) -> Sequence[Check]:
        """One part of the release gate."""
        from invariants.gate import release

        environment, contract = self._opened
        options = self._gate_options
        if name == "counterexamples":
            replayed = release.replay_kept(options, environment, contract, lambda _: None)
            return [release.replay_check(r, self.known) for r in replayed]
        key = release.memory_key(options, environment, contract)
        memory = release.recall(key)
        wanted = release.threshold(self.config.rootpath / "pyproject.toml")
        mutation = release.measured_once(
            options, environment, contract, key, memory, wanted, self.say, lambda *_: None
        )
        return [mutation.check()]

    @cached_property
    def _gate_options(self) -> GateOptions:
        from invariants.gate.release import GateOptions
        from invariants.mutants.score import MutantOptions

        return GateOptions(
            self.options,
            MutantOptions(sessions=self.options.sessions, artifacts=self.options.artifacts),
        )

    @cached_property
    def _budgeted(self) -> RunOptions:
        """The options, without the fixed seeds where these are known to hold."""
        if not self.options.fixed_seeds:
            return self.options
        from invariants.gate import release

        memory = release.recall(release.memory_key(self._gate_options, *self._opened))
        return release.within_budget(self.options, memory)

    def lacks_coverage(self) -> bool:
        """Whether the release gate fails for a guard that no search met."""
        if not self.met or self._is_worker or not self.options.fixed_seeds:
            return False
        return not self.coverage.complete

    def coverage_lines(self) -> Sequence[str]:
        """What all searches of the session met, for people; none when there were none."""
        if not self.met:
            return ()
        return self.coverage.lines

    def handover(self) -> dict[str, Any]:
        """What a worker needs to use this process's environment."""
        return {"seed": self.seed, "handle": self.environment.handle()}

    def header(self) -> str:
        """The run in one line."""
        chosen = self.options
        return (
            f"invariants: server {_shown(chosen.server)}, revision {chosen.revision}, "
            f"seed {self.seed}, profile {chosen.profile}"
        )

    def say(self, line: str) -> None:
        """A remark, on a line of its own."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self.given is None:
            reporter.ensure_newline()
            reporter.write_line(f"invariants: {line}")

    def stop(self, error: InvariantsError, session: pytest.Session | None = None) -> NoReturn:
        """End the session with the error's line and exit status: this is no violation."""
        if session is None or not self._is_worker:
            pytest.exit(told(error), error.exit_status)
        # The end of a worker counts as a crash. The controller ends the session instead.
        self.stop_soon(error, session)
        pytest.skip(told(error))

    def stop_soon(self, error: InvariantsError, session: pytest.Session) -> None:
        """End the session likewise, after the test that runs."""
        self.exit_status = error.exit_status
        session.shouldstop = told(error)
        if self._is_worker:
            self.config.workeroutput[FROM_WORKER] = error.exit_status  # type: ignore[attr-defined]

    def close(self) -> None:
        """Drop and stop everything."""
        self._resources.close()

    @property
    def _is_worker(self) -> bool:
        return hasattr(self.config, "workeroutput")

    @property
    def given(self) -> dict[str, Any] | None:
        """What the controller of pytest-xdist handed over, in a worker of it."""
        given: dict[str, Any] | None = getattr(self.config, "workerinput", {}).get(FROM_CONTROLLER)
        return given

    @cached_property
    def _opened(self) -> tuple[Environment, Contract]:
        from invariants.contract.contract import load
        from invariants.counterexamples.files import ensure_writable
        from invariants.search.run import schema
        from invariants.servers.environment import Environment

        ensure_writable(self.options.artifacts)
        self.known  # noqa: B018 - a bad file is told before anything is started
        if self.given is not None:
            environment = Environment.attach(self.given["handle"])
            return self._resources.enter_context(environment), load(self.options.contract)
        opened = self._resources.enter_context(schema(self.options, self.say))
        self.say(f"schema: revision {opened[0].revision}")
        return opened

    @cached_property
    def _explorer(self) -> Explorer:
        from invariants.search.explorer import Explorer

        explorer = Explorer(*self._opened, lambda _: None)
        self._resources.callback(explorer.close)
        return explorer


FUZZER = pytest.StashKey[Fuzzer]()


def told(error: InvariantsError) -> str:
    """The error's line, in pytest's words."""
    return f"invariants: {shown(masked(options.with_prefix(str(error), PREFIX)))}"


def _shown(server: str) -> str:
    return "as given" if re.search("[@/=]", server) else server
