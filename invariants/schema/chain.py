"""What Alembic is asked: which revision is meant, what determines its result, up and down.

Nothing here starts a server; a caller passes the conninfo of a database that it owns. Alembic, and
with it the user's code, runs in a process apart (`invariants.schema.runner`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from invariants.errors import InfrastructureError, MigrationFailed, UsageError
from invariants.schema import runner
from invariants.schema.runner import Say

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Migrations:
    """A chain of migrations and the revision wanted: an id, a prefix of one, `head` or `heads`.

    No revision may take more than `timeout_seconds`.
    """

    config: Path
    revision: str = "head"
    timeout_seconds: float = TIMEOUT_SECONDS

    def at(self, revision: str) -> Migrations:
        """The same up to another revision."""
        return replace(self, revision=revision)

    def read(self) -> Chain:
        """What `read` says of it."""
        return read(self)

    def fill(self, conninfo: str, say: Say | None = None) -> None:
        """Migrate an empty database: see `upgrade`."""
        upgrade(conninfo, self, say)


@dataclass(frozen=True)
class Lineage:
    """Where a revision stands: the revisions from base up to it, and all there are."""

    applied: tuple[str, ...]
    known: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """All that is read of a chain without running it.

    `titles` say what each revision does: the first line of its docstring. `fingerprint` is a hash
    over everything that determines the migrated database: the configuration, every file of the
    script directory (env.py, helpers, SQL) except revisions outside the lineage, and the revision.
    Not covered: files that a migration reads from elsewhere.
    """

    lineage: Lineage
    titles: Mapping[str, str]
    fingerprint: str


@dataclass(frozen=True)
class Link:
    """A revision, those right before it, and what it says it does.

    `idle` are the ways, upgrade and downgrade, on which there is nothing written to be done.
    """

    revision: str
    after: tuple[str, ...]
    title: str = ""
    idle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outline:
    """All revisions in an order in which they can run, and those that nothing comes after.

    `undoes` says whether there is a way back.
    """

    links: tuple[Link, ...]
    heads: tuple[str, ...]
    undoes: bool = True


def outline(migrations: Migrations) -> Outline:
    """What revisions there are and how they hang together. Raises as `read` does."""
    told = _ask("outline", migrations, None)
    return Outline(
        tuple(
            Link(link["revision"], tuple(link["after"]), link["title"], tuple(link["idle"]))
            for link in told["links"]
        ),
        tuple(told["heads"]),
    )


def read(migrations: Migrations) -> Chain:
    """Load the revisions, which executes their files, and say what they are.

    Raises UsageError when the configuration is missing or broken, or no such revision exists, and
    InfrastructureError when a file cannot be loaded.
    """
    told = _ask("read", migrations, None)
    return Chain(
        Lineage(tuple(told["applied"]), tuple(told["known"])), told["titles"], told["fingerprint"]
    )


def lineage(migrations: Migrations) -> Lineage:
    """Return the revisions that lead to `migrations.revision`, oldest first, and the whole chain.

    Raises UsageError when the configuration file is missing or no such revision exists.
    """
    return read(migrations).lineage


def titles(migrations: Migrations) -> Mapping[str, str]:
    """What each revision of the whole chain says it does: the first line of its docstring."""
    return read(migrations).titles


def fingerprint(migrations: Migrations) -> str:
    """Return a hash over everything in the chain that determines the migrated database."""
    return read(migrations).fingerprint


def upgrade(
    conninfo: str,
    migrations: Migrations,
    say: Say | None = None,
    *,
    before_commit: str | None = None,
) -> None:
    """Migrate the database up to `migrations.revision`, wherever env.py would go by itself.

    Raises InfrastructureError naming the revision and file that failed, and when the database is
    not at the revision afterwards. `say` hears of a revision that takes long. `before_commit` is a
    statement that any connection sends whenever it is to commit.
    """
    _migrate("upgrade", conninfo, migrations, say, before_commit)


def interrupted(conninfo: str, migrations: Migrations, after: int) -> int | None:
    """Migrate up, and be killed right after so many statements.

    Returns how many statements there are where there are fewer: then it was not killed. Raises as
    `upgrade` does where a statement before fails.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        try:
            told = _ask("upgrade", migrations, connection, kill_after=after)
        except MigrationFailed as failure:
            if failure.killed:
                return None
            raise
    return int(told["statements"])


