"""Fixtures of all tests: a server per process, throwaway migrations, a private temp folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from psycopg import sql

from invariants.contract.contract import Contract, load
from invariants.schema.chain import Migrations
from invariants.search.judge import Judge
from invariants.servers import Server, open_server
from invariants.servers.base import Content
from invariants.servers.environment import Environment, open_environment
from tests.databases import upgrade_as_plain_owner
from tests.engine import DOCUMENTED, Lab

LOG_VARIABLE = "INVARIANTS_TEST_LOG"
ROOT = Path(__file__).resolve().parent.parent
SERVER_VARIABLE = "INVARIANTS_TEST_SERVER"
COMPLETE_VARIABLE = "INVARIANTS_TEST_COMPLETE"
CACHE_VARIABLE = "INVARIANTS_TEST_CACHE"
# pytest alone and with pytest-xdist. What its workers share `make test` asks elsewhere once.
WORKERS = pytest.mark.parametrize(
    "workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "xdist"]
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "container: needs a Docker engine with the image")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell's background job does; the processes the tests interrupt would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        # The workers of pytest-xdist inherit it: one of them migrates, all of them copy.
        folder = tempfile.TemporaryDirectory(prefix="invariants-tests-", dir=_memory())
        os.environ[CACHE_VARIABLE] = folder.name
        config.add_cleanup(folder.cleanup)


def _memory() -> Path | None:
    """A folder in memory, where there is one: tests copy many clusters."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else None


def lacking(what: str) -> NoReturn:
    """Skip for the lack of something; fail where nothing may be lacking, as in `.ci/run`."""
    if os.environ.get(COMPLETE_VARIABLE):
        pytest.fail(f"{what}, and {COMPLETE_VARIABLE} says that nothing may be lacking")
    pytest.skip(what)


def empty_server(spec: str) -> Server:
    """A server on which tests may do what they like."""
    return open_server(spec, Content("tests", lambda _: None), say=lambda _: None)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A superuser's conninfo on a private server of this test process; create databases freely."""
    server = empty_server(os.environ.get(SERVER_VARIABLE, "embedded"))
    try:
        yield server.conninfo
    finally:
        server.close()


@pytest.fixture(scope="session")
def docker_image() -> Callable[[str], None]:
    """Skip, with the reason, unless a Docker engine answers and has postgres:TAG."""

    def need(tag: str) -> None:
        from invariants.servers import container

        try:
            client = container._client(container.PATIENT_PING_SECONDS)
        except Exception as error:  # noqa: BLE001
            lacking(f"no Docker engine answers ({type(error).__name__})")
        try:
            present = container._has_image(client, tag)
        finally:
            client.close()
        if not present:
            lacking(f"the Docker engine has no image postgres:{tag}")

    return need


@pytest.fixture(scope="session")
def fast_folder() -> Iterator[Path]:
    """A folder of this test process, in memory where that can be had."""
    with tempfile.TemporaryDirectory(prefix="invariants-tests-", dir=_memory()) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """The cache of this test run, which neither reads nor evicts the user's."""
    return Path(os.environ[CACHE_VARIABLE])


@pytest.fixture
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test run, for what is opened meanwhile."""
    monkeypatch.setenv("INVARIANTS_CACHE_DIR", str(shared_cache))
    return shared_cache


@pytest.fixture
def empty_cache(cache: Path, fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own, instead of the one in `cache`."""
    with tempfile.TemporaryDirectory(dir=fast_folder) as name:
        assert name != str(cache)
        monkeypatch.setenv("INVARIANTS_CACHE_DIR", name)
        yield Path(name)


