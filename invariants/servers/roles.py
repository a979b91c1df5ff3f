"""Takes a snapshot of a server's roles and puts them back.

Roles belong to the server, not to a database, so no scratch database protects them: what a patch
or a mutant does to one is undone here. Part of a snapshot: attributes with password hashes,
memberships with their options and grantors, settings, comments, privileges on parameters.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypedDict

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from invariants.errors import InfrastructureError

# Since 16 a membership has options and one row per grantor; before, one row and no options.
VERSION_WITH_MEMBERSHIP_OPTIONS = 160000


class RoleSnapshot(TypedDict):
    """The roles of a server as JSON-able data. It holds password hashes: keep it private."""

    roles: list[list[Any]]
    memberships: list[list[Any]]
    settings: list[list[Any]]
    comments: list[list[Any]]
    parameters: list[list[Any]]


# The logins of a run are no part of a snapshot: they stay while it lasts (`servers.logins`).
LOGINS = "'^invariants_([0-9a-f]+_)?as_'"
# Predefined roles (pg_*) cannot be altered; memberships in them can.
_ROLES = f"""
SELECT oid::bigint, rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
       rolreplication, rolbypassrls, rolconnlimit, rolpassword, rolvaliduntil::text
FROM pg_authid WHERE rolname !~ '^pg_' AND rolname !~ {LOGINS} ORDER BY rolname
"""
_ATTRIBUTES = (
    "SUPERUSER",
    "INHERIT",
    "CREATEROLE",
    "CREATEDB",
    "LOGIN",
    "REPLICATION",
    "BYPASSRLS",
)
_MEMBERSHIPS = f"""
SELECT role.rolname, member.rolname, grantor.rolname, m.admin_option, {{options}}
FROM pg_auth_members m
JOIN pg_authid role ON role.oid = m.roleid
JOIN pg_authid member ON member.oid = m.member
LEFT JOIN pg_authid grantor ON grantor.oid = m.grantor
WHERE member.rolname !~ {LOGINS}
ORDER BY 1, 2, 3
"""
_SETTINGS = f"""
SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), s.setconfig
FROM pg_db_role_setting s
LEFT JOIN pg_database d ON d.oid = s.setdatabase
LEFT JOIN pg_authid r ON r.oid = s.setrole
WHERE (s.setrole <> 0 OR s.setdatabase = 0) AND (s.setdatabase = 0 OR d.oid IS NOT NULL)
  AND coalesce(r.rolname, '') !~ {LOGINS}
ORDER BY 1, 2
"""
_COMMENTS = """
SELECT r.rolname, c.description FROM pg_shdescription c
JOIN pg_authid r ON r.oid = c.objoid
WHERE c.classoid = 'pg_authid'::regclass ORDER BY 1
"""
_PARAMETERS = """
SELECT p.parname, coalesce(r.rolname, ''), a.privilege_type, a.is_grantable
FROM pg_parameter_acl p, aclexplode(p.paracl) a LEFT JOIN pg_authid r ON r.oid = a.grantee
WHERE a.grantee <> a.grantor
ORDER BY 1, 2, 3
"""


def snapshot(connection: psycopg.Connection[Any]) -> RoleSnapshot:
    """Return every role of the server as it is now. The connection is a superuser's."""
    with connection.transaction():
        # Times are compared and written back as text.
        connection.execute("SET LOCAL timezone = 'UTC'")
        connection.execute("SET LOCAL datestyle = 'ISO'")
        return _snapshot(connection)


def restore(
    connection: psycopg.Connection[Any], wanted: RoleSnapshot, only: Collection[str] | None = None
) -> bool:
    """Make the server's roles what they were; True when anything had to be done.

    All of it happens or none. With `only`, these roles alone: others are left as they are now.
    Databases that depend on a role created since must be dropped first. Raises
    InfrastructureError when the server refuses.
    """
    try:
        with connection.transaction():
            connection.execute("SET LOCAL timezone = 'UTC'")
            connection.execute("SET LOCAL datestyle = 'ISO'")
            # A patch may have made the defaults of our own role strange.
            connection.execute("SET LOCAL search_path = pg_catalog")
            connection.execute("SET LOCAL session_replication_role = origin")
            now = _snapshot(connection)
            if only is not None:
                wanted = _merged(now, wanted, only)
            if now == wanted:
                return False
            _Restore(connection, wanted).run()
            return True
    except psycopg.Error as error:
        message = (error.diag.message_primary or str(error)).splitlines()[0]
        detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
        raise InfrastructureError(
            f"cannot put the server's roles back: {message}{detail}"
        ) from error


