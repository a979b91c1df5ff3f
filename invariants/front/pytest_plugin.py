"""pytest's front door: `pytest -m invariants`, with the options of `invariants run`.

A test asks for the fixture `verdict` with the name of an invariant, and says `assert_held`. One
environment serves the whole session, under pytest-xdist too: the controller opens it and every
worker clones scratch databases of its own.

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

from invariants import options
from invariants.errors import InfrastructureError, InvariantsError
from invariants.options import RunOptions

if TYPE_CHECKING:
    from invariants.contract.contract import Contract
    from invariants.coverage.met import Coverage
    from invariants.gate.release import Check, GateOptions
    from invariants.search.events import Found, InvariantFinished
    from invariants.search.explorer import Explorer
    from invariants.servers.environment import Environment

PREFIX = "invariants-"
FIXTURE = "verdict"
# What the release gate looks at besides the invariants; other profiles leave it out.
GATE_FIXTURE = "gate_check"
GATE_CHECKS = ("counterexamples", "mutation score")
# Keys under which controller and worker tell each other things.
_FROM_CONTROLLER = "invariants"
_FROM_WORKER = "invariants_stopped"
_COVERAGE = "invariants_coverage"


@dataclass(frozen=True)
class Verdict:
    """What the search for violations of one invariant came to."""

    finished: InvariantFinished
    seed: int
    schema_arguments: str

    def assert_held(self) -> None:
        """Fail the test with the story of every violation."""
        __tracebackhide__ = True
        if self.finished.found:
            pytest.fail(self._story(), pytrace=False)

    def _story(self) -> str:
        causes = len(self.finished.found)
        title = (
            f"{self.finished.name} violated, {causes} {'cause' if causes == 1 else 'causes'} "
            f"({self.finished.examples:,} examples, seed {self.seed})"
        )
        return "\n\n".join([title, *(self._finding(found) for found in self.finished.found)])

    def _finding(self, found: Found) -> str:
        lines = [f"VIOLATED {found.counterexample.signature}", found.counterexample.text]
        if found.saved:
            commands = found.saved.replay_commands(self.schema_arguments)
            lines += [f"{w:<9} {c}" for w, c in zip_longest(("Replay",), commands, fillvalue="")]
        return "\n".join(lines)


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """Search for violations of the invariant named by the parameter.

    A violation is the test's to report. What could not be judged is an error of this fixture; a
    server that fails ends the session.
    """
    __tracebackhide__ = True
    fuzzer = request.config.stash[_FUZZER]
    try:
        finished = fuzzer.search(request.param, among=_searched(request.session))
    except InvariantsError as error:
        fuzzer.stop(error, request.session)
    if finished.fault:
        fault = InfrastructureError(finished.fault)
        # What was found before the fault is told by the test; it is the last one.
        if finished.found:
            fuzzer.stop_soon(fault, request.session)
        else:
            fuzzer.stop(fault, request.session)
    if finished.note:
        pytest.skip(finished.note)
    if finished.status == "error":
        reasons = [f"{f.signature}: failed once, not again\n{f.text}" for f in finished.flaky]
        reasons += [finished.error] if finished.error else []
        pytest.fail("\n\n".join([f"{request.param} not judged", *reasons]), pytrace=False)
    return Verdict(finished, fuzzer.seed, options.schema_arguments(fuzzer.options))


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
            pytest.fail("\n".join(told), pytrace=False)


@pytest.fixture
def gate_check(request: pytest.FixtureRequest) -> GateVerdict:
    """Look at the part of the release gate that the parameter names."""
    fuzzer = request.config.stash[_FUZZER]
    try:
        return GateVerdict(tuple(fuzzer.gate_checks(request.param)))
    except InvariantsError as error:
        fuzzer.stop(error, request.session)


@dataclass
class Fuzzer:
    """The engine as one pytest process uses it: opened when first needed, closed with pytest."""

    config: pytest.Config
    # What pytest is to return, when the session was ended by an error.
    exit_status: int | None = None
    # What the searches met, as plain JSON values: one for each search or worker.
    met: list[dict[str, Any]] = field(default_factory=list)
    _resources: ExitStack = field(default_factory=ExitStack)

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

        if self._given is not None:
            return int(self._given["seed"])
        return new_seed() if self.options.seed is None else self.options.seed

    @cached_property
    def environment(self) -> Environment:
        """The migrated schema: the controller's under pytest-xdist, else opened here."""
        return self._opened[0]

    def search(self, name: str, *, among: Sequence[str]) -> InvariantFinished:
        """Search for violations of one invariant, in its share of the time that `among` have."""
        from invariants.checks import chosen
        from invariants.search.run import search_for

        (invariant,) = chosen([name])
        budget = self._budgeted
        share = budget.seconds * invariant.share / sum(i.share for i in chosen(among))
        finished = self._explorer.explore(invariant, search_for(budget, self.seed, share))
        self.met.append(finished.coverage.to_json())
        if self._is_worker:
            self.config.workeroutput[_COVERAGE] = self.met  # type: ignore[attr-defined]
        return finished

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
            return [release.replay_check(r) for r in replayed]
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
        if reporter is not None and self._given is None:
            reporter.ensure_newline()
            reporter.write_line(f"invariants: {line}")

    def stop(self, error: InvariantsError, session: pytest.Session | None = None) -> NoReturn:
        """End the session with the error's line and exit status: this is no violation."""
        if session is None or not self._is_worker:
            pytest.exit(_told(error), error.exit_status)
        # The end of a worker counts as a crash. The controller ends the session instead.
        self.stop_soon(error, session)
        pytest.skip(_told(error))

    def stop_soon(self, error: InvariantsError, session: pytest.Session) -> None:
        """End the session likewise, after the test that runs."""
        self.exit_status = error.exit_status
        session.shouldstop = _told(error)
        if self._is_worker:
            self.config.workeroutput[_FROM_WORKER] = error.exit_status  # type: ignore[attr-defined]

    def close(self) -> None:
        """Drop and stop everything."""
        self._resources.close()

    @property
    def _is_worker(self) -> bool:
        return hasattr(self.config, "workeroutput")

    @property
    def _given(self) -> dict[str, Any] | None:
        given: dict[str, Any] | None = getattr(self.config, "workerinput", {}).get(_FROM_CONTROLLER)
        return given

    @cached_property
    def _opened(self) -> tuple[Environment, Contract]:
        from invariants.contract.contract import load
        from invariants.counterexamples.files import ensure_writable
        from invariants.search.run import schema
        from invariants.servers.environment import Environment

        ensure_writable(self.options.artifacts)
        if self._given is not None:
            environment = Environment.attach(self._given["handle"])
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


