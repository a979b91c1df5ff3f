"""The front door: what `pytest -m invariants` says and leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from invariants.checks import INVARIANTS
from tests.conftest import ROOT, WORKERS, TempFolder, query

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("cache")

HEAVY = ("alembic", "faker", "hypothesis", "psycopg", "rich", "sqlalchemy", "testcontainers")
KEPT = "pii-insert-dead_events-raw_payload"

ENGINE_REPLACED = """
from types import SimpleNamespace
from invariants.search.explorer import Explorer
from invariants.search.events import Found, InvariantFinished

GONE = "the server is gone"

def explore(self, invariant, search):
    {body}

Explorer.explore = explore
"""


class Session:
    """A folder without a test in it, the contract of this project, and pytest run there."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def arguments(self, *more: str, server: str = "embedded") -> list[str]:
        return [
            *("-m", "invariants", "-p", "no:cacheprovider"),
            f"--invariants-server={server}",
            f"--invariants-alembic-config={ROOT / 'alembic.ini'}",
            f"--invariants-contract={ROOT / 'invariants.toml'}",
            *more,
        ]

    def run(self, *more: str, server: str = "embedded") -> pytest.RunResult:
        return self.pytester.runpytest_subprocess(*self.arguments(*more, server=server))

    def replace_engine(self, body: str) -> None:
        self.pytester.makeconftest(ENGINE_REPLACED.format(body=body))


ONLY_COLLECT = ("--collect-only", "-q", "-p", "no:cacheprovider")
ALL = list(INVARIANTS)


def collected(result: pytest.RunResult) -> list[str]:
    """The names of the tests that were collected."""
    return [line.split("::")[1] for line in result.outlines if "::" in line]


def tallied(result: pytest.RunResult) -> list[str]:
    """Tests that pytest counts as judged or broken."""
    return re.findall(r"\d+ (?:passed|failed|errors?)\b", result.stdout.str())


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Session(pytester)


def test_the_plugin_costs_other_test_runs_nothing() -> None:
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, invariants.front.pytest_plugin;"
            f"assert not {{*{HEAVY}}} & {{*sys.modules}}",
        ],
        check=True,
    )


