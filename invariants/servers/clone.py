"""Clones the template, with what CREATE DATABASE leaves out: owner, privileges and settings.

A migration may have written all three (ALTER DATABASE .. OWNER TO, GRANT .. ON DATABASE, ALTER
DATABASE .. SET), and a clone without them is not the database the user has.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from invariants.servers.base import create_database


def clone_database(connection: psycopg.Connection, name: str, template: str) -> None:
    """Create a copy of `template`; `connection` is a superuser's, in autocommit."""
    create_database(connection, name, template)
    row = connection.execute(
        "SELECT pg_get_userbyid(datdba), pg_get_userbyid(datdba) <> current_user,"
        " datacl IS NOT NULL, EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid)"
        " FROM pg_database d WHERE datname = %s",
        [template],
    ).fetchone()
    assert row is not None
    owner, owner_differs, has_privileges, has_settings = row
    if owner_differs:
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                sql.Identifier(name), sql.Identifier(owner)
            )
        )
    if has_privileges:
        _copy_privileges(connection, name, template)
    if has_settings:
        _copy_settings(connection, name, template)


def _copy_privileges(connection: psycopg.Connection, name: str, template: str) -> None:
    database = sql.Identifier(name)
    granted = connection.execute(
        "SELECT coalesce(r.rolname, ''), a.privilege_type, a.is_grantable"
        " FROM pg_database d, aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee"
        " WHERE d.datname = %s AND a.grantee <> d.datdba",
        [template],
    ).fetchall()
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    for grantee, privilege, grantable in granted:
        connection.execute(
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege),
                database,
                sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC"),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
        )


def _copy_settings(connection: psycopg.Connection, name: str, template: str) -> None:
    # The catalog itself is written: ALTER DATABASE .. SET would need every value quoted anew, and
    # by rules that differ between parameters.
    connection.execute(
        "INSERT INTO pg_db_role_setting SELECT n.oid, s.setrole, s.setconfig"
        " FROM pg_db_role_setting s JOIN pg_database t ON t.oid = s.setdatabase, pg_database n"
        " WHERE t.datname = %s AND n.datname = %s",
        [template, name],
    )
