"""The rooms: imports run one way, and each room says in its first lines what it is for."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.databases import ROOT

LINTER = Path(sys.executable).with_name("lint-imports")
ROOMS = sorted(p.parent for p in (ROOT / "invariants").glob("*/__init__.py"))

Linted = Callable[[], subprocess.CompletedProcess[str]]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package with its layers."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "invariants", tmp_path / "invariants", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


@pytest.fixture
def linted(house: Path) -> Linted:
    """What the linter says of the copy."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LINTER, "--no-logo", "--no-cache"], cwd=house, capture_output=True, text=True
        )

    return run


def test_as_it_stands_it_is_kept(linted: Linted) -> None:
    assert linted().returncode == 0


def test_an_import_that_runs_upwards_is_named(house: Path, linted: Linted) -> None:
    module = house / "invariants" / "workload" / "sql.py"
    module.write_text(module.read_text() + "\nimport invariants.generation.world\n")
    said = linted()
    assert said.returncode == 1
    assert "invariants.workload.sql -> invariants.generation.world" in said.stdout


def test_a_room_without_a_place_is_named(house: Path, linted: Linted) -> None:
    (house / "invariants" / "attic").mkdir()
    (house / "invariants" / "attic" / "__init__.py").touch()
    said = linted()
    assert said.returncode == 1
    assert "attic" in said.stdout


@pytest.mark.parametrize("room", ROOMS, ids=lambda r: r.name)
def test_a_room_says_what_it_is_for(room: Path) -> None:
    told = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert told
    assert "know" in told, "what may it know of?"


def test_the_tests_have_rooms_of_the_same_names() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    known = {n.strip("()") for n in layers["contracts"][0]["layers"]}
    elsewhere = {"database", "invariants", "benchmarks"}  # of this repository, not of the engine
    rooms = {p.name for p in (ROOT / "tests").iterdir() if any(p.glob("test_*.py"))}
    assert rooms - elsewhere <= known