def _snapshot(connection: psycopg.Connection[Any]) -> RoleSnapshot:
    if connection.info.server_version >= VERSION_WITH_MEMBERSHIP_OPTIONS:
        options = "m.inherit_option, m.set_option"
    else:
        options = "NULL::boolean, NULL::boolean"
    return {
        "roles": _rows(connection, _ROLES),
        "memberships": _rows(connection, _MEMBERSHIPS.replace("{options}", options)),
        "settings": _rows(connection, _SETTINGS),
        "comments": _rows(connection, _COMMENTS),
        "parameters": _parameters(connection),
    }


def _parameters(connection: psycopg.Connection[Any]) -> list[list[Any]]:
    """Privileges on parameters, which PostgreSQL 14 does not have."""
    granted = connection.info.server_version >= 150000
    return _rows(connection, _PARAMETERS) if granted else []


def _merged(now: RoleSnapshot, wanted: RoleSnapshot, only: Collection[str]) -> RoleSnapshot:
    """What is now, except for some roles: their rows, and what they are members of, as wanted."""

    def merged(part: str, role: int) -> list[list[Any]]:
        rows: list[list[Any]] = [r for r in now[part] if r[role] not in only]  # type: ignore[literal-required]
        rows += [r for r in wanted[part] if r[role] in only]  # type: ignore[literal-required]
        return sorted(rows, key=str)

    return {
        "roles": merged("roles", 1),
        "memberships": merged("memberships", 1),
        "settings": merged("settings", 1),
        "comments": merged("comments", 0),
        "parameters": now["parameters"],
    }


