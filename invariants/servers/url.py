"""An existing server, used as a guest: one run at a time, and nothing of its owner's is altered.

What migrations and patches do outside their own database is found out first, on a server of our own
(reach.py), and refused where it touches what is there, unless the server is said to be disposable.
What a run makes is noted in the journal; a run that was killed is cleaned up by the next one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from invariants.errors import InfrastructureError, UsageError
from invariants.servers import provenance, roles
from invariants.servers.base import (
    Content,
    Say,
    Server,
    ServerInfo,
    connect,
    create_database,
    database_message,
    version_number,
    where,
)
from invariants.servers.connect import relying
from invariants.servers.journal import Journal, acquire
from invariants.servers.marks import DATABASE_PREFIX
from invariants.servers.reach import roles_made

LOCK_WAIT_VARIABLE = "INVARIANTS_LOCK_SECONDS"
LOCK_WAIT_SECONDS = 900.0
CONNECT_SECONDS = 10
OLDEST_VERSION = 140000


class UrlServer(Server):
    """Somebody else's server, ours for the length of a run."""

    outlives_us = True

    def __init__(self, conninfo: str, journal: Journal, info: ServerInfo, say: Say) -> None:
        super().__init__()
        self.conninfo = conninfo
        self.info = info
        self.token = secrets.token_hex(4)
        self.prefix = f"{DATABASE_PREFIX}{self.token}_"
        self.template = f"{self.prefix}template"
        self._planned: tuple[str, ...] = ()
        self._held = journal
        self._say = say

    @contextlib.contextmanager
    def patching(self) -> Iterator[None]:
        """Note what roles the patches make; then all is made that is not noted one by one."""
        with provenance.noting(self._held.conninfo, self.token, self._planned):
            yield
        self._held.migrated(self.token)

    def prepare(self, content: Content, *, disposable: bool) -> None:
        """Build the template. Raises InfrastructureError when it would alter what is there."""
        before = None
        with connect(self.conninfo) as connection:
            if disposable:
                before = roles.snapshot(connection)
            else:
                self.journal = self._held.conninfo
                self._planned = roles_made(connection, self.template, content, self._say)
            self._held.begin(self.token, self._planned, before)
            create_database(
                connection, self.template, comment=f"Template of the invariants run {self.token}."
            )
        with provenance.noting(self._held.conninfo, self.token, self._planned):
            content.fill(make_conninfo(self.conninfo, dbname=self.template))

    def _close(self) -> None:
        try:
            if self._held.lost:
                # The server restarted under us. Whoever has the lock now cleans up.
                self._held = _acquire(self.conninfo, self._say, wait_seconds=1.0)
            self._held.clean_up(self.conninfo, self._say)
            self._held.close(self.conninfo)
        except (InfrastructureError, psycopg.Error) as error:
            message = database_message(error) if isinstance(error, psycopg.Error) else error
            self._say(f"server: could not clean up ({message}); the next run on it does")
        finally:
            self._held.session.close()


def open_url(
    spec: str, content: Content, *, reason: str, say: Say, disposable: bool = False
) -> UrlServer:
    """Take the server for a run and build the template on it, under names of our own.

    Waits while another run has it, for INVARIANTS_LOCK_SECONDS at most. Raises InfrastructureError
    when the server cannot be reached or used, or when the content would alter what is there and the
    server is not `disposable`.
    """
    conninfo = _relying(_parse(spec))
    with _told(conninfo), connect(conninfo) as connection:
        _check(connection, conninfo)
        info = ServerInfo("url", version_number(connection), reason)
    journal = _acquire(conninfo, say, wait_seconds=_wait_seconds())
    server = UrlServer(conninfo, journal, info, say)
    try:
        with _told(conninfo):
            if journal.clean_up(conninfo, say):
                say("server: cleaned up after a run that had been killed")
            server.prepare(content, disposable=disposable)
    except BaseException:
        server.close()
        raise
    return server


@contextlib.contextmanager
def _told(conninfo: str) -> Iterator[None]:
    """Say in one line what the server says, and which server it is."""
    try:
        yield
    except psycopg.Error as error:
        raise InfrastructureError(f"{where(conninfo)}: {database_message(error)}") from error


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
    with _told(conninfo):
        return relying(conninfo)


def _acquire(conninfo: str, say: Say, *, wait_seconds: float) -> Journal:
    return acquire(conninfo, say, wait_seconds=wait_seconds, variable=LOCK_WAIT_VARIABLE)


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
