"""Logins that act for the roles of a schema: each owns nothing and is a member of one role alone.

An application logs in and acts as its role, or sets it. Who acts by SET ROLE in a superuser's
session is a superuser again as soon as anything resets the role. In a session of such a login
RESET ROLE, SET ROLE and SET SESSION AUTHORIZATION lead to the login and to what its role may
become, and nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from invariants.errors import UsageError
from invariants.servers.connect import SUPERUSER_SETTINGS
from invariants.servers.roles import LOGINS, VERSION_WITH_MEMBERSHIP_OPTIONS

# What a login has for its sessions because only a superuser may set it: besides what all of ours
# rely on no refusals in the server's log, and waits that are told and soon broken.
SETTINGS: Mapping[str, str] = {
    **SUPERUSER_SETTINGS,
    "log_min_messages": "fatal",
    "log_lock_waits": "on",
    "deadlock_timeout": "1ms",
}
_NAME_BYTES_MAX = 63


@dataclass(frozen=True)
class Login:
    """Who acts for a role, and how to connect as it."""

    name: str
    # Not shown: it holds a password.
    conninfo: str = field(repr=False)


def login_name(prefix: str, role: str) -> str:
    """The name of the login that acts for a role; `prefix` is of this run alone."""
    plain = f"{prefix}as_{role}"
    if re.fullmatch(r"[a-z0-9_]+", plain) and len(plain) <= _NAME_BYTES_MAX:
        return plain
    return f"{prefix}as_{hashlib.sha256(role.encode()).hexdigest()[:16]}"


def drop_logins(connection: psycopg.Connection, prefix: str) -> None:
    """Drop the logins of a run. Its databases go first, since logins may use them."""
    made = connection.execute(
        "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [f"{prefix}as_"]
    ).fetchall()
    for (name,) in made:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@contextmanager
def members_of_nothing(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction, undone at its end, in which no login is a member of its role.

    For questions about who may do what: the schema has not made the logins.
    """
    with connection.transaction(force_rollback=True):
        found = connection.execute(
            "SELECT role.rolname, member.rolname FROM pg_auth_members m"
            " JOIN pg_roles role ON role.oid = m.roleid"
            " JOIN pg_roles member ON member.oid = m.member"
            f" WHERE member.rolname ~ {LOGINS}"
        ).fetchall()
        for role, login in found:
            connection.execute(
                sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(role), sql.Identifier(login))
            )
        yield


def make_login(connection: psycopg.Connection, name: str, role: str, password: str) -> None:
    """Make the login unless it is there. The connection is a superuser's, in autocommit.

    A login is a member with all that its role has and may become, as if it were the role itself:
    what resets the role of a session loses no privilege by it, and gains none. Raises `UsageError`
    when there is no such role.
    """
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone():
        return
    # Whatever is logged of it is no password.
    secret = connection.pgconn.encrypt_password(password.encode(), name.encode()).decode()
    member = "GRANT {role} TO {name}"
    if connection.info.server_version >= VERSION_WITH_MEMBERSHIP_OPTIONS:
        member += " WITH INHERIT TRUE, SET TRUE"
    statements = [
        "CREATE ROLE {name} LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION"
        " NOBYPASSRLS PASSWORD {secret}",
        member,
        *(f"ALTER ROLE {{name}} SET {setting} = '{v}'" for setting, v in SETTINGS.items()),
    ]
    names = {
        "name": sql.Identifier(name),
        "role": sql.Identifier(role),
        "secret": sql.Literal(secret),
    }
    try:
        with connection.transaction():
            for statement in statements:
                connection.execute(sql.SQL(statement).format(**names))
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        # Another process of this run has just made it.
        return
    except psycopg.errors.UndefinedObject as error:
        raise UsageError(f"nobody can act as {role!r}: the database has no such role") from error
