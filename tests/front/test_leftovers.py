"""Others' files stay what they are, any temporary folder will do, workers end with us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from invariants.counterexamples.files import write
from invariants.errors import EXIT_USAGE, InfrastructureError
from invariants.front import cli
from invariants.servers.account import server_account
from invariants.servers.binaries import find_binaries
from invariants.servers.cache import Cache
from invariants.servers.environment import Environment
from invariants.servers.supervisor import Supervisor
from tests.conftest import ROOT, query


def test_what_is_no_regular_file_stays_what_it_is(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(pipe, "text")
    assert os.read(reader, 9) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to(target)
    write(link, "text")
    assert link.is_symlink()
    assert target.read_text() == "text"
    write(Path(os.devnull), "text")
    assert Path(os.devnull).is_char_device()
    if Path("/dev/full").exists():
        with pytest.raises(InfrastructureError, match="/dev/full: cannot be written"):
            write(Path("/dev/full"), "text")
        assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("command", ["run", "mutants"])
@pytest.mark.parametrize("given", [".", "", "nowhere/x.json"])
def test_a_report_that_cannot_be_written_is_told_at_once(
    command: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--server", "embedded", "--json", given]) == EXIT_USAGE
    assert capsys.readouterr().err.startswith("invariants: --json ")


@pytest.mark.parametrize("name", ["t m'p", 't"m', "t\\m", "té,"])
def test_a_temporary_folder_may_have_any_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="ti", dir="/tmp") as parent:
        folder = Path(parent, name)
        folder.mkdir()
        for path in (folder, folder.parent):
            path.chmod(0o1777)
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        supervisor = Supervisor(find_binaries(18), server_account(), {})
        try:
            # What libpq takes for two hosts is passed over.
            assert (supervisor.folder.parent == folder) == ("," not in name)
            supervisor.initialize()
            supervisor.start()
            assert query(supervisor.conninfo, "SELECT 1") == [(1,)]
        finally:
            supervisor.close()


@pytest.mark.parametrize(
    "manifest",
    ['{"format": 1}', "[]", "null", "7", '{"format": 1, "files": 1, "folders": 1}', "[" * 100_000],
)
def test_a_damaged_manifest_is_as_good_as_none(tmp_path: Path, manifest: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    cache = Cache(tmp_path)
    with cache.building("key"):
        cache.store("key", source)
    assert cache.fetch("key", tmp_path / "whole")
    (tmp_path / "key/manifest.json").write_text(manifest)
    assert not cache.fetch("key", tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


PARENT = """
import json, multiprocessing, sys, time
from pathlib import Path
from invariants.contract.contract import load
from invariants.mutants import pool
class Environment:
    def handle(self):
        return json.loads(sys.argv[1])
if __name__ == "__main__":
    with pool._workers(Environment(), load(Path(sys.argv[2])), 2) as workers:
        list(workers.map(time.sleep, [0.1] * 4))
        print(*(c.pid for c in multiprocessing.active_children()), flush=True)
        time.sleep(60)
"""


def test_workers_end_with_whoever_started_them(head: Environment) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "parent.py")
        file.write_text(PARENT)
        process = subprocess.Popen(
            [sys.executable, str(file), json.dumps(head.handle()), str(ROOT / "invariants.toml")],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