def _rows(connection: psycopg.Connection[Any], query: str) -> list[list[Any]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return [list(row) for row in cursor.execute(query.encode())]


class _Restore:
    """One restoration, inside the caller's transaction."""

    def __init__(self, connection: psycopg.Connection[Any], wanted: RoleSnapshot) -> None:
        self._connection = connection
        self._wanted = wanted

    def run(self) -> None:
        """Put names back first, since everything else is by name; memberships after the roles."""
        self._names()
        self._revoke_memberships()
        self._existence()
        self._attributes()
        self._grant_memberships()
        self._settings()
        self._comments()
        self._parameters()

    def _execute(self, statement: str, *parts: sql.Composable | str) -> None:
        """Run a statement; a plain string among the parts is an identifier."""
        self._connection.execute(
            sql.SQL(statement).format(
                *(sql.Identifier(part) if isinstance(part, str) else part for part in parts)
            )
        )

    def _names(self) -> None:
        now = {oid: name for oid, name, *_ in _rows(self._connection, _ROLES)}
        before = {oid: name for oid, name, *_ in self._wanted["roles"]}
        moved = [oid for oid in before if oid in now and now[oid] != before[oid]]
        # Two roles may have swapped names, and a new one may have taken a name.
        for oid in moved:
            self._execute("ALTER ROLE {} RENAME TO {}", now[oid], f"invariants_moved_{oid}")
        for oid, name in now.items():
            if oid not in before and name in before.values():
                self._execute("ALTER ROLE {} RENAME TO {}", name, f"invariants_created_{oid}")
        for oid in moved:
            self._execute("ALTER ROLE {} RENAME TO {}", f"invariants_moved_{oid}", before[oid])

    def _existence(self) -> None:
        now = {name for _, name, *_ in _rows(self._connection, _ROLES)}
        before = {name for _, name, *_ in self._wanted["roles"]}
        created = sorted(now - before)
        for name in created:
            # Privileges on databases and parameters would keep the role alive.
            self._execute("DROP OWNED BY {} CASCADE", name)
        for name in created:
            self._execute("DROP ROLE {}", name)
        for name in sorted(before - now):
            self._execute("CREATE ROLE {}", name)

    def _attributes(self) -> None:
        now = {role[1]: role[2:] for role in _rows(self._connection, _ROLES)}
        for _, name, *attributes in self._wanted["roles"]:
            if now[name] == attributes:
                continue
            *flags, limit, password, until = attributes
            words = " ".join(
                word if on else f"NO{word}" for word, on in zip(_ATTRIBUTES, flags, strict=True)
            )
            self._execute(
                f"ALTER ROLE {{}} {words} CONNECTION LIMIT {int(limit)} PASSWORD {{}}",
                name,
                sql.Literal(password),  # a hash is stored as it is
            )
            if until is not None:
                self._execute("ALTER ROLE {} VALID UNTIL {}", name, sql.Literal(until))
            elif now[name][-1] is not None:
                # No statement sets it back to NULL, which is not the same as infinity.
                self._connection.execute(
                    "UPDATE pg_authid SET rolvaliduntil = NULL WHERE rolname = %s", [name]
                )

    def _memberships_now(self) -> list[list[Any]]:
        return _snapshot(self._connection)["memberships"]

    def _revoke_memberships(self) -> None:
        for membership in self._memberships_now():
            # An earlier revocation may have taken this one along.
            if membership in self._wanted["memberships"]:
                continue
            if membership not in self._memberships_now():
                continue
            role, member, grantor, *_ = membership
            by: sql.Composable = sql.SQL("")
            if self._by_grantor and grantor is not None:
                by = sql.SQL(" GRANTED BY {}").format(sql.Identifier(grantor))
            self._execute("REVOKE {} FROM {}{} CASCADE", role, member, by)

    @property
    def _by_grantor(self) -> bool:
        return self._connection.info.server_version >= VERSION_WITH_MEMBERSHIP_OPTIONS

    def _grant_memberships(self) -> None:
        present = self._memberships_now()
        missing = [m for m in self._wanted["memberships"] if m not in present]
        # A grantor needs ADMIN OPTION first, which may be among what is missing: take turns.
        while missing:
            refused: list[list[Any]] = []
            for membership in missing:
                try:
                    with self._connection.transaction():
                        self._grant(membership)
                except psycopg.Error:
                    if len(missing) == 1:
                        raise
                    refused.append(membership)
            if len(refused) == len(missing):
                self._grant(missing[0])  # raises, with the server's reason
            missing = refused

    def _grant(self, membership: list[Any]) -> None:
        role, member, grantor, admin, inherit, allow_set = membership
        if self._by_grantor:
            options = f" WITH ADMIN {bool(admin)}, INHERIT {bool(inherit)}, SET {bool(allow_set)}"
        else:
            options = " WITH ADMIN OPTION" if admin else ""
        by: sql.Composable = sql.SQL("")
        if grantor is not None:
            by = sql.SQL(" GRANTED BY {}").format(sql.Identifier(grantor))
        self._execute(f"GRANT {{}} TO {{}}{options}{{}}", role, member, by)

    def _settings(self) -> None:
        now = _rows(self._connection, _SETTINGS)
        # The catalog itself is written: ALTER ROLE .. SET would need every value quoted anew, and
        # by rules that differ between parameters.
        for setting in now:
            if setting not in self._wanted["settings"]:
                self._connection.execute(
                    "DELETE FROM pg_db_role_setting WHERE setdatabase = coalesce((SELECT oid FROM"
                    " pg_database WHERE datname = %s), 0) AND setrole = coalesce((SELECT oid FROM"
                    " pg_authid WHERE rolname = %s), 0)",
                    setting[:2],
                )
        for database, role, values in self._wanted["settings"]:
            if [database, role, values] not in now:
                self._connection.execute(
                    "INSERT INTO pg_db_role_setting SELECT coalesce(d.oid, 0), coalesce(r.oid, 0),"
                    " %(values)s FROM (VALUES (1)) one"
                    " LEFT JOIN pg_database d ON d.datname = %(database)s"
                    " LEFT JOIN pg_authid r ON r.rolname = %(role)s"
                    " WHERE %(database)s = '' OR d.oid IS NOT NULL",
                    {"values": values, "database": database, "role": role},
                )

    def _comments(self) -> None:
        now = dict(map(tuple, _rows(self._connection, _COMMENTS)))
        before = dict(map(tuple, self._wanted["comments"]))
        for name in now.keys() | before.keys():
            if now.get(name) != before.get(name):
                self._execute("COMMENT ON ROLE {} IS {}", name, sql.Literal(before.get(name)))

    def _parameters(self) -> None:
        now = _parameters(self._connection)
        before = self._wanted["parameters"]
        for parameter, grantee, privilege, grantable in now:
            if [parameter, grantee, privilege, grantable] not in before:
                self._execute(
                    f"REVOKE {privilege} ON PARAMETER {{}} FROM {{}} CASCADE",
                    _dotted(parameter),
                    _grantee(grantee),
                )
        for parameter, grantee, privilege, grantable in before:
            if [parameter, grantee, privilege, grantable] not in now:
                option = " WITH GRANT OPTION" if grantable else ""
                self._execute(
                    f"GRANT {privilege} ON PARAMETER {{}} TO {{}}{option}",
                    _dotted(parameter),
                    _grantee(grantee),
                )


def _dotted(parameter: str) -> sql.Composable:
    return sql.SQL(".").join(sql.Identifier(part) for part in parameter.split("."))


def _grantee(role: str) -> sql.Composable:
    return sql.Identifier(role) if role else sql.SQL("PUBLIC")
