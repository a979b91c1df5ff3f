"""Our connections: no default of a server, a database or a role changes what they rely on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from invariants.execution.wire import Wire
from invariants.servers.connect import (
    SEARCH_PATH,
    SETTINGS,
    SETTINGS_SINCE,
    SUPERUSER_SETTINGS,
    as_login,
    relying,
    with_own_search_path,
)
from invariants.servers.environment import open_environment
from tests.conftest import Chain, empty_server, query

pytestmark = pytest.mark.usefixtures("cache")

# Each of them stops or misleads a connection that does not look after itself.
STRANGE = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "1",
    # Less, and nobody can connect at all.
    "transaction_timeout": "300",
    "search_path": "pg_catalog",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "session_replication_role": "replica",
    "standard_conforming_strings": "off",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Tokyo",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "extra_float_digits": "-5",
    "synchronous_commit": "on",
    "check_function_bodies": "off",
    "client_min_messages": "error",
    "transform_null_equals": "on",
}


@pytest.fixture(scope="module", params=["embedded:18", "embedded:16"])
def plain(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server as the user names it: a conninfo that says nothing of settings."""
    server = empty_server(request.param)
    try:
        yield make_conninfo(server.conninfo, options="")
    finally:
        server.close()


@contextmanager
def strange(conninfo: str, how: str) -> Iterator[None]:
    """Every setting of STRANGE that the server knows, for the server or for our own role."""
    set_one = "ALTER SYSTEM SET {} = {}" if how == "server" else "ALTER ROLE postgres SET {} = {}"
    with psycopg.connect(relying(conninfo), autocommit=True) as admin:
        known = [n for (n,) in admin.execute("SELECT lower(name) FROM pg_settings").fetchall()]
        try:
            for name, value in STRANGE.items():
                if name.lower() in known:
                    admin.execute(sql.SQL(set_one).format(sql.Identifier(name), value))
            admin.execute("SELECT pg_reload_conf()")
            yield
        finally:
            admin.execute("ALTER SYSTEM RESET ALL")
            admin.execute("ALTER ROLE postgres RESET ALL")
            admin.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("how", ["server", "role"])
def test_defaults_do_not_reach_our_connections(plain: str, how: str) -> None:
    with strange(plain, how):
        conninfo = relying(plain)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            wanted = {**SETTINGS, **SEARCH_PATH, **SUPERUSER_SETTINGS}
            for since, settings in SETTINGS_SINCE.items():
                if connection.info.server_version >= since:
                    wanted |= settings
            for name, value in wanted.items():
                shown = connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name)))
                assert shown.fetchone() == (value,), name
            connection.execute("DISCARD ALL")
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
        wire = Wire(conninfo)
        ((read_only,),) = (
            wire.transact([(None, [("SHOW transaction_read_only", ())])])[0].answers[0].rows
        )
        assert read_only == b"off"
        wire.close()


def test_what_the_user_sets_in_the_url_is_kept(plain: str) -> None:
    conninfo = relying(make_conninfo(plain, options="-c work_mem=7MB -c statement_timeout=1"))
    assert query(conninfo, "SHOW work_mem") == [("7MB",)]
    assert query(conninfo, "SHOW statement_timeout") == [("0",)]


def test_another_role_may_connect(plain: str) -> None:
    query(plain, "CREATE ROLE plain_login LOGIN")
    query(plain, "ALTER ROLE plain_login SET default_transaction_read_only = on")
    query(plain, "ALTER ROLE plain_login SET search_path = its_own")
    conninfo = as_login(relying(plain), "plain_login")
    assert query(conninfo, "SELECT current_user::text") == [("plain_login",)]
    assert query(conninfo, "SHOW transaction_read_only") == [("off",)]
    assert query(conninfo, "SHOW search_path") == [('"$user", public',)]
    assert query(with_own_search_path(conninfo), "SHOW search_path") == [("its_own",)]


@pytest.mark.parametrize("how", ["server", "role"])
def test_a_whole_environment_on_a_strange_server(plain: str, chain: Chain, how: str) -> None:
    with (
        strange(plain, how),
        open_environment(plain, chain.migrations(), say=lambda _: None) as environment,
    ):
        scratch = environment.scratch()
        assert query(scratch.conninfo, "INSERT INTO thing VALUES (1) RETURNING id") == [(1,)]


def test_a_search_path_of_the_schema_is_the_clones_own(chain: Chain) -> None:
    chain.add(
        "c3",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app',"
        " current_database()); END $$",
    )
    with open_environment("embedded", chain.migrations(), say=lambda _: None) as environment:
        assert query(environment.scratch().conninfo, "SHOW search_path") == [("app",)]
