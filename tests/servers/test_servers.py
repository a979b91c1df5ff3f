"""Servers: each kind starts, says what it is, fails in one line and leaves things as they were."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from invariants.errors import InfrastructureError, UsageError
from invariants.servers.account import server_account
from invariants.servers.binaries import find_binaries, reachable
from invariants.servers.cache import open_cache
from invariants.servers.environment import Environment, open_environment
from invariants.servers.supervisor import Supervisor
from tests.conftest import Chain, SpawnChild, TempFolder, query

pytestmark = pytest.mark.usefixtures("cache")


def open_on(spec: str, chain: Chain, *patches: Path, lines: list[str] | None = None) -> Environment:
    said = lines if lines is not None else []
    return open_environment(spec, chain.migrations(), patches=patches, say=said.append)


# What may be asked for


@pytest.mark.parametrize(
    "spec", ["embeded", "embedded:x", "embedded:9", "mysql://u:secret@h/d", ""]
)
def test_a_wrong_server_is_a_usage_error(chain: Chain, spec: str) -> None:
    with pytest.raises(UsageError, match="--server") as caught:
        open_on(spec, chain)
    assert "secret" not in str(caught.value)


# Embedded


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_binaries_out_of_reach_are_copied(tmp_path: Path, fast_folder: Path) -> None:
    installed = find_binaries(18)
    package = installed.bin.parent.parent
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    for folder in (installed.bin.parent, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(folder, hidden / folder.relative_to(package.parent), symlinks=True)
    out_of_reach = type(installed)(
        hidden / package.name / installed.bin.parent.name / "bin",
        installed.version,
        installed.package,
    )
    account = server_account()
    fast_folder.chmod(0o711)
    cache = fast_folder / "binaries"
    cache.mkdir(exist_ok=True)
    copied = reachable(out_of_reach, account, cache)
    assert copied.bin.is_relative_to(cache)
    assert hidden.stat().st_mode & 0o777 == 0o700
    # Once is enough.
    stamp = copied.bin.parent.stat().st_ctime_ns
    assert reachable(out_of_reach, account, cache) == copied
    assert copied.bin.parent.stat().st_ctime_ns == stamp
    supervisor = Supervisor(copied, account, {"fsync": "off"})
    try:
        supervisor.initialize()
        supervisor.start()
        assert query(supervisor.conninfo, "SELECT 1") == [(1,)]
    finally:
        supervisor.close()


def test_the_environment_does_not_change_the_server(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGDATABASE", "nowhere")
    monkeypatch.setenv("PGUSER", "nobody_in_particular")
    with open_on("embedded", chain) as environment:
        conninfo = environment.scratch().conninfo
        assert query(conninfo, "SELECT current_user::text, inet_server_addr()") == [
            ("postgres", None)
        ]
        assert query(conninfo, "SHOW listen_addresses") == [("",)]


def test_the_servers_folder_is_private(chain: Chain, temp_folder: TempFolder) -> None:
    with open_on("embedded", chain):
        (name,) = temp_folder.folders()
        assert (temp_folder.path / name).stat().st_mode & 0o777 == 0o700
    temp_folder.assert_empty()


def test_somebody_elses_cache_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("INVARIANTS_CACHE_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="INVARIANTS_CACHE_DIR"):
        open_cache()
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("INVARIANTS_CACHE_DIR", str(file))
    with pytest.raises(UsageError, match="INVARIANTS_CACHE_DIR"):
        open_cache()


# Containers


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


HOLD = """
from pathlib import Path
from invariants.servers.environment import open_environment
from invariants.schema.chain import Migrations
say = lambda line: print(line, flush=True)
patches = [Path(name) for name in args[2:]]
e = open_environment(args[0], Migrations(Path(args[1])), say=say, patches=patches)
s = e.scratch()
s.login("chain_app")
print(s.name, flush=True)
time.sleep(60)
"""


@pytest.mark.container
@pytest.mark.parametrize("tag", ["18", "15"])
def test_a_container(docker_image: Callable[[str], None], chain: Chain, tag: str) -> None:
    docker_image(tag)
    with open_on(f"container:{tag}", chain) as environment:
        assert environment.server.kind == "container"
        assert environment.server.version.startswith(f"{tag}.")
        conninfo = environment.scratch().conninfo
        assert query(conninfo, "SELECT count(*) FROM thing") == [(0,)]
        assert query(conninfo, "SHOW fsync") == [("off",)]
        assert containers(os.getpid()) == 1
    assert containers(os.getpid()) == 0


def containers(pid: int) -> int:
    listing = subprocess.run(
        ["docker", "ps", "-a", "--format", '{{.Label "invariants.owner"}}'],
        capture_output=True,
        text=True,
        check=True,
    )
    return sum(line.startswith(f"{pid}:") for line in listing.stdout.splitlines())


@pytest.mark.container
@pytest.mark.slow
def test_a_killed_runs_container_is_removed_by_the_next(
    docker_image: Callable[[str], None], chain: Chain, spawn: SpawnChild
) -> None:
    docker_image("18")
    child = spawn(HOLD, "container:18", str(chain.folder / "alembic.ini"))
    child.says("server: container")
    child.says("invariants_")
    child.kill(signal.SIGKILL)
    open_on("container:18", chain).close()
    assert containers(child.process.pid) == 0


@pytest.mark.container
def test_ctrl_c_removes_the_container(
    docker_image: Callable[[str], None], chain: Chain, spawn: SpawnChild
) -> None:
    docker_image("18")
    script = "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + HOLD
    child = spawn(script, "container:18", str(chain.folder / "alembic.ini"))
    child.says("server: container")
    child.says("invariants_")
    os.killpg(child.process.pid, signal.SIGINT)
    child.process.wait(60)
    assert containers(child.process.pid) == 0


@pytest.mark.container
def test_an_image_that_does_not_exist(docker_image: Callable[[str], None], chain: Chain) -> None:
    docker_image("18")
    with pytest.raises(InfrastructureError) as caught:
        open_on("container:no-such-tag", chain)
    assert "postgres:no-such-tag" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.container
def test_auto_takes_a_container_where_it_can(
    docker_image: Callable[[str], None], chain: Chain
) -> None:
    docker_image("18")
    lines: list[str] = []
    with open_on("auto", chain, lines=lines) as environment:
        assert environment.server.kind == "container"
    assert "a Docker engine answers and has the image" in lines[-1]


def test_auto_without_docker_is_embedded(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    lines: list[str] = []
    with open_on("auto", chain, lines=lines) as environment:
        assert environment.server.kind == "embedded"
    version = environment.server.version
    assert lines[-1] == f"server: embedded PostgreSQL {version} (no Docker engine answers)"


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:{port}", "unix:///nowhere.sock"])
def test_docker_gone(chain: Chain, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host.format(port=free_port()))
    with pytest.raises(InfrastructureError) as caught:
        open_on("container", chain)
    assert str(caught.value) == (
        "--server container: no Docker engine answers; start Docker or use --server embedded"
    )
