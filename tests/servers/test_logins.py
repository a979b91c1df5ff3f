"""Logins that act for a role: what they are, and what resetting a role in them leads to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from invariants.errors import UsageError
from invariants.servers.connect import as_login
from invariants.servers.logins import (
    SETTINGS,
    drop_logins,
    login_name,
    make_login,
    members_of_nothing,
)
from tests.conftest import empty_server, query

PREFIX = "invariants_0123abcd_"
PASSWORD = "of these tests"


@pytest.fixture(
    scope="module",
    params=[
        "embedded",
        "embedded:16",
        pytest.param("container:15", marks=pytest.mark.container),
        pytest.param("container:18", marks=pytest.mark.container),
    ],
)
def server(
    request: pytest.FixtureRequest, docker_image: Callable[[str], None]
) -> Iterator[psycopg.Connection]:
    kind, _, tag = request.param.partition(":")
    if kind == "container":
        docker_image(tag)
    server = empty_server(request.param)
    try:
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            yield connection
    finally:
        server.close()


@pytest.fixture
def login(server: psycopg.Connection) -> Iterator[Callable[..., str]]:
    """The conninfo of a login that acts for a role of these names; all of them go at the end."""
    roles: list[str] = []

    def made(role: str, *options: str) -> str:
        name = sql.Identifier(role)
        server.execute(sql.SQL("CREATE ROLE {} " + " ".join(options)).format(name))
        roles.append(role)
        user = login_name(PREFIX, role)
        make_login(server, user, role, PASSWORD)
        return as_login(server.info.dsn, user, PASSWORD)

    yield made
    drop_logins(server, PREFIX)
    for role in reversed(roles):
        server.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_it_is_no_superuser_and_a_member_of_one_role(login: Callable[..., str]) -> None:
    conninfo = login("web", "NOLOGIN")
    found = query(
        conninfo,
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication,"
        " (SELECT array_agg(roleid::regrole::text) FROM pg_auth_members WHERE member = r.oid),"
        " (SELECT count(*) FROM pg_shdepend WHERE refobjid = r.oid AND deptype = 'o')"
        " FROM pg_roles r WHERE rolname = session_user",
    )
    assert found == [(False, ["web"], 0)]


@pytest.mark.parametrize(
    "options",
    ["NOLOGIN", "NOINHERIT", "LOGIN CONNECTION LIMIT 0", "LOGIN VALID UNTIL '2001-01-01'"],
)
def test_a_role_of_any_kind_is_acted_for(login: Callable[..., str], options: str) -> None:
    with psycopg.connect(login("web", options)) as connection:
        connection.execute("SET LOCAL ROLE web")
        assert connection.execute("SELECT current_user::text").fetchone() == ("web",)


@pytest.mark.parametrize("role", ['we"b', "we.b", "Web", "wéb", "we'b\\", "w" * 60, "user", "we b"])
def test_a_role_of_any_name_is_acted_for(login: Callable[..., str], role: str) -> None:
    with psycopg.connect(login(role)) as connection:
        connection.execute("SELECT set_config('role', %s, true)", [role])
        assert connection.execute("SELECT current_user::text").fetchone() == (role,)


@pytest.mark.parametrize(
    "statement",
    [
        "RESET ROLE",
        "SET ROLE NONE",
        "SELECT set_config('role', 'none', true)",
        "RESET SESSION AUTHORIZATION",
        "SET SESSION AUTHORIZATION DEFAULT",
        "SELECT set_config('session_authorization', session_user, true)",
    ],
)
def test_what_resets_the_role_leads_to_the_login(login: Callable[..., str], statement: str) -> None:
    with psycopg.connect(login("web")) as connection:
        connection.execute("SET LOCAL ROLE web")
        connection.execute(statement.encode())
        found = connection.execute(
            "SELECT current_user::text, session_user::text, current_setting('is_superuser')"
        ).fetchone()
        assert found is not None
        assert found[0] in (f"{PREFIX}as_web", "web")
        assert found[1:] == (f"{PREFIX}as_web", "off")


def test_it_may_become_what_its_role_may_become_and_nobody_else(
    server: psycopg.Connection, login: Callable[..., str]
) -> None:
    """Superusers least of all, by whatever statement."""
    conninfo = login("web")
    login("boss", "SUPERUSER")
    refused = psycopg.errors.InsufficientPrivilege
    for other in (server.info.user, "boss"):
        for statement in ("SET ROLE {}", "SET SESSION AUTHORIZATION {}"):
            with psycopg.connect(conninfo) as connection, pytest.raises(refused):
                connection.execute(sql.SQL(statement).format(sql.Identifier(other)))
    server.execute("GRANT boss TO web")
    assert query(conninfo, "SET ROLE boss") == []


def test_a_membership_that_is_not_inherited_is_none_of_the_logins(
    server: psycopg.Connection, login: Callable[..., str]
) -> None:
    """A role without INHERIT has to become what it is a member of, and so has its login."""
    login("boss", "BYPASSRLS")
    conninfo = login("web", "NOINHERIT")
    server.execute("GRANT boss TO web")
    server.execute("CREATE TABLE of_boss ()")
    server.execute("GRANT SELECT ON of_boss TO boss")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query(conninfo, "SELECT FROM of_boss")
        with psycopg.connect(conninfo) as connection:
            connection.execute("SET ROLE boss")
            connection.execute("SELECT FROM of_boss")
    finally:
        server.execute("DROP TABLE of_boss")


def test_its_sessions_have_what_takes_a_superuser(login: Callable[..., str]) -> None:
    with psycopg.connect(login("web")) as connection:
        for name, value in SETTINGS.items():
            assert connection.execute(f"SHOW {name}".encode()).fetchone() == (value,)


def test_who_may_do_what_is_asked_as_if_there_were_no_logins(
    server: psycopg.Connection, login: Callable[..., str]
) -> None:
    login("web")
    server.execute("CREATE TABLE of_web ()")
    server.execute("GRANT SELECT ON of_web TO web")
    ask = (
        "SELECT rolname FROM pg_roles WHERE has_table_privilege(rolname, 'of_web', 'SELECT')"
        " AND NOT rolsuper AND rolname !~ '^pg_' ORDER BY 1"
    )
    try:
        with members_of_nothing(server):
            assert server.execute(ask.encode()).fetchall() == [("web",)]
        found = server.execute(ask.encode()).fetchall()
        assert found == [(login_name(PREFIX, "web"),), ("web",)]
    finally:
        server.execute("DROP TABLE of_web")


def test_made_twice_it_is_one(server: psycopg.Connection, login: Callable[..., str]) -> None:
    conninfo = login("web")
    make_login(server, login_name(PREFIX, "web"), "web", "another")
    assert query(conninfo, "SELECT 1") == [(1,)]


def test_no_password_is_sent_in_the_clear(
    server: psycopg.Connection, login: Callable[..., str]
) -> None:
    login("web")
    stored = server.execute(
        "SELECT rolpassword FROM pg_authid WHERE rolname = %s", [login_name(PREFIX, "web")]
    ).fetchone()
    assert stored is not None
    assert stored[0].startswith("SCRAM-SHA-256$")


def test_nobody_acts_for_a_role_that_is_not_there(server: psycopg.Connection) -> None:
    with pytest.raises(UsageError, match="'nobody_here'"):
        make_login(server, login_name(PREFIX, "nobody_here"), "nobody_here", PASSWORD)
    left = "SELECT FROM pg_roles WHERE starts_with(rolname, %s)"
    assert server.execute(left, [PREFIX]).fetchall() == []