_FUZZER = pytest.StashKey[Fuzzer]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of `invariants run`, with a prefix."""
    group = parser.getgroup("invariants", "property-based invariant fuzzer for PostgreSQL")
    options.declare(group.addoption, options.RUN, prefix=PREFIX)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and what is closed when pytest ends."""
    config.addinivalue_line(
        "markers", "invariants: searches for violations of a schema's promises on a real PostgreSQL"
    )
    config.stash[_FUZZER] = Fuzzer(config)
    config.add_cleanup(config.stash[_FUZZER].close)
    if config.pluginmanager.has_plugin("xdist"):
        config.pluginmanager.register(_Controller(config.stash[_FUZZER]))


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what will be tested, and how to have the same run again."""
    fuzzer = config.stash[_FUZZER]
    if not _asked_for(config):
        return None
    try:
        return fuzzer.header()
    except InvariantsError as error:
        fuzzer.stop(error)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what only the release gate looks at to the profile `release`."""
    of_gate = [i for i in items if GATE_FIXTURE in getattr(i, "fixturenames", ())]
    if not of_gate:
        return
    try:
        wanted = bool(config.stash[_FUZZER].options.fixed_seeds)
    except InvariantsError:
        # Told where it is needed.
        wanted = False
    if not wanted:
        config.hook.pytest_deselected(items=of_gate)
        items[:] = [i for i in items if i not in of_gate]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Open the environment before the first test, where what is said about it can be seen."""
    fuzzer = session.config.stash[_FUZZER]
    if session.config.option.collectonly or not _searched(session) or fuzzer._given is not None:
        return
    try:
        fuzzer.environment  # noqa: B018
    except InvariantsError as error:
        fuzzer.stop(error)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give the session the exit status of the error that stopped it."""
    fuzzer = session.config.stash[_FUZZER]
    if fuzzer.exit_status is not None:
        session.exitstatus = fuzzer.exit_status
    elif fuzzer.lacks_coverage() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which guards the searches met."""
    if lines := config.stash[_FUZZER].coverage_lines():
        terminalreporter.section("invariants: coverage")
        for line in lines:
            terminalreporter.write_line(line)
        if config.stash[_FUZZER].lacks_coverage():
            terminalreporter.write_line(
                "not every guard was met: the profile release fails for that"
            )


class _Controller:
    """Hooks of pytest-xdist's controller: it owns the environment that the workers use."""

    def __init__(self, fuzzer: Fuzzer) -> None:
        self.fuzzer = fuzzer

    def pytest_configure_node(self, node: Any) -> None:
        """Hand the environment to a worker that is about to start."""
        # Without `-m invariants` nobody knows yet; a worker that needs one then opens its own.
        if not _asked_for(self.fuzzer.config):
            return
        try:
            node.workerinput[_FROM_CONTROLLER] = self.fuzzer.handover()
        except InvariantsError as error:
            self.fuzzer.stop(error)

    def pytest_testnodedown(self, node: Any) -> None:
        """Note what a worker met, and with which exit status it ends the session."""
        output = getattr(node, "workeroutput", {})
        self.fuzzer.met += output.get(_COVERAGE, [])
        status = output.get(_FROM_WORKER)
        if status is not None:
            self.fuzzer.exit_status = status


def _told(error: InvariantsError) -> str:
    return f"invariants: {options.with_prefix(str(error), PREFIX)}"


def _asked_for(config: pytest.Config) -> bool:
    """Whether `-m` names the invariants; what will be collected is not known yet."""
    return bool(re.search(r"(?<!\bnot )\binvariants\b", config.option.markexpr))


def _searched(session: pytest.Session) -> list[str]:
    """The invariants that the tests to run search for: they share the time budget."""
    calls = (getattr(item, "callspec", None) for item in session.items)
    return [call.params[FIXTURE] for call in calls if call and FIXTURE in call.params]


def _shown(server: str) -> str:
    return "as given" if re.search("[@/=]", server) else server
