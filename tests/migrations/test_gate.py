"""The chain as a part of the gate: where it is asked for, and kept failures with the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from invariants.counterexamples.files import load
from invariants.errors import UsageError
from invariants.gate.chain import asked_for, chain_checks
from invariants.migrations import replaying
from invariants.options import RunOptions
from tests.migrations.conftest import Project


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", False), ("[tool.invariants]\nmigrations = true", True), ("[tool]\nx = 1", False)],
)
def test_the_chain_is_tried_where_it_is_asked_for(tmp_path: Path, text: str, wanted: bool) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert asked_for(tmp_path / "pyproject.toml") is wanted


def test_it_is_asked_for_by_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.invariants]\nmigrations = 'yes'")
    with pytest.raises(UsageError, match="'yes' is not true or false"):
        asked_for(tmp_path / "pyproject.toml")


def test_each_kind_is_a_check_and_what_it_keeps_is_replayed(project: Project) -> None:
    project.sql("ALTER TABLE tickets ALTER price TYPE numeric(10,1)", "SELECT 1")
    options = RunOptions(
        server="embedded",
        seed=1,
        alembic_config=project.folder / "alembic.ini",
        contract=project.folder / "invariants.toml",
        artifacts=project.folder / "artifacts",
    )
    checks = {c.name: c for c in chain_checks(options, lambda _: None, lambda _: None)}
    assert {c.group for c in checks.values()} == {"migrations"}
    failed = {name for name, c in checks.items() if c.status == "failed"}
    assert failed == {"data", "chain", "locks"}
    assert checks["owner"].status == "skipped"
    assert checks["upgrade"].line == "held, 2 tried"
    (file,) = (project.folder / "artifacts").glob("migrations-data-*.json")
    kept = load(file)
    assert replaying.is_of_chain(kept)
    (replayed,) = replaying.replay([kept], options, lambda _: None)
    assert replayed.fails
