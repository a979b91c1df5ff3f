"""The schema of a database that is there: copied by pg_dump, read only, with its roles."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from invariants.errors import InfrastructureError
from invariants.schema.chain import TIMEOUT_SECONDS, Chain, Lineage
from invariants.schema.runner import Say
from invariants.schema.sources.command import leading_to, only
from invariants.schema.sources.sqlfiles import run_script

NAME = "database"
# Read only, whatever the defaults there are, and never waiting for a lock.
_READ_ONLY = "-c default_transaction_read_only=on -c lock_timeout=10s -c search_path=pg_catalog"
_ATTRIBUTES = {
    "rolsuper": "SUPERUSER",
    "rolinherit": "INHERIT",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolcanlogin": "LOGIN",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}
# Those that something in this database belongs to, is granted to or is about, and what they are in.
_ROLES = """
WITH RECURSIVE named AS (
    SELECT refobjid AS oid FROM pg_shdepend
    WHERE refclassid = 'pg_authid'::regclass
      AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    UNION SELECT unnest(polroles) FROM pg_policy
    UNION SELECT datdba FROM pg_database WHERE datname = current_database()
    UNION SELECT oid FROM pg_roles WHERE rolcanlogin OR rolname !~ '^pg_'
    UNION SELECT m.roleid FROM pg_auth_members m JOIN named n ON n.oid = m.member
)
SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
       rolbypassrls
FROM pg_roles r WHERE r.oid IN (SELECT oid FROM named) AND rolname !~ '^pg_'
ORDER BY 1
"""
_MEMBERSHIPS = """
SELECT a.rolname, b.rolname FROM pg_auth_members m
JOIN pg_roles a ON a.oid = m.roleid JOIN pg_roles b ON b.oid = m.member
WHERE b.rolname !~ '^pg_' ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Database:
    """A database whose schema is copied. `with_data` are tables whose rows come along.

    `pg_dump` finds the program that reads it. Nothing is written to it.
    """

    url: str = field(repr=False)
    pg_dump: Callable[[int], Path]
    with_data: tuple[str, ...] = ()
    timeout_seconds: float = TIMEOUT_SECONDS

    def at(self, revision: str) -> Database:
        """Itself: it has one revision. Raises `UsageError` for any other."""
        only(revision, NAME, "a database")
        return self

    def read(self) -> Chain:
        """A chain of one revision; the fingerprint is of all that is copied."""
        digest = hashlib.sha256(self._dump().encode())
        digest.update(repr(self._roles()).encode())
        return Chain(Lineage((NAME,), (NAME,)), {NAME: "as it is there"}, digest.hexdigest())

    def fill(self, conninfo: str, say: Say | None = None) -> None:
        """Make its roles where they are missing, then what it holds."""
        del say
        roles, memberships = self._roles()
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for name, *attributes in roles:
                words = [
                    word if has else f"NO{word}"
                    for word, has in zip(_ATTRIBUTES.values(), attributes, strict=True)
                ]
                with suppress(psycopg.errors.DuplicateObject):
                    connection.execute(
                        sql.SQL("CREATE ROLE {} ").format(sql.Identifier(name))
                        + sql.SQL(" ".join(words))
                    )
            for role, member in memberships:
                with suppress(psycopg.errors.UndefinedObject):
                    connection.execute(
                        sql.SQL("GRANT {} TO {}").format(
                            sql.Identifier(role), sql.Identifier(member)
                        )
                    )
            dumped = self._dump()
            # A new database has it, and a dump does not say when it is as it always is.
            if re.search(r"^CREATE SCHEMA public;", dumped, re.MULTILINE) or not self._has_public():
                connection.execute("DROP SCHEMA IF EXISTS public")
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "schema.sql"
            script.write_text(dumped, encoding="utf-8")
            run_script(conninfo, script, self.timeout_seconds)

    def _roles(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        with self._connected() as connection:
            return (
                connection.execute(_ROLES).fetchall(),
                connection.execute(_MEMBERSHIPS).fetchall(),
            )

    def _has_public(self) -> bool:
        with self._connected() as connection:
            query = "SELECT FROM pg_namespace WHERE nspname = 'public'"
            return connection.execute(query).fetchone() is not None

    def _connected(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(self.url, options=_READ_ONLY, connect_timeout=10)
        except psycopg.Error as error:
            message = str(error).strip().splitlines()[0]
            raise InfrastructureError(f"--schema URL: {message}") from None

    def _dump(self) -> str:
        with self._connected() as connection:
            major = connection.info.server_version // 10000
        program = self.pg_dump(major)
        common = ["--no-publications", "--no-subscriptions", "--no-tablespaces", "--encoding=UTF8"]
        return self._run(program, ["--schema-only", *common]) + (
            self._run(
                program,
                ["--data-only", *common, *(f"--table={_pattern(t)}" for t in self.with_data)],
            )
            if self.with_data
            else ""
        )

    def _run(self, program: Path, arguments: Sequence[str]) -> str:
        environment = {**leading_to(self.url), "PGOPTIONS": _READ_ONLY}
        for name, value in conninfo_to_dict(self.url).items():
            if name.startswith("ssl") and value is not None:
                environment[f"PG{name.upper()}"] = str(value)
        environment.pop("DATABASE_URL")
        if os.environ.get("PGPASSFILE"):
            environment["PGPASSFILE"] = os.environ["PGPASSFILE"]
        try:
            done = subprocess.run(
                [program, *arguments],
                env=environment,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                check=False,
                timeout=self.timeout_seconds,
            )
        except subprocess.TimeoutExpired:
            raise InfrastructureError(
                f"--schema URL: pg_dump was not done after {self.timeout_seconds:g} s"
            ) from None
        if done.returncode != 0:
            told = done.stderr.decode(errors="replace").strip().splitlines() or ["pg_dump failed"]
            raise InfrastructureError(f"--schema URL: {told[0][:300]}")
        # The key that guards a dump is new each time, and would make it look changed.
        return re.sub(r"^\\(un)?restrict .*\n", "", done.stdout.decode(), flags=re.MULTILINE)


def _pattern(table: str) -> str:
    """The table, and no pattern: pg_dump takes names as patterns."""
    return ".".join(f'"{part.replace(chr(34), 2 * chr(34))}"' for part in table.split("."))
