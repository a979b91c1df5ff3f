"""Runs the revisions on a connection passed in or on DATABASE_URL, or prints them as SQL.

A caller that already has a SQLAlchemy connection passes it as `config.attributes["connection"]`.
It stays the caller's: it is not closed, its logging and timeouts are left alone, and when it is
inside a transaction already, committing is up to the caller too.
"""

import os
from logging.config import fileConfig

from alembic import context, util
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

# A migration that waits for a lock makes everybody behind it wait too.
LOCK_TIMEOUT = "30s"
STATEMENT_TIMEOUT = "5min"


def database_url() -> URL:
    """DATABASE_URL, with psycopg 3 as the driver."""
    value = os.environ.get("DATABASE_URL", "")
    if not value:
        raise util.CommandError(
            "No database: set DATABASE_URL or pass a connection in config.attributes['connection']."
        )
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        # The cause would show the URL, password included.
        message = "DATABASE_URL is not a URL such as postgresql://host/database."
        raise util.CommandError(message) from None
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise util.CommandError(f"DATABASE_URL is for {url.drivername}; it must be postgresql://.")
    return url.set(drivername="postgresql+psycopg")


def run(*, bounded: bool) -> None:
    """Run the revisions in one transaction, with the timeouts above when `bounded`.

    One transaction for the whole upgrade, not one per revision: a revision that stops on the data
    it finds leaves the database at the revision the application was built for, not in between.
    """
    with context.begin_transaction():
        if bounded:
            context.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            context.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'")
        context.run_migrations()


def run_offline() -> None:
    """Print the SQL. The paramstyle keeps `%` single in the output."""
    context.configure(
        dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"}
    )
    run(bounded=True)


def run_online() -> None:
    """Run on the caller's connection if there is one, else on a connection of our own."""
    passed: Connection | None = context.config.attributes.get("connection")
    if passed is not None:
        context.configure(connection=passed, transaction_per_migration=False)
        run(bounded=False)
        return
    engine = create_engine(database_url(), poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, transaction_per_migration=False)
        run(bounded=True)


# Only the alembic command has cmd_opts. A program that calls alembic has logging of its own.
if context.config.cmd_opts is not None and context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    run_offline()
else:
    run_online()
