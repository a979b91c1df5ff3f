"""On a server of somebody else's: nothing that is there is altered, nothing of ours stays."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from invariants.contract.contract import Contract
from invariants.errors import InfrastructureError, InvariantsError, UsageError
from invariants.mutants.base import Mutant
from invariants.mutants.hunt import Hunt, hunt
from invariants.servers.environment import Environment, open_environment
from tests.conftest import Chain, SpawnChild, query
from tests.servers.guest import Guest, guest

pytestmark = pytest.mark.usefixtures("cache")


def open_on(
    server: str, chain: Chain, *patches: Path, lines: list[str] | None = None, **how: bool
) -> Environment:
    said = lines if lines is not None else []
    return open_environment(server, chain.migrations(), patches=patches, say=said.append, **how)


@pytest.fixture(scope="module")
def owner() -> Iterator[Guest]:
    with guest() as made:
        yield made


@pytest.fixture
def theirs(owner: Guest) -> Iterator[Guest]:
    """The server; what is there must be as before at the end."""
    before = owner.dump()
    yield owner
    assert owner.dump() == before


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


def killed(theirs: Guest, chain: Chain, spawn: SpawnChild) -> None:
    """A run that is killed when it has made all that a run makes."""
    child = spawn(HOLD, theirs.conninfo, str(chain.folder / "alembic.ini"))
    child.says("invariants_")
    child.kill(signal.SIGKILL)
    assert len(theirs.names()) == 4  # journal, template, scratch database, role
    assert theirs.rows("SELECT 1 FROM pg_roles WHERE rolname = 'chain_app'")


# What a run makes, and only that, goes


def test_a_guest_leaves_no_trace(theirs: Guest, chain: Chain) -> None:
    lines: list[str] = []
    with open_on(theirs.conninfo, chain, lines=lines) as environment:
        assert environment.server.kind == "url"
        scratch = environment.scratch()
        login = scratch.login("chain_app")
        assert query(login.conninfo, "SELECT session_user::text") == [(login.name,)]
        environment.scratch()
        assert query(scratch.conninfo, "SELECT count(*) FROM thing") == [(0,)]
        scratch.drop()
    assert lines == [
        "server: for the length of the run there are roles chain_app on it",
        f"server: {environment.server}",
    ]


@pytest.mark.parametrize("form", ["postgresql://postgres@/shop?host={}", "host={} user=postgres"])
def test_a_url_in_every_form(theirs: Guest, chain: Chain, form: str) -> None:
    with open_on(form.format(theirs.folder), chain) as environment:
        assert query(environment.scratch().conninfo, "SELECT count(*) FROM thing") == [(0,)]


def test_a_role_that_is_there_is_used_and_stays(theirs: Guest, chain: Chain) -> None:
    theirs.execute("CREATE ROLE chain_app LOGIN CONNECTION LIMIT 3 PASSWORD 'x'")
    try:
        before = theirs.dump()
        lines: list[str] = []
        with open_on(theirs.conninfo, chain, lines=lines) as environment:
            assert environment.scratch().login("chain_app")
            assert not environment.owns_role("chain_app")
        assert lines == [f"server: {environment.server}"]
        assert theirs.dump() == before
    finally:
        theirs.execute("DROP ROLE chain_app")


def test_a_killed_run_is_cleaned_up_by_the_next(
    theirs: Guest, chain: Chain, spawn: SpawnChild
) -> None:
    killed(theirs, chain, spawn)
    lines: list[str] = []
    with open_on(theirs.conninfo, chain, lines=lines) as environment:
        assert environment.owns_role("chain_app")
    assert lines[0] == "server: cleaned up after a run that had been killed"


def test_a_run_killed_while_migrating(theirs: Guest, chain: Chain, spawn: SpawnChild) -> None:
    slow = chain.folder / "slow"
    slow.touch()
    # The roles are there, and the migrations are not done.
    (chain.folder / "scripts/env.py").write_text(
        "from alembic import context\n"
        "context.configure(connection=context.config.attributes['connection'],"
        " transaction_per_migration=True)\n"
        "with context.begin_transaction():\n    context.run_migrations()\n"
    )
    # Not on the server of our own, where all is tried first.
    chain.add(
        "c3",
        code=f"import os, time\nif os.path.exists({str(slow)!r}) and op.get_bind().exec_driver_sql("
        "\"SELECT count(*) FROM pg_tables WHERE schemaname = 'public'\").scalar() and"
        f" open({str(chain.log)!r}).read().count('c3') == 2: time.sleep(60)",
    )
    child = spawn(HOLD, theirs.conninfo, str(chain.folder / "alembic.ini"))
    while chain.runs() != ["a1", "b2", "c3"] * 2:
        assert child.process.poll() is None
        time.sleep(0.01)
    child.kill(signal.SIGKILL)
    assert theirs.rows("SELECT 1 FROM pg_roles WHERE rolname = 'chain_app'")
    slow.unlink()
    open_on(theirs.conninfo, chain).close()


def test_after_an_exception_too(theirs: Guest, chain: Chain, tmp_path: Path) -> None:
    patch = tmp_path / "patch.sql"
    patch.write_text("CREATE ROLE patched;\nSELECT 1/0;\n")
    with pytest.raises(UsageError, match=r"patch\.sql:2: division by zero"):
        open_on(theirs.conninfo, chain, patch)
    chain.add("c3", "CREATE ROLE half_way", "SELECT 1/0")
    with pytest.raises(InfrastructureError, match="migration c3"):
        open_on(theirs.conninfo, chain)


def test_what_others_do_meanwhile_is_theirs(owner: Guest, chain: Chain) -> None:
    work = (
        "CREATE ROLE meanwhile LOGIN PASSWORD 'm';\nALTER ROLE boss PASSWORD 'another';\n"
        "GRANT auditor TO meanwhile;\nALTER ROLE reader INHERIT;\n"
        "ALTER ROLE boss SET work_mem = '9MB';\nCREATE DATABASE invariants_ours;\n"
    )
    before = owner.dump()
    with open_on(owner.conninfo, chain) as environment:
        environment.scratch()
        owner.execute(work, "postgres")
        owner.execute(
            "CREATE TABLE of_meanwhile ();\nALTER TABLE of_meanwhile OWNER TO meanwhile", "postgres"
        )
    after = owner.dump()
    assert "CREATE ROLE meanwhile" in after
    assert after != before
    # Not a word of it is lost when a further run comes and goes.
    open_on(owner.conninfo, chain).close()
    assert owner.dump() == after
    assert owner.names() == ["invariants_ours"]
    owner.execute(
        "DROP DATABASE invariants_ours;\nDROP TABLE of_meanwhile;\nDROP ROLE meanwhile;\n"
        "ALTER ROLE boss PASSWORD 'theirs';\nALTER ROLE boss SET work_mem = '5MB';\n"
        "ALTER ROLE reader NOINHERIT",
        "postgres",
    )


USES = {
    "owns a table": (
        "CREATE TABLE its ();\nALTER TABLE its OWNER TO chain_app",
        "DROP TABLE its",
        "an object in database postgres depends on it",
    ),
    "may connect": (
        "GRANT CREATE ON DATABASE shop TO chain_app",
        "REVOKE CREATE ON DATABASE shop FROM chain_app",
        "of the whole server",
    ),
    "granted": ("GRANT chain_app TO boss", "", "somebody has granted chain_app to boss"),
    "member": ("GRANT auditor TO chain_app", "", "somebody has granted auditor to chain_app"),
    "altered": ("ALTER ROLE chain_app PASSWORD 'p'", "", "somebody has altered it"),
    "set": ("ALTER ROLE chain_app SET work_mem = '1MB'", "", "changed its settings"),
    "renamed": ("ALTER ROLE chain_app RENAME TO kept", "", "somebody has altered it"),
}


@pytest.mark.parametrize("use", USES)
def test_a_role_of_ours_that_somebody_uses_is_left(
    theirs: Guest, chain: Chain, spawn: SpawnChild, use: str
) -> None:
    work, undo, why = USES[use]
    killed(theirs, chain, spawn)
    theirs.execute(work, "postgres")
    lines: list[str] = []
    try:
        open_on(theirs.conninfo, chain, lines=lines).close()
        name = "kept" if use == "renamed" else "chain_app"
        assert lines[0].startswith(f"server: role {name}, which a run had made, stays: ")
        assert why in lines[0]
        assert theirs.rows(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'")
        # It is forgotten: the next run says nothing any more.
        lines.clear()
        open_on(theirs.conninfo, chain, lines=lines).close()
        assert not any("stays" in line for line in lines)
        assert theirs.rows(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'")
    finally:
        if undo:
            theirs.execute(undo, "postgres")
        theirs.execute(f"DROP ROLE {'kept' if use == 'renamed' else 'chain_app'}")


def test_a_role_of_that_name_made_after_the_kill_is_theirs(
    theirs: Guest, chain: Chain, spawn: SpawnChild
) -> None:
    killed(theirs, chain, spawn)
    # Of the same name, as its owner makes it when ours is in the way.
    theirs.execute("ALTER ROLE chain_app RENAME TO gone;\nCREATE ROLE chain_app")
    open_on(theirs.conninfo, chain).close()
    assert theirs.rows("SELECT count(*) FROM pg_roles WHERE rolname IN ('gone', 'chain_app')") == [
        (2,)
    ]
    theirs.execute("DROP ROLE chain_app;\nDROP ROLE gone")


# Databases


def test_what_lacks_our_mark_is_never_dropped(
    owner: Guest, chain: Chain, spawn: SpawnChild
) -> None:
    killed(owner, chain, spawn)
    journal = next(n for n in owner.names() if n.startswith("invariants_journal"))
    template = next(n for n in owner.names() if n.endswith("_template"))
    names = [
        "invariants_journal",
        "invariants_journal_0123456789ab",
        template.replace("template", "sffffffffff"),
        "invariants_01234567_template",
    ]
    for name in names:
        owner.execute(f"CREATE DATABASE {name}", "postgres")
        owner.execute(
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"
            "CREATE SCHEMA keep;\nCREATE SEQUENCE sq;\nCREATE TYPE ty AS ENUM ('a')",
            name,
        )
    try:
        open_on(owner.conninfo, chain).close()
        assert owner.names() == sorted(names)
        assert journal not in owner.names()
        assert owner.rows("SELECT f()", "invariants_journal") == [(1,)]
    finally:
        for name in names:
            owner.execute(f"DROP DATABASE {name}", "postgres")


def test_a_database_that_cannot_be_dropped_is_said_and_tried_again(
    theirs: Guest, chain: Chain, spawn: SpawnChild
) -> None:
    killed(theirs, chain, spawn)
    template = next(n for n in theirs.names() if n.endswith("_template"))
    theirs.execute(f"ALTER DATABASE {template} ALLOW_CONNECTIONS true", "postgres")
    theirs.execute(
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p"
        " WITH (connect = false, slot_name = NONE)",
        template,
    )
    lines: list[str] = []
    open_on(theirs.conninfo, chain, lines=lines).close()
    assert f"server: database {template} of ours stays: " in lines[0]
    theirs.execute("DROP SUBSCRIPTION s", template)
    open_on(theirs.conninfo, chain, lines=lines).close()


def test_runs_take_turns(theirs: Guest, chain: Chain, spawn: SpawnChild) -> None:
    other = make_conninfo(theirs.conninfo, dbname="postgres")  # the lock is the server's
    with open_on(theirs.conninfo, chain) as environment:
        child = spawn(HOLD, other, str(chain.folder / "alembic.ini"))
        child.says("server: another run is using it; waiting for its end")
        assert environment.scratch()
    child.says("server: url")
    child.says("invariants_")
    child.kill(signal.SIGTERM)
    open_on(theirs.conninfo, chain).close()


def test_waiting_has_an_end(theirs: Guest, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_LOCK_SECONDS", "0.1")
    with open_on(theirs.conninfo, chain) as environment:
        with pytest.raises(InfrastructureError, match="INVARIANTS_LOCK_SECONDS"):
            open_on(theirs.conninfo, chain)
        assert environment.scratch()


def test_workers_share_the_controllers_turn(theirs: Guest, chain: Chain, spawn: SpawnChild) -> None:
    worker = """
    from invariants.servers.environment import Environment
    e = Environment.attach(args[0])
    s = e.scratch()
    s.login("chain_app")
    print(s.name, flush=True)
    if args[1]: time.sleep(60)
    e.close()
    """
    with open_on(theirs.conninfo, chain) as environment:
        names = [spawn(worker, environment.handle(), False).finish().strip() for _ in range(2)]
        child = spawn(worker, environment.handle(), True)
        left = child.said()
        child.kill(signal.SIGKILL)
        present = theirs.names()
        assert not set(names) & set(present)
        assert left in present


# What would be altered is found out first, and refused


TOUCHES = {
    "attribute": ("ALTER ROLE boss BYPASSRLS", "role boss is altered"),
    "our own": ("ALTER ROLE postgres NOLOGIN", "role postgres is altered"),
    "password": ("ALTER ROLE boss PASSWORD 'x'", "role boss is altered"),
    "renamed": ("ALTER ROLE reader RENAME TO other", "role reader is altered"),
    "dropped": ("DROP ROLE reader", "role reader is removed"),
    "membership": ("GRANT auditor TO reader", "membership reader in auditor is made"),
    "no membership": ("REVOKE reader FROM boss", "membership boss in reader is removed"),
    "in a role of ours": ("GRANT chain_app TO boss", "membership boss in chain_app is made"),
    "setting": ("ALTER ROLE boss SET work_mem = '1MB'", "settings of role boss is altered"),
    "setting of all": (
        "ALTER ROLE ALL SET default_transaction_read_only = on",
        "settings of all roles is made",
    ),
    "server": ("ALTER SYSTEM SET work_mem = '6MB'", "setting of the server work_mem is made"),
    "database": ("CREATE DATABASE further", "database further is made"),
    "database altered": ("ALTER DATABASE shop CONNECTION LIMIT 3", "database shop is altered"),
    "setting of a database": (
        "ALTER DATABASE shop SET work_mem = '1MB'",
        "settings of all roles in database shop is",
    ),
    "comment on a database": (
        "COMMENT ON DATABASE shop IS 'x'",
        "comment on database shop is made",
    ),
    "comment on a role": ("COMMENT ON ROLE reader IS NULL", "comment on role reader is removed"),
    "privilege on a database": (
        "GRANT ALL ON DATABASE shop TO chain_app",
        "database shop is altered",
    ),
    "parameter": (
        "GRANT SET ON PARAMETER work_mem TO chain_app",
        "privileges on parameter work_mem is made",
    ),
    "subscription": (
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p"
        " WITH (connect = false, slot_name = NONE)",
        "subscription s is made",
    ),
    "tablespace": (
        "SET allow_in_place_tablespaces = on;\nCREATE TABLESPACE t LOCATION ''",
        "tablespace t is made",
    ),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_patch_that_alters_what_is_there_is_refused(
    theirs: Guest, chain: Chain, tmp_path: Path, touch: str
) -> None:
    statement, told = TOUCHES[touch]
    patch = tmp_path / "patch.sql"
    patch.write_text(f"CREATE TABLE further ();\n{statement};\n")
    with pytest.raises(InvariantsError) as caught:
        open_on(theirs.conninfo, chain, patch)
    message = str(caught.value)
    assert caught.value.exit_status == 3
    assert told in message
    assert f"--apply-sql {patch}" in message
    assert "--disposable-server" in message
    assert "\n" not in message


def test_so_is_a_migration(theirs: Guest, chain: Chain) -> None:
    chain.add("c3", "ALTER ROLE boss CREATEROLE", "GRANT chain_app TO boss")
    with pytest.raises(InfrastructureError) as caught:
        open_on(theirs.conninfo, chain)
    assert "the migrations would alter" in str(caught.value)
    assert "role boss is altered, membership boss in chain_app is made" in str(caught.value)


def test_what_is_as_wanted_is_not_altered(theirs: Guest, chain: Chain) -> None:
    chain.add(
        "c3",
        "ALTER ROLE reader NOINHERIT NOBYPASSRLS",
        "GRANT reader TO boss",
        "ALTER ROLE boss SET work_mem = '5MB'",
        "CREATE ROLE further IN ROLE chain_app, pg_read_all_data, auditor",
        "COMMENT ON ROLE further IS 'ours'",
        "ALTER ROLE further SET work_mem = '1MB'",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''2MB''',"
        " current_database()); EXECUTE format('GRANT CONNECT ON DATABASE %I TO reader',"
        " current_database()); EXECUTE format('ALTER ROLE boss IN DATABASE %I SET"
        " work_mem = ''3MB''', current_database()); END $$",
    )
    lines: list[str] = []
    with open_on(theirs.conninfo, chain, lines=lines) as environment:
        assert environment.owns_role("further")
        assert query(environment.scratch().conninfo, "SHOW work_mem") == [("2MB",)]
    assert not any("stays" in line for line in lines)


def test_a_disposable_server_may_be_altered(owner: Guest, chain: Chain, tmp_path: Path) -> None:
    patch = tmp_path / "patch.sql"
    patch.write_text("ALTER ROLE boss BYPASSRLS;\nALTER DATABASE shop SET work_mem = '1MB';\n")
    with open_on(owner.conninfo, chain, patch, disposable=True) as environment:
        assert environment.owns_role("boss")
        found = query(
            environment.scratch().conninfo,
            "SELECT rolbypassrls FROM pg_roles WHERE rolname = 'boss'",
        )
        assert found == [(True,)]
    assert owner.names() == []
    assert owner.rows("SELECT rolbypassrls FROM pg_roles WHERE rolname = 'boss'") == [(False,)]
    owner.execute("ALTER DATABASE shop RESET work_mem", "postgres")


def test_a_role_is_altered_for_a_while_and_only_ours(
    theirs: Guest, chain: Chain, spawn: SpawnChild
) -> None:
    script = HOLD.replace(
        "time.sleep(60)",
        "with e.with_roles('chain_app', 'ALTER ROLE chain_app BYPASSRLS',"
        " 'GRANT postgres TO chain_app'):\n    print('altered', flush=True)\n    time.sleep(60)",
    )
    with open_on(theirs.conninfo, chain) as environment:
        bypass = "SELECT rolbypassrls FROM pg_roles WHERE rolname = 'chain_app'"
        with environment.with_roles("chain_app", "ALTER ROLE chain_app BYPASSRLS"):
            assert theirs.rows(bypass) == [(True,)]
            theirs.execute("CREATE ROLE meanwhile")
        assert theirs.rows(bypass) == [(False,)]
        assert theirs.rows("SELECT 1 FROM pg_roles WHERE rolname = 'meanwhile'")
        theirs.execute("DROP ROLE meanwhile")
    child = spawn(script, theirs.conninfo, str(chain.folder / "alembic.ini"))
    child.says("altered")
    child.kill(signal.SIGKILL)
    open_on(theirs.conninfo, chain).close()


# A server that cannot be used is said in one line


def refused(server: str, chain: Chain) -> str:
    with pytest.raises(InfrastructureError) as caught:
        open_on(server, chain)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    return message


def test_a_role_that_is_no_superuser(theirs: Guest, chain: Chain) -> None:
    assert "boss is not a superuser" in refused(
        make_conninfo(theirs.conninfo, user="boss", password="secret"), chain
    )


def test_an_unknown_database(theirs: Guest, chain: Chain) -> None:
    told = refused(make_conninfo(theirs.conninfo, dbname="nowhere", password="secret"), chain)
    assert 'database "nowhere" does not exist' in told


def test_a_malformed_url_does_not_show_its_password(chain: Chain) -> None:
    with pytest.raises(UsageError) as caught:
        open_on("postgresql://user:se%cret@host/db", chain)
    assert "cret" not in str(caught.value)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_unreachable_server(chain: Chain) -> None:
    told = refused(f"postgresql://u:secret@127.0.0.1:{free_port()}/db", chain)
    assert "refused" in told


def test_a_wrong_password(theirs: Guest, chain: Chain) -> None:
    hba = theirs.data / "pg_hba.conf"
    trusting = hba.read_text()
    theirs.execute("ALTER ROLE postgres PASSWORD 'right'")
    hba.write_text("local all all scram-sha-256\n")
    theirs.run("pg_ctl", "-D", str(theirs.data), "reload")
    right = make_conninfo(theirs.conninfo, password="right")
    try:
        deadline = time.monotonic() + 30
        told = ""
        while "password authentication failed" not in told and time.monotonic() < deadline:
            told = refused(make_conninfo(theirs.conninfo, password="secret"), chain)
        assert 'password authentication failed for user "postgres"' in told
        with open_on(right, chain) as environment:
            assert "right" not in repr(environment.scratch())
    finally:
        hba.write_text(trusting)
        theirs.run("pg_ctl", "-D", str(theirs.data), "reload")
        query(right, "ALTER ROLE postgres PASSWORD NULL")


def test_in_recovery(theirs: Guest, chain: Chain) -> None:
    theirs.stop()
    standby = theirs.data / "standby.signal"
    standby.touch()
    try:
        theirs.start()
        assert "a standby takes no writes" in refused(theirs.conninfo, chain)
        theirs.stop("fast")
    finally:
        standby.unlink()
        theirs.start()


def test_what_cannot_be_tried_first_is_refused(
    theirs: Guest, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invariants.servers.binaries.PACKAGES", ())
    told = refused(theirs.conninfo, chain)
    assert "cannot be found out first" in told
    assert "--disposable-server" in told
    open_on(theirs.conninfo, chain, disposable=True).close()


def test_a_mutant_of_a_role_that_is_there_is_not_judged(
    theirs: Guest, chain: Chain, contract: Contract
) -> None:
    mutant = Mutant("role-superuser", "boss", ("ALTER ROLE boss SUPERUSER",), server_wide=True)
    plan = Hunt(("pii",), 0, 1.0)
    with open_on(theirs.conninfo, chain) as environment:
        outcome = hunt(environment, contract, mutant, plan)
    assert outcome.status == "error"
    assert "role boss was on the server before the run" in str(outcome.error)
    assert "--disposable-server" in str(outcome.error)
