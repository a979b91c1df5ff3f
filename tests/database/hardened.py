"""What tests of the hardened chain share: rows of two tenants, and sessions that act for them."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from alembic.script import ScriptDirectory
from psycopg import IsolationLevel, sql

from tests.databases import DOCUMENTED_HEAD, TENANT_SCOPED_TABLES, Database, config, some_id

A, B = some_id(1), some_id(2)


OTHER = {A: B, B: A}


# Of each tenant: an event that is not allocated, and one that is split and not posted. Its third
# event, the allocation of that and the posting of the allocation have the tenant's own id.
FRESH = {A: some_id(11), B: some_id(12)}


SPLIT = {A: some_id(21), B: some_id(22)}


SPLIT_PART = {A: some_id(31), B: some_id(32)}


NEW = {A: some_id(91), B: some_id(92)}


APPLICATION_ROLES = ("app_rw", "app_ro", "app_admin")


MATERIALIZED_VIEWS = ("mv_allocation_summary", "mv_realtime_revenue", "mv_reconciliation_status")


TABLES = (*TENANT_SCOPED_TABLES, "tenants")


MIGRATORS = ("superuser", "migration_owner")


class Session:
    """A transaction of a role that acts for a tenant."""

    def __init__(self, conn: psycopg.Connection[Any], tenant: str | None) -> None:
        self.conn = conn
        self.tenant = tenant

    def run(self, query: str, *args: Any) -> list[tuple[Any, ...]]:
        cursor = self.conn.execute(query.encode(), args or None)
        return cursor.fetchall() if cursor.description else []

    def changed(self, query: str, *args: Any) -> int:
        """How many rows a statement changed."""
        return self.conn.execute(query.encode(), args or None).rowcount

    def set_tenant(self, value: str) -> None:
        self.run("SELECT set_config('app.current_tenant_id', %s, true)", value)

    def check(self) -> None:
        """What the end of the transaction checks, now."""
        self.run("SET CONSTRAINTS ALL IMMEDIATE")

    def insert(self, table: str, **values: Any) -> str:
        """A row with an id of its own unless given, of the session's tenant unless given."""
        filled = {"id": str(uuid.uuid4()), "tenant_id": self.tenant, **DEFAULTS[table], **values}
        if table == "attribution_events" and not filled.keys() & KEYS:
            filled["external_event_id"] = f"order {filled['id']}"
        self.conn.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, filled)),
                sql.SQL(", ").join(sql.Placeholder() * len(filled)),
            ),
            list(filled.values()),
        )
        return str(filled["id"])

    def allocate(self, event: str, *parts: tuple[str, int], model: str = "m1") -> None:
        """One statement for each part."""
        for channel, cents in parts:
            self.insert(
                "attribution_allocations",
                event_id=event,
                model_version=model,
                channel_code=channel,
                allocated_revenue_cents=cents,
            )

    def correct(self, posting: str, *amounts: int, **values: Any) -> None:
        """Corrections of a posting that has the id of its allocation."""
        for cents in amounts:
            filled = {"allocation_id": posting, "corrects_id": posting, **values}
            self.insert("revenue_ledger", revenue_cents=cents, **filled)


KEYS = {"external_event_id", "correlation_id"}


DEFAULTS: dict[str, dict[str, Any]] = {
    "attribution_events": {
        "occurred_at": "2025-01-01 00:00:00+00",
        "revenue_cents": 100,
        "raw_payload": "{}",
    },
    "dead_events": {
        "source": "shop",
        "error_code": "E1",
        "error_detail": "{}",
        "raw_payload": "{}",
    },
    "attribution_allocations": {
        "channel_code": "direct",
        "model_version": "m1",
        "allocated_revenue_cents": 100,
    },
    "revenue_ledger": {"revenue_cents": 100},
    "reconciliation_runs": {"last_run_at": "2025-01-01 00:00:00+00", "state": "completed"},
}


