"""pytest's front door: `pytest -m invariants`, with the options of `invariants run`.

The contract is collected as it stands: a test an invariant, no file to write (`collected`). Who
wants tests of his own asks for the fixture `verdict` with the name of an invariant, and says
`assert_held`. One environment serves the whole session, under pytest-xdist too: the controller
opens it and every worker clones scratch databases of its own.

pytest loads this in every run, so it imports what it needs late.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from invariants import options
from invariants.errors import InvariantsError
from invariants.escaping import shown
from invariants.front.collected import (
    GATE_CHECKS,
    ContractFile,
    ContractItem,
    MigrationItem,
    asked_for,
    contract_path,
    named,
    nothing_named,
    of_gate,
    own,
    searched,
)
from invariants.front.fuzzer import (
    CAUSES,
    COVERAGE,
    FROM_CONTROLLER,
    FROM_WORKER,
    FUZZER,
    PREFIX,
    Fuzzer,
    GateVerdict,
    Verdict,
)
from invariants.unforeseen import foreseen

__all__ = ["GATE_CHECKS", "Fuzzer", "GateVerdict", "Verdict"]


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """Search for violations of the invariant named by the parameter.

    A violation is the test's to report. What could not be judged is an error of this fixture; a
    server that fails ends the session.
    """
    __tracebackhide__ = True
    among = searched(request.session)
    return request.config.stash[FUZZER].verdict(request.param, request.session, among)


@pytest.fixture
def gate_check(request: pytest.FixtureRequest) -> GateVerdict:
    """Look at the part of the release gate that the parameter names."""
    __tracebackhide__ = True
    return request.config.stash[FUZZER].gate_verdict(request.param, request.session)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of `invariants run`, with a prefix."""
    group = parser.getgroup("invariants", "property-based invariant fuzzer for PostgreSQL")
    options.declare(group.addoption, options.RUN, prefix=PREFIX)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and what is closed when pytest ends."""
    config.addinivalue_line(
        "markers", "invariants: searches for violations of a schema's promises on a real PostgreSQL"
    )
    config.stash[FUZZER] = Fuzzer(config)
    config.add_cleanup(config.stash[FUZZER].close)
    if config.pluginmanager.has_plugin("xdist"):
        config.pluginmanager.register(_Controller(config.stash[FUZZER]))
    contract = contract_path(config)
    # Wherever the tests are: `testpaths` seldom names the folder of the contract.
    if asked_for(config) and nothing_named(config) and contract and contract.is_file():
        config.args.append(str(contract))


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what will be tested, and how to have the same run again."""
    fuzzer = config.stash[FUZZER]
    if not asked_for(config):
        return None
    try:
        return fuzzer.header()
    except InvariantsError as error:
        fuzzer.stop(error)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ContractFile | None:
    """Collect the contract where the invariants are asked for, or it is itself."""
    config = parent.config
    if file_path.suffix != ".toml" or file_path != contract_path(config):
        return None
    if asked_for(config) or named(config, file_path):
        return ContractFile.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is there twice, and what only the release gate looks at."""
    once = {i.nodeid: i for i in reversed(items) if isinstance(i, ContractItem)}
    items[:] = [i for i in items if once.get(i.nodeid, i) is i]
    written = any(map(own, items))
    try:
        of_release = bool(config.stash[FUZZER].options.fixed_seeds)
    except InvariantsError:
        # Told where it is needed.
        of_release = False
    left_out = [
        i
        for i in items
        if (of_gate(i) and not of_release)
        or (written and isinstance(i, ContractItem) and not isinstance(i, MigrationItem))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [i for i in items if i not in left_out]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Open the environment before the first test, where what is said about it can be seen."""
    config, fuzzer = session.config, session.config.stash[FUZZER]
    # With nothing to search, the contract is not where it was looked for: told on opening it.
    wanted = searched(session) or (asked_for(config) and nothing_named(config))
    if config.option.collectonly or not wanted or fuzzer.given is not None:
        return
    try:
        with foreseen():
            fuzzer.environment  # noqa: B018
    except InvariantsError as error:
        fuzzer.stop(error)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give the session the exit status of the error that stopped it."""
    fuzzer = session.config.stash[FUZZER]
    if fuzzer.exit_status is not None:
        session.exitstatus = fuzzer.exit_status
    elif fuzzer.lacks_coverage() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which causes were known, and which guards the searches met."""
    if lines := config.stash[FUZZER].known_lines():
        terminalreporter.section("invariants: baseline")
        for line in lines:
            terminalreporter.write_line(shown(line))
    if lines := config.stash[FUZZER].coverage_lines():
        terminalreporter.section("invariants: coverage")
        for line in lines:
            terminalreporter.write_line(shown(line))
        if config.stash[FUZZER].lacks_coverage():
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
        if not asked_for(self.fuzzer.config):
            return
        try:
            with foreseen():
                node.workerinput[FROM_CONTROLLER] = self.fuzzer.handover()
        except InvariantsError as error:
            self.fuzzer.stop(error)

    def pytest_testnodedown(self, node: Any) -> None:
        """Note what a worker met, and with which exit status it ends the session."""
        output = getattr(node, "workeroutput", {})
        self.fuzzer.met += output.get(COVERAGE, [])
        self.fuzzer.causes += output.get(CAUSES, [])
        status = output.get(FROM_WORKER)
        if status is not None:
            self.fuzzer.exit_status = status
