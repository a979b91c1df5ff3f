"""What an exit status means: 1 is violated and nothing else, whatever becomes of the output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from invariants import interrupts, masking, unforeseen
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_VIOLATED
from invariants.front import cli
from invariants.front.outlets import EXIT_INTERRUPTED
from tests.conftest import ROOT, Chain

HOLDING = (
    "run", "--server", "embedded", "--revision", "documented", "--invariant", "taxonomy",
    "--seed", "1", "--max-examples", "60", "--sessions", "0",
)  # fmt: skip
VIOLATED = ("--invariant", "append-only")
FULL = Path("/dev/full")

needs_full = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_FAILED", str(tmp_path / "failed"))
    monkeypatch.setenv("INVARIANTS_ARTIFACTS", str(tmp_path / "artifacts"))


def shell(redirections: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command with redirections as a shell makes them."""
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirections}', "bash", sys.executable, "-m", "invariants",
         *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@needs_full
@pytest.mark.parametrize("redirections", [">/dev/full", ">&-"], ids=["full", "closed"])
def test_a_verdict_that_cannot_be_written_is_none(tmp_path: Path, redirections: str) -> None:
    report = tmp_path / "report.json"
    done = shell(redirections, *HOLDING, *VIOLATED, "--json", report)
    assert done.returncode == EXIT_INFRASTRUCTURE
    (told,) = [x for x in done.stderr.splitlines() if x.startswith("invariants: ")]
    assert told.startswith("invariants: standard output: cannot be written (")
    assert "Traceback" not in done.stderr
    # Whoever reads files misses nothing.
    statuses = {i["name"]: i["status"] for i in json.loads(report.read_text())["invariants"]}
    assert statuses == {"append-only": "violated", "taxonomy": "held"}
    assert list((tmp_path / "artifacts").glob("*.sql"))


@needs_full
@pytest.mark.parametrize(
    "redirections",
    [pytest.param("2>/dev/full", marks=pytest.mark.slow), "2>&-"],
    ids=["full", "closed"],
)
def test_without_standard_error_the_verdict_is_the_same(redirections: str) -> None:
    done = shell(redirections, *HOLDING, "-q")
    assert (done.returncode, done.stderr) == (EXIT_HELD, "")
    assert "all 1 invariants held" in done.stdout
    assert shell(redirections, *HOLDING, *VIOLATED, "-q").returncode == EXIT_VIOLATED
    assert shell(redirections, "run", "--seed", "x").returncode == 2


@needs_full
def test_help_that_cannot_be_written() -> None:
    done = shell(">/dev/full", "--help")
    assert (done.returncode, len(done.stderr.splitlines())) == (EXIT_INFRASTRUCTURE, 1)


def test_a_reader_who_has_gone_ends_the_run() -> None:
    done = shell("| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", *HOLDING, *VIOLATED)
    assert done.returncode == EXIT_INTERRUPTED
    assert "invariants: " not in done.stderr
    assert "Traceback" not in done.stderr


def _recursing() -> NoReturn:
    _recursing()


def _raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


UNFORESEEN = {
    "an exception": _raising(KeyError("a\nb")),
    "no memory": _raising(MemoryError()),
    "too deep": lambda *_, **__: _recursing(),
    "somebody's exit": _raising(SystemExit(0)),
    "somebody's broken pipe": _raising(BrokenPipeError()),
}


@pytest.mark.parametrize("what", UNFORESEEN)
def test_an_unforeseen_error_is_no_violation(
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("invariants.counterexamples.files.load", UNFORESEEN[what])
    assert cli.main(["replay", "x.json"]) == EXIT_INFRASTRUCTURE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("invariants: unforeseen error, which says nothing about the schema: ")
    file = Path(line.rpartition(" ")[2])
    assert file.parent == Path(".invariants")
    assert file.read_text().startswith("Traceback (most recent call last)")


def test_a_traceback_is_kept_where_nothing_else_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(unforeseen, "FOLDER", tmp_path / "file")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert str(tmp_path / "traceback-") in unforeseen.told(ValueError("x"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert unforeseen.told(ValueError("x")).endswith("its traceback could not be kept anywhere")


SECRETS = {
    "postgresql://me:hush-hush@there/db": "hush-hush",
    "postgresql://me:hu%40sh/@h@there/db": "hu%40sh/@h",
    "postgresql://there/db?password=hushed&user=me": "hushed",
    "host=there password=hushed dbname=db": "hushed",
    r"host=there password='hus\'h ed' dbname=db": "h ed",
    "{'host': 'there', 'password': 'x1'}": "x1",
}


@pytest.mark.parametrize("given", SECRETS)
def test_no_password_is_told_or_kept(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = unforeseen.told(ValueError(f"cannot use {given}"))
    (kept,) = (tmp_path / ".invariants").iterdir()
    for text in (line, kept.read_text()):
        assert SECRETS[given] not in text
        assert "there" in text


def test_a_password_is_hidden_wherever_it_turns_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--server", "postgresql://u:hush%20hush@h/db"])
    monkeypatch.setenv("PGPASSWORD", "another")
    assert masking.masked('port "hush hush" or hush%20hush, another') == 'port "***" or ***, ***'
    assert masking.masked("no password=, password authentication") == (
        "no password=, password authentication"
    )


def test_a_second_interrupt_does_not_disturb_the_first() -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                os.kill(os.getpid(), number)
            cleaned.append(True)

    with interrupts.once(for_good=False), pytest.raises(KeyboardInterrupt):
        work()
    assert cleaned == [True]


def test_an_interrupt_that_was_swallowed_can_be_repeated() -> None:
    with interrupts.once(for_good=False):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.once(for_good=False):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_migration_that_exits_is_no_pass(chain: Chain) -> None:
    chain.add("c3", code="import sys\nsys.exit(0)")
    config = chain.folder / "alembic.ini"
    done = shell("", "run", "--server", "embedded", "--alembic-config", config)
    assert done.returncode == EXIT_INFRASTRUCTURE