# What a row of these tables refers to.
REFERENCES: dict[str, dict[str, Any]] = {
    "attribution_allocations": {"event_id": FRESH[A]},
    "revenue_ledger": {"allocation_id": SPLIT_PART[A], "revenue_cents": 49},
}


@contextmanager
def acting(
    database: Database,
    role: str | None = "app_rw",
    tenant: str | None = A,
    level: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> Iterator[Session]:
    """A transaction that is committed at the end; without a role, of the superuser.

    At REPEATABLE READ and above, one with a tenant sees from then on what is there at its start.
    """
    with database.connect() as conn, conn.transaction():
        conn.execute(
            f"SET LOCAL TRANSACTION ISOLATION LEVEL {level.name.replace('_', ' ')}".encode()
        )
        # No test waits for anything as long as this.
        conn.execute("SET LOCAL statement_timeout = '60s'")
        session = Session(conn, tenant)
        if role is not None:
            conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        if tenant is not None:
            session.set_tenant(tenant)
        yield session


@contextmanager
def unchecked(database: Database) -> Iterator[Session]:
    """A transaction of the superuser in which no trigger fires."""
    with acting(database, role=None, tenant=None) as session:
        session.run("SET LOCAL session_replication_role = replica")
        yield session


def populate(database: Database) -> None:
    """Rows of two tenants, valid under the contract and in the documented schema alike."""
    with unchecked(database) as session:
        for tenant in (A, B):
            session.tenant = tenant
            session.run("INSERT INTO tenants (id, name) VALUES (%s, 'A tenant')", tenant)
            session.insert(
                "attribution_events", id=tenant, external_event_id="order 1", correlation_id=A
            )
            session.insert("attribution_allocations", id=tenant, event_id=tenant)
            session.insert("revenue_ledger", id=tenant, allocation_id=tenant)
            session.insert("attribution_events", id=FRESH[tenant], correlation_id=A)
            session.insert("attribution_events", id=SPLIT[tenant], raw_payload='{"zip": "1"}')
            # A cent is lost in the division.
            session.allocate(SPLIT[tenant], ("email", 50))
            session.insert(
                "attribution_allocations",
                id=SPLIT_PART[tenant],
                event_id=SPLIT[tenant],
                allocated_revenue_cents=49,
            )
            session.allocate(SPLIT[tenant], ("tiktok_paid", 101), model="m2")
            session.insert("dead_events", id=tenant, error_detail='{"field": "email"}')
            session.insert("reconciliation_runs", id=tenant)


class Row(NamedTuple):
    table: str
    tenant: str
    content: str


def rows(database: Database) -> list[Row]:
    """Every row of every tenant, in the columns of the documented schema."""
    query = " UNION ALL ".join(
        f"SELECT '{table}', coalesce(row ->> 'tenant_id', row ->> 'id'), row::text"
        f" FROM (SELECT to_jsonb(t) - '{{corrects_id,posted_cents}}'::text[] AS row FROM {table} t)"
        for table in TABLES
    )
    return sorted(Row(*row) for row in database.execute(query))


class Templates(NamedTuple):
    """Databases of one migrator to make copies of, populated."""

    documented: Database
    hardened: Database


def hardening() -> list[str]:
    """The documented head and the revisions on top of it, in order."""
    script = ScriptDirectory.from_config(config())
    walked = script.walk_revisions(DOCUMENTED_HEAD, "head")
    return [revision.revision for revision in walked][::-1]


ALLOCATION = (
    "INSERT INTO attribution_allocations"
    " (id, tenant_id, event_id, model_version, channel_code, allocated_revenue_cents)"
)


def setting(session: Session) -> str | None:
    """The setting of the session; an empty one and none are the same."""
    return session.run("SELECT current_setting('app.current_tenant_id', true)")[0][0] or None


def repair(session: Session) -> None:
    session.run("UPDATE attribution_events SET revenue_cents = 50 WHERE id = %s", FRESH[A])
