"""An existing server, used as a guest: one run at a time, everything put back.

A small database of our own, the journal, holds the lock that makes runs take turns and the roles as
they were. A run that was killed is cleaned up from it by the next one that gets the lock. The
journal goes with the last run. (A comment on the template could not hold the roles: comments are
readable by everybody, password hashes must not be. An advisory lock belongs to a database, so it
has to be the same one whatever the URL names.)
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from invariants.errors import InfrastructureError, UsageError
from invariants.servers import logins, roles
from invariants.servers.base import (
    DATABASE_PREFIX,
    Content,
    Say,
    Server,
    ServerInfo,
    connect,
    create_database,
    database_message,
    drop_database,
    version_number,
    where,
)
from invariants.servers.connect import relying

JOURNAL = f"{DATABASE_PREFIX}journal"
JOURNAL_COMMENT = "Journal of the invariants fuzzer; dropped when its last run ends."
# An arbitrary number: "invaria" in ASCII.
LOCK_KEY = 0x696E7661726961
LOCK_WAIT_VARIABLE = "INVARIANTS_LOCK_SECONDS"
LOCK_WAIT_SECONDS = 900.0
LOCK_POLL_SECONDS = 0.2
CONNECT_SECONDS = 10
OLDEST_VERSION = 140000


class UrlServer(Server):
    """Somebody else's server, ours for the length of a run."""

    outlives_us = True

    def __init__(
        self, conninfo: str, journal: psycopg.Connection, token: str, info: ServerInfo, say: Say
    ) -> None:
        super().__init__()
        self.conninfo = conninfo
        self.info = info
        self.prefix = f"{DATABASE_PREFIX}{token}_"
        self.template = f"{self.prefix}template"
        self._journal = journal
        self._say = say

    def _close(self) -> None:
        try:
            if self._journal.closed:
                # The server restarted under us. Whoever has the lock now cleans up.
                self._journal = _acquire(self.conninfo, self._say, wait_seconds=1.0)
            with connect(self.conninfo) as connection:
                _clean_up(connection, self._journal)
            self._journal.close()
            _drop_journal(self.conninfo)
        except (InfrastructureError, psycopg.Error) as error:
            message = database_message(error) if isinstance(error, psycopg.Error) else error
            self._say(f"server: could not clean up ({message}); the next run on it does")
        finally:
            self._journal.close()


def open_url(spec: str, content: Content, *, reason: str, say: Say) -> UrlServer:
    """Take the server for a run and build the template on it, under names of our own.

    Waits while another run has it, for INVARIANTS_LOCK_SECONDS at most. Raises InfrastructureError
    when the server cannot be reached or used.
    """
    conninfo = _relying(_parse(spec))
    with connect(conninfo) as connection:
        _check(connection, conninfo)
        info = ServerInfo("url", version_number(connection), reason)
    journal = _acquire(conninfo, say, wait_seconds=_wait_seconds())
    token = secrets.token_hex(4)
    server = UrlServer(conninfo, journal, token, info, say)
    try:
        with connect(conninfo) as connection:
            if _clean_up(connection, journal):
                say("server: cleaned up after a run that had been killed")
            # Written before anything is created, so that there is no moment to be killed in.
            journal.execute(
                "INSERT INTO run (token, roles) VALUES (%s, %s)",
                [token, json.dumps(roles.snapshot(connection))],
            )
            create_database(
                connection, server.template, comment=f"Template of the invariants run {token}."
            )
        content.fill(make_conninfo(conninfo, dbname=server.template))
    except psycopg.Error as error:
        server.close()
        raise InfrastructureError(f"{where(conninfo)}: {database_message(error)}") from error
    except BaseException:
        server.close()
        raise
    return server


def _parse(spec: str) -> str:
    try:
        options = {name: str(value) for name, value in conninfo_to_dict(spec).items()}
    except psycopg.ProgrammingError:
        # The parser's message quotes the URL, and with it perhaps a password.
        raise UsageError(
            "--server: not a URL that libpq understands; for example postgresql://user@host/postgres"
        ) from None
    if "PGCONNECT_TIMEOUT" not in os.environ:
        options.setdefault("connect_timeout", str(CONNECT_SECONDS))
    return make_conninfo("", **options)


def _relying(conninfo: str) -> str:
    try:
        return relying(conninfo)
    except psycopg.Error as error:
        raise InfrastructureError(f"{where(conninfo)}: {database_message(error)}") from error


def _wait_seconds() -> float:
    value = os.environ.get(LOCK_WAIT_VARIABLE)
    if value is None:
        return LOCK_WAIT_SECONDS
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"{LOCK_WAIT_VARIABLE}={value}: not a number of seconds") from None


