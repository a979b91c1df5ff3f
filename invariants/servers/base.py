"""What every kind of server offers: a superuser's conninfo and a migrated template to clone."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from invariants.errors import InfrastructureError
from invariants.servers.connect import service_kept, service_returned
from invariants.servers.marks import mark, marked

Say = Callable[[str], None]

# The data is thrown away, so nothing needs to survive a crash of the machine. wal_level=minimal
# and max_wal_senders=0 belong together.
SPEED_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "128MB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "64MB",
    "jit": "off",
    "max_connections": "200",
    # On, or a long run drowns in dead rows; seldom, since it competes with us for two cores.
    "autovacuum_naptime": "60s",
    "autovacuum_max_workers": "1",
}


@dataclass(frozen=True)
class ServerInfo:
    """Which server was taken: kind (`container`, `embedded`, `url`), version (`18.4`), and why."""

    kind: str
    version: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} PostgreSQL {self.version} ({self.reason})"


@dataclass(frozen=True)
class Content:
    """What the template holds: `fill` writes it into an empty database, `key` is a hash of it.

    `patches` are applied to that by whoever opens the server, each for so long at most; what they
    do outside the database has to be known before, on a server that is not ours.
    """

    key: str
    fill: Callable[[str], None]
    patches: tuple[Path, ...] = ()
    patch_seconds: float = 600.0


class Server(ABC):
    """A running server with a template database. `close` leaves nothing behind and may be repeated.

    `conninfo` is a superuser's and names the database from which to create others.
    """

    info: ServerInfo
    conninfo: str
    template: str
    prefix: str
    # Whether closing must drop our databases one by one, since the server stays.
    outlives_us: bool = False
    # Where roles of ours are noted, if others' are to be told from them; and whose run this is.
    journal: str = ""
    token: str = ""

    def __init__(self) -> None:
        # A forked child that exits must not take the parent's server with it.
        self._owner_pid = os.getpid()
        self._closed = False
        if not self.outlives_us:
            service_kept(self)

    def close(self) -> None:
        """Stop or leave the server, with everything we put there removed."""
        if not self._closed and os.getpid() == self._owner_pid:
            self._closed = True
            try:
                self._close()
            finally:
                service_returned(self)

    def patching(self) -> AbstractContextManager[None]:
        """For as long as patches are applied: what they make is noted."""
        return nullcontext()

    @abstractmethod
    def _close(self) -> None: ...


def create_database(
    connection: psycopg.Connection, name: str, template: str = "template0", *, comment: str = ""
) -> None:
    """Create a database that bears our mark; `connection` is in autocommit."""
    fsync = connection.execute("SHOW fsync").fetchone()
    # Copying files takes 23 ms against 37 ms by way of the WAL, but forces checkpoints, which are
    # cheap only where nothing is flushed to disk.
    strategy = "file_copy" if fsync == ("off",) else "wal_log"
    # PostgreSQL 14 knows one way only.
    words = f" STRATEGY {strategy}" if connection.info.server_version >= 150000 else ""
    connection.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        + sql.SQL(f"{words} {mark(connection.info.server_version, name)}")
    )
    if comment:
        connection.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), comment)
        )


def drop_database(connection: psycopg.Connection, name: str, *, force: bool = True) -> None:
    """Drop a database of ours, whoever is still connected to it if by `force`.

    None is no error; one that lacks our mark is somebody else's and stays.
    """
    if name not in marked(connection):
        return
    shown = connection.execute("SELECT datistemplate FROM pg_database WHERE datname = %s", [name])
    if shown.fetchone() == (True,):
        connection.execute(
            sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name))
        )
    how = sql.SQL(" WITH (FORCE)" if force else "")
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}{}").format(sql.Identifier(name), how))


def connect(conninfo: str) -> psycopg.Connection:
    """Connect in autocommit. Raises InfrastructureError with one line and never a password."""
    try:
        return psycopg.connect(conninfo, autocommit=True)
    except psycopg.Error as error:
        raise InfrastructureError(f"{where(conninfo)}: {database_message(error)}") from error


def is_gone(error: psycopg.Error) -> bool:
    """Whether it is the connection or the server that failed, and not a statement."""
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def where(conninfo: str) -> str:
    """Say which server a conninfo names, for messages: host and port or socket, never a secret."""
    options = psycopg.conninfo.conninfo_to_dict(conninfo)
    host = options.get("host") or options.get("hostaddr") or "local socket"
    port = options.get("port") or "5432"
    return f"server {host}:{port}, database {options.get('dbname') or 'default'}"


def database_message(error: psycopg.Error) -> str:
    """Return what went wrong in one line: the server's own words where it answered."""
    text = error.diag.message_primary or str(error)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    # libpq says where it failed on one line and, for several addresses, so again on the next.
    return re.sub(r"^connection (failed: connection )?to server at .*? failed: ", "", message)


def version_number(connection: psycopg.Connection) -> str:
    """Return the version as people say it: `18.4`."""
    number = connection.info.server_version
    return f"{number // 10000}.{number % 10000}"
