"""Every benchmark runs, briefly, and prints its tables. How fast it is nobody asserts here."""

from __future__ import annotations

import importlib
import math
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import benchmarks
from benchmarks import figures, startup, throughput
from benchmarks.throughput import Lap, Sides
from tests.conftest import ROOT

KEPT = "allocation-sum-insert-attribution_allocations-trg_check_allocation_sum-sessions-together"
# A line that each benchmark ends with, and what else it takes to have it brief.
BRIEFLY = {
    "throughput": ("overall ", []),
    "concurrency": ("histor", ["--counterexamples", "{kept}"]),
    "startup": ("cold over warm:", []),
    "schema": ("posting ", []),
    "hostile_files": ("0 files did what they must not", []),
    "findings": ("signatures", ["--invariant", "allocation-sum"]),
}

LONG = "hostile_files"

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def briefly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a benchmark with `--brief` and return what it prints."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("INVARIANTS_FAILED", str(tmp_path / "failed"))
    shutil.copy(ROOT / f"tests/counterexamples/{KEPT}.json", tmp_path)

    def run(name: str, *more: str) -> str:
        module = importlib.import_module(f"benchmarks.{name}")
        status = module.main(["--brief", *(m.format(kept=tmp_path) for m in more)])
        out, err = capsys.readouterr()
        assert status == 0, out + err
        return out

    return run


def test_each_benchmark_is_tried_here() -> None:
    modules = {m.name for m in pkgutil.iter_modules(benchmarks.__path__)}
    assert modules - {"figures"} == BRIEFLY.keys()


@pytest.mark.parametrize(
    "name", [n if n != LONG else pytest.param(n, marks=pytest.mark.slow) for n in BRIEFLY]
)
def test_runs_briefly(briefly: Callable[..., str], name: str) -> None:
    ends_with, more = BRIEFLY[name]
    assert ends_with in briefly(name, *more).splitlines()[-1]


@pytest.mark.parametrize("stage", ["draws", "sweeps"])
def test_throughput_measures_both_sides_in_either_stage(
    briefly: Callable[..., str], stage: str
) -> None:
    """Sweeps are executed by another way than draws, and were once left out of the loop's turn."""
    printed = briefly("throughput", "--stage", stage, "--invariant", "append-only")
    assert "-" not in printed.splitlines()[-1].split()


def test_a_turn_in_which_nothing_was_done_has_no_rate() -> None:
    idle = Sides(Lap(), Lap())
    busy = Sides(Lap(10, 1.0, 0.5), Lap(5, 1.0, 0.5))
    assert math.isnan(idle.ratio)
    assert "-" in throughput.report([{"pii": idle}])
    assert "2.00 (2.00 to 2.00)" in throughput.report([{"pii": idle}, {"pii": busy}])


def test_tables_leave_out_what_was_not_measured() -> None:
    nothing = figures.over(1, 0)
    assert figures.middle([nothing]) == figures.most([nothing]) == figures.spread([nothing]) == "-"
    assert figures.middle([nothing, 2.0]) == "2.0"


def test_what_is_given_after_brief_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        startup.main(["--brief", "--runs", "0"])
    assert "invalid positive value" in capsys.readouterr().err