def _check(connection: psycopg.Connection, conninfo: str) -> None:
    row = connection.execute(
        "SELECT rolsuper, pg_is_in_recovery(), session_user FROM pg_roles"
        " WHERE rolname = session_user"
    ).fetchone()
    superuser, standby, user = row or (False, False, "?")
    if connection.info.server_version < OLDEST_VERSION:
        raise InfrastructureError(
            f"{where(conninfo)}: PostgreSQL {version_number(connection)} is too old; "
            "use 14 or later"
        )
    if standby:
        raise InfrastructureError(f"{where(conninfo)}: a standby takes no writes; name the primary")
    if not superuser:
        raise InfrastructureError(
            f"{where(conninfo)}: {user} is not a superuser, which acting as every "
            "role takes; connect as one, or use --server embedded"
        )


def _acquire(conninfo: str, say: Say, *, wait_seconds: float) -> psycopg.Connection:
    """Return a connection to the journal that holds the lock, for as long as it is open."""
    deadline = time.monotonic() + wait_seconds
    journal = _open_journal(conninfo)
    try:
        # The lock lives as long as this session, which is idle by nature.
        journal.execute("SET idle_session_timeout = 0")
        told = False
        while not _try_lock(journal):
            if not told:
                say("server: another run is using it; waiting for its end")
                told = True
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"{where(conninfo)}: another run has used it for {wait_seconds:.0f} s; try "
                    f"again later or set {LOCK_WAIT_VARIABLE} to wait longer"
                )
            time.sleep(LOCK_POLL_SECONDS)
        _prepare_journal(journal)
    except BaseException as error:
        journal.close()
        with contextlib.suppress(InfrastructureError, psycopg.Error):
            _drop_journal(conninfo)
        if isinstance(error, psycopg.Error):
            raise InfrastructureError(f"{where(conninfo)}: {database_message(error)}") from error
        raise
    return journal


def _try_lock(journal: psycopg.Connection) -> bool:
    row = journal.execute("SELECT pg_try_advisory_lock(%s::bigint)", [LOCK_KEY]).fetchone()
    return bool(row and row[0])


def _open_journal(conninfo: str) -> psycopg.Connection:
    target = make_conninfo(conninfo, dbname=JOURNAL)
    while True:
        with connect(conninfo) as connection:
            if not _exists(connection, JOURNAL):
                # Somebody else may create it at this moment, which is as good.
                with contextlib.suppress(
                    psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation
                ):
                    create_database(connection, JOURNAL, comment=JOURNAL_COMMENT)
            try:
                return psycopg.connect(target, autocommit=True)
            except psycopg.OperationalError as error:
                # The run that ends drops the journal when it sees nobody waiting.
                if _exists(connection, JOURNAL):
                    raise InfrastructureError(
                        f"{where(target)}: {database_message(error)}"
                    ) from error


def _exists(connection: psycopg.Connection, database: str) -> bool:
    query = "SELECT 1 FROM pg_database WHERE datname = %s"
    return connection.execute(query, [database]).fetchone() is not None


def _prepare_journal(journal: psycopg.Connection) -> None:
    """Make sure that the journal is ours, and ready. Called with the lock held."""
    comment = journal.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
        [JOURNAL],
    ).fetchone()
    tables = journal.execute(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm')"
        " AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace,"
        " 'pg_toast'::regnamespace)"
    ).fetchone()
    # Empty and without a comment: whoever made it was stopped right then, or is about to go on.
    ours = comment == (JOURNAL_COMMENT,) or (comment == (None,) and tables is None)
    if not ours:
        raise InfrastructureError(
            f"the server has a database {JOURNAL} that is not ours; rename it, "
            "or give another --server"
        )
    journal.execute(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(JOURNAL), JOURNAL_COMMENT)
    )
    journal.execute(
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(JOURNAL))
    )
    journal.execute(
        "CREATE TABLE IF NOT EXISTS public.run (token text PRIMARY KEY, roles jsonb NOT NULL,"
        " started timestamptz NOT NULL DEFAULT now())"
    )


def _clean_up(connection: psycopg.Connection, journal: psycopg.Connection) -> bool:
    """Remove what every run in the journal created; True when there was one."""
    runs = journal.execute("SELECT token, roles FROM public.run ORDER BY started DESC").fetchall()
    for token, snapshot in runs:
        names = connection.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)",
            [f"{DATABASE_PREFIX}{token}_"],
        ).fetchall()
        for (name,) in names:
            drop_database(connection, name)
        logins.drop_logins(connection, f"{DATABASE_PREFIX}{token}_")
        # In the journal's session: what it drops of a role, it drops in that database only.
        roles.restore(journal, snapshot)
        journal.execute("DELETE FROM public.run WHERE token = %s", [token])
    return bool(runs)


def _drop_journal(conninfo: str) -> None:
    """Drop the journal unless somebody waits in it."""
    with connect(conninfo) as connection:
        idle = connection.execute(
            "SELECT 1 FROM pg_database d WHERE datname = %s"
            " AND shobj_description(oid, 'pg_database') = %s"
            " AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)",
            [JOURNAL, JOURNAL_COMMENT],
        ).fetchone()
        if idle is not None:
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.InvalidCatalogName):
                connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(JOURNAL)))
