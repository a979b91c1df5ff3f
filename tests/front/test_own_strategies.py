"""A user's own strategies, by every door: the command, pytest alone and with workers, mutants."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT, WORKERS
from tests.projects import HEAD, named, project_in

pytest_plugins = ["pytester"]

# Says in a file beside the contract which process loaded it.
MARKING = (
    "import os, pathlib\n"
    "(pathlib.Path(__file__).parent / f'loaded by {os.getpid()}').touch()\n" + named("mine")
)
FAILING = HEAD + '@rows("tenants")\ndef tenant(world, tenant):\n    return {"id": 1 // 0}\n'
BROKEN = "raise ValueError('not today')\n"


def command(contract: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, run in the folder of the contract."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "invariants", arguments[0], "--server", "embedded"),
            *("--alembic-config", str(ROOT / "alembic.ini"), *arguments[1:]),
        ],
        cwd=contract.parent,
        capture_output=True,
        text=True,
    )


RUN = ("run", "--invariant", "taxonomy", "--seed", "1", "--max-examples", "30", "--sessions", "0")
MUTANTS = ("mutants", "--operator", "reference-row-missing", "--jobs", "2")


def loaded(contract: Path) -> int:
    """How many processes loaded the strategies."""
    return len(list(contract.parent.glob("loaded by *")))


def test_the_command_loads_them(tmp_path: Path) -> None:
    contract = project_in(tmp_path, {"strategies.py": MARKING})
    done = command(contract, *RUN)
    assert done.returncode == 0, done.stderr
    assert loaded(contract) == 1


def test_the_workers_of_mutants_load_them(tmp_path: Path) -> None:
    contract = project_in(tmp_path, {"strategies.py": MARKING})
    done = command(contract, *MUTANTS, "--mutant-budget", "20")
    assert done.returncode in (0, 1), done.stderr
    assert loaded(contract) >= 2


@pytest.mark.parametrize("arguments", [RUN, MUTANTS, ("gate",)], ids=lambda a: a[0])
def test_a_module_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, arguments: Sequence[str]
) -> None:
    contract = project_in(tmp_path, {"strategies.py": BROKEN})
    (tmp_path / "tests/counterexamples").mkdir(parents=True)
    done = command(contract, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "invariants.toml: strategies.modules: 'strategies' cannot be loaded: ValueError: "
        "not today (strategies.py, line 1); mend it"
    )


def test_a_strategy_that_fails_while_it_draws_is_one_line(tmp_path: Path) -> None:
    done = command(project_in(tmp_path, {"strategies.py": FAILING}), *RUN)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "strategies.modules: 'strategies.tenant' failed: ZeroDivisionError: integer division or "
        "modulo by zero (strategies.py, line 4); mend it"
    )


@WORKERS
class TestPytest:
    def run(
        self, pytester: pytest.Pytester, contract: Path, workers: Sequence[str]
    ) -> pytest.RunResult:
        return pytester.runpytest_subprocess(
            *("-m", "invariants", "-p", "no:cacheprovider", "-k", "taxonomy or pii", *workers),
            *("--invariants-server=embedded", f"--invariants-contract={contract}"),
            *(f"--invariants-alembic-config={ROOT / 'alembic.ini'}", "--invariants-seed=1"),
            "--invariants-max-examples=30",
        )

    def test_it_loads_them(
        self, pytester: pytest.Pytester, tmp_path: Path, workers: Sequence[str]
    ) -> None:
        contract = project_in(tmp_path / "project", {"strategies.py": MARKING})
        result = self.run(pytester, contract, workers)
        result.assert_outcomes(passed=2, deselected=0 if workers else 9)
        assert loaded(contract) == (2 if workers else 1)

    def test_one_that_cannot_be_loaded_is_one_line(
        self, pytester: pytest.Pytester, tmp_path: Path, workers: Sequence[str]
    ) -> None:
        contract = project_in(tmp_path / "project", {"strategies.py": BROKEN})
        result = self.run(pytester, contract, workers)
        told = result.stdout.str() + result.stderr.str()
        assert result.ret not in (0, 1)
        assert "strategies.modules: 'strategies' cannot be loaded: ValueError: not today" in told
        assert "Traceback" not in told
