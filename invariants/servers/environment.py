"""The one thing the engine uses: a migrated template, and as many fresh clones of it as wanted.

On a server that is not ours, roles that a run makes (logins that act for others) or alters for a
while are noted where the next run finds them after a kill.
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from invariants.errors import InfrastructureError, InvariantsError, server_lost
from invariants.schema.chain import Lineage
from invariants.schema.reader import read_catalog
from invariants.schema.samples import Samples, from_text, to_text
from invariants.schema.sources import Source
from invariants.servers import provenance, roles
from invariants.servers.base import (
    Content,
    Server,
    ServerInfo,
    connect,
    database_message,
    drop_database,
    is_gone,
)
from invariants.servers.choose import open_server
from invariants.servers.clone import clone_database
from invariants.servers.connect import as_login, with_own_search_path
from invariants.servers.logins import Login, login_name, make_login
from invariants.servers.patches import apply_patch

HANDLE_FORMAT = "3"


@dataclass(frozen=True)
class Scratch:
    """A database of one's own with the migrated schema. `conninfo` is a superuser's."""

    name: str
    # Not shown: it may hold a password.
    conninfo: str = field(repr=False)
    _environment: Environment = field(repr=False, compare=False)

    def login(self, role: str) -> Login:
        """The login that acts for a role, on this database."""
        name = self._environment._login(role)
        return Login(name, as_login(self.conninfo, name, self._environment._password))

    def drop(self) -> None:
        """Drop the database, whoever is connected to it; again is no error."""
        self._environment._drop(self.name)


class Environment:
    """A server with a migrated, patched template. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        server: ServerInfo,
        lineage: Lineage,
        conninfo: str,
        template: str,
        prefix: str,
        owned: Server | None,
        changes: Sequence[str] = (),
        password: str = "",
        journal: str = "",
        token: str = "",
        samples: Samples | None = None,
    ) -> None:
        self.server = server
        self.lineage = lineage
        self._conninfo = conninfo
        self._template = template
        self._prefix = prefix
        self._owned = owned
        self._changes = tuple(changes)
        # Where roles of ours are noted, on a server that is not ours alone.
        self._journal = journal
        self._token = token
        self._samples = samples
        self._admin: psycopg.Connection | None = None
        self._own_path: bool | None = None
        self._lock = threading.Lock()
        self._scratches: set[str] = set()
        self._logins: set[str] = set()
        self._password = password or secrets.token_urlsafe(24)
        self._closed = False
        self._pid = os.getpid()
        atexit.register(self.close)

    @classmethod
    def attach(cls, handle: dict[str, str], changes: Sequence[str] = ()) -> Environment:
        """Use another environment, of this process or not, which must stay open.

        Closing drops only what is ours. `changes` are SQL statements that alter every scratch
        database, run by the superuser; what they do to roles is the caller's to put back
        (`with_roles` does).
        """
        if handle.get("format") != HANDLE_FORMAT:
            raise InfrastructureError("the environment's handle is of another version of this tool")
        return cls(
            ServerInfo(handle["kind"], handle["version"], handle["reason"]),
            Lineage(tuple(handle["applied"].split()), tuple(handle["known"].split())),
            handle["conninfo"],
            handle["template"],
            handle["prefix"],
            owned=None,
            changes=changes,
            password=handle["password"],
            journal=handle["journal"],
            token=handle["token"],
            samples=from_text(handle["samples"]),
        )

    def handle(self) -> dict[str, str]:
        """Return what `attach` needs in another process. It holds the server's credentials."""
        return {
            "format": HANDLE_FORMAT,
            "kind": self.server.kind,
            "version": self.server.version,
            "reason": self.server.reason,
            "applied": " ".join(self.lineage.applied),
            "known": " ".join(self.lineage.known),
            "conninfo": self._conninfo,
            "template": self._template,
            "prefix": self._prefix,
            "password": self._password,
            "journal": self._journal,
            "token": self._token,
            "samples": to_text(self.samples),
        }

    @property
    def revision(self) -> str:
        """The revision the template was migrated to."""
        return self.lineage.applied[-1]

    @property
    def samples(self) -> Samples:
        """What the columns of the template take, found out when it is first asked for.

        Of the template as it is, whatever alters the scratch databases.
        """
        if self._samples is None:
            # Late: it takes a library that who only migrates has no use for.
            from invariants.schema import candidates

            scratch = self._clone()
            try:
                with connect(scratch.conninfo) as asking:
                    self._samples = candidates.find(asking, read_catalog(asking))
            except psycopg.Error as error:
                if is_gone(error):
                    raise server_lost(str(error)) from error
                raise InfrastructureError(
                    f"what the columns take cannot be asked: {database_message(error)}"
                ) from error
            finally:
                with suppress(InvariantsError):
                    scratch.drop()
        return self._samples

    def scratch(self) -> Scratch:
        """Clone the template, altered if so asked. Raises InfrastructureError when that fails."""
        made = self._clone()
        if self._changes:
            try:
                with connect(made.conninfo) as altering:
                    for change in self._changes:
                        altering.execute(change.encode())
            except psycopg.Error as error:
                made.drop()
                raise InfrastructureError(
                    f"cannot alter a scratch database: {database_message(error)}"
                ) from error
        return made

    def _clone(self) -> Scratch:
        name = f"{self._prefix}s{secrets.token_hex(5)}"
        with self._lock:
            if self._closed:
                raise InfrastructureError("the environment is closed; open another")
            self._scratches.add(name)
            try:
                if self._admin is None or self._admin.closed:
                    self._admin = connect(self._conninfo)
                clone_database(self._admin, name, self._template)
                conninfo = self._conninfo_of(self._admin)
            except psycopg.Error as error:
                if is_gone(error):
                    raise server_lost(str(error)) from error
                raise InfrastructureError(
                    f"cannot create a scratch database: {database_message(error)}"
                ) from error
        return Scratch(name, make_conninfo(conninfo, dbname=name), self)

    def _change_roles(self, statements: Sequence[str]) -> None:
        """Alter roles of this run, which is noted where the next run finds it after a kill."""
        try:
            if self._journal:
                with connect(self._journal) as journal, provenance.noted(journal, self._token):
                    for statement in statements:
                        journal.execute(statement.encode())
                return
            with connect(self._conninfo) as admin, admin.transaction():
                for statement in statements:
                    admin.execute(statement.encode())
        except psycopg.Error as error:
            raise InfrastructureError(f"cannot change roles: {database_message(error)}") from error

    def owns_role(self, role: str) -> bool:
        """Whether a role may be altered: on a server that is not ours, what the run has made."""
        if not self._journal:
            return True
        with connect(self._journal) as journal:
            return role in provenance.made(journal, self._token).values()

    @contextmanager
    def with_roles(self, role: str, *statements: str) -> Iterator[None]:
        """A role altered by statements for the length of a `with` statement, then as it was."""
        with connect(self._conninfo) as admin:
            before = roles.snapshot(admin)
            try:
                self._change_roles(statements)
                yield
            finally:
                if self._journal:
                    with connect(self._journal) as journal:
                        provenance.put_back(journal, self._token, before, [role])
                else:
                    roles.restore(admin, before)

    def close(self) -> None:
        """Drop what we created and stop what we started; again is no error."""
        atexit.unregister(self.close)
        if os.getpid() != self._pid:  # a forked child: all of it is its parent's
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            if self._owned is None or self._owned.outlives_us:
                self._drop_all()
        finally:
            try:
                if self._admin is not None:
                    self._admin.close()
            finally:
                if self._owned is not None:
                    self._owned.close()

    def __enter__(self) -> Environment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _login(self, role: str) -> str:
        """The name of the login that acts for a role, which is made if it is not there yet."""
        name = login_name(self._prefix, role)
        with self._lock:
            if name not in self._logins:
                try:
                    if self._journal:
                        with (
                            connect(self._journal) as journal,
                            provenance.noted(journal, self._token),
                        ):
                            make_login(journal, name, role, self._password)
                    else:
                        if self._admin is None or self._admin.closed:
                            self._admin = connect(self._conninfo)
                        make_login(self._admin, name, role, self._password)
                except psycopg.Error as error:
                    raise InfrastructureError(
                        f"cannot make a login for {role}: {database_message(error)}"
                    ) from error
                self._logins.add(name)
        return name

    def _drop(self, name: str) -> None:
        with self._lock:
            if self._closed or name not in self._scratches:
                return
            try:
                if self._admin is None or self._admin.closed:
                    self._admin = connect(self._conninfo)
                drop_database(self._admin, name)
            except psycopg.Error as error:
                raise InfrastructureError(
                    f"cannot drop the scratch database {name}: {database_message(error)}"
                ) from error
            self._scratches.discard(name)

    def _conninfo_of(self, admin: psycopg.Connection) -> str:
        """How to connect to a clone: with its own search path if a migration has given it one."""
        if self._own_path is None:
            # On a server that is not ours alone, what holds for all databases is not the schema's.
            row = admin.execute(
                "SELECT count(*) FROM pg_db_role_setting s, unnest(setconfig) c"
                " WHERE starts_with(c, 'search_path=') AND (setdatabase ="
                " (SELECT oid FROM pg_database WHERE datname = %s) OR setdatabase = 0 AND %s)"
                " AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))",
                [self._template, self.server.kind != "url"],
            ).fetchone()
            self._own_path = bool(row and row[0])
        return with_own_search_path(self._conninfo) if self._own_path else self._conninfo

    def _drop_all(self) -> None:
        """Drop our scratch databases; a server that is gone has none."""
        try:
            if self._scratches and (self._admin is None or self._admin.closed):
                self._admin = connect(self._conninfo)
            for name in sorted(self._scratches):
                assert self._admin is not None
                drop_database(self._admin, name)
                self._scratches.discard(name)
        except (psycopg.Error, InfrastructureError):
            return