def downgrade(conninfo: str, migrations: Migrations, target: str) -> None:
    """Migrate the database down to `target`: a revision id or `base`.

    Raises InfrastructureError naming the revision and file that failed.
    """
    below = Migrations(migrations.config, target, migrations.timeout_seconds)
    _migrate("downgrade", conninfo, below, None)


def models_differ(conninfo: str, migrations: Migrations) -> tuple[str, ...] | None:
    """Where a migrated database is not what the models of env.py say (`target_metadata`).

    Alembic's own comparison, as of `alembic revision --autogenerate`; None where there are no
    models. Raises InfrastructureError.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = _ask("compare", migrations, connection)["differences"]
    return None if found is None else tuple(found)


def _migrate(
    direction: str,
    conninfo: str,
    migrations: Migrations,
    say: Say | None,
    before_commit: str | None = None,
) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        told = _ask(direction, migrations, connection, say, before_commit=before_commit)
        wanted: str | None = told["at"]
        tables = told["tables"] or [(None, "alembic_version")]
        found = sorted({r for s, t in tables for r in _revisions(connection, s, t)})
        if found != ([] if wanted is None else [wanted]):
            raise InfrastructureError(
                f"{migrations.config}: the migrations ran without an error, but the scratch "
                f"database is at {', '.join(found) or 'no revision'}, not at {wanted or 'base'}: "
                "env.py skipped them, did not commit, or ran them elsewhere; let it migrate the "
                "database of DATABASE_URL or of config.attributes['connection']"
            )


def _revisions(connection: psycopg.Connection, schema: str | None, table: str) -> list[str]:
    """What a version table holds, in whatever schema it is when none is named."""
    places = connection.execute(
        "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relname = %s AND c.relkind IN ('r', 'p') AND n.nspname = coalesce(%s, n.nspname)"
        " AND n.nspname NOT LIKE 'pg\\_temp\\_%%'",
        [table, schema],
    ).fetchall()
    found = []
    for (place,) in places:
        query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(place, table))
        found += [str(row[0]) for row in connection.execute(query).fetchall()]
    return found


def _ask(
    what: str,
    migrations: Migrations,
    connection: psycopg.Connection | None,
    say: Say | None = None,
    *,
    kill_after: int | None = None,
    before_commit: str | None = None,
) -> dict[str, Any]:
    path = migrations.config
    if not path.is_file():
        kind = "a folder, not an" if path.is_dir() else "no such"
        raise UsageError(f"{path}: {kind} Alembic configuration; give it with --alembic-config")
    # As libpq took them together: from the conninfo, its variables, and its files.
    parameters = variables = None
    if connection is not None:
        parameters, variables = _parameters(connection)
    return runner.ask(
        {
            "do": what,
            "config": str(path),
            "revision": migrations.revision,
            "parameters": parameters,
            "variables": variables,
            "kill_after": kill_after,
            "before_commit": before_commit,
        },
        limit_seconds=migrations.timeout_seconds,
        say=say,
    )


def facts_of(error: psycopg.Error) -> dict[str, str]:
    """What the server said of an error besides its message."""
    diag = error.diag
    told = {
        "sqlstate": error.sqlstate,
        "table": diag.table_name,
        "column": diag.column_name,
        "constraint": diag.constraint_name,
    }
    return {name: text for name, text in told.items() if text}


def _parameters(connection: psycopg.Connection) -> tuple[dict[str, str], dict[str, str]]:
    """What leads to where a connection is: libpq's parameters, and the same as its variables."""
    parameters, variables = {}, {}
    for option in connection.pgconn.info:
        if (
            option.val is not None
            and option.val != option.compiled
            and option.keyword != b"service"
        ):
            parameters[option.keyword.decode()] = option.val.decode()
            if option.envvar is not None:
                variables[option.envvar.decode()] = option.val.decode()
    if connection.info.password:
        parameters["password"] = variables["PGPASSWORD"] = connection.info.password
    for name, variable in (("user", "PGUSER"), ("dbname", "PGDATABASE"), ("port", "PGPORT")):
        value = str(getattr(connection.info, name))
        parameters[name] = variables[variable] = value
    return parameters, variables