@dataclass(frozen=True)
class TempFolder:
    """The only place where servers of this test put their folders."""

    path: Path

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())

    def processes(self) -> list[str]:
        listing = subprocess.run(
            ["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True
        )
        return [line for line in listing.stdout.splitlines() if f"{self.path}/" in line]

    def assert_empty(self, within_seconds: float = 30.0) -> None:
        deadline = time.monotonic() + within_seconds
        while (self.folders() or self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.folders() == []
        assert self.processes() == []


@pytest.fixture
def temp_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[TempFolder]:
    # Not tmp_path: that is closed to the account PostgreSQL runs under when we are root, and long.
    with tempfile.TemporaryDirectory(prefix="ti", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o1777)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield TempFolder(path)


@dataclass(frozen=True)
class Chain:
    """A throwaway chain of migrations. Every run of one is noted in `log`."""

    folder: Path
    log: Path
    revisions: list[str] = field(default_factory=list)

    def add(self, revision: str, *statements: str, code: str = "pass") -> Path:
        """Append a revision that runs the statements, then the code."""
        parent = self.revisions[-1] if self.revisions else None
        body = "\n".join(f"    op.execute({statement!r})" for statement in statements)
        path = self.folder / "scripts/versions" / f"{revision}_x.py"
        path.write_text(
            f"from alembic import op\nrevision = {revision!r}\ndown_revision = {parent!r}\n"
            "def upgrade():\n    import os\n"
            f"    with open(os.environ[{LOG_VARIABLE!r}], 'a') as log:\n"
            f"        log.write({revision!r} + '\\n')\n{body}\n"
            f"{textwrap.indent(textwrap.dedent(code), '    ')}\n"
            "def downgrade():\n    pass\n"
        )
        self.revisions.append(revision)
        return path

    def migrations(self, revision: str = "head") -> Migrations:
        return Migrations(self.folder / "alembic.ini", revision)

    def runs(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


ENV = """
from alembic import context
context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
"""


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """Two revisions: a role `chain_app` when missing and a table it may read."""
    folder = tmp_path / "chain"
    (folder / "scripts/versions").mkdir(parents=True)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/scripts\n")
    (folder / "scripts/env.py").write_text(ENV)
    chain = Chain(folder, tmp_path / "runs")
    # Not written into the revisions, so that every test's chain has the same fingerprint.
    monkeypatch.setenv(LOG_VARIABLE, str(chain.log))
    chain.add(
        "a1",
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'chain_app')"
        " THEN CREATE ROLE chain_app; END IF; END $$",
    )
    chain.add(
        "b2", "CREATE TABLE thing (id integer PRIMARY KEY)", "GRANT SELECT ON thing TO chain_app"
    )
    return chain


@dataclass(frozen=True)
class Child:
    """Another Python process that runs a script; `said` reads a line of what it prints."""

    process: subprocess.Popen[str]

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def says(self, beginning: str) -> str:
        """Read on until a line begins so."""
        lines = []
        while line := self.said():
            if line.startswith(beginning):
                return line
            lines.append(line)
        raise AssertionError(f"it said {lines} and no {beginning!r}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    def finish(self) -> str:
        out, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, out
        return out


SpawnChild = Callable[..., Child]


@pytest.fixture
def spawn() -> Iterator[SpawnChild]:
    """Start `script` with `arguments` as JSON in `args`; killed at the end of the test."""
    children: list[Child] = []

    def start(script: str, *arguments: Any) -> Child:
        prelude = "import json, os, signal, sys, time\nargs = json.loads(sys.argv[1])\n"
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + textwrap.dedent(script), json.dumps(arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        children.append(Child(process))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        assert child.process.stdout is not None
        child.process.stdout.close()


def query(conninfo: str, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one statement in a session of its own and return its rows."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def database_on(conninfo: str, name: str) -> Iterator[str]:
    """A database for the length of a `with` statement."""
    target = sql.Identifier(name)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(target))
        try:
            yield psycopg.conninfo.make_conninfo(conninfo, dbname=name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(target))


def _environment(shared_cache: Path, revision: str) -> Environment:
    """The schema at a revision, on a server of this test process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVARIANTS_CACHE_DIR", str(shared_cache))
        return open_environment(
            os.environ.get(SERVER_VARIABLE, "embedded"),
            Migrations(ROOT / "alembic.ini", revision),
            say=lambda _: None,
        )


@pytest.fixture(scope="session")
def documented(shared_cache: Path) -> Iterator[Environment]:
    """The documented schema."""
    with _environment(shared_cache, DOCUMENTED) as environment:
        yield environment


@pytest.fixture(scope="session")
def head(shared_cache: Path) -> Iterator[Environment]:
    """The schema at head."""
    with _environment(shared_cache, "head") as environment:
        yield environment


@pytest.fixture(scope="session")
def schema_at(
    documented: Environment, shared_cache: Path
) -> Iterator[Callable[[str], Environment]]:
    """The schema at a revision that the test names, the documented one included."""
    opened: dict[str, Environment] = {}

    def at(revision: str) -> Environment:
        if revision == documented.revision:
            return documented
        if revision not in opened:
            opened[revision] = _environment(shared_cache, revision)
        return opened[revision]

    yield at
    for environment in opened.values():
        environment.close()


@pytest.fixture(scope="module")
def owned() -> Iterator[Environment]:
    """The schema at head, all of it migration_owner's, who is no superuser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Migrations, "fill", lambda self, into, _say=None: upgrade_as_plain_owner(into, self)
        )
        # Not cached: the cache knows migrations by their files, and these are the same.
        environment = open_environment(
            "embedded", Migrations(ROOT / "alembic.ini"), say=lambda _: None, cache=False
        )
    with environment:
        scratch = environment.scratch()
        with psycopg.connect(scratch.conninfo) as connection:
            owners = connection.execute(
                "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace"
            ).fetchall()
        assert owners == [("migration_owner",)]
        scratch.drop()
        yield environment


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The contract of the schema in this repository."""
    return load(ROOT / "invariants.toml")


@pytest.fixture(scope="session")
def judge(documented: Environment, contract: Contract) -> Iterator[Judge]:
    """A judge on the documented schema."""
    with Judge(documented, contract) as judge:
        yield judge


@pytest.fixture(scope="session")
def lab(documented: Environment, contract: Contract) -> Lab:
    """Altered copies of the documented schema."""
    return Lab(documented, contract)


@pytest.fixture(scope="session")
def head_judge(head: Environment, contract: Contract) -> Iterator[Judge]:
    """A judge on the schema at head."""
    with Judge(head, contract) as judge:
        yield judge


@pytest.fixture(scope="session")
def head_lab(head: Environment, contract: Contract) -> Lab:
    """Altered copies of the schema at head."""
    return Lab(head, contract)
