"""Scratch databases that tests migrate, as a superuser or as a plain owner."""

import io
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
from alembic import command
from alembic.config import Config
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from invariants.schema.chain import Migrations
from invariants.schema.difference import catalog_fingerprint

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED_HEAD = "202511141311"
ROLES = ("app_rw", "app_ro", "app_admin", "migration_owner")
TENANT_SCOPED_TABLES = [
    "attribution_events",
    "dead_events",
    "attribution_allocations",
    "revenue_ledger",
    "reconciliation_runs",
]


def some_id(number: int) -> str:
    return str(uuid.UUID(int=number))


class Database:
    """A scratch database, and who migrates it."""

    def __init__(self, server_url: str, name: str, migrator: str | None = None) -> None:
        self.name = name
        self.migrator = migrator
        self.conninfo = make_conninfo(server_url, dbname=name)

    def url(self, scheme: str = "postgresql") -> str:
        """What DATABASE_URL is for the superuser."""
        parameters = conninfo_to_dict(self.conninfo)
        return f"{scheme}:///{parameters.pop('dbname')}?{urlencode(parameters)}"

    def connect(self) -> psycopg.Connection[Any]:
        """A superuser's connection."""
        return psycopg.connect(self.conninfo, autocommit=True)

    def execute(self, query: str, *args: Any) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser."""
        with self.connect() as conn:
            cursor = conn.execute(query.encode(), args or None)
            return cursor.fetchall() if cursor.description else []

    def connect_as_migrator(self) -> psycopg.Connection[Any]:
        conn = psycopg.connect(self.conninfo)
        if self.migrator is not None:
            conn.execute(
                sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(self.migrator))
            )
            conn.commit()
        return conn

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A SQLAlchemy connection of the migrator."""
        engine = create_engine(
            "postgresql+psycopg://", creator=self.connect_as_migrator, poolclass=NullPool
        )
        with engine.connect() as connection:
            yield connection

    def upgrade(self, revision: str = DOCUMENTED_HEAD) -> None:
        with self.connection() as connection:
            command.upgrade(config(connection), revision)

    def downgrade(self, revision: str) -> None:
        with self.connection() as connection:
            command.downgrade(config(connection), revision)

    def revision(self) -> str | None:
        rows = self.execute("SELECT version_num FROM alembic_version")
        return str(rows[0][0]) if rows else None

    def fingerprint(self) -> dict[str, str]:
        with self.connect() as conn:
            return catalog_fingerprint(conn)


def config(connection: Connection | None = None, output: io.StringIO | None = None) -> Config:
    result = Config(str(ROOT / "alembic.ini"), output_buffer=output)
    if connection is not None:
        result.attributes["connection"] = connection
    return result


MakeDatabase = Callable[..., Database]


@contextmanager
def database_maker(server_url: str) -> Iterator[MakeDatabase]:
    """Gives a function that makes databases, and drops them at the end."""
    made: list[str] = []
    admin = psycopg.connect(server_url, autocommit=True)

    def make(migrator: str | None = None, template: str = "template1") -> Database:
        name = f"test_{uuid.uuid4().hex}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        if migrator is not None:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(migrator))
        admin.execute(statement)
        made.append(name)
        return Database(server_url, name, migrator)

    with admin:
        yield make
        for name in made:
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


def plain_owner(server_url: str) -> str:
    """The migration_owner of the server, made sure to have no special right.

    The four roles belong to the server and to every test on it, so they stay.
    """
    with psycopg.connect(server_url, autocommit=True) as admin:
        for role in ROLES:
            create_role_when_missing(admin, role)
        rows = admin.execute(
            "SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles"
            " WHERE rolname = 'migration_owner'"
        ).fetchall()
    assert rows == [(False,)]
    return "migration_owner"


def upgrade_as_plain_owner(conninfo: str, migrations: Migrations, *_: object) -> None:
    """Stands for `upgrade` of the environment: whoever migrates owns all, and is no superuser."""
    name = str(conninfo_to_dict(conninfo)["dbname"])
    database = Database(conninfo, name, plain_owner(conninfo))
    database.execute(f'ALTER DATABASE "{name}" OWNER TO {database.migrator}')
    database.upgrade(migrations.revision)


def create_role_when_missing(admin: psycopg.Connection[Any], role: str) -> None:
    if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
        # Another worker may be faster.
        with suppress(errors.DuplicateObject, errors.UniqueViolation):
            admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
