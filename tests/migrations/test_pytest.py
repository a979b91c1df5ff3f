"""The chain in pytest: a test for each kind of failure, where pyproject.toml asks for it."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT, WORKERS
from tests.migrations.conftest import Project

pytest_plugins = ["pytester"]
ASKED = "[tool.invariants]\nmigrations = true\n"


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(pytester: pytest.Pytester, project: Project, *more: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        *("-m", "invariants", "-p", "no:cacheprovider", "--invariants-server=embedded"),
        f"--invariants-alembic-config={project.folder / 'alembic.ini'}",
        f"--invariants-contract={project.folder / 'invariants.toml'}",
        f"--invariants-artifacts={project.folder / 'artifacts'}",
        *more,
    )


@pytest.mark.parametrize(("text", "count"), [(ASKED, 8), ("", 0)])
def test_they_are_collected_where_they_are_asked_for(
    pytester: pytest.Pytester, project: Project, text: str, count: int
) -> None:
    (pytester.path / "pyproject.toml").write_text(text)
    result = run(pytester, project, "--collect-only", "-q")
    assert len(re.findall("::migrations/", result.stdout.str())) == count


def test_what_is_neither_true_nor_false_is_one_line(
    pytester: pytest.Pytester, project: Project
) -> None:
    (pytester.path / "pyproject.toml").write_text("[tool.invariants]\nmigrations = 1\n")
    result = run(pytester, project, "--collect-only", "-q")
    assert result.ret == 2
    assert "tool.invariants.migrations: 1 is not true or false" in result.stdout.str()


@WORKERS
def test_a_failure_of_the_chain_fails_its_test_with_the_story(
    pytester: pytest.Pytester, project: Project, workers: tuple[str, ...]
) -> None:
    (pytester.path / "pyproject.toml").write_text(ASKED)
    project.sql("ALTER TABLE tickets ALTER price TYPE numeric(10,1)", "SELECT 1")
    wanted = "migrations/upgrade or migrations/data or migrations/owner"
    result = run(pytester, project, "-k", wanted, "--junitxml=j.xml", *workers)
    result.assert_outcomes(failed=1, passed=1, skipped=1)
    said = result.stdout.str()
    assert "VIOLATED migrations/data/r2/tickets.price" in said
    assert "promised: Every row is there after an upgrade" in said
    written = (pytester.path / "j.xml").read_text()
    assert written.count("<failure") == 1
    assert 'name="migrations/upgrade"' in written
