"""The package as its users have it: a wheel, installed where nothing else of ours is.

`examples/notes` is the project that it is tried on, in a folder and an environment of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Beside the contract and not in it: a name that is anybody's to use.
THEIRS = "raise AssertionError('nobody asked for this module')\n"
RARELY_LESS = 0.9


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy: building leaves things behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("invariants", "strategies", "tests", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


def pip(*arguments: object) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    done = subprocess.run(
        [sys.executable, "-m", "pip", *quiet, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Project:
    """A folder with a contract and a chain, and an environment with the wheel in it."""

    folder: Path
    bin: Path

    def run(self, program: str, *arguments: str, status: int = 0) -> str:
        """What the program says; it must end with the status."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_"))}
        done = subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder,
            env={**kept, "INVARIANTS_SERVER": "embedded"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def pytest(self, *arguments: str, status: int = 0) -> str:
        return self.run("python", "-m", "pytest", "-m", "invariants", *arguments, status=status)


def project(folder: Path, environment: Path) -> Project:
    target = folder / "project"
    shutil.copytree(ROOT / "examples/notes", target, ignore=shutil.ignore_patterns(".*", "_*"))
    (target / "strategies.py").write_text(THEIRS)
    return Project(target, environment / "bin")


@pytest.fixture(scope="module")
def borrowing(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With the wheel installed, and all it depends on borrowed from this environment."""
    folder = tmp_path_factory.mktemp("borrowing")
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    pip("--python", environment / "bin/python", "install", "--no-deps", wheel)
    # Not the modules that an editable installation would find: those are named in .pth files,
    # which are read in site-packages only.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return project(folder, environment)


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """With the wheel and what it says it needs, from a registry, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip("--python", environment / "bin/python", "install", wheel)
    yield project(folder, environment)
    shutil.rmtree(environment)


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (about,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(opened.read(about).decode())
        told = opened.read(about.replace("METADATA", "entry_points.txt")).decode()
    assert metadata["Name"] == "pg-invariants"
    own = {n.split("/")[0] for n in names}
    assert own == {"invariants", about.split("/")[0]}
    assert "invariants/py.typed" in names
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "invariants").rglob("*.py")}
    assert modules <= set(names)
    assert re.findall(r"^(\w+) = ", told, re.MULTILINE) == ["invariants", "invariants"]


def test_no_page_names_somebody_elses_project() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for page in pages:
        assert not re.search(r"pip install [^\n]*(?<![\w-])invariants\b", page.read_text()), page


@pytest.mark.slow
def test_it_works_in_a_folder_of_ones_own(borrowing: Project) -> None:
    origin = borrowing.run("python", "-c", "import invariants; print(invariants.__file__)")
    assert str(borrowing.bin.parent) in origin
    searched_and_replayed(borrowing)
    collected_by_pytest(borrowing, "-n", "2")


@pytest.mark.slow
def test_an_empty_environment_is_enough(alone: Project) -> None:
    listed = alone.run("python", "-m", "pip", "list", "--format", "json")
    names = {package["name"] for package in json.loads(listed)}
    assert "pg-invariants" in names
    assert not {"invariants", "pytest-xdist", "mypy"} & names
    searched_and_replayed(alone)
    collected_by_pytest(alone)
    mutants_and_gate(alone)


def searched_and_replayed(project: Project) -> None:
    few = ("--max-examples", "30", "--seed", "1")
    said = project.run("invariants", "run", "--revision", "0001", *few, status=1)
    assert "VIOLATED cross-tenant/select/notes/of_org" in said
    kept = sorted(str(p) for p in (project.folder / "artifacts").glob("cross-tenant-select-*.json"))
    assert kept
    assert "fails  " in project.run("invariants", "replay", "--revision", "0001", *kept, status=1)
    project.run("invariants", "replay", *kept)
    assert "all 3 invariants held" in project.run("invariants", "run", *few)


def collected_by_pytest(project: Project, *workers: str) -> None:
    few = ("--invariants-max-examples", "30", "--invariants-seed", "1", *workers)
    assert "3 passed, 6 skipped" in project.pytest(*few)
    of_one = project.pytest(*few, "--invariants-revision", "0001", "-k", "cross-tenant", status=1)
    assert "FAILED invariants.toml::cross-tenant" in of_one


def mutants_and_gate(project: Project) -> None:
    few = ("--operator", "policy-dropped", "--operator", "privilege-granted")
    assert "mutants killed (100.0%)" in project.run("invariants", "mutants", *few)
    # Not all of them: nobody said which are none of the contract's business.
    (project.folder / "pyproject.toml").write_text(
        f"[tool.invariants]\nmutation_score = {RARELY_LESS}\n"
    )
    short = ("--max-examples", "300", "--time-budget", "60", "--seed", "1")
    said = project.run("invariants", "gate", *short)
    assert "gate passed: all 3 invariants held" in said
    verdict = json.loads((project.folder / "report/gate.json").read_text())["verdict"]
    assert verdict == "passed"
