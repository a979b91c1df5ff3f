"""A database at each revision, to be cloned: on one server of our own, all of them ours.

Roles belong to the server and not to a database. So what is tried on a clone is over, and the clone
gone and all roles as they were, before the next thing is tried; and a database at a revision is
made once all that is to be tried of that revision has been.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from invariants.errors import InfrastructureError, InvariantsError, MigrationFailed, UsageError
from invariants.migrations.course import BASE, Course, Step
from invariants.options import SchemaOptions
from invariants.servers import roles
from invariants.servers.base import connect, database_message, drop_database
from invariants.servers.clone import clone_database
from invariants.servers.environment import Environment, Scratch
from invariants.servers.logins import drop_logins

LOADED = "loaded"
"""The label of a database with lawful rows in it."""


def require_own_server(options: SchemaOptions) -> None:
    """Raises `UsageError` for a server on which something is to be kept."""
    if re.search("://|=", options.server) and not options.disposable_server:
        raise UsageError(
            "--server: a chain makes and drops roles as it goes up and down, which cannot be "
            "taken back on somebody's server; use embedded or container, or --disposable-server"
        )


class Shelf:
    """The databases of a chain. Close it, or use it in a `with` statement.

    With an `owner` they belong to that role, who is made if need be, and who migrates them.
    """

    def __init__(self, environment: Environment, course: Course, owner: str | None = None) -> None:
        self.course, self.owner = course, owner
        self._handle = environment.handle()
        self._made: list[str] = []
        first = self._handle["template"] if owner is None else self._owned(self._handle["template"])
        self._names: dict[tuple[str, str], str] = {(BASE, ""): first}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop all that was made here; again is no error."""
        made, self._made = self._made, []
        # A server that is gone has taken its databases with it.
        with suppress(InvariantsError, psycopg.Error), connect(self._handle["conninfo"]) as admin:
            for name in made:
                drop_database(admin, name)

    def has(self, revision: str | None, label: str = "") -> bool:
        """Whether there is a database at a revision."""
        return (revision or BASE, label) in self._names

    @contextmanager
    def scratch(self, revision: str | None, label: str = "") -> Iterator[Scratch]:
        """A clone of the database at a revision; at the end it is gone, and roles as they were."""
        handle = {
            **self._handle,
            "template": self._names[revision or BASE, label],
            "applied": " ".join(self.course.applied(revision) or (BASE,)),
            "known": " ".join(self.course.known),
        }
        with self._admin() as admin:
            before = roles.snapshot(admin)
            try:
                with Environment.attach(handle) as attached:
                    yield attached.scratch()
            finally:
                with suppress(psycopg.Error):
                    drop_logins(admin, handle["prefix"])
                    roles.restore(admin, before)

    def keep(self, revision: str, scratch: Scratch, label: str = "") -> None:
        """Keep a copy of what a scratch database has become. Nobody may be connected to it."""
        self.forget(revision, label)
        self._names[revision, label] = self._clone(scratch.name)

    def forget(self, revision: str | None, label: str = "") -> None:
        """Drop what was kept; nothing is no error."""
        if (name := self._names.pop((revision or BASE, label), None)) in self._made:
            self._made.remove(name)
            with self._admin() as admin:
                drop_database(admin, name)

    def build(self, step: Step) -> None:
        """Make the database at a revision, and keep it. Raises `InfrastructureError`."""
        if self.owner is not None:
            # The roles that the step makes are there: the chain has run as a superuser before.
            with self.scratch(step.below) as scratch:
                self.up(scratch, step)
                self.keep(step.revision, scratch)
            return
        name = self._clone(self._names[step.below or BASE, ""])
        self.course.up(make_conninfo(self._handle["conninfo"], dbname=name), step)
        self._names[step.revision, ""] = name

    def build_at_once(self, step: Step) -> None:
        """Make the database at a revision out of an empty one, all revisions in one go.

        Where they do not run in one go they are taken one by one. Raises `InfrastructureError`.
        """
        if self.owner is not None:
            with self.scratch(None) as scratch:
                self.course.up_to(self.migrator(scratch), step)
                self.keep(step.revision, scratch)
            return
        name = self._clone(self._names[BASE, ""])
        with self._admin() as admin:
            before = roles.snapshot(admin)
            try:
                self.course.up_to(make_conninfo(self._handle["conninfo"], dbname=name), step)
                self._names[step.revision, ""] = name
                return
            except MigrationFailed:
                roles.restore(admin, before)
        for earlier in self.course.steps[: step.number]:
            self.build(earlier)
            if earlier.below is not None:
                self.forget(earlier.below)

    def up(self, scratch: Scratch, step: Step, **settings: str) -> None:
        """Take a step as whoever migrates here. Raises `InfrastructureError`."""
        self.course.up(self.migrator(scratch, **settings), step)

    def down(self, scratch: Scratch, step: Step) -> None:
        """Undo a step, likewise."""
        self.course.down(self.migrator(scratch), step)

    def migrator(self, scratch: Scratch, **settings: str) -> str:
        """How whoever migrates connects, with settings that are left over from something before."""
        conninfo = scratch.conninfo
        if self.owner is not None:
            # A login of ours, for whom RESET ROLE leads nowhere.
            conninfo = scratch.login(self.owner).conninfo
            settings["role"] = self.owner
        if not settings:
            return conninfo
        given = str(conninfo_to_dict(conninfo).get("options") or "")
        told = " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())
        return make_conninfo(conninfo, options=f"{given} {told}".strip())

    @contextmanager
    def _admin(self) -> Iterator[psycopg.Connection]:
        try:
            with connect(self._handle["conninfo"]) as admin:
                yield admin
        except psycopg.Error as error:
            raise InfrastructureError(f"the server: {database_message(error)}") from error

    def _clone(self, template: str) -> str:
        name = f"{self._handle['prefix']}k{secrets.token_hex(5)}"
        with self._admin() as admin:
            self._made.append(name)
            clone_database(admin, name, template)
        return name

    def _owned(self, template: str) -> str:
        """A copy of an empty database that belongs to the plain owner."""
        assert self.owner is not None
        name, owner = self._clone(template), sql.Identifier(self.owner)
        with self._admin() as admin:
            there = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [self.owner])
            if there.fetchone() is None:
                admin.execute(sql.SQL("CREATE ROLE {}").format(owner))
            admin.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), owner)
            )
        with connect(make_conninfo(self._handle["conninfo"], dbname=name)) as inside:
            # As initdb of PostgreSQL 15 has it.
            inside.execute("ALTER SCHEMA public OWNER TO pg_database_owner")
        return name


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
