"""Finds out what migrations and patches do outside their own database, before they do it elsewhere.

They run on a server of our own first, on which the other's roles, databases and tablespaces are
(their names and attributes, nothing in them). What the catalogs that databases share say before and
after is compared: a role that was not there may be made, what was there may not be altered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import tuple_row

from invariants.errors import InfrastructureError, InvariantsError
from invariants.servers import roles
from invariants.servers.base import Content, Say, connect, create_database, database_message
from invariants.servers.marks import marked
from invariants.servers.patches import apply_patch

ALLOW = "--disposable-server allows it, and --server embedded has a server of its own"
SHOWN = 5
# Superuser of the copy while it is being made: the one that is there may have to be renamed.
BUILDER = "invariants_builder"
# Stands for every password: whether one is set is all that has to be known.
NO_PASSWORD = "md5" + "0" * 32
# Databases and tablespaces of the copy are entries of a catalog and nothing else.
FIRST_OID = 4_000_000_000
_MISSING = re.compile(r'extension "([^"]+)" is not available')

# What is shared by all databases of a server, row by row: kind, identity, name, state; and the role
# and the database that the row is about, if it is about nothing else.
_SHARED = """
SELECT 'role' AS kind, oid::text AS id, rolname::text AS name,
  (to_jsonb(a) - 'oid')::text AS state, oid::bigint AS role, 0::bigint AS database
FROM pg_authid a
UNION ALL
SELECT 'membership', roleid || '/' || member || '/' || grantor,
  pg_get_userbyid(member) || ' in ' || pg_get_userbyid(roleid),
  (to_jsonb(m) - 'oid')::text, member::bigint, 0
FROM pg_auth_members m
UNION ALL
SELECT 'settings', setdatabase || '/' || setrole,
  'of ' || CASE WHEN setrole = 0 THEN 'all roles' ELSE 'role ' || pg_get_userbyid(setrole) END
    || coalesce(' in database ' || d.datname, ''),
  setconfig::text, CASE WHEN setdatabase = 0 THEN setrole::bigint ELSE 0 END, setdatabase::bigint
FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = setdatabase
UNION ALL
SELECT 'database', oid::text, datname::text,
  (to_jsonb(d) - '{oid,datfrozenxid,datminmxid}'::text[])::text, 0, oid::bigint
FROM pg_database d
UNION ALL
SELECT 'tablespace', oid::text, spcname::text, to_jsonb(t)::text, 0, 0 FROM pg_tablespace t
UNION ALL
SELECT 'privileges on parameter', parname, parname, paracl::text, 0, 0 FROM pg_parameter_acl
UNION ALL
SELECT 'comment', classoid || '/' || objoid,
  'on ' || coalesce('role ' || r.rolname, 'database ' || d.datname, 'object ' || objoid),
  description, coalesce(r.oid::bigint, 0), coalesce(d.oid::bigint, 0)
FROM pg_shdescription c
LEFT JOIN pg_authid r ON classoid = 'pg_authid'::regclass AND r.oid = objoid
LEFT JOIN pg_database d ON classoid = 'pg_database'::regclass AND d.oid = objoid
UNION ALL
SELECT 'security label', classoid || '/' || objoid || '/' || provider,
  'on ' || coalesce('role ' || r.rolname, 'database ' || d.datname, 'object ' || objoid),
  label, coalesce(r.oid::bigint, 0), coalesce(d.oid::bigint, 0)
