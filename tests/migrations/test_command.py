"""The command: what it writes, its exit status, what is wrong with its input, and replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from invariants.errors import EXIT_HELD, EXIT_USAGE, EXIT_VIOLATED
from invariants.front.cli import main
from tests.migrations.conftest import CONTRACT, FIRST, Project

RENAMED = "ALTER TABLE tickets RENAME remark TO note"


@pytest.fixture(autouse=True)
def _there(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)


def command(*arguments: str) -> int:
    return main(["migrations", "--server", "embedded", "--seed", "1", *arguments])


def test_what_is_found_is_written_kept_and_replayed(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.sql(RENAMED, "ALTER TABLE tickets RENAME note TO remark")
    report = tmp_path / "o.json"
    arguments = ("--since", "r1", "--invariant", "clients", "--json", str(report))
    assert command(*arguments) == EXIT_VIOLATED
    written = json.loads(report.read_text())
    (kind,) = written["invariants"]
    assert (kind["name"], kind["status"]) == ("clients", "violated")
    assert written["steps"] == ["r2"]
    signatures = [c["signature"] for c in kind["counterexamples"]]
    assert "migrations/clients/r2/insert/tickets.remark" in signatures
    told = capsys.readouterr()
    assert "VIOLATED migrations/clients/r2/insert/tickets.remark" in told.out
    assert "revision r2 (1 of 1)" in told.err

    kept = next(c["json"] for c in kind["counterexamples"] if "insert" in c["signature"])
    assert main(["replay", "--server", "embedded", kept]) == EXIT_VIOLATED
    assert capsys.readouterr().out.startswith("fails")
    # With both names there the same clients go on.
    (project.folder / "scripts/versions/r2.py").unlink()
    project.revisions.pop()
    project.sql("ALTER TABLE tickets ADD note text", "ALTER TABLE tickets DROP note")
    assert main(["replay", "--server", "embedded", "-q", kept]) == EXIT_HELD
    assert capsys.readouterr().out.startswith("holds")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--invariant", "liveness"], "--invariant liveness: no such kind; use one of: upgrade,"),
        (["--from", "r9"], "--from r9: no such revision up to --to; known are r1"),
        (["--since", "r1"], "--since r1: no revision comes after it up to r1"),
        (["--server", "postgresql://localhost/x"], "--server: a chain makes and drops roles"),
        (["--schema", "command:true"], "--schema: migrations are tried one by one, and this"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == EXIT_USAGE
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"invariants: {told}")


def test_a_revision_that_is_not_there(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.contract("[migrations.revisions.r7]\nloses = ['tickets']")
    assert command() == EXIT_USAGE
    assert "migrations.revisions.r7: there is no revision 'r7'" in capsys.readouterr().err


def test_a_folder_of_scripts_is_a_chain_without_a_way_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "db"
    folder.mkdir()
    (folder / "V1__first.sql").write_text(FIRST)
    (folder / "V2__rounded.sql").write_text("ALTER TABLE tickets ALTER price TYPE numeric(10,1);")
    (tmp_path / "c.toml").write_text(CONTRACT)
    arguments = ("--schema", str(folder), "--contract", str(tmp_path / "c.toml"), "-q")
    assert command(*arguments) == EXIT_VIOLATED
    told = capsys.readouterr().out
    assert "VIOLATED migrations/data/V2__rounded/tickets.price" in told
    assert "VIOLATED migrations/locks/V2__rounded/tickets/rewritten" in told
    assert "downgrade" not in told.replace("downgrade: no rule", "").replace("downgrade  not", "")


def test_what_does_not_run_in_one_go_is_taken_one_by_one(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value of an enum cannot be used in the transaction that adds it."""
    project.contract('[migrations]\nowner = "keeper"')
    project.sql("CREATE TYPE way AS ENUM ('mail'); CREATE ROLE clerk", "SELECT 1")
    project.sql("ALTER TYPE way ADD VALUE 'phone'")
    project.sql("ALTER TABLE tickets ADD way way DEFAULT 'phone'", "ALTER TABLE tickets DROP way")
    assert command("--since", "r3", "--invariant", "upgrade", "--invariant", "owner") != EXIT_USAGE
    told = capsys.readouterr()
    assert "1 step up to r4" in told.out
    assert "migrations/upgrade" not in told.out


def rewritten(project: Project, revision: str, below: str, wanted: str) -> None:
    """Let a revision come after another."""
    file = project.folder / f"scripts/versions/{revision}.py"
    head = f"down_revision = '{revision}', "
    file.write_text(file.read_text().replace(f"{head}{below}", f"{head}{wanted}"))


@pytest.mark.parametrize(
    ("below", "told"),
    [
        ("'r0'", "alembic.ini: r2.py comes after r0, which is not there; restore that revision"),
        ("None", "the chain has branches that come together at r3, and steps are tried one"),
    ],
)
def test_gaps_and_branches_are_one_line(
    project: Project, below: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.sql("SELECT 1")
    project.sql("SELECT 1")
    rewritten(project, "r2", "'r1'", below)
    rewritten(project, "r3", "'r2'", "('r1', 'r2')")
    assert command() == EXIT_USAGE
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"invariants: {told}")


def test_revisions_that_do_nothing_are_said(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.code("pass")
    project.sql("UPDATE tickets SET remark = remark")
    project.sql("UPDATE tickets SET remark = remark", "SELECT 1")
    assert command("--since", "r1", "--invariant", "chain") == EXIT_HELD
    told = capsys.readouterr().out
    said = [line for line in told.splitlines() if line.startswith("remark: ")]
    assert said == [
        "remark: r2: the revision is empty", "remark: r3: does nothing on the way down",
    ]  # fmt: skip