def test_a_violation_fails_its_test_with_the_story(
    session: Session, temp_folder: TempFolder
) -> None:
    result = session.run(
        "--invariants-revision=documented",
        "--invariants-max-examples=150",
        "--invariants-seed=3",
        "--invariants-artifacts=kept",
        "-k",
        "idempotent-ingest",
    )
    assert result.ret == 1
    result.assert_outcomes(failed=1, deselected=10)
    result.stdout.fnmatch_lines(
        [
            "invariants: server embedded, revision documented, seed 3, profile dev",
            "invariants: server: embedded PostgreSQL *",
            "idempotent-ingest violated, * cause* seed 3)",
            "VIOLATED idempotent-ingest/insert/attribution_events/no key",
            "*-> 2  app_rw for tenant A, the same message again",
            "Promised  *",
            "Replay    invariants replay --revision documented *kept/idempotent*.json",
            "          psql * -f kept/idempotent*.sql",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*invariants/front/*.py*")
    assert list(Path(session.pytester.path, "kept").glob("idempotent*.sql"))
    temp_folder.assert_empty()


@pytest.mark.parametrize(("revision", "failed"), [("head", 0), ("documented", 1)])
def test_the_release_profile_replays_what_is_kept(
    session: Session, revision: str, failed: int
) -> None:
    kept = Path(session.pytester.path, "tests", "counterexamples")
    kept.mkdir(parents=True)
    shutil.copy(ROOT / f"tests/counterexamples/{KEPT}.json", kept)
    result = session.run(
        "--invariants-profile=release",
        f"--invariants-revision={revision}",
        "-k",
        "counterexamples",
    )
    assert result.ret == failed
    result.assert_outcomes(failed=failed, passed=1 - failed, deselected=10)
    if failed:
        result.stdout.fnmatch_lines([f"{KEPT}: pii/insert/dead_events/raw_payload fails again"])


def test_workers_share_a_server_and_leave_no_database(session: Session, server_url: str) -> None:
    before = query(server_url, "SELECT datname FROM pg_database ORDER BY 1")
    result = session.run(
        *("-n", "2", "--invariants-max-examples=150", "--invariants-revision=documented"),
        *("-k", "taxonomy or idempotent-ingest", "--invariants-seed=3"),
        server=server_url,
    )
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=1)
    # Said once: the workers have the controller's.
    assert result.stdout.str().count("invariants: server: ") == 1
    assert "seed 3)" in result.stdout.str()
    assert query(server_url, "SELECT datname FROM pg_database ORDER BY 1") == before


@WORKERS
def test_an_unreachable_server_is_no_violation(session: Session, workers: tuple[str, ...]) -> None:
    result = session.run(*workers, server="postgresql://me:secret@127.0.0.1:9/x")
    assert result.ret == 3
    assert tallied(result) == []
    said = result.stdout.str()
    assert "invariants: server 127.0.0.1:9, database x: " in said
    assert "secret" not in said
    assert "Traceback" not in said


@WORKERS
def test_a_server_that_dies_ends_the_session(
    session: Session, temp_folder: TempFolder, workers: tuple[str, ...]
) -> None:
    session.replace_engine(
        'return InvariantFinished(invariant.name, "error", 1, 1, 1.0, (), fault=GONE)'
    )
    result = session.run(*workers)
    assert result.ret == 3
    assert tallied(result) == []
    assert "the server is gone" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
    temp_folder.assert_empty()


@pytest.mark.slow
def test_what_was_found_before_the_server_died_is_told(session: Session) -> None:
    session.replace_engine(
        'found = Found(invariant.name, SimpleNamespace(signature="a/b", text="a story"), None);'
        'return InvariantFinished(invariant.name, "violated", 1, 1, 1.0, (found,), fault=GONE)'
    )
    result = session.run()
    assert result.ret == 3
    assert tallied(result) == ["1 failed"]
    result.stdout.fnmatch_lines(["VIOLATED a/b", "a story", "*the server is gone*"])


def test_what_was_not_judged_is_an_error_and_not_a_failure(session: Session) -> None:
    session.replace_engine(
        'return InvariantFinished(invariant.name, "error", 1, 1, 1.0, (), (), "nothing learned")'
    )
    result = session.run("-k", "taxonomy")
    assert result.ret == 1
    result.assert_outcomes(errors=1, deselected=10)
    result.stdout.fnmatch_lines(["*taxonomy not judged*", "*nothing learned*"])


def test_an_invariant_without_a_rule_is_skipped_with_the_reason(session: Session) -> None:
    session.replace_engine(
        'return InvariantFinished(invariant.name, "held", 0, 0, 0.1, (), note="no [[ledger]]")'
    )
    result = session.run("-k", "ledger", "-rs")
    assert result.ret == 0
    result.assert_outcomes(skipped=1, deselected=10)
    result.stdout.fnmatch_lines(["*no [[][[]ledger]]*"])


def test_how_many_sessions_go_on_side_by_side(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVARIANTS_SESSIONS", "0")
    session.replace_engine(
        'return InvariantFinished(invariant.name, "error", 1, 1, 1.0, (), (), '
        'f"searched with {search.sessions}")'
    )
    result = session.run("--invariants-sessions=3", "-k", "taxonomy")
    result.stdout.fnmatch_lines(["*searched with 3*"])


@pytest.mark.slow
def test_what_was_met_is_told_once_and_merged_from_workers(session: Session) -> None:
    def told(*workers: str) -> list[str]:
        arguments = ("--invariants-max-examples=40", "--invariants-seed=1")
        result = session.run(*workers, *arguments, "-k", "taxonomy or ledger")
        result.assert_outcomes(passed=2)
        lines = result.outlines
        start = next(n for n, line in enumerate(lines) if "= invariants: coverage =" in line)
        assert sum(line.startswith("guards: ") for line in lines) == 1
        return [line for line in lines[start + 1 : -1] if line]

    alone = told()
    assert alone[0].startswith("guards: ")
    assert told("-n", "2") == alone


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--invariants-revision=nope", "--invariants-revision nope: unknown"),
        ("--invariants-profile=nope", "--invariants-profile: 'nope' is not known"),
        ("--invariants-contract=nope.toml", "nope.toml: no such file"),
        ("--invariants-sessions=1", "--invariants-sessions: '1' is not 0 (none side by side), 2"),
    ],
)
def test_a_usage_error_ends_the_session(session: Session, argument: str, said: str) -> None:
    result = session.run(argument)
    assert result.ret == 2
    assert tallied(result) == []
    assert f"invariants: {said}" in result.stdout.str()


def test_collecting_starts_no_server(session: Session) -> None:
    assert collected(session.run(*ONLY_COLLECT, server="postgresql://127.0.0.1:9/x")) == ALL


# What `verdict` and its like are for: a choice of invariants, a name or marks of one's own.
WRITTEN = """
import pytest

@pytest.mark.invariants
@pytest.mark.parametrize("verdict", ["pii", "taxonomy"], indirect=True)
def test_promise(verdict):
    verdict.assert_held()
"""


def test_who_wrote_tests_of_the_invariants_has_these_and_no_others(session: Session) -> None:
    session.pytester.makepyfile(test_promises=WRITTEN)
    assert collected(session.run(*ONLY_COLLECT)) == ["test_promise[pii]", "test_promise[taxonomy]"]


def project(pytester: pytest.Pytester, configuration: str = "") -> Path:
    """A project with a contract at its top and a test of something else below it."""
    shutil.copytree(ROOT / "db", pytester.path / "db")
    contract = shutil.copy(ROOT / "invariants.toml", pytester.path)
    pytester.makeini(f"[pytest]\n{configuration}")
    pytester.makepyfile(**{"tests/test_other": "def test_other(): pass"})
    return Path(contract)


@pytest.mark.parametrize("configuration", ["", "testpaths = tests"], ids=["anywhere", "testpaths"])
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["-m", "invariants"], "contract"),
        (["-m", "invariants or container", "--invariants-contract=invariants.toml"], "contract"),
        (["-m", "invariants", "-k", "pii or taxonomy"], ["taxonomy", "pii"]),
        (["-m", "invariants", "invariants.toml"], "contract"),
        (["invariants.toml"], "contract"),
        (["invariants.toml::pii"], ["pii"]),
        ([], ["test_other"]),
        (["-m", "not invariants"], ["test_other"]),
        (["-m", "invariants", "tests"], []),
    ],
    ids=" ".join,
)
def test_the_contract_is_collected_where_it_is_asked_for(
    pytester: pytest.Pytester, configuration: str, arguments: list[str], wanted: str | list[str]
) -> None:
    project(pytester, configuration)
    result = pytester.runpytest_inprocess(*ONLY_COLLECT, *arguments)
    assert collected(result) == (ALL if wanted == "contract" else wanted)


@WORKERS
def test_a_contract_that_is_not_there_is_told(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    project(pytester).unlink()
    result = pytester.runpytest_subprocess("-m", "invariants", *workers)
    assert result.ret == 2
    assert "invariants: invariants.toml: no such file" in result.stdout.str()


@WORKERS
def test_ctrl_c_leaves_nothing(
    session: Session, temp_folder: TempFolder, workers: tuple[str, ...]
) -> None:
    process = session.pytester.popen(
        [sys.executable, "-m", "pytest", *session.arguments("--invariants-profile=ci", *workers)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        # Under xdist the schema is ready before the workers are.
        for line in process.stdout:
            if line.startswith(b"2 workers [" if workers else b"invariants: schema: "):
                break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        # As a terminal does: to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, rest.decode()
    temp_folder.assert_empty()
