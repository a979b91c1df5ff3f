"""The journal: a small database of our own on a server that is somebody else's.

It holds the lock that makes runs take turns, and what a run that was killed has left: the next one
that gets the lock cleans up by it. It goes with the last run. (An advisory lock belongs to a
database, so it has to be the same one whatever the URL names; and what is noted of roles may hold
password hashes, so that no comment could.)
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from invariants.errors import InfrastructureError
from invariants.servers import logins, provenance, roles
from invariants.servers.base import (
    Say,
    connect,
    create_database,
    database_message,
    drop_database,
    where,
)
from invariants.servers.marks import DATABASE_PREFIX, marked

NAME = f"{DATABASE_PREFIX}journal_"
COMMENT = "Journal of the invariants fuzzer; dropped when its last run ends."
# An arbitrary number: "invaria" in ASCII.
LOCK_KEY = 0x696E7661726961
LOCK_POLL_SECONDS = 0.2
# For the moment in which a journal is found, made or dropped.
MUTEX_SECONDS = 60

TABLES = f"""
CREATE TABLE IF NOT EXISTS public.run (token text PRIMARY KEY, migrating boolean NOT NULL,
  planned text[] NOT NULL, roles jsonb, started timestamptz NOT NULL DEFAULT now());
{provenance.TABLES}
"""


@dataclass(frozen=True)
class Journal:
    """The journal while this run has the lock: for as long as `session` is open."""

    session: psycopg.Connection[Any]
    conninfo: str

    @property
    def lost(self) -> bool:
        """Whether the lock is gone, with the connection: the server restarted under us."""
        return self.session.closed or self.session.broken

    def begin(
        self, token: str, planned: Sequence[str], before: roles.RoleSnapshot | None = None
    ) -> None:
        """Note a run before it creates anything: there is no moment to be killed in.

        `planned` are the roles that its migrations will make; `before`, on a server that may be
        altered, is what all roles are put back to.
        """
        self.session.execute(
            "INSERT INTO public.run (token, migrating, planned, roles) VALUES (%s, true, %s, %s)",
            [token, list(planned), json.dumps(before) if before is not None else None],
        )

    def migrated(self, token: str) -> None:
        """Note that the migrations of a run have ended: what it makes from now on is noted."""
        self.session.execute("UPDATE public.run SET migrating = false WHERE token = %s", [token])

    def clean_up(self, conninfo: str, say: Say) -> bool:
        """Remove what all runs have left; True when there was one. What cannot go is said."""
        runs = self.session.execute(
            "SELECT token, migrating, planned, roles FROM public.run ORDER BY started DESC"
        ).fetchall()
        with connect(conninfo) as connection:
            for token, migrating, planned, _ in runs:
                if migrating and planned:
                    self._prove(conninfo, connection, token, planned)
            there = marked(connection, r"[0-9a-f]{8}_")
            stuck = _drop_databases(connection, there, say)
            # Where a database stays, what it needs of roles does; the next run tries again.
            for token, _, _, before in runs if not stuck else ():
                for line in provenance.drop_roles(self.session, token):
                    say(f"server: {line}")
                if before is not None:
                    try:
                        logins.drop_logins(self.session, f"{DATABASE_PREFIX}{token}_")
                        # In the journal's session: what it drops of a role, it drops there only.
                        roles.restore(self.session, before)
                    except (InfrastructureError, psycopg.Error) as error:
                        say(f"server: {str(error).splitlines()[0]}; it stays as it is")
                for table in ("made", "written", "run"):
                    self.session.execute(
                        f"DELETE FROM public.{table} WHERE token = %s".encode(), [token]
                    )
        return bool(runs or there)

    def _prove(
        self, conninfo: str, connection: psycopg.Connection, token: str, planned: Sequence[str]
    ) -> None:
        """What a run that was killed while it migrated has made: its transactions were ours."""
        template = f"{DATABASE_PREFIX}{token}_template"
        if template not in marked(connection):
            return
        with contextlib.suppress(InfrastructureError, psycopg.Error):
            by = provenance.transactions_of(make_conninfo(conninfo, dbname=template))
            provenance.note(self.session, token, planned, by)

    def close(self, conninfo: str) -> None:
        """Give the lock back; the journal goes unless somebody waits in it."""
        left = self.session.execute("SELECT to_regclass('public.run')").fetchone() != (None,)
        left = left and bool(self.session.execute("SELECT 1 FROM public.run").fetchone())
        self.session.close()
        if left:
            return
        name = str(psycopg.conninfo.conninfo_to_dict(self.conninfo)["dbname"])
        with connect(conninfo) as connection, _mutex(conninfo):
            busy = "SELECT 1 FROM pg_stat_activity WHERE datname = %s"
            if connection.execute(busy, [name]).fetchone() is None:
                drop_database(connection, name, force=False)


def acquire(conninfo: str, say: Say, *, wait_seconds: float, variable: str) -> Journal:
    """Wait for the lock and return the journal. Raises InfrastructureError when it takes too long.

    `variable` is the one that sets how long, for the message.
    """
    deadline = time.monotonic() + wait_seconds
    try:
        journal = _open(conninfo)
    except psycopg.Error as error:
        raise InfrastructureError(f"{where(conninfo)}: {database_message(error)}") from error
    try:
        told = False
        while not _try_lock(journal.session):
            if not told:
                say("server: another run is using it; waiting for its end")
                told = True
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"{where(conninfo)}: another run has used it for {wait_seconds:.0f} s; try "
                    f"again later or set {variable} to wait longer"
                )
            time.sleep(LOCK_POLL_SECONDS)
        journal.session.execute(TABLES.encode())
    except BaseException as error:
        with contextlib.suppress(InfrastructureError, psycopg.Error):
            journal.close(conninfo)
        if isinstance(error, psycopg.Error):
            raise InfrastructureError(f"{where(conninfo)}: {database_message(error)}") from error
        raise
    return journal


def _try_lock(session: psycopg.Connection[Any]) -> bool:
    row = session.execute("SELECT pg_try_advisory_lock(%s::bigint)", [LOCK_KEY]).fetchone()
    return bool(row and row[0])


def _open(conninfo: str) -> Journal:
    """Connect to the journal that is there, or to a new one."""
    with connect(conninfo) as connection, _mutex(conninfo):
        there = marked(connection, r"journal_[0-9a-f]+$")
        name = there[0] if there else f"{NAME}{secrets.token_hex(6)}"
        if not there:
            create_database(connection, name, comment=COMMENT)
            connection.execute(
                sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name))
            )
        target = make_conninfo(conninfo, dbname=name)
        session = connect(target)
        # What is noted must be there after a crash of the server, when what it is about may be.
        session.execute("SET synchronous_commit = local")
        return Journal(session, target)


@contextlib.contextmanager
def _mutex(conninfo: str) -> Iterator[None]:
    """Nobody else finds, makes or drops a journal meanwhile, whichever database they came by.

    A lock of the whole server without a database of our own: one on a shared catalog that nothing
    but VACUUM and another of us conflicts with.
    """
    with connect(conninfo) as connection, connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{MUTEX_SECONDS}s'".encode())
        connection.execute("LOCK TABLE pg_catalog.pg_shseclabel IN SHARE UPDATE EXCLUSIVE MODE")
        yield


def _drop_databases(connection: psycopg.Connection, names: Sequence[str], say: Say) -> bool:
    """Drop databases of ours, of all runs; True when one of them stays."""
    stuck = False
    for name in names:
        try:
            drop_database(connection, name)
        except psycopg.Error as error:
            stuck = True
            say(f"server: database {name} of ours stays: {database_message(error)}")
    return stuck
