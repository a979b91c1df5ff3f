"""Environments: what a run gets, what the cache spares it, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psycopg
import pytest

from invariants.errors import InfrastructureError, UsageError
from invariants.schema.chain import Migrations, downgrade, fingerprint, lineage, upgrade
from invariants.servers.environment import Environment, open_environment
from tests.conftest import Chain, SpawnChild, TempFolder, database_on, query

pytestmark = pytest.mark.usefixtures("cache")

OPEN = """
from pathlib import Path
from invariants.servers.environment import open_environment
from invariants.schema.chain import Migrations
say = lambda line: print(line, flush=True)
"""


def open_embedded(chain: Chain, *patches: Path, lines: list[str] | None = None) -> Environment:
    said = lines if lines is not None else []
    return open_environment("embedded", chain.migrations(), patches=patches, say=said.append)


def test_a_scratch_database_is_migrated_and_its_own(chain: Chain) -> None:
    lines: list[str] = []
    with open_embedded(chain, lines=lines) as environment:
        assert environment.revision == "b2"
        assert environment.server.kind == "embedded"
        assert environment.server.version.startswith("18.")
        first, second = environment.scratch(), environment.scratch()
        query(first.conninfo, "INSERT INTO thing VALUES (1)")
        assert query(second.conninfo, "SELECT count(*) FROM thing") == [(0,)]
        assert query(second.conninfo, "SELECT version_num FROM alembic_version") == [("b2",)]
        assert query(first.conninfo, "SHOW fsync") == [("off",)]
        first.drop()
        first.drop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(first.conninfo)
    second.drop()
    assert lines[-1] == f"server: {environment.server}"
    assert "as asked for" in lines[-1]


def test_a_password_is_not_shown(chain: Chain) -> None:
    with open_embedded(chain) as environment:
        scratch = environment.scratch()
        assert scratch.conninfo not in repr(scratch)


def test_embedded_16(chain: Chain) -> None:
    with open_environment("embedded:16", chain.migrations(), say=print) as environment:
        assert environment.server.version.startswith("16.")
        assert query(environment.scratch().conninfo, "SELECT count(*) FROM thing") == [(0,)]


def test_an_older_revision(chain: Chain) -> None:
    migrations = chain.migrations("a1")
    with open_environment("embedded", migrations, say=print) as environment:
        assert environment.revision == "a1"
        with pytest.raises(psycopg.errors.UndefinedTable):
            query(environment.scratch().conninfo, "TABLE thing")


def test_a_clone_has_the_templates_settings_and_privileges(chain: Chain) -> None:
    chain.add(
        "c3",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET app.greeting = %L',"
        " current_database(), 'hello, \"you\"');"
        " EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());"
        " EXECUTE format('GRANT CONNECT ON DATABASE %I TO chain_app', current_database());"
        " EXECUTE format('ALTER DATABASE %I OWNER TO chain_app', current_database()); END $$",
    )
    with open_embedded(chain) as environment:
        conninfo = environment.scratch().conninfo
        assert query(conninfo, "SHOW app.greeting") == [('hello, "you"',)]
        acl = "SELECT datacl::text FROM pg_database WHERE datname = "
        assert query(conninfo, acl + "current_database()") == query(
            conninfo, acl + "'invariants_template'"
        )
        assert query(
            conninfo,
            "SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()",
        ) == [("chain_app",)]


# The cache


@pytest.mark.usefixtures("empty_cache")
def test_the_second_run_does_not_migrate(chain: Chain) -> None:
    open_embedded(chain).close()
    open_embedded(chain).close()
    assert chain.runs() == ["a1", "b2"]


def test_without_the_cache_every_run_migrates(empty_cache: Path, chain: Chain) -> None:
    for _ in range(2):
        open_environment("embedded", chain.migrations(), say=print, cache=False).close()
    assert chain.runs() == ["a1", "b2", "a1", "b2"]
    assert list(empty_cache.iterdir()) == []


@pytest.mark.usefixtures("empty_cache")
def test_a_changed_migration_is_run_again(chain: Chain) -> None:
    open_embedded(chain).close()
    path = chain.folder / "scripts/versions/b2_x.py"
    path.write_text(path.read_text() + "\n# changed\n")
    open_embedded(chain).close()
    assert chain.runs() == ["a1", "b2", "a1", "b2"]


def test_what_determines_the_fingerprint(chain: Chain) -> None:
    older = fingerprint(chain.migrations("a1"))
    head = fingerprint(chain.migrations())
    assert older != head
    assert fingerprint(chain.migrations("b2")) == head
    (chain.folder / "scripts/helper.sql").write_text("SELECT 1")
    assert fingerprint(chain.migrations()) != head
    (chain.folder / "scripts/helper.sql").unlink()
    chain.add("c3")
    # A revision outside the chain does not count.
    assert fingerprint(chain.migrations("b2")) == head


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


@pytest.mark.parametrize(
    "damage", ["no manifest", "truncated", "altered", "missing", "extra", "old"]
)
def test_a_damaged_entry_is_rebuilt(empty_cache: Path, chain: Chain, damage: str) -> None:
    open_embedded(chain).close()
    for entry in entries(empty_cache):
        control = entry / "data/global/pg_control"
        if damage == "no manifest":
            (entry / "manifest.json").unlink()
        elif damage == "truncated":
            os.truncate(control, 100)
        elif damage == "altered":
            content = control.read_bytes()
            control.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
        elif damage == "missing":
            control.unlink()
        elif damage == "extra":
            (entry / "data/standby.signal").touch()
        else:
            (entry / "manifest.json").write_text('{"format": 0}')
    with open_embedded(chain) as environment:
        assert query(environment.scratch().conninfo, "SELECT count(*) FROM thing") == [(0,)]
    assert chain.runs() == ["a1", "b2"] * 2
    open_embedded(chain).close()
    assert chain.runs() == ["a1", "b2"] * 2


def test_a_killed_builder_leaves_nothing_that_counts(
    empty_cache: Path, chain: Chain, temp_folder: TempFolder, spawn: SpawnChild
) -> None:
    flag = chain.folder / "slow"
    flag.touch()
    chain.add("c3", code=f"import os, time\nif os.path.exists({str(flag)!r}): time.sleep(60)")
    child = spawn(OPEN + "open_environment('embedded', Migrations(Path(args[0])), say=say)",
                  str(chain.folder / "alembic.ini"))  # fmt: skip
    child.says("migrating")
    while chain.runs() != ["a1", "b2", "c3"]:
        assert child.process.poll() is None
    child.kill()
    temp_folder.assert_empty()
    flag.unlink()
    open_embedded(chain).close()
    assert chain.runs() == ["a1", "b2", "c3"] * 2
    assert not list(empty_cache.glob("*.building-*"))


@pytest.mark.usefixtures("empty_cache")
def test_two_processes_at_once_build_once(chain: Chain, spawn: SpawnChild) -> None:
    chain.add("c3", code="import time\ntime.sleep(1)")
    script = OPEN + (
        "with open_environment('embedded', Migrations(Path(args[0])), say=say) as e:\n"
        "    import psycopg\n"
        "    print(psycopg.connect(e.scratch().conninfo).execute('TABLE thing').fetchall())\n"
    )
    children = [spawn(script, str(chain.folder / "alembic.ini")) for _ in range(3)]
    assert [child.finish().splitlines()[-1] for child in children] == ["[]"] * 3
    assert chain.runs() == ["a1", "b2", "c3"]


def test_old_entries_are_pruned(empty_cache: Path, chain: Chain) -> None:
    from invariants.servers.cache import ENTRIES_KEPT, Cache

    open_embedded(chain).close()
    (newest,) = (
        path for path in entries(empty_cache) if len(list((path / "data/base").iterdir())) > 3
    )
    cache = Cache(empty_cache)
    source = empty_cache.parent / "source"
    source.mkdir()
    for number in range(ENTRIES_KEPT + 3):
        with cache.building(f"old{number}"):
            cache.store(f"old{number}", source)
        os.utime(empty_cache / f"old{number}", (number, number))
    (empty_cache / "dead.building-1").mkdir()
    cache.prune()
    assert newest in entries(empty_cache)
    assert len(entries(empty_cache)) == ENTRIES_KEPT
    assert not (empty_cache / "old0.lock").exists()
    assert not list(empty_cache.glob("*.building-*"))


# Patches


@pytest.mark.usefixtures("empty_cache")
def test_a_patch_is_in_every_clone_and_not_in_the_cache(chain: Chain, tmp_path: Path) -> None:
    patch = tmp_path / "patch.sql"
    patch.write_text(
        "ALTER ROLE chain_app BYPASSRLS LOGIN;\n"
        "CREATE FUNCTION two() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;\n"
        "/* a ; in /* a nested */ comment */ INSERT INTO thing VALUES (2); -- and ; here\n"
        "DO $x$ BEGIN INSERT INTO thing SELECT length(E'\\';;'); END $x$;\n"
        "VACUUM thing\n"
    )
    bypasses = "SELECT rolbypassrls FROM pg_roles WHERE rolname = 'chain_app'"
    with open_embedded(chain, patch) as environment:
        for conninfo in (environment.scratch().conninfo, environment.scratch().conninfo):
            assert query(conninfo, "SELECT id, two() FROM thing ORDER BY id") == [(2, 2), (3, 2)]
            assert query(conninfo, bypasses) == [(True,)]
    with open_embedded(chain) as environment:
        conninfo = environment.scratch().conninfo
        assert query(conninfo, "SELECT count(*) FROM thing") == [(0,)]
        assert query(conninfo, bypasses) == [(False,)]
    assert chain.runs() == ["a1", "b2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1;\n\nSELECT 1\n  FROM nowhere;", ':4: relation "nowhere" does not exist'),
        ("SELECT 1;\n-- a comment\nCREATE ROLE chain_app;", ':3: role "chain_app" already exists'),
        ("SELECT 1;\n\\set x 1\n", ":2: commands of psql are not available"),
        ("SELECT 'open", ":1: unterminated quoted string"),
        ("SELECT 1;\nCOPY thing FROM STDIN;", ":2: "),
    ],
)
def test_a_bad_patch(
    chain: Chain, tmp_path: Path, temp_folder: TempFolder, text: str, message: str
) -> None:
    patch = tmp_path / "patch.sql"
    patch.write_text(text)
    with pytest.raises(UsageError) as caught:
        open_embedded(chain, patch)
    assert str(caught.value).startswith(f"{patch}{message}")
    assert "\n" not in str(caught.value)
    temp_folder.assert_empty()


def test_a_missing_patch(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.sql: cannot read this patch"):
        open_embedded(chain, tmp_path / "nothing.sql")


# Migrations


def test_a_failing_migration_is_named(chain: Chain, temp_folder: TempFolder) -> None:
    chain.add("c3", "ALTER TABLE absent ADD COLUMN x int")
    with pytest.raises(InfrastructureError) as caught:
        open_embedded(chain)
    assert str(caught.value) == 'migration c3 (c3_x.py) failed: relation "absent" does not exist'
    temp_folder.assert_empty()


def test_a_migration_that_raises_is_named(chain: Chain) -> None:
    chain.add("c3", code="raise ValueError('no such luck\\nsecond line')")
    with pytest.raises(InfrastructureError) as caught:
        open_embedded(chain)
    assert str(caught.value) == "migration c3 (c3_x.py) failed: ValueError: no such luck"


def test_a_migration_that_does_not_load(chain: Chain) -> None:
    (chain.folder / "scripts/versions/b2_x.py").write_text("import nothing_of_the_sort\n")
    with pytest.raises(InfrastructureError, match="cannot load the migrations"):
        open_embedded(chain)


def test_an_unknown_revision_lists_the_known(chain: Chain) -> None:
    with pytest.raises(UsageError) as caught:
        lineage(chain.migrations("zz"))
    assert str(caught.value) == "--revision zz: unknown; known are head, a1, b2"


def test_symbolic_revisions(chain: Chain) -> None:
    assert lineage(chain.migrations("head")).applied[-1] == "b2"
    assert lineage(chain.migrations("heads")).applied[-1] == "b2"
    chain.add("c3d4e5")
    assert lineage(chain.migrations("c3d4")).applied[-1] == "c3d4e5"


def test_a_missing_configuration(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such Alembic configuration"):
        lineage(Migrations(tmp_path / "alembic.ini"))


def test_up_and_down(server_url: str, chain: Chain) -> None:
    with database_on(server_url, "up_and_down") as conninfo:
        upgrade(conninfo, chain.migrations())
        assert query(conninfo, "SELECT version_num FROM alembic_version") == [("b2",)]
        downgrade(conninfo, chain.migrations(), "a1")
        assert query(conninfo, "SELECT version_num FROM alembic_version") == [("a1",)]
        query(conninfo, "DROP OWNED BY chain_app")
        query(conninfo, "DROP ROLE chain_app")


# Other processes


def test_another_process_attaches(chain: Chain, spawn: SpawnChild) -> None:
    with open_embedded(chain) as environment:
        handle = json.loads(json.dumps(environment.handle()))
        child = spawn(
            """
            import psycopg
            from invariants.servers.environment import Environment
            with Environment.attach(args[0]) as e:
                s = e.scratch()
                psycopg.connect(s.conninfo, autocommit=True).execute("INSERT INTO thing VALUES (1)")
                print(e.revision, e.server.kind, s.name)
            """,
            handle,
        )
        revision, kind, name = child.finish().split()
        assert (revision, kind) == ("b2", "embedded")
        conninfo = environment.scratch().conninfo
        assert query(conninfo, "SELECT 1 FROM pg_database WHERE datname = %s", [name]) == []


HOLD = OPEN + (
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "e = open_environment(args[0], Migrations(Path(args[1])), say=lambda line: None)\n"
    "s = e.scratch()\n"
    "print(s.name, flush=True)\n"
    "if args[2]: time.sleep(60)\n"
)


def test_sigkill_leaves_nothing(chain: Chain, temp_folder: TempFolder, spawn: SpawnChild) -> None:
    child = spawn(HOLD, "embedded", str(chain.folder / "alembic.ini"), True)
    child.says("invariants_")
    assert temp_folder.processes()
    child.kill(signal.SIGKILL)
    temp_folder.assert_empty()


def test_ctrl_c_leaves_nothing(chain: Chain, temp_folder: TempFolder, spawn: SpawnChild) -> None:
    child = spawn(HOLD, "embedded", str(chain.folder / "alembic.ini"), True)
    child.says("invariants_")
    os.killpg(child.process.pid, signal.SIGINT)
    child.process.wait(60)
    # Not later: by the time the command returns to the prompt.
    assert temp_folder.folders() == []
    assert temp_folder.processes() == []


def test_an_environment_never_closed_ends_with_the_interpreter(
    chain: Chain, temp_folder: TempFolder, spawn: SpawnChild
) -> None:
    child = spawn(HOLD, "embedded", str(chain.folder / "alembic.ini"), False)
    child.finish()
    assert temp_folder.folders() == []
    assert temp_folder.processes() == []


def test_a_forked_child_leaves_its_parents_server_alone(chain: Chain) -> None:
    with open_embedded(chain) as environment:
        scratch = environment.scratch()
        pid = os.fork()
        if pid == 0:
            try:
                environment.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert query(scratch.conninfo, "SELECT count(*) FROM thing") == [(0,)]


def clone_forever(environment: Environment) -> None:
    while True:
        environment.scratch()


def test_a_server_killed_in_the_middle(chain: Chain, temp_folder: TempFolder) -> None:
    with open_embedded(chain) as environment:
        environment.scratch()
        folder = environment.handle()["conninfo"].split("host=")[1].split()[0]
        os.kill(int(Path(folder, "data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        with pytest.raises(InfrastructureError):
            clone_forever(environment)
    temp_folder.assert_empty()


def test_a_closed_environment_says_so(chain: Chain) -> None:
    environment = open_embedded(chain)
    environment.close()
    environment.close()
    with pytest.raises(InfrastructureError, match="closed"):
        environment.scratch()


def test_starting_up_imports_no_docker(chain: Chain, spawn: SpawnChild) -> None:
    child = spawn(
        OPEN
        + "open_environment('embedded', Migrations(Path(args[0])), say=say).close()\n"
        + "print(sorted({'docker', 'testcontainers'} & set(sys.modules)))",
        str(chain.folder / "alembic.ini"),
    )
    assert child.finish().splitlines()[-1] == "[]"
