"""What can go wrong around a run, from the command line: a clear line, a status, nothing left."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from invariants.checks import INVARIANTS
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_USAGE, EXIT_VIOLATED
from invariants.servers.account import server_account
from invariants.servers.binaries import find_binaries
from invariants.servers.supervisor import Supervisor
from tests.conftest import ROOT, Chain, TempFolder, query

EXIT_INTERRUPTED = 130
# The taxonomy of the documented schema holds, so that whatever is reported is a mistake.
HOLDING = ("run", "--revision", "documented", "--invariant", "taxonomy", "--seed", "1")

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def _own_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_FAILED", str(tmp_path / "examples"))
    monkeypatch.setenv("INVARIANTS_ARTIFACTS", str(tmp_path / "artifacts"))


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "invariants", *map(str, arguments)]


def invariants(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in the project's folder."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The line that says what is wrong: the last one, and the only one that begins so."""
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("invariants: ")] == lines[-1:]
    assert "Traceback" not in done.stderr
    return lines[-1].removeprefix("invariants: ")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command and leave it running."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until_searching(process: subprocess.Popen[str], said: list[str]) -> None:
    """Read on until the search has begun."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        said.append(line)
        if line.startswith("schema: revision"):
            return
    raise AssertionError(f"it ended before the search began: {said}")


def busy(conninfo: str) -> bool:
    """Whether workloads are being executed: a session in a scratch database has written rows."""
    written = (
        "SELECT pid FROM pg_stat_activity WHERE datname ~ '^invariants_.*s[0-9a-f]{10}$'"
        " AND query ~ '^(INSERT|DELETE)'"
    )
    return query(conninfo, written) != []


def bypassing(conninfo: str) -> bool:
    """Whether app_rw is there and row security does not bind it."""
    wanted = "SELECT rolname FROM pg_roles WHERE rolname = 'app_rw' AND rolbypassrls"
    return query(conninfo, wanted) != []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def conninfo_in(folder: TempFolder) -> str:
    """The server that a run has started in this folder."""
    (pidfile,) = folder.path.glob("*/**/postmaster.pid")
    lines = pidfile.read_text().splitlines()
    return make_conninfo(host=lines[4], port=lines[3], user="postgres", dbname="postgres")


def test_a_server_killed_in_the_middle(
    start: Callable[..., subprocess.Popen[str]], temp_folder: TempFolder, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    process = start(*HOLDING, "--server", "embedded", "--profile", "nightly", "--json", report)
    said: list[str] = []
    until_searching(process, said)
    conninfo = conninfo_in(temp_folder)
    wait_for(lambda: busy(conninfo), process)
    (pidfile,) = temp_folder.path.glob("*/**/postmaster.pid")
    os.kill(int(pidfile.read_text().split()[0]), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_INFRASTRUCTURE
    lines = err.splitlines()
    assert lines[-1].startswith("invariants: the database server went away (")
    assert "Traceback" not in err
    assert "VIOLATED" not in out
    assert "held" not in out
    (judged,) = json.loads(report.read_text())["invariants"]
    assert (judged["status"], judged["counterexamples"]) == ("error", [])
    temp_folder.assert_empty()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_run_leaves_nothing(
    start: Callable[..., subprocess.Popen[str]], temp_folder: TempFolder, number: int
) -> None:
    process = start(*HOLDING, "--server", "embedded", "--profile", "nightly")
    until_searching(process, [])
    conninfo = conninfo_in(temp_folder)
    wait_for(lambda: busy(conninfo), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    assert err.splitlines()[-1] == "invariants: interrupted; everything started was stopped"
    assert "Traceback" not in err
    assert "VIOLATED" not in out
    # Not later: by the time the command returns to the prompt.
    assert temp_folder.processes() == []
    assert temp_folder.folders() == []


def test_an_interrupted_run_leaves_a_guests_server_as_it_was(
    start: Callable[..., subprocess.Popen[str]], server_url: str, tmp_path: Path
) -> None:
    # Anything there before is another test's.
    before = query(server_url, "SELECT datname FROM pg_database ORDER BY 1")
    patch = tmp_path / "bypass.sql"
    patch.write_text("ALTER ROLE app_rw BYPASSRLS")
    patched = ("--apply-sql", patch, "--disposable-server")
    process = start(*HOLDING, "--server", server_url, "--profile", "nightly", *patched)
    until_searching(process, [])
    wait_for(lambda: busy(server_url), process)
    assert bypassing(server_url)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED, said
    assert query(server_url, "SELECT datname FROM pg_database ORDER BY 1") == before
    assert not bypassing(server_url)


def findings(report: Path) -> set[str]:
    document = json.loads(report.read_text())
    return {c["signature"] for i in document["invariants"] for c in i["counterexamples"]}


@pytest.mark.slow
def test_the_next_run_sees_nothing_of_a_patch(server_url: str, tmp_path: Path) -> None:
    patch = tmp_path / "bypass.sql"
    patch.write_text("ALTER ROLE app_rw BYPASSRLS")
    common = (
        "run", "--revision", "documented", "--invariant", "cross-tenant", "--seed", "3",
        "--max-examples", "40", "--server", server_url, "-q",
    )  # fmt: skip
    patched, plain = tmp_path / "patched.json", tmp_path / "plain.json"
    done = invariants(*common, "--apply-sql", patch, "--disposable-server", "--json", patched)
    assert done.returncode == EXIT_VIOLATED, done.stderr
    bypassed = {s for s in findings(patched) if s.endswith("/tenant_isolation_policy")}
    assert bypassed
    assert invariants(*common, "--json", plain).returncode in (EXIT_HELD, EXIT_VIOLATED)
    assert findings(plain) & bypassed == set()
    assert not bypassing(server_url)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_unreachable_url() -> None:
    url = f"postgresql://u:secret@127.0.0.1:{free_port()}/db"
    done = invariants(*HOLDING, "--server", url)
    assert (done.returncode, done.stdout) == (EXIT_INFRASTRUCTURE, "")
    assert "Connection refused" in last_line(done)
    assert "secret" not in done.stderr


def _connects(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_wrong_password() -> None:
    supervisor = Supervisor(find_binaries(18), server_account(), {})
    try:
        supervisor.initialize()
        supervisor.start()
        query(supervisor.conninfo, "ALTER ROLE postgres PASSWORD 'right'")
        (supervisor.data / "pg_hba.conf").write_text("local all all scram-sha-256\n")
        query(supervisor.conninfo, "SELECT pg_reload_conf()")
        wrong = make_conninfo(supervisor.conninfo, password="wr0ng")
        deadline = time.monotonic() + 60
        # The server reads its new rules some moments later.
        while _connects(wrong):
            assert time.monotonic() < deadline
        done = invariants(*HOLDING, "--server", wrong)
    finally:
        supervisor.close()
    assert (done.returncode, done.stdout) == (EXIT_INFRASTRUCTURE, "")
    assert 'password authentication failed for user "postgres"' in last_line(done)
    assert "wr0ng" not in done.stderr


def test_the_docker_engine_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    done = invariants(*HOLDING, "--server", "container")
    assert (done.returncode, done.stdout) == (EXIT_INFRASTRUCTURE, "")
    assert last_line(done) == (
        "--server container: no Docker engine answers; start Docker or use --server embedded"
    )


def test_a_migration_that_raises(chain: Chain, temp_folder: TempFolder) -> None:
    chain.add("c3", code="raise RuntimeError('no disk')")
    config = chain.folder / "alembic.ini"
    done = invariants("run", "--server", "embedded", "--alembic-config", config)
    assert (done.returncode, done.stdout) == (EXIT_INFRASTRUCTURE, "")
    assert "c3" in last_line(done)
    assert "no disk" in last_line(done)
    temp_folder.assert_empty()


WRONG_CONTRACTS = {
    "a missing table": (
        ('    "dead_events",', '    "dead_evnts",'),
        "tenancy.tables: the database has no table 'dead_evnts'; did you mean 'dead_events'?",
    ),
    "a missing column": (
        ('amount = "allocated_revenue_cents"', 'amount = "cents"'),
        "sums[0].amount: table 'attribution_allocations' has no column 'cents'; use one of: id,",
    ),
    "a missing role": (
        ("[roles.app_ro]", "[roles.app_reader]"),
        "roles.app_reader: the server has no role 'app_reader'; create it in a migration",
    ),
    "an unknown key": (
        ("tolerance = 1 ", "tolerence = 1 "),
        "sums[0].tolerence: unknown key; use one of: table",
    ),
    "a missing key": (('column = "tenant_id"', ""), "tenancy.column: missing; add this key"),
    "no TOML": (("format = 1", "format = "), "not valid TOML: "),
}


@pytest.mark.parametrize("what", WRONG_CONTRACTS)
def test_a_wrong_contract(tmp_path: Path, what: str) -> None:
    (right, wrong), message = WRONG_CONTRACTS[what]
    text = (ROOT / "invariants.toml").read_text()
    assert text.count(right) == 1
    file = tmp_path / "wrong.toml"
    mapping = "db/channel_mapping.yaml"
    file.write_text(text.replace(mapping, str(ROOT / mapping)).replace(right, wrong))
    done = invariants(*HOLDING, "--server", "embedded", "--contract", file)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert last_line(done).startswith(f"{file}: {message}")


@pytest.mark.parametrize("below", ["/proc/artifacts", "a file"])
def test_artifacts_that_cannot_be_written(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.touch()
    folder = Path(below) if below.startswith("/") else file / "artifacts"
    done = invariants(*HOLDING, "--server", "embedded", "--artifacts", folder)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert re.fullmatch(
        rf"--artifacts {folder}: cannot be written \(.+\); name another folder", last_line(done)
    )
    # Said before any work was done.
    assert "server" not in done.stderr


def test_the_json_report(tmp_path: Path) -> None:
    """What the format promises; more may be there."""
    report = tmp_path / "out.json"
    done = invariants(
        "run", "--revision", "documented", "--server", "embedded", "--seed", "5",
        "--invariant", "taxonomy", "--invariant", "idempotent-ingest",
        "--invariant", "allocation-sum", "--max-examples", "60", "--sessions", "0",
        "--json", report,
    )  # fmt: skip
    assert done.returncode == EXIT_VIOLATED
    assert "\x1b" not in done.stdout + done.stderr
    document = json.loads(report.read_text())
    shape = {
        "format": 1,
        "server": {"kind": "embedded", "version": str},
        "revision": "202511141311",
        "seed": 5,
        "profile": "dev",
        "seconds": float,
        "invariants": list,
        "coverage": {
            "guards": list,
            "never_met": list,
            "kinds_never_accepted": list,
            "roles_never_acting": list,
            "tables_never_written": list,
        },
    }
    assert_shape(document, shape)
    names = [i["name"] for i in document["invariants"]]
    assert names == [n for n in INVARIANTS if n in names]
    assert set(names) == {"taxonomy", "idempotent-ingest", "allocation-sum"}
    for one in document["invariants"]:
        assert_shape(
            one,
            {
                "name": str,
                "status": "violated" if one["counterexamples"] else "held",
                "examples": 60,
                "operations": int,
                "seconds": float,
                "counterexamples": list,
            },
        )
        for found in one["counterexamples"]:
            assert_shape(
                found,
                {
                    "signature": str,
                    "summary": str,
                    "operations": int,
                    "sessions": 1,
                    "json": str,
                    "sql": str,
                },
            )
            kept = json.loads(Path(found["json"]).read_text())
            assert kept["signature"] == found["signature"]
            assert len(kept["workload"]["operations"]) == found["operations"]
            assert found["summary"] in Path(found["sql"]).read_text()
            assert f"VIOLATED {found['signature']}" in done.stdout
    assert {i["name"] for i in document["invariants"] if i["counterexamples"]} >= {"allocation-sum"}


def assert_shape(document: dict[str, Any], shape: dict[str, Any]) -> None:
    for name, wanted in shape.items():
        value = document[name]
        if isinstance(wanted, dict):
            assert_shape(value, wanted)
        elif isinstance(wanted, type):
            assert isinstance(value, wanted), name
        else:
            assert value == wanted, name