def open_environment(
    spec: str,
    source: Source,
    *,
    patches: Sequence[Path] = (),
    say: Callable[[str], None] | None = None,
    cache: bool = True,
    disposable: bool = False,
) -> Environment:
    """Open the server `spec` names, with the migrated and patched template in it.

    `spec` is auto, container[:TAG], embedded[:MAJOR] or a URL. `patches` are SQL files run on the
    template as the superuser; they are never cached. None of them, and no migration, may take
    longer than `source.timeout_seconds`. `say` gets one line per thing worth knowing,
    among them which server was taken and why; standard error by default. `cache=False` migrates
    from an empty cluster and keeps nothing. `disposable` says that nothing on the server of a URL
    is to be kept; else what would alter it is refused. Raises UsageError and InfrastructureError;
    either way nothing is left behind.
    """
    tell = say or _say
    chain = source.read()
    pinned = source.at(chain.lineage.applied[-1])
    limit = source.timeout_seconds
    content = Content(
        chain.fingerprint,
        lambda conninfo: pinned.fill(conninfo, tell),
        tuple(map(Path, patches)),
        limit,
    )
    # What determines the result is not known of every source: then none is kept.
    cached = cache and bool(chain.fingerprint)
    server = open_server(spec, content, say=tell, cache=cached, disposable=disposable)
    try:
        tell(f"server: {server.info}")
        template = make_conninfo(server.conninfo, dbname=server.template)
        with server.patching():
            for patch in content.patches:
                apply_patch(template, patch, limit_seconds=limit)
        with connect(server.conninfo) as connection:
            # Nobody can be connected to the template while it is cloned, autovacuum included.
            connection.execute(
                sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(
                    sql.Identifier(server.template)
                )
            )
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [server.template],
            )
        return Environment(
            server.info,
            chain.lineage,
            server.conninfo,
            server.template,
            server.prefix,
            owned=server,
            journal=server.journal,
            token=server.token,
        )
    except psycopg.Error as error:
        server.close()
        raise InfrastructureError(
            f"preparing the template failed: {database_message(error)}"
        ) from error
    except BaseException:
        server.close()
        raise


def _say(line: str) -> None:
    print(line, file=sys.stderr)