FROM pg_shseclabel c
LEFT JOIN pg_authid r ON classoid = 'pg_authid'::regclass AND r.oid = objoid
LEFT JOIN pg_database d ON classoid = 'pg_database'::regclass AND d.oid = objoid
UNION ALL
SELECT 'subscription', oid::text, subname::text, to_jsonb(s)::text, 0, 0 FROM pg_subscription s
UNION ALL
SELECT 'replication slot', slot_name, slot_name::text, '', 0, 0 FROM pg_replication_slots
UNION ALL
SELECT 'replication origin', roident::text, roname, '', 0, 0 FROM pg_replication_origin
UNION ALL
SELECT 'setting of the server', name, name, setting, 0, 0 FROM pg_file_settings
WHERE sourcefile LIKE '%postgresql.auto.conf'
"""


@dataclass(frozen=True)
class Shared:
    """One row of what all databases of a server share."""

    kind: str
    id: str
    name: str
    state: str
    role: int
    database: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def roles_made(
    theirs: psycopg.Connection[Any], template: str, content: Content, say: Say
) -> tuple[str, ...]:
    """The roles that the content makes on a server, by name, besides the database `template`.

    Raises InfrastructureError naming what of the server it would alter.
    """
    from invariants.servers.binaries import nearest

    there = nearest(theirs.info.server_version // 10000)
    lacking: set[str] = set()
    wrong: Exception | str = "no package with PostgreSQL is installed"
    for binaries in there:
        if not lacking <= binaries.extensions:
            continue
        try:
            made = _tried_on(binaries.major, theirs, template, content)
        except InvariantsError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            lacking.add(missing[1])
            wrong = error
            continue
        if made:
            say(f"server: for the length of the run there are roles {', '.join(made)} on it")
        return made
    raise InfrastructureError(
        "what the migrations do outside their own database cannot be found out first: there is no "
        f"server of our own to try them on ({wrong}); give --disposable-server if nothing on that "
        "server is to be kept"
    )


def _tried_on(
    major: int, theirs: psycopg.Connection[Any], template: str, content: Content
) -> tuple[str, ...]:
    """The roles that the content makes on a copy of a server, of that major version."""
    with _copy_of(major, theirs, template) as (conninfo, admin):
        before = _shared(admin)
        known = {row.role for row in before.values()}
        database = _oid(admin, template)
        steps: list[tuple[str, Callable[[], None]]] = [
            ("the migrations", lambda: content.fill(conninfo)),
            *((f"--apply-sql {p}", _applying(conninfo, p, content)) for p in content.patches),
        ]
        made: dict[str, None] = {}
        for what, step in steps:
            _tried(step)
            after = _shared(admin)
            touched = [
                line
                for row, line in _differences(before, after)
                if not ((row.role and row.role not in known) or row.database == database)
            ]
            if touched:
                raise InfrastructureError(
                    f"--server: {what} would alter what is not the run's own on that server: "
                    f"{_listed(touched)}; {ALLOW}"
                )
            made |= {
                row.name: None
                for row in after.values()
                if row.kind == "role" and row.role not in known
            }
    return tuple(made)


def _tried(step: Callable[[], None]) -> None:
    try:
        step()
    except InvariantsError as error:
        told = (
            f"{error} (tried on a server of our own first, to find out what it does outside its "
            "database; --disposable-server leaves that out)"
        )
        raise type(error)(told) from error


def _applying(conninfo: str, patch: Path, content: Content) -> Callable[[], None]:
    return lambda: apply_patch(conninfo, patch, limit_seconds=content.patch_seconds)


def _differences(
    before: dict[tuple[str, str], Shared], after: dict[tuple[str, str], Shared]
) -> Iterator[tuple[Shared, str]]:
    for key, row in after.items():
        if key not in before:
            yield row, f"{row} is made"
        elif before[key] != row:
            yield before[key], f"{before[key]} is altered"
    for key, row in before.items():
        if key not in after:
            yield row, f"{row} is removed"


def _listed(lines: Sequence[str]) -> str:
    more = len(lines) - SHOWN
    return ", ".join(lines[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shared(connection: psycopg.Connection[Any]) -> dict[tuple[str, str], Shared]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = (Shared(*row) for row in cursor.execute(_SHARED.encode()))
        return {(row.kind, row.id): row for row in rows}


def _oid(connection: psycopg.Connection[Any], database: str) -> int:
    row = connection.execute(
        "SELECT oid::bigint FROM pg_database WHERE datname = %s", [database]
    ).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _copy_of(
    major: int, theirs: psycopg.Connection[Any], template: str
) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """A server of our own that has the same roles and databases by name, and an empty template.

    Yields the conninfo of the template, as the same role as on theirs, and a superuser's session.
    """
    from invariants.servers.embedded import open_embedded

    server = open_embedded(
        major, Content("nothing", lambda _: None), reason="to try things", say=lambda _: None
    )
    try:
        with connect(server.conninfo) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} SUPERUSER LOGIN").format(sql.Identifier(BUILDER))
            )
        with connect(make_conninfo(server.conninfo, user=BUILDER)) as admin:
            _copy(theirs, admin)
            user = theirs.info.user
            own = make_conninfo(server.conninfo, user=user)
            with connect(own) as connection:
                create_database(connection, template)
            yield make_conninfo(own, dbname=template), admin
    finally:
        server.close()


def _copy(theirs: psycopg.Connection[Any], admin: psycopg.Connection[Any]) -> None:
    skipped = set(marked(theirs))
    try:
        for catalog, column in (("pg_database", "datname"), ("pg_tablespace", "spcname")):
            names = _names(theirs, catalog, column) - _names(admin, catalog, column) - skipped
            _invent(admin, catalog, column, sorted(names))
        wanted = roles.snapshot(theirs)
        ours = next(row for row in roles.snapshot(admin)["roles"] if row[1] == BUILDER)
        wanted["roles"] = [[*r[:10], r[10] and NO_PASSWORD, r[11]] for r in wanted["roles"]]
        wanted["roles"].append(ours)
        wanted["settings"] = [s for s in wanted["settings"] if s[0] not in skipped]
        if (theirs.info.server_version < roles.VERSION_WITH_MEMBERSHIP_OPTIONS) != (
            admin.info.server_version < roles.VERSION_WITH_MEMBERSHIP_OPTIONS
        ):
            wanted["memberships"] = [
                [role, member, None, admin_option, True, True]
                for role, member, _, admin_option, *_ in wanted["memberships"]
            ]
        roles.restore(admin, wanted)
    except psycopg.Error as error:
        raise InfrastructureError(
            "the roles and databases of the server cannot be had on a server of our own, to try "
            f"things on: {database_message(error)}; give --disposable-server if nothing on that "
            "server is to be kept"
        ) from error


def _names(connection: psycopg.Connection[Any], catalog: str, column: str) -> set[str]:
    rows = connection.execute(f"SELECT {column} FROM {catalog}".encode()).fetchall()
    return {name for (name,) in rows}


def _invent(
    admin: psycopg.Connection[Any], catalog: str, column: str, names: Iterable[str]
) -> None:
    """Enter databases or tablespaces that are names and no more: there is nothing to copy."""
    for number, name in enumerate(names):
        admin.execute(
            f"INSERT INTO {catalog} SELECT (jsonb_populate_record(c,"
            f" jsonb_build_object('oid', %s::bigint, '{column}', %s::text))).*"
            f" FROM {catalog} c ORDER BY oid LIMIT 1".encode(),
            [FIRST_OID + number, name],
        )
