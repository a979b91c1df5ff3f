"""What `pytest -m invariants` collects: the contract, a test for each invariant.

Where pyproject.toml asks for the chain of migrations there is a test for each kind of failure, too.

pytest loads this in every run, so it imports what it needs late.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from invariants.errors import InvariantsError
from invariants.front.fuzzer import FUZZER, GateVerdict, Verdict

FIXTURE = "verdict"
# What the release gate looks at besides the invariants; other profiles leave it out.
GATE_FIXTURE = "gate_check"
GATE_CHECKS = ("counterexamples", "mutation score")
# What the names of the tests of the chain begin with: the kind comes after it.
CHAIN = "migrations/"


class ContractFile(pytest.File):
    """The contract, as a file of tests."""

    def collect(self) -> Iterator[pytest.Item]:
        """A test for each invariant, and for what only the release gate looks at."""
        from invariants.checks import INVARIANTS

        for name in INVARIANTS:
            yield InvariantItem.from_parent(self, name=name)
        for name in GATE_CHECKS:
            yield GateItem.from_parent(self, name=name)
        for kind in self._kinds():
            yield MigrationItem.from_parent(self, name=f"{CHAIN}{kind}")

    def _kinds(self) -> tuple[str, ...]:
        """The kinds of failure of a chain, where they are asked for."""
        from invariants.gate import chain
        from invariants.migrations.finding import KINDS

        try:
            return KINDS if chain.asked_for(self.config.rootpath / "pyproject.toml") else ()
        except InvariantsError as error:
            self.config.stash[FUZZER].stop(error)


class ContractItem(pytest.Item):
    """A test that the contract stands for: looked at in its set-up, judged when it is run."""

    def __init__(self, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self.add_marker("invariants")

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it comes from: the contract, no line of it."""
        return self.path, None, self.name


class InvariantItem(ContractItem):
    """An invariant holds."""

    def setup(self) -> None:
        """Search; what could not be judged is an error here."""
        __tracebackhide__ = True
        among = searched(self.session)
        self._verdict: Verdict = self.config.stash[FUZZER].verdict(self.name, self.session, among)

    def runtest(self) -> None:
        """Judge: a violation is a failure."""
        __tracebackhide__ = True
        self._verdict.assert_held()


class GateItem(ContractItem):
    """One thing that the release gate looks at besides the invariants."""

    def setup(self) -> None:
        """Look at it; what could not be judged is an error here."""
        __tracebackhide__ = True
        self._verdict: GateVerdict = self.config.stash[FUZZER].gate_verdict(self.name, self.session)

    def runtest(self) -> None:
        """Judge."""
        __tracebackhide__ = True
        self._verdict.assert_passed()


class MigrationItem(ContractItem):
    """The chain of migrations does not fail in one way (`invariants migrations`)."""

    @property
    def kind(self) -> str:
        """The way."""
        return self.name.removeprefix(CHAIN)

    def setup(self) -> None:
        """Try the chain; what could not be judged is an error here."""
        __tracebackhide__ = True
        among = [i.kind for i in self.session.items if isinstance(i, MigrationItem)]
        fuzzer = self.config.stash[FUZZER]
        self._verdict: Verdict = fuzzer.chain_verdict(self.kind, self.session, among)

    def runtest(self) -> None:
        """Judge: what is found and not accepted is a failure."""
        __tracebackhide__ = True
        self._verdict.assert_held()


def asked_for(config: pytest.Config) -> bool:
    """Whether `-m` names the invariants; what will be collected is not known yet."""
    return bool(re.search(r"(?<!\bnot )\binvariants\b", config.option.markexpr))


def contract_path(config: pytest.Config) -> Path | None:
    """Where the contract is; None when the options are wrong, which is told elsewhere."""
    try:
        given = config.stash[FUZZER].options.contract
    except InvariantsError:
        return None
    return config.invocation_params.dir / given


def named(config: pytest.Config, path: Path) -> bool:
    """Whether the command line names the file itself, or a test in it."""
    folder = config.invocation_params.dir
    return any(folder / argument.split("::")[0] == path for argument in config.args)


def nothing_named(config: pytest.Config) -> bool:
    """Whether pytest was left to find tests by itself."""
    return config.args_source is not pytest.Config.ArgsSource.ARGS


def searched(session: pytest.Session) -> list[str]:
    """The invariants that the tests to run search for: they share the time budget."""
    names = [i.name for i in session.items if isinstance(i, InvariantItem)]
    calls = (getattr(item, "callspec", None) for item in session.items)
    return names + [call.params[FIXTURE] for call in calls if call and FIXTURE in call.params]


def of_gate(item: pytest.Item) -> bool:
    """Whether the test is the release gate's."""
    return isinstance(item, GateItem) or GATE_FIXTURE in getattr(item, "fixturenames", ())


def own(item: pytest.Item) -> bool:
    """Whether somebody wrote this test of an invariant himself."""
    return FIXTURE in getattr(item, "fixturenames", ())
