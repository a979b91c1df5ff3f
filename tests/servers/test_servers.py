"""Servers: each kind starts, says what it is, fails in one line and leaves things as they were."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from invariants.errors import InfrastructureError, UsageError
from invariants.servers import roles
from invariants.servers.account import server_account
from invariants.servers.binaries import find_binaries, reachable
from invariants.servers.cache import open_cache
from invariants.servers.environment import Environment, open_environment
from invariants.servers.supervisor import Supervisor
from invariants.servers.url import JOURNAL
from tests.conftest import Chain, SpawnChild, TempFolder, empty_server, query

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


# A URL


@pytest.fixture(scope="module")
def guest_of() -> Iterator[str]:
    """A server that stays, with roles and data of its own; its database `theirs` refuses DDL."""
    server = empty_server("embedded")
    try:
        query(server.conninfo, "CREATE ROLE chain_app LOGIN CONNECTION LIMIT 3 PASSWORD 'theirs'")
        query(server.conninfo, "CREATE ROLE unrelated NOINHERIT")
        query(server.conninfo, "GRANT chain_app TO unrelated")
        query(server.conninfo, "CREATE DATABASE theirs")
        theirs = make_conninfo(server.conninfo, dbname="theirs")
        query(theirs, "CREATE TABLE precious AS SELECT 1 AS id")
        query(
            theirs,
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE 'hands off'; END $$",
        )
        query(theirs, "CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()")
        yield theirs
    finally:
        server.close()


class Observed:
    """What a guest must not change."""

    def __init__(self, conninfo: str) -> None:
        self.databases = query(
            conninfo,
            "SELECT oid, datname, datacl::text, shobj_description(oid, 'pg_database')"
            " FROM pg_database ORDER BY oid",
        )
        with psycopg.connect(conninfo) as connection:
            self.roles = roles.snapshot(connection)
        # Logins are no part of a snapshot.
        self.names = query(conninfo, "SELECT rolname FROM pg_roles ORDER BY 1")
        self.relations = query(
            conninfo, "SELECT oid, relname, relfilenode, relacl::text FROM pg_class ORDER BY oid"
        )
        self.data = query(conninfo, "SELECT xmin::text, ctid::text, id FROM precious")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Observed) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def bypass(tmp_path: Path) -> Path:
    patch = tmp_path / "bypass.sql"
    patch.write_text(
        "ALTER ROLE chain_app BYPASSRLS PASSWORD 'ours'; ALTER ROLE unrelated INHERIT;\n"
        "CREATE ROLE patched SUPERUSER; GRANT patched TO chain_app;\n"
        "ALTER ROLE chain_app SET work_mem = '1MB'; GRANT SET ON PARAMETER work_mem TO patched;\n"
        "CREATE TABLE of_patched (); ALTER TABLE of_patched OWNER TO patched;\n"
    )
    return patch


def test_a_guest_leaves_no_trace(guest_of: str, chain: Chain, bypass: Path) -> None:
    before = Observed(guest_of)
    lines: list[str] = []
    with open_on(guest_of, chain, bypass, lines=lines) as environment:
        assert environment.server.kind == "url"
        scratch = environment.scratch()
        environment.scratch()
        assert query(scratch.conninfo, "SELECT count(*) FROM thing") == [(0,)]
        login = scratch.login("chain_app")
        assert query(login.conninfo, "SELECT session_user::text") == [(login.name,)]
        assert Observed(guest_of) != before
        comments = query(guest_of, "SELECT shobj_description(oid, 'pg_database') FROM pg_database")
        assert not any("SCRAM" in (comment or "") for (comment,) in comments)
        scratch.drop()
    assert lines == [f"server: {environment.server}"]
    assert Observed(guest_of) == before


def test_a_url_in_every_form(guest_of: str, chain: Chain) -> None:
    options = conninfo_to_dict(guest_of)
    url = f"postgresql://{options['user']}@/{options['dbname']}?host={options['host']}"
    with open_on(url, chain) as environment:
        assert query(environment.scratch().conninfo, "SELECT count(*) FROM thing") == [(0,)]


def test_after_an_exception_too(guest_of: str, chain: Chain, bypass: Path) -> None:
    before = Observed(guest_of)
    bypass.write_text(bypass.read_text() + "SELECT 1/0;\n")
    with pytest.raises(UsageError, match=r"bypass\.sql:5: division by zero"):
        open_on(guest_of, chain, bypass)
    assert Observed(guest_of) == before
    chain.add("c3", "CREATE ROLE half_way", "SELECT 1/0")
    with pytest.raises(InfrastructureError, match="migration c3"):
        open_on(guest_of, chain)
    assert Observed(guest_of) == before


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


def test_a_killed_run_is_cleaned_up_by_the_next(
    guest_of: str, chain: Chain, bypass: Path, spawn: SpawnChild
) -> None:
    before = Observed(guest_of)
    child = spawn(HOLD, guest_of, str(chain.folder / "alembic.ini"), str(bypass))
    child.says("server: ")
    child.says("invariants_")
    child.kill(signal.SIGKILL)
    assert Observed(guest_of) != before
    lines: list[str] = []
    with open_on(guest_of, chain, lines=lines) as environment:
        found = query(
            environment.scratch().conninfo,
            "SELECT rolbypassrls FROM pg_roles WHERE rolname = 'chain_app'",
        )
        assert found == [(False,)]
        theirs = query(guest_of, "SELECT datname FROM pg_database WHERE datname ~ '^invariants_'")
        # Ours, the journal, and the template that the host server brought along.
        assert len(theirs) == 4
    assert lines[0] == "server: cleaned up after a run that had been killed"
    assert Observed(guest_of) == before


def test_a_run_killed_while_migrating(guest_of: str, chain: Chain, spawn: SpawnChild) -> None:
    before = Observed(guest_of)
    slow = chain.folder / "slow"
    slow.touch()
    chain.add("c3", code=f"import os, time\nif os.path.exists({str(slow)!r}): time.sleep(60)")
    child = spawn(HOLD, guest_of, str(chain.folder / "alembic.ini"))
    while chain.runs() != ["a1", "b2", "c3"]:
        assert child.process.poll() is None
    child.kill(signal.SIGKILL)
    slow.unlink()
    open_on(guest_of, chain).close()
    assert Observed(guest_of) == before


def test_runs_take_turns(guest_of: str, chain: Chain, spawn: SpawnChild) -> None:
    before = Observed(guest_of)
    other = make_conninfo(guest_of, dbname="postgres")  # the lock is the server's
    with open_on(guest_of, chain) as environment:
        child = spawn(HOLD, other, str(chain.folder / "alembic.ini"))
        child.says("server: another run is using it; waiting for its end")
        assert environment.scratch()
    child.says("server: url")
    child.says("invariants_")
    child.kill(signal.SIGTERM)
    open_on(guest_of, chain).close()
    assert Observed(guest_of) == before


def test_waiting_has_an_end(guest_of: str, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Observed(guest_of)
    monkeypatch.setenv("INVARIANTS_LOCK_SECONDS", "0.1")
    with open_on(guest_of, chain):
        with pytest.raises(InfrastructureError, match="INVARIANTS_LOCK_SECONDS"):
            open_on(guest_of, chain)
        assert query(guest_of, "SELECT 1 FROM pg_database WHERE datname = %s", [JOURNAL])
    assert Observed(guest_of) == before


def test_workers_share_the_controllers_turn(guest_of: str, chain: Chain, spawn: SpawnChild) -> None:
    before = Observed(guest_of)
    worker = """
    from invariants.servers.environment import Environment
    e = Environment.attach(args[0])
    print(e.scratch().name, flush=True)
    if args[1]: time.sleep(60)
    e.close()
    """
    with open_on(guest_of, chain) as environment:
        names = [spawn(worker, environment.handle(), False).finish().strip() for _ in range(2)]
        child = spawn(worker, environment.handle(), True)
        killed = child.said()
        child.kill(signal.SIGKILL)
        present = [name for (name,) in query(guest_of, "SELECT datname FROM pg_database")]
        assert not set(names) & set(present)
        assert killed in present
    assert Observed(guest_of) == before


def test_somebody_elses_journal_is_left_alone(guest_of: str, chain: Chain) -> None:
    query(make_conninfo(guest_of, dbname="postgres"), f"CREATE DATABASE {JOURNAL}")
    journal = make_conninfo(guest_of, dbname=JOURNAL)
    query(journal, "CREATE TABLE diary ()")
    before = Observed(guest_of)
    try:
        with pytest.raises(InfrastructureError, match="is not ours"):
            open_on(guest_of, chain)
        assert Observed(guest_of) == before
        assert query(journal, "SELECT count(*) FROM diary") == [(0,)]
    finally:
        query(guest_of, f"DROP DATABASE {JOURNAL} WITH (FORCE)")


def test_a_role_that_is_no_superuser(guest_of: str, chain: Chain) -> None:
    before = Observed(guest_of)
    with pytest.raises(InfrastructureError, match="chain_app is not a superuser"):
        open_on(make_conninfo(guest_of, user="chain_app"), chain)
    assert Observed(guest_of) == before


def test_an_unknown_database(guest_of: str, chain: Chain) -> None:
    with pytest.raises(InfrastructureError, match='database "nowhere" does not exist') as caught:
        open_on(make_conninfo(guest_of, dbname="nowhere"), chain)
    assert "\n" not in str(caught.value)


def test_a_malformed_url_does_not_show_its_password(chain: Chain) -> None:
    with pytest.raises(UsageError) as caught:
        open_on("postgresql://user:se%cret@host/db", chain)
    assert "cret" not in str(caught.value)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_unreachable_server(chain: Chain) -> None:
    with pytest.raises(InfrastructureError) as caught:
        open_on(f"postgresql://u:secret@127.0.0.1:{free_port()}/db", chain)
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_password(chain: Chain) -> None:
    account = server_account()
    supervisor = Supervisor(find_binaries(18), account, {})
    try:
        supervisor.initialize()
        supervisor.start()
        query(supervisor.conninfo, "ALTER ROLE postgres PASSWORD 'right'")
        (supervisor.data / "pg_hba.conf").write_text("local all all scram-sha-256\n")
        query(supervisor.conninfo, "SELECT pg_reload_conf()")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with pytest.raises(InfrastructureError) as caught:
                open_on(make_conninfo(supervisor.conninfo, password="wr0ng"), chain)
            if "password authentication failed" in str(caught.value):
                break
        assert 'password authentication failed for user "postgres"' in str(caught.value)
        assert "wr0ng" not in str(caught.value)
        assert "\n" not in str(caught.value)
        with open_on(make_conninfo(supervisor.conninfo, password="right"), chain) as environment:
            assert "right" not in repr(environment.scratch())
    finally:
        supervisor.close()


# Containers


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
