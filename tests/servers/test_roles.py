"""Roles are put back, whatever was done to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from invariants.servers import roles
from tests.conftest import empty_server

SERVERS = [
    "embedded:18",
    "embedded:16",
    pytest.param("container:15", marks=pytest.mark.container),
]
DATABASE = "role_tests"

SETUP = """
CREATE ROLE r_owner CREATEROLE NOLOGIN;
CREATE ROLE r_user LOGIN PASSWORD 'secret' CONNECTION LIMIT 7 VALID UNTIL '2040-01-01 00:00:00+00';
CREATE ROLE r_group;
CREATE ROLE r_other NOINHERIT;
GRANT r_group TO r_owner WITH ADMIN OPTION;
SET ROLE r_owner;
GRANT r_group TO r_user;
RESET ROLE;
GRANT pg_read_all_data TO r_other;
ALTER ROLE r_user SET search_path = a, "B c";
ALTER ROLE r_user IN DATABASE role_tests SET work_mem = '3MB';
ALTER ROLE r_user SET app.tenant = 'it''s, one';
ALTER ROLE ALL SET idle_in_transaction_session_timeout = '7min';
COMMENT ON ROLE r_group IS 'a comment';
GRANT SET ON PARAMETER session_replication_role TO r_group;
"""
TEARDOWN = """
ALTER ROLE ALL RESET ALL;
DROP OWNED BY r_owner, r_user, r_group, r_other CASCADE;
DROP ROLE r_user; DROP ROLE r_owner; DROP ROLE r_group; DROP ROLE r_other;
"""


@pytest.fixture(scope="module", params=SERVERS)
def role_server(
    request: pytest.FixtureRequest, docker_image: Callable[[str], None]
) -> Iterator[psycopg.Connection]:
    kind, _, tag = request.param.partition(":")
    if kind == "container":
        docker_image(tag)
    server = empty_server(request.param)
    try:
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}".encode())
            yield connection
    finally:
        server.close()


@pytest.fixture
def connection(role_server: psycopg.Connection) -> Iterator[psycopg.Connection]:
    role_server.execute(SETUP)
    before = roles.snapshot(role_server)
    try:
        yield role_server
    finally:
        # Whatever a failing test leaves must not fail the next one.
        roles.restore(role_server, before)
        role_server.execute(TEARDOWN)


MEMBERSHIP_16 = """
REVOKE r_group FROM r_owner CASCADE;
GRANT r_group TO r_owner WITH ADMIN FALSE, INHERIT FALSE, SET FALSE
"""

CHANGES = {
    "bypass": "ALTER ROLE r_user BYPASSRLS",
    "every attribute": "ALTER ROLE r_other SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION"
    " BYPASSRLS CONNECTION LIMIT 3 PASSWORD 'x' VALID UNTIL 'infinity'",
    "valid until": "ALTER ROLE r_user VALID UNTIL '2030-01-01'",
    "password": "ALTER ROLE r_user PASSWORD 'other'",
    "no password": "ALTER ROLE r_user PASSWORD NULL",
    "grant": "GRANT r_group TO r_other WITH ADMIN OPTION",
    "grant by another": "SET ROLE r_owner; GRANT r_group TO r_other; RESET ROLE",
    "predefined": "GRANT pg_write_all_data TO r_user",
    "revoke": "REVOKE pg_read_all_data FROM r_other",
    "revoke in a chain": "REVOKE r_group FROM r_owner CASCADE; REVOKE r_group FROM r_user",
    "setting": "ALTER ROLE r_user SET search_path = other",
    "setting in a database": "ALTER ROLE r_user IN DATABASE role_tests RESET ALL",
    "new setting": "ALTER ROLE r_group SET work_mem = '1MB'",
    "setting of all": "ALTER ROLE ALL RESET ALL",
    "comment": "COMMENT ON ROLE r_group IS 'other'; COMMENT ON ROLE r_user IS 'new'",
    "no comment": "COMMENT ON ROLE r_group IS NULL",
    "parameter": "REVOKE SET ON PARAMETER session_replication_role FROM r_group;"
    " GRANT ALTER SYSTEM ON PARAMETER work_mem TO r_user",
    "created": "CREATE ROLE r_new LOGIN; GRANT r_new TO r_user; GRANT r_group TO r_new;"
    " GRANT CREATE ON DATABASE role_tests TO r_new; GRANT SET ON PARAMETER work_mem TO r_new",
    "created with a grant of its own": "CREATE ROLE r_new;"
    " GRANT r_group TO r_new WITH ADMIN OPTION; SET ROLE r_new; GRANT r_group TO r_other;"
    " RESET ROLE",
    "renamed": "ALTER ROLE r_user RENAME TO r_renamed",
    "swapped": "ALTER ROLE r_user RENAME TO r_x; ALTER ROLE r_other RENAME TO r_user;"
    " ALTER ROLE r_x RENAME TO r_other",
    "renamed and its name taken": "ALTER ROLE r_user RENAME TO r_x; CREATE ROLE r_user SUPERUSER",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_undone(connection: psycopg.Connection, change: str) -> None:
    before = roles.snapshot(connection)
    connection.execute(CHANGES[change].encode())
    assert roles.snapshot(connection) != before
    # As it comes back from a file.
    assert roles.restore(connection, json.loads(json.dumps(before)))
    assert roles.snapshot(connection) == before
    assert not roles.restore(connection, before)


def test_membership_options_are_put_back(connection: psycopg.Connection) -> None:
    if connection.info.server_version < roles.VERSION_WITH_MEMBERSHIP_OPTIONS:
        pytest.skip("memberships have options since PostgreSQL 16")
    before = roles.snapshot(connection)
    connection.execute(MEMBERSHIP_16)
    assert roles.snapshot(connection) != before
    roles.restore(connection, before)
    assert roles.snapshot(connection) == before


def test_a_dropped_role_comes_back(connection: psycopg.Connection) -> None:
    before = roles.snapshot(connection)
    connection.execute("DROP OWNED BY r_user")
    connection.execute("DROP ROLE r_user")
    roles.restore(connection, before)

    def without_oids(snapshot: roles.RoleSnapshot) -> Any:
        return {**snapshot, "roles": [role[1:] for role in snapshot["roles"]]}

    assert without_oids(roles.snapshot(connection)) == without_oids(before)


def test_a_restored_password_works(connection: psycopg.Connection) -> None:
    hashed = "SELECT rolpassword FROM pg_authid WHERE rolname = 'r_user'"
    before = connection.execute(hashed).fetchone()
    snapshot = roles.snapshot(connection)
    connection.execute("ALTER ROLE r_user PASSWORD 'other'")
    roles.restore(connection, snapshot)
    assert connection.execute(hashed).fetchone() == before
    assert before
    assert before[0].startswith("SCRAM-SHA-256$")


def test_the_session_keeps_its_settings(connection: psycopg.Connection) -> None:
    connection.execute("SET timezone = 'Asia/Tokyo'")
    roles.restore(connection, roles.snapshot(connection))
    assert connection.execute("SHOW timezone").fetchone() == ("Asia/Tokyo",)
