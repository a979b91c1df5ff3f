"""The hardened chain of revisions, on data of two tenants, made by both kinds of migrator."""

import io
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from queue import Queue
from typing import Any, NamedTuple

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import IsolationLevel, errors, sql
from sqlalchemy.exc import DBAPIError

from invariants.schema.difference import catalog_difference
from tests.databases import (
    DOCUMENTED_HEAD,
    TENANT_SCOPED_TABLES,
    Database,
    MakeDatabase,
    config,
    database_maker,
    plain_owner,
    some_id,
)

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


@pytest.fixture(scope="module")
def templates_of(server_url: str) -> Iterator[Callable[[str], Templates]]:
    made: dict[str, Templates] = {}
    with database_maker(server_url) as make:

        def of(migrator: str) -> Templates:
            if migrator not in made:
                owner = plain_owner(server_url) if migrator == "migration_owner" else None
                documented = make(owner)
                documented.upgrade()
                populate(documented)
                hardened = make(owner, template=documented.name)
                hardened.upgrade("head")
                made[migrator] = Templates(documented, hardened)
            return made[migrator]

        yield of


@pytest.fixture(params=MIGRATORS)
def templates(
    request: pytest.FixtureRequest, templates_of: Callable[[str], Templates]
) -> Templates:
    """Migrated by a superuser, or by a migration_owner that owns the database."""
    return templates_of(request.param)


@pytest.fixture
def make_database(server_url: str) -> Iterator[MakeDatabase]:
    with database_maker(server_url) as make:
        yield make


@pytest.fixture
def documented(make_database: MakeDatabase, templates: Templates) -> Database:
    """A populated database at the documented head."""
    return make_database(templates.documented.migrator, template=templates.documented.name)


@pytest.fixture
def hardened(make_database: MakeDatabase, templates: Templates) -> Database:
    """A populated database at the head."""
    return make_database(templates.hardened.migrator, template=templates.hardened.name)


def hardening() -> list[str]:
    """The documented head and the revisions on top of it, in order."""
    script = ScriptDirectory.from_config(config())
    walked = script.walk_revisions(DOCUMENTED_HEAD, "head")
    return [revision.revision for revision in walked][::-1]


# The chain


def test_the_chain_goes_there_and_back_and_there(
    documented: Database, make_database: MakeDatabase
) -> None:
    below, kept = documented.fingerprint(), rows(documented)
    documented.upgrade("head")
    above = documented.fingerprint()
    assert documented.revision() == hardening()[-1]
    assert rows(documented) == kept
    documented.downgrade(DOCUMENTED_HEAD)
    assert catalog_difference(below, documented.fingerprint()) == []
    assert rows(documented) == kept
    documented.upgrade("head")
    assert catalog_difference(above, documented.fingerprint()) == []
    assert rows(documented) == kept

    empty = make_database(documented.migrator)
    empty.upgrade("baseline")
    documented.downgrade("base")
    assert catalog_difference(empty.fingerprint(), documented.fingerprint()) == []
    documented.upgrade("head")
    assert catalog_difference(above, documented.fingerprint()) == []


def test_every_revision_can_be_undone_and_repeated_on_data(documented: Database) -> None:
    kept = rows(documented)
    for before, revision in pairwise(hardening()):
        below = documented.fingerprint()
        documented.upgrade(revision)
        above = documented.fingerprint()
        assert catalog_difference(below, above) != []
        documented.downgrade(before)
        assert catalog_difference(below, documented.fingerprint()) == [], f"down from {revision}"
        assert rows(documented) == kept, f"down from {revision}"
        documented.upgrade(revision)
        assert catalog_difference(above, documented.fingerprint()) == [], f"up to {revision} again"
        assert rows(documented) == kept, f"up to {revision} again"


def test_both_migrators_make_the_same_catalog_but_for_the_owner_and_what_it_reads(
    templates_of: Callable[[str], Templates],
) -> None:
    as_superuser = templates_of("superuser").hardened
    as_owner = templates_of("migration_owner").hardened
    superuser = str(as_superuser.execute("SELECT current_user")[0][0])

    def anonymous(database: Database, owner: str) -> dict[str, str]:
        return {
            key: re.sub(rf"(?m)^(owner |)\b{owner}$|(?<= by ){owner}$", r"\1OWNER", value)
            for key, value in database.fingerprint().items()
        }

    def of_others(fingerprint: dict[str, str], owner: str) -> dict[str, str]:
        """Without the privileges of the owner, and of migration_owner, which may be the owner."""
        mine = re.compile(rf"({owner}|migration_owner): .*")
        return {
            key: "\n".join(line for line in value.splitlines() if not mine.fullmatch(line))
            if key.startswith("privileges")
            else value
            for key, value in fingerprint.items()
        }

    by_superuser = anonymous(as_superuser, superuser)
    by_owner = anonymous(as_owner, "migration_owner")
    read_by_owner = sorted(set(TENANT_SCOPED_TABLES) - {"dead_events"})
    assert catalog_difference(
        of_others(by_superuser, superuser), of_others(by_owner, "migration_owner")
    ) == [
        *(f"added: comment policy owner_reads_policy on public.{t}" for t in read_by_owner),
        *(f"added: policy public.{table}.owner_reads_policy" for table in read_by_owner),
    ]
    granted = {
        key: line
        for key, value in by_superuser.items()
        if key.startswith("privileges")
        for line in value.splitlines()
        if line.startswith("migration_owner: ")
    }
    assert granted == {
        "privileges relation public.attribution_allocations": (
            "migration_owner: TRUNCATE by OWNER"
        ),
        "privileges relation public.attribution_events": (
            "migration_owner: DELETE, SELECT, TRUNCATE, UPDATE by OWNER"
        ),
        "privileges relation public.revenue_ledger": (
            "migration_owner: DELETE, SELECT, TRUNCATE, UPDATE by OWNER"
        ),
        "privileges relation public.tenants": "migration_owner: DELETE, SELECT by OWNER",
    }


OWNERS = (
    "SELECT c.relname, pg_get_userbyid(c.relowner) FROM pg_class c"
    " WHERE c.relkind = 'm' AND c.relnamespace = 'public'::regnamespace ORDER BY 1"
)


@contextmanager
def member_of_the_superuser(database: Database) -> Iterator[None]:
    """migration_owner may do what the superuser may as an owner, and is still no superuser."""
    superuser = str(database.execute("SELECT quote_ident(current_user)")[0][0])
    database.execute(f"GRANT {superuser} TO migration_owner")
    try:
        yield
    finally:
        database.execute(f"REVOKE {superuser} FROM migration_owner")


@pytest.mark.parametrize("migrator", MIGRATORS)
def test_another_migrator_hardens_what_the_first_one_owns(
    server_url: str,
    make_database: MakeDatabase,
    templates_of: Callable[[str], Templates],
    migrator: str,
) -> None:
    first = templates_of(migrator).documented
    name = make_database(first.migrator, template=first.name).name
    plain_owner(server_url)
    other = Database(server_url, name, None if first.migrator else "migration_owner")
    with ExitStack() as stack:
        if other.migrator is not None:
            stack.enter_context(member_of_the_superuser(other))
        below, kept, owners = other.fingerprint(), rows(other), other.execute(OWNERS)
        other.upgrade("head")
        above = other.fingerprint()
        refreshes_show_both_tenants(other)
        assert other.execute(OWNERS) == owners
        other.downgrade(DOCUMENTED_HEAD)
        assert catalog_difference(below, other.fingerprint()) == []
        other.upgrade("head")
        assert catalog_difference(above, other.fingerprint()) == []
        assert rows(other) == kept
    refreshes_show_both_tenants(other)
    policies = {key for key in above if key.endswith(".owner_reads_policy")}
    assert len(policies) == (0 if first.migrator is None else 4)


def test_another_migrator_takes_back_what_the_owner_hardened(
    server_url: str, make_database: MakeDatabase, templates_of: Callable[[str], Templates]
) -> None:
    templates = templates_of("migration_owner")
    name = make_database("migration_owner", template=templates.hardened.name).name
    other = Database(server_url, name)
    other.downgrade(DOCUMENTED_HEAD)
    assert catalog_difference(templates.documented.fingerprint(), other.fingerprint()) == []


def refreshes_show_both_tenants(database: Database) -> None:
    with acting(database, role=None, tenant=None) as session:
        for view in MATERIALIZED_VIEWS:
            session.run(f"REFRESH MATERIALIZED VIEW {view}")
            shown = session.run(f"SELECT DISTINCT tenant_id::text FROM {view} ORDER BY 1")
            assert shown == [(A,), (B,)], view


def test_the_printed_sql_makes_the_same_catalog(
    templates: Templates, documented: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def run_printed(migrate: Callable[..., None], revisions: str) -> None:
        printed = io.StringIO()
        migrate(config(output=printed), revisions, sql=True)
        with documented.connect_as_migrator() as conn:
            conn.autocommit = True
            conn.execute(printed.getvalue().encode())

    kept = rows(documented)
    run_printed(command.upgrade, f"{DOCUMENTED_HEAD}:head")
    assert documented.revision() == hardening()[-1]
    assert catalog_difference(templates.hardened.fingerprint(), documented.fingerprint()) == []
    run_printed(command.downgrade, f"head:{DOCUMENTED_HEAD}")
    assert documented.revision() == DOCUMENTED_HEAD
    assert catalog_difference(templates.documented.fingerprint(), documented.fingerprint()) == []
    assert rows(documented) == kept


def test_a_migration_by_database_url_does_not_wait_forever(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = make_database()
    database.execute("""
        CREATE SCHEMA seen
            CREATE TABLE timeouts (lock_timeout text, statement_timeout text);
        CREATE FUNCTION seen.note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen.timeouts
            VALUES (current_setting('lock_timeout'), current_setting('statement_timeout'));
        END $$;
        CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION seen.note();
    """)
    monkeypatch.setenv("DATABASE_URL", database.url())
    command.upgrade(config(), "head")
    assert database.execute("SELECT DISTINCT * FROM seen.timeouts") == [("30s", "5min")]


def test_what_the_hardening_adds_carries_a_comment(templates: Templates) -> None:
    below, above = templates.documented.fingerprint(), templates.hardened.fingerprint()
    added = [key.split(" ", 1) for key in above.keys() - below.keys()]
    commented = set()
    for kind, name in added:
        relation, _, part = name.rpartition(".")
        if kind in ("function", "view"):
            # A comment names the function by the types of its arguments alone.
            typed = re.sub(r"[a-z]+ ([a-z]+[,)])", r"pg_catalog.\1", name)
            commented.add(f"comment {kind} {typed}")
        elif kind in ("trigger", "policy"):
            commented.add(f"comment {kind} {part} on {relation}")
        elif kind == "constraint" and part.startswith(("ck_", "fk_", "uq_")):
            commented.add(f"comment table constraint {part} on {relation}")
        elif kind == "column" and not relation.startswith("public.v_"):
            commented.add(f"comment table column {name}")
    assert len(commented) > 20
    assert sorted(commented - above.keys()) == []
    for table in TENANT_SCOPED_TABLES:
        assert f"comment policy tenant_isolation_policy on public.{table}" in above


def test_what_was_there_keeps_its_comment(templates: Templates) -> None:
    below, above = templates.documented.fingerprint(), templates.hardened.fingerprint()
    lost = {key for key in below.keys() - above.keys() if key.startswith("comment ")}
    assert lost == set()


# Data that break a rule


ALLOCATION = (
    "INSERT INTO attribution_allocations"
    " (id, tenant_id, event_id, model_version, channel_code, allocated_revenue_cents)"
)
# The statement that breaks the rule for a tenant, and how the message names the row.
BROKEN = {
    "an allocation of another tenant's event": (
        ALLOCATION + " VALUES ('{new}', '{own}', '{other_fresh}', 'm1', 'email', 100)",
        "{new}",
    ),
    "a posting of another tenant's allocation": (
        "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents)"
        " VALUES ('{new}', '{own}', '{other}', 100)",
        "{new}",
    ),
    "an allocation of no event": (
        ALLOCATION + " VALUES ('{new}', '{own}', '{new}', 'm1', 'email', 100)",
        "{new}",
    ),
    "a posting of no allocation": (
        "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents)"
        " VALUES ('{new}', '{own}', '{new}', 100)",
        "{new}",
    ),
    "a group out of balance": (
        ALLOCATION + " VALUES ('{new}', '{own}', '{fresh}', 'm7', 'email', 98)",
        "event {fresh}, model version m7: 98 instead of 100 cents",
    ),
    "a group whose sum is no integer": (
        ALLOCATION + " VALUES ('{new}', '{own}', '{fresh}', 'm7', 'email', 2147483647),"
        " (gen_random_uuid(), '{own}', '{fresh}', 'm7', 'direct', 2147483647)",
        "event {fresh}, model version m7: 4294967294 instead of 100 cents",
    ),
    "an event without a key": (
        "UPDATE attribution_events SET correlation_id = NULL WHERE id = '{fresh}'",
        "{fresh}",
    ),
    "a posting of another amount": (
        "UPDATE revenue_ledger SET revenue_cents = 99 WHERE id = '{own}'",
        "{own}: 99 instead of 100 cents",
    ),
    "personal data in an event": (
        "UPDATE attribution_events SET raw_payload = jsonb_build_object('email', 'secret')"
        " WHERE id = '{fresh}'",
        "{fresh}",
    ),
    "personal data in a dead event": (
        "UPDATE dead_events SET raw_payload = jsonb_build_object('email', 'secret')"
        " WHERE id = '{own}'",
        "{own}",
    ),
    "personal data in the detail of an error": (
        "UPDATE dead_events SET error_detail = jsonb_build_object('email', 'secret')"
        " WHERE id = '{own}'",
        "{own}",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rules_stop_the_upgrade_by_name(documented: Database, rule: str) -> None:
    breaking, named = BROKEN[rule]
    with unchecked(documented) as session:
        for tenant in (A, B):
            session.run(breaking.format(**names_of(tenant)))
    refuses_to_migrate(
        documented, documented.upgrade, "head", [named.format(**names_of(t)) for t in (A, B)]
    )


# What is valid at the head and has no place in the documented schema, whose ledger has no
# corrections, and whose materialized views cannot be built from the others.
UNPLACED = {
    "corrections": (
        "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, corrects_id, revenue_cents)"
        " VALUES ('{new}', '{own}', '{own}', '{own}', -40)",
        "{new}",
    ),
    "runs at one time": (
        "INSERT INTO reconciliation_runs (id, tenant_id, last_run_at)"
        " SELECT '{new}', tenant_id, last_run_at FROM reconciliation_runs WHERE id = '{own}'",
        "{new}",
    ),
    **{
        f"ledger rows of {name}": (
            f"UPDATE revenue_ledger SET updated_at = '{time}' WHERE id = '{{own}}'",
            "{own}",
        )
        for name, time in (
            ("1901", "1901-01-01"),
            ("2999", "2999-01-01"),
            ("no time", "infinity"),
            ("no time past", "-infinity"),
        )
    },
}


@pytest.mark.parametrize("kind", UNPLACED)
def test_what_has_no_place_in_the_documented_schema_stops_the_downgrade_by_name(
    hardened: Database, kind: str
) -> None:
    statement, named = UNPLACED[kind]
    with unchecked(hardened) as session:
        for tenant in (A, B):
            session.run(statement.format(**names_of(tenant)))
    refuses_to_migrate(
        hardened,
        hardened.downgrade,
        DOCUMENTED_HEAD,
        [named.format(**names_of(tenant)) for tenant in (A, B)],
    )


# What a hint says, done: the rule and the statement that mends a tenant's rows.
REPAIRS = [
    (
        "an allocation of another tenant's event",
        "UPDATE attribution_allocations SET event_id = '{fresh}' WHERE id = '{new}'",
    ),
    (
        "an allocation of another tenant's event",
        "DELETE FROM attribution_allocations WHERE id = '{new}'",
    ),
    (
        "a posting of another tenant's allocation",
        "UPDATE revenue_ledger SET allocation_id = '{split_part}', revenue_cents = 49"
        " WHERE id = '{new}'",
    ),
    (
        "a posting of another tenant's allocation",
        "DELETE FROM revenue_ledger WHERE id = '{new}'",
    ),
    (
        "an allocation of no event",
        "DELETE FROM attribution_allocations WHERE id = '{new}'",
    ),
    (
        "a posting of no allocation",
        "DELETE FROM revenue_ledger WHERE id = '{new}'",
    ),
    (
        "a group out of balance",
        "UPDATE attribution_allocations SET allocated_revenue_cents = 100 WHERE id = '{new}'",
    ),
    (
        "a group whose sum is no integer",
        "UPDATE attribution_allocations SET allocated_revenue_cents = 50"
        " WHERE event_id = '{fresh}' AND model_version = 'm7'",
    ),
    (
        "an event without a key",
        "UPDATE attribution_events SET correlation_id = id WHERE id = '{fresh}'",
    ),
    (
        "a posting of another amount",
        "UPDATE revenue_ledger SET revenue_cents = 100 WHERE id = '{own}'",
    ),
    (
        "personal data in an event",
        "UPDATE attribution_events SET raw_payload = '{{}}' WHERE id = '{fresh}'",
    ),
    (
        "personal data in a dead event",
        "UPDATE dead_events SET raw_payload = '{{}}' WHERE id = '{own}'",
    ),
    (
        "personal data in the detail of an error",
        "UPDATE dead_events SET error_detail = '{{}}' WHERE id = '{own}'",
    ),
    (
        "corrections",
        "DELETE FROM revenue_ledger WHERE id = '{new}'",
    ),
    (
        "runs at one time",
        "UPDATE reconciliation_runs SET last_run_at = '2025-02-01 00:00:00+00' WHERE id = '{new}'",
    ),
    (
        "runs at one time",
        "DELETE FROM reconciliation_runs WHERE id = '{new}'",
    ),
    *(
        (
            f"ledger rows of {time}",
            "UPDATE revenue_ledger SET updated_at = now() WHERE id = '{own}'",
        )
        for time in ("1901", "2999", "no time", "no time past")
    ),
]


def hint_of(migrate: Callable[[str], None], target: str) -> str:
    with pytest.raises(DBAPIError) as failure:
        migrate(target)
    assert isinstance(failure.value.orig, psycopg.Error)
    return str(failure.value.orig.diag.message_hint)


def follow(database: Database, hint: str, repair: str) -> None:
    """Do to the letter what a hint says, and no more: as whom, for whom, from which revision on."""
    first = re.search(r"Upgrade to (\d+) first", hint)
    if first is not None:
        database.upgrade(first[1])
    role = re.search(r"\bas (the owner|\w+)", hint)
    assert role is not None
    disabled = re.search(r"(trg_\w+) disabled meanwhile", hint)
    for tenant in (A, B):
        with acting(
            database,
            database.migrator if role[1] == "the owner" else role[1],
            tenant if "app.current_tenant_id set to" in hint else None,
        ) as session:
            if disabled is not None:
                session.run(f"ALTER TABLE revenue_ledger DISABLE TRIGGER {disabled[1]}")
            assert session.changed(repair.format(**names_of(tenant))) > 0
            if disabled is not None:
                session.run(f"ALTER TABLE revenue_ledger ENABLE TRIGGER {disabled[1]}")


@pytest.mark.parametrize(
    ("rule", "repair"),
    [pytest.param(*pair, id=pair[0]) for pair in REPAIRS if pair[0] in BROKEN],
)
def test_who_follows_the_hint_gets_to_the_head(
    documented: Database, rule: str, repair: str
) -> None:
    with unchecked(documented) as session:
        for tenant in (A, B):
            session.run(BROKEN[rule][0].format(**names_of(tenant)))
    follow(documented, hint_of(documented.upgrade, "head"), repair)
    documented.upgrade("head")


@pytest.mark.parametrize(
    ("kind", "repair"),
    [pytest.param(*pair, id=pair[0]) for pair in REPAIRS if pair[0] not in BROKEN],
)
def test_who_follows_the_hint_gets_back_to_the_documented_schema(
    hardened: Database, kind: str, repair: str
) -> None:
    with unchecked(hardened) as session:
        for tenant in (A, B):
            session.run(UNPLACED[kind][0].format(**names_of(tenant)))
    follow(hardened, hint_of(hardened.downgrade, DOCUMENTED_HEAD), repair)
    hardened.downgrade(DOCUMENTED_HEAD)


def test_every_hint_is_followed() -> None:
    assert {kind for kind, _ in REPAIRS} == BROKEN.keys() | UNPLACED.keys()


def names_of(tenant: str) -> dict[str, str]:
    return {
        "own": tenant,
        "other": OTHER[tenant],
        "fresh": FRESH[tenant],
        "other_fresh": FRESH[OTHER[tenant]],
        "new": NEW[tenant],
        "split_part": SPLIT_PART[tenant],
    }


def refuses_to_migrate(
    database: Database, migrate: Callable[[str], None], target: str, named: list[str]
) -> None:
    """Stops with a message that names the rows of both tenants, and leaves all as it was."""
    revision, catalog, data = database.revision(), database.fingerprint(), rows(database)
    with pytest.raises(DBAPIError) as failure:
        migrate(target)
    message = str(failure.value.orig)
    assert re.search(r"^\w+: \d (rows|groups) ", message)
    for name in named:
        assert name in message
    assert "secret" not in message
    assert database.revision() == revision
    assert catalog_difference(catalog, database.fingerprint()) == []
    assert rows(database) == data


def test_runs_and_ages_that_do_not_show_do_not_stop_the_downgrade(hardened: Database) -> None:
    with unchecked(hardened) as session:
        for tenant in (A, B):
            session.tenant = tenant
            for _ in range(2):
                session.insert("reconciliation_runs", last_run_at="2024-01-01 00:00:00+00")
            session.insert(
                "revenue_ledger",
                allocation_id=SPLIT_PART[tenant],
                revenue_cents=49,
                updated_at="1901-01-01",
            )
    hardened.downgrade(DOCUMENTED_HEAD)


def test_data_that_broke_the_refresh_do_not_stop_the_upgrade(documented: Database) -> None:
    with unchecked(documented) as session:
        for tenant in (A, B):
            session.run(
                "INSERT INTO reconciliation_runs (id, tenant_id, last_run_at)"
                " SELECT '{new}', tenant_id, last_run_at FROM reconciliation_runs"
                " WHERE id = '{own}'".format(**names_of(tenant))
            )
        session.run("UPDATE revenue_ledger SET updated_at = '1901-01-01' WHERE id = %s", A)
        session.run("UPDATE revenue_ledger SET updated_at = 'infinity' WHERE id = %s", B)
    kept = rows(documented)
    documented.upgrade("head")
    assert rows(documented) == kept


# Tenants keep apart


@pytest.mark.parametrize(
    "setting",
    [
        "",
        "SET app.current_tenant_id = ''",
        f"SET app.current_tenant_id = '{A}'; RESET app.current_tenant_id",
        f"BEGIN; SET LOCAL app.current_tenant_id = '{A}'; COMMIT",
    ],
    ids=["never set", "empty", "reset", "set before"],
)
def test_without_a_tenant_a_session_reads_and_writes_nothing(
    hardened: Database, setting: str
) -> None:
    before = rows(hardened)
    with hardened.connect() as conn:
        session = Session(conn, A)
        session.run(setting)
        session.run("SET ROLE app_rw")
        for table in TENANT_SCOPED_TABLES:
            assert session.run(f"SELECT * FROM {table}") == []
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security policy"):
                session.insert(table, **REFERENCES.get(table, {}))
        for table in ("dead_events", "attribution_allocations", "reconciliation_runs"):
            assert session.changed(f"UPDATE {table} SET id = gen_random_uuid()") == 0
            assert session.changed(f"DELETE FROM {table}") == 0
    assert rows(hardened) == before


@pytest.mark.parametrize("table", TENANT_SCOPED_TABLES)
def test_a_malformed_tenant_shows_no_row(hardened: Database, table: str) -> None:
    with acting(hardened, tenant="everyone") as session:
        try:
            found = session.run(f"SELECT * FROM {table}")
        except errors.InvalidTextRepresentation:
            found = []
        assert found == []


@pytest.mark.parametrize("table", TENANT_SCOPED_TABLES)
@pytest.mark.parametrize("role", ["app_rw", "app_ro"])
def test_a_tenant_reads_its_own_rows(hardened: Database, role: str, table: str) -> None:
    with acting(hardened, role) as session:
        assert session.run(f"SELECT DISTINCT tenant_id::text FROM {table}") == [(A,)]


@pytest.mark.parametrize(
    ("table", "values", "key"),
    [
        (
            "attribution_allocations",
            {"event_id": FRESH[B]},
            "fk_attribution_allocations_tenant_event_id",
        ),
        (
            "revenue_ledger",
            {"allocation_id": SPLIT_PART[B], "revenue_cents": 49},
            "fk_revenue_ledger_posted_allocation",
        ),
        (
            "revenue_ledger",
            {"allocation_id": A, "corrects_id": B, "revenue_cents": -1},
            "fk_revenue_ledger_corrected_posting",
        ),
        (
            "revenue_ledger",
            {"allocation_id": B, "corrects_id": B, "revenue_cents": -1},
            "fk_revenue_ledger_corrected_posting",
        ),
    ],
    ids=["event", "allocation", "posting", "posting and allocation"],
)
def test_references_to_another_tenants_rows_are_refused(
    hardened: Database, table: str, values: dict[str, Any], key: str
) -> None:
    with pytest.raises(errors.ForeignKeyViolation, match=key), acting(hardened) as session:
        session.insert(table, **values)


@pytest.mark.parametrize("view", ["v_realtime_revenue", "v_reconciliation_status"])
@pytest.mark.parametrize("role", ["app_rw", "app_ro"])
def test_views_show_the_own_tenant_only(hardened: Database, role: str, view: str) -> None:
    for tenant, shown in ((A, [(A,)]), (B, [(B,)]), (None, []), ("", [])):
        with acting(hardened, role, tenant) as session:
            assert session.run(f"SELECT tenant_id::text FROM {view}") == shown


def test_views_have_what_the_api_answers(hardened: Database) -> None:
    with acting(hardened, "app_ro") as session:
        assert session.run(
            "SELECT total_revenue, verified, data_freshness_seconds >= 0 FROM v_realtime_revenue"
        ) == [(1, False, True)]
        assert session.run(
            "SELECT state, last_run_at = '2025-01-01 00:00:00+00', reconciliation_run_id::text"
            " FROM v_reconciliation_status"
        ) == [("completed", True, A)]


@pytest.mark.parametrize("view", ["v_realtime_revenue", "v_reconciliation_status"])
def test_a_readers_function_meets_no_row_of_another_tenant(hardened: Database, view: str) -> None:
    with acting(hardened) as session:
        session.run("""
            CREATE FUNCTION pg_temp.peek(tenant uuid) RETURNS boolean LANGUAGE plpgsql COST 0.0001
            AS $$ BEGIN RAISE NOTICE 'met %', tenant; RETURN true; END $$
        """)
        met: list[str | None] = []
        session.conn.add_notice_handler(lambda notice: met.append(notice.message_primary))
        session.run(f"SELECT * FROM {view} WHERE pg_temp.peek(tenant_id)")
        assert met == [f"met {A}"]


@pytest.mark.parametrize("view", MATERIALIZED_VIEWS)
@pytest.mark.parametrize("role", APPLICATION_ROLES)
def test_materialized_views_are_not_for_application_roles(
    hardened: Database, role: str, view: str
) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match=view), acting(hardened, role) as session:
        session.run(f"SELECT * FROM {view}")


# Append-only tables: who removes what


REMOVALS = {
    "DELETE FROM tenants": "tenants are removed by migration_owner alone",
    "DELETE FROM attribution_events": "attribution_events is append-only",
    "UPDATE attribution_events SET revenue_cents = 100": "attribution_events is append-only",
    "DELETE FROM revenue_ledger": "revenue_ledger is immutable",
    "UPDATE revenue_ledger SET revenue_cents = 100": "revenue_ledger is immutable",
    "TRUNCATE tenants CASCADE": "tenants is not to be truncated",
    "TRUNCATE attribution_events CASCADE": "attribution_events is not to be truncated",
    "TRUNCATE revenue_ledger": "revenue_ledger is not to be truncated",
    "TRUNCATE attribution_allocations CASCADE": "revenue_ledger is not to be truncated",
}


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("role", [*APPLICATION_ROLES, None])
def test_nobody_else_removes_or_changes_what_is_kept_whatever_the_privileges(
    hardened: Database, role: str | None, removal: str
) -> None:
    if role is not None:
        hardened.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    before = rows(hardened)
    with (
        pytest.raises(errors.RaiseException, match=REMOVALS[removal]),
        acting(hardened, role) as session,
    ):
        session.run(removal)
    assert rows(hardened) == before


@pytest.mark.parametrize("table", ["tenants", "attribution_events", "revenue_ledger"])
def test_a_trigger_of_an_application_role_removes_no_more_than_the_role(
    hardened: Database, table: str
) -> None:
    """The guards let the owner's deletions inside a trigger pass, as cascades are."""
    hardened.execute(f"GRANT ALL ON {table} TO app_rw")
    with acting(hardened) as session:
        session.run(f"""
            CREATE TEMPORARY TABLE own ();
            CREATE FUNCTION pg_temp.remove() RETURNS trigger LANGUAGE plpgsql
                AS $$ BEGIN DELETE FROM {table}; RETURN NULL; END $$;
            CREATE TRIGGER remove AFTER INSERT ON own
                FOR EACH ROW EXECUTE FUNCTION pg_temp.remove();
        """)
        with pytest.raises(errors.RaiseException, match=REMOVALS[f"DELETE FROM {table}"]):
            session.run("INSERT INTO own DEFAULT VALUES")


@pytest.mark.parametrize("statement", ["DELETE", "TRUNCATE"])
@pytest.mark.parametrize("table", ["tenants", "attribution_events", "revenue_ledger"])
def test_app_rw_has_no_privilege_to_remove_what_is_kept(
    hardened: Database, table: str, statement: str
) -> None:
    held = hardened.execute("SELECT has_table_privilege('app_rw', %s, %s)", table, statement)
    assert held == [(False,)]


def test_a_posted_allocation_stays(hardened: Database) -> None:
    key = "fk_revenue_ledger_posted_allocation"
    with pytest.raises(errors.ForeignKeyViolation, match=key), acting(hardened) as session:
        session.run("DELETE FROM attribution_allocations WHERE id = %s", A)


@pytest.mark.parametrize(
    ("repair", "repaired"),
    [
        (
            f"UPDATE attribution_events SET revenue_cents = 7 WHERE id = '{FRESH[A]}'",
            f"SELECT revenue_cents = 7 FROM attribution_events WHERE id = '{FRESH[A]}'",
        ),
        (
            f"UPDATE attribution_events SET revenue_cents = 101 WHERE id = '{A}'",
            f"SELECT revenue_cents = 101 FROM attribution_events WHERE id = '{A}'",
        ),
        (
            f"DELETE FROM attribution_events WHERE id = '{SPLIT[A]}'",
            f"SELECT count(*) = 0 FROM attribution_allocations WHERE event_id = '{SPLIT[A]}'",
        ),
        (
            f"UPDATE revenue_ledger SET is_verified = true WHERE id = '{A}'",
            f"SELECT is_verified FROM revenue_ledger WHERE id = '{A}'",
        ),
        (
            f"DELETE FROM revenue_ledger WHERE id = '{A}'",
            f"SELECT count(*) = 0 FROM revenue_ledger WHERE id = '{A}'",
        ),
    ],
    ids=["event", "event within a cent", "event removed", "ledger", "ledger row removed"],
)
def test_repairs_by_migration_owner_take_effect(
    hardened: Database, repair: str, repaired: str
) -> None:
    others = [row for row in rows(hardened) if row.tenant == B]
    with acting(hardened, "migration_owner") as session:
        assert session.changed(repair) == 1
    assert hardened.execute(repaired) == [(True,)]
    assert [row for row in rows(hardened) if row.tenant == B] == others


@pytest.mark.parametrize(
    ("repair", "error", "complaint"),
    [
        (
            f"UPDATE attribution_events SET revenue_cents = 98 WHERE id = '{A}'",
            errors.RaiseException,
            "under model version m1 sum to 100 cents, its revenue would be 98 cents",
        ),
        (
            f"UPDATE revenue_ledger SET revenue_cents = 99 WHERE id = '{A}'",
            errors.ForeignKeyViolation,
            "fk_revenue_ledger_posted_allocation",
        ),
        (
            f"UPDATE revenue_ledger SET revenue_cents = -121 WHERE id = '{NEW[A]}'",
            errors.RaiseException,
            f"take posting {A} below zero, to -1 cents",
        ),
        (
            f"DELETE FROM revenue_ledger WHERE id = '{NEW[B]}'",
            errors.RaiseException,
            f"take posting {A} below zero, to -20 cents",
        ),
        (
            f"DELETE FROM revenue_ledger WHERE id = '{A}'",
            errors.ForeignKeyViolation,
            "fk_revenue_ledger_corrected_posting",
        ),
    ],
    ids=["sum", "amount", "net", "net by removal", "posting of corrections"],
)
def test_repairs_that_break_a_sum_or_an_amount_are_refused(
    hardened: Database, repair: str, error: type[Exception], complaint: str
) -> None:
    with acting(hardened) as session:
        session.correct(A, -120, id=NEW[A])
        session.correct(A, +20, id=NEW[B])
    with (
        pytest.raises(error, match=complaint),
        acting(hardened, "migration_owner") as session,
    ):
        assert session.changed(repair) == 1


@pytest.mark.parametrize("setting", [None, B], ids=["without a tenant", "for another tenant"])
def test_migration_owner_erases_a_tenant_and_all_of_it_alone(
    hardened: Database, setting: str | None
) -> None:
    for tenant in (A, B):
        with acting(hardened, tenant=tenant) as session:
            session.correct(tenant, -30, -70)
    before = rows(hardened)
    assert {row.table for row in before if row.tenant == A} == set(TABLES)
    with acting(hardened, "migration_owner", setting) as session:
        assert session.changed("DELETE FROM tenants WHERE id = %s", A) == 1
    assert rows(hardened) == [row for row in before if row.tenant == B]


@pytest.mark.parametrize("truncated", ["revenue_ledger", "attribution_events CASCADE"])
def test_migration_owner_truncates(hardened: Database, truncated: str) -> None:
    with acting(hardened, "migration_owner", None) as session:
        session.run(f"TRUNCATE {truncated}")
    table = truncated.split()[0]
    assert [row for row in rows(hardened) if row.table == table] == []


# The sum of allocations


def test_a_split_over_two_statements_is_accepted(hardened: Database) -> None:
    with acting(hardened) as session:
        session.allocate(FRESH[A], ("direct", 40), ("email", 60))


def test_a_whole_group_that_is_not_posted_can_be_removed(hardened: Database) -> None:
    with acting(hardened) as session:
        assert session.changed(
            "DELETE FROM attribution_allocations WHERE event_id = %s", SPLIT[A]
        ) == len(("email", "direct", "tiktok_paid"))


def test_a_whole_group_can_be_moved_to_another_model(hardened: Database) -> None:
    with acting(hardened) as session:
        moved = "UPDATE attribution_allocations SET model_version = 'm3' WHERE id = %s"
        others = (
            "UPDATE attribution_allocations SET model_version = 'm3'"
            " WHERE event_id = %s AND model_version = 'm1'"
        )
        assert session.changed(moved, SPLIT_PART[A]) == 1
        assert session.changed(others, SPLIT[A]) == 1


@pytest.mark.parametrize(
    ("statement", "event", "model", "cents"),
    [
        (
            ALLOCATION + f" VALUES ('{NEW[A]}', '{A}', '{FRESH[A]}', 'm1', 'direct', 98)",
            FRESH[A],
            "m1",
            98,
        ),
        (
            ALLOCATION + f" VALUES ('{NEW[A]}', '{A}', '{FRESH[A]}', 'm1', 'direct', 102)",
            FRESH[A],
            "m1",
            102,
        ),
        (
            ALLOCATION + f" VALUES ('{NEW[A]}', '{A}', '{FRESH[A]}', 'm1', 'direct', 2147483647),"
            f" (gen_random_uuid(), '{A}', '{FRESH[A]}', 'm1', 'email', 2147483647)",
            FRESH[A],
            "m1",
            4294967294,
        ),
        (
            f"DELETE FROM attribution_allocations WHERE id = '{SPLIT_PART[A]}'",
            SPLIT[A],
            "m1",
            50,
        ),
        (
            "UPDATE attribution_allocations SET allocated_revenue_cents = 47"
            f" WHERE id = '{SPLIT_PART[A]}'",
            SPLIT[A],
            "m1",
            97,
        ),
        # Each time the group that the row comes into is balanced.
        (
            "UPDATE attribution_allocations SET model_version = 'm3', allocated_revenue_cents = 100"
            f" WHERE id = '{SPLIT_PART[A]}'",
            SPLIT[A],
            "m1",
            50,
        ),
        (
            f"UPDATE attribution_allocations SET event_id = '{FRESH[A]}',"
            f" allocated_revenue_cents = 100 WHERE id = '{SPLIT_PART[A]}'",
            SPLIT[A],
            "m1",
            50,
        ),
    ],
    ids=[
        "too little",
        "too much",
        "more than an integer",
        "a part removed",
        "a part changed",
        "a part moved to another model",
        "a part moved to another event",
    ],
)
def test_groups_out_of_balance_are_refused_when_the_transaction_ends(
    hardened: Database, statement: str, event: str, model: str, cents: int
) -> None:
    before = rows(hardened)
    written = 0
    complaint = f"event {event} under model version {model} sum to {cents} cents, its revenue is"
    with (
        pytest.raises(errors.RaiseException, match=complaint),
        acting(hardened) as session,
    ):
        written = session.changed(statement)
    assert written > 0, "refused before the end"
    assert rows(hardened) == before


# Events and their keys


def test_an_event_without_a_key_is_refused(hardened: Database) -> None:
    key = "ck_attribution_events_has_key"
    with pytest.raises(errors.CheckViolation, match=key), acting(hardened) as session:
        session.insert("attribution_events", correlation_id=None)


def test_several_external_ids_may_share_a_correlation_id(hardened: Database) -> None:
    with acting(hardened) as session:
        for order in ("1", "2"):
            session.insert("attribution_events", external_event_id=order, correlation_id=A)
        session.insert("attribution_events", correlation_id=B)


def test_a_second_delivery_is_recognised(hardened: Database) -> None:
    for key in ({"external_event_id": "order 2"}, {"correlation_id": B}):
        with acting(hardened) as session:
            session.insert("attribution_events", **key)
        with pytest.raises(errors.UniqueViolation), acting(hardened) as session:
            session.insert("attribution_events", **key)


# Postings and corrections


@pytest.mark.parametrize("role", ["app_rw", "app_admin"])
def test_postings_and_corrections_are_made_by_insert_alone(hardened: Database, role: str) -> None:
    with acting(hardened, role) as session:
        session.insert(
            "revenue_ledger", id=SPLIT_PART[A], allocation_id=SPLIT_PART[A], revenue_cents=49
        )
        session.correct(SPLIT_PART[A], -49)
        session.correct(A, -1)
    privileges = hardened.execute(
        "SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) privilege"
        " WHERE has_table_privilege(%s, 'revenue_ledger', privilege)",
        role,
    )
    assert privileges == [("SELECT",), ("INSERT",)]


@pytest.mark.parametrize("cents", [48, 50, -49])
def test_a_posting_of_another_amount_is_refused(hardened: Database, cents: int) -> None:
    with (
        pytest.raises((errors.ForeignKeyViolation, errors.CheckViolation), match="_post"),
        acting(hardened) as session,
    ):
        session.insert("revenue_ledger", allocation_id=SPLIT_PART[A], revenue_cents=cents)


def test_the_amount_of_a_posted_allocation_stays(hardened: Database) -> None:
    key = "fk_revenue_ledger_posted_allocation"
    with pytest.raises(errors.ForeignKeyViolation, match=key), acting(hardened) as session:
        session.run(
            "UPDATE attribution_allocations SET allocated_revenue_cents = 99 WHERE id = %s", A
        )


@pytest.mark.parametrize("corrected", [False, True])
def test_a_second_posting_of_an_allocation_is_refused(hardened: Database, corrected: bool) -> None:
    if corrected:
        with acting(hardened) as session:
            session.correct(A, -100)
    with (
        pytest.raises(errors.UniqueViolation, match="idx_revenue_ledger_tenant_allocation_id"),
        acting(hardened) as session,
    ):
        session.insert("revenue_ledger", allocation_id=A)


@pytest.mark.parametrize(
    "amounts", [(-1,), (-100,), (-40, -60), (50,), (50, -150), (-101, 1), (2147483647, -2147483648)]
)
def test_corrections_that_leave_something_or_nothing_are_accepted(
    hardened: Database, amounts: tuple[int, ...]
) -> None:
    with acting(hardened) as session:
        session.correct(A, *amounts)
    assert hardened.execute(
        "SELECT sum(revenue_cents) FROM revenue_ledger WHERE allocation_id = %s", A
    ) == [(100 + sum(amounts),)]


@pytest.mark.parametrize("amounts", [(-101,), (-60, -41), (1, -102), (-2147483648, -2147483648)])
def test_corrections_below_zero_are_refused(hardened: Database, amounts: tuple[int, ...]) -> None:
    complaint = f"posting {A} below zero, to {100 + sum(amounts)} cents"
    with pytest.raises(errors.RaiseException, match=complaint), acting(hardened) as session:
        session.correct(A, *amounts)


def test_corrections_of_several_transactions_count_together(hardened: Database) -> None:
    with acting(hardened) as session:
        session.correct(A, -60)
    complaint = f"posting {A} below zero, to -1 cents"
    with pytest.raises(errors.RaiseException, match=complaint), acting(hardened) as session:
        session.correct(A, -41)


def test_a_correction_of_another_allocation_is_refused(hardened: Database) -> None:
    key = "fk_revenue_ledger_corrected_posting"
    with pytest.raises(errors.ForeignKeyViolation, match=key), acting(hardened) as session:
        session.correct(A, -1, allocation_id=SPLIT_PART[A])


@pytest.mark.parametrize("corrected", ["another", "itself"])
def test_a_correction_of_a_correction_is_refused(hardened: Database, corrected: str) -> None:
    with acting(hardened) as session:
        session.correct(A, -1, id=NEW[A])
    target = NEW[A] if corrected == "another" else NEW[B]
    complaint = f"Ledger row {target} is a correction and cannot be corrected"
    with pytest.raises(errors.RaiseException, match=complaint), acting(hardened) as session:
        session.correct(A, +1, id=NEW[B], corrects_id=target)


# The tenant setting, while triggers act for the tenant of a row


def setting(session: Session) -> str | None:
    """The setting of the session; an empty one and none are the same."""
    return session.run("SELECT current_setting('app.current_tenant_id', true)")[0][0] or None


@pytest.mark.parametrize(
    ("of_session", "of_transaction", "changed_to"),
    [(None, A, B), (A, None, None), (B, A, None), (B, A, ""), ("", A, "everyone")],
    ids=["none", "of session", "of transaction", "emptied", "malformed"],
)
def test_checks_leave_the_tenant_setting_alone(
    hardened: Database, of_session: str | None, of_transaction: str | None, changed_to: str | None
) -> None:
    with hardened.connect() as conn:
        session = Session(conn, A)
        if of_session is not None:
            session.run("SELECT set_config('app.current_tenant_id', %s, false)", of_session)
        before = setting(session)
        with conn.transaction():
            session.run("SET LOCAL ROLE app_rw")
            if of_transaction is not None:
                session.set_tenant(of_transaction)
            session.allocate(FRESH[A], ("direct", 40), ("email", 60))
            session.correct(A, -40, -60)
            if changed_to is not None:
                session.set_tenant(changed_to)
            during = setting(session)
            session.check()
            assert setting(session) == during
        assert setting(session) == before


def test_checks_leave_the_setting_of_repairs_alone(hardened: Database) -> None:
    with acting(hardened, "migration_owner") as session:
        session.changed("UPDATE attribution_events SET revenue_cents = 101 WHERE id = %s", A)
        session.changed("UPDATE revenue_ledger SET is_verified = true WHERE id = %s", A)
        session.set_tenant(B)
        session.check()
        assert setting(session) == B


@pytest.mark.parametrize("changed_to", [B, "", "everyone"], ids=["other", "empty", "malformed"])
@pytest.mark.parametrize(
    ("role", "statement", "complaint"),
    [
        (
            "app_rw",
            ALLOCATION + f" VALUES ('{NEW[A]}', '{A}', '{FRESH[A]}', 'm1', 'direct', 40)",
            f"event {FRESH[A]} under model version m1 sum to 40 cents",
        ),
        (
            "app_rw",
            "INSERT INTO revenue_ledger (tenant_id, allocation_id, corrects_id, revenue_cents)"
            f" VALUES ('{A}', '{A}', '{A}', -101)",
            f"posting {A} below zero, to -1 cents",
        ),
        (
            "migration_owner",
            f"UPDATE attribution_events SET revenue_cents = 98 WHERE id = '{A}'",
            f"event {A} under model version m1 sum to 100 cents",
        ),
    ],
    ids=["split", "correction", "repair"],
)
def test_a_change_of_the_tenant_setting_hides_nothing_from_the_checks(
    hardened: Database, role: str, statement: str, complaint: str, changed_to: str
) -> None:
    change = f"SELECT set_config('app.current_tenant_id', '{changed_to}', true)"
    with pytest.raises(errors.RaiseException, match=complaint), acting(hardened, role) as session:
        session.run(f"{statement}; {change}")


@pytest.mark.parametrize(
    "function", ["check_allocation_sum", "check_event_revenue", "check_ledger_net"]
)
def test_application_roles_cannot_have_the_owner_check_tables_of_theirs(
    hardened: Database, function: str
) -> None:
    """They would lock rows of other tenants, for which the functions act."""
    with acting(hardened) as session:
        session.run("CREATE TEMPORARY TABLE own (tenant_id uuid, id uuid)")
        with pytest.raises(errors.InsufficientPrivilege, match=function):
            session.run(
                "CREATE TRIGGER borrowed AFTER INSERT ON own FOR EACH ROW"
                f" EXECUTE FUNCTION {function}()"
            )


@pytest.mark.parametrize("revision", ["202511151130", "202511151135", "head"])
def test_the_owner_calls_no_function_of_the_session_that_is_checked(
    hardened: Database, revision: str
) -> None:
    """By names that temporary objects share with those of PostgreSQL."""
    if revision != "head":
        hardened.downgrade(revision)
    owner = hardened.migrator or str(hardened.execute("SELECT current_user")[0][0])
    callers: set[str | None] = set()
    with acting(hardened) as session:
        session.conn.add_notice_handler(lambda notice: callers.add(notice.message_primary))
        session.run("""
            CREATE FUNCTION pg_temp.called(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql
                AS $$ BEGIN RAISE NOTICE '%', current_user; RETURN true; END $$;
            CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.called(VALUE));
            CREATE VIEW pg_temp.pg_class AS
                SELECT * FROM pg_catalog.pg_class WHERE pg_temp.called('');
        """)
        session.allocate(FRESH[A], ("direct", 100))
        session.correct(A, -1)
        session.check()
    assert (owner in callers) == (revision == "202511151130")


# Two sessions at once


class Race(NamedTuple):
    """What two transactions do at once, and why the second is refused."""

    first: Callable[[Session], object]
    second: Callable[[Session], object]
    complaint: str
    first_role: str = "app_rw"
    second_role: str = "app_rw"


def repair(session: Session) -> None:
    session.run("UPDATE attribution_events SET revenue_cents = 50 WHERE id = %s", FRESH[A])


RACES = {
    "both allocate one event": Race(
        lambda session: session.allocate(FRESH[A], ("direct", 100)),
        lambda session: session.allocate(FRESH[A], ("email", 100)),
        f"event {FRESH[A]} under model version m1 sum to 200 cents",
    ),
    "both correct one posting": Race(
        lambda session: session.correct(A, -60),
        lambda session: session.correct(A, -60),
        f"posting {A} below zero, to -20 cents",
    ),
    "one repairs the event that the other allocates": Race(
        repair,
        lambda session: session.allocate(FRESH[A], ("direct", 100)),
        "sum to 100 cents, its revenue is 50 cents",
        first_role="migration_owner",
    ),
    "one allocates the event that the other repairs": Race(
        lambda session: session.allocate(FRESH[A], ("direct", 100)),
        repair,
        "sum to 100 cents, its revenue would be 50 cents",
        second_role="migration_owner",
    ),
}
LEVELS = (
    IsolationLevel.READ_COMMITTED,
    IsolationLevel.REPEATABLE_READ,
    IsolationLevel.SERIALIZABLE,
)
PAIRS = [
    pytest.param(first, second, id=f"{first.name.lower()}, {second.name.lower()}")
    for first in LEVELS
    for second in LEVELS
]

# What holds of committed rows, whoever wrote them and how: a query of the rows that break it.
KEPT = {
    "the sum of allocations": """
        SELECT a.event_id, a.model_version FROM attribution_allocations a
        INNER JOIN attribution_events e ON e.id = a.event_id
        GROUP BY a.event_id, a.model_version, e.revenue_cents
        HAVING abs(sum(a.allocated_revenue_cents) - e.revenue_cents) > 1
    """,
    "the net of postings": """
        SELECT coalesce(corrects_id, id) FROM revenue_ledger
        GROUP BY 1 HAVING sum(revenue_cents) < 0
    """,
    "the amount of postings": """
        SELECT l.id FROM revenue_ledger l
        INNER JOIN attribution_allocations a ON a.id = l.allocation_id
        WHERE l.corrects_id IS NULL AND l.revenue_cents <> a.allocated_revenue_cents
    """,
    "references": """
        SELECT 'event', id FROM attribution_events e
        WHERE NOT EXISTS (SELECT FROM tenants t WHERE t.id = e.tenant_id)
        UNION ALL
        SELECT 'allocation', id FROM attribution_allocations a
        WHERE NOT EXISTS (SELECT FROM attribution_events e
                          WHERE e.id = a.event_id AND e.tenant_id = a.tenant_id)
           OR NOT EXISTS (SELECT FROM channel_taxonomy t WHERE t.code = a.channel_code)
        UNION ALL
        SELECT 'ledger row', id FROM revenue_ledger l
        WHERE NOT EXISTS (SELECT FROM attribution_allocations a
                          WHERE a.id = l.allocation_id AND a.tenant_id = l.tenant_id)
           OR corrects_id IS NOT NULL AND NOT EXISTS (SELECT FROM revenue_ledger p
                          WHERE p.id = l.corrects_id AND p.allocation_id = l.allocation_id)
    """,
}


def broken(database: Database) -> set[str]:
    return {name for name, query in KEPT.items() if database.execute(query)}


@pytest.mark.parametrize(("first_level", "second_level"), PAIRS)
@pytest.mark.parametrize("race", RACES.values(), ids=RACES)
def test_of_two_transactions_that_break_a_sum_together_the_second_waits_and_is_refused(
    hardened: Database, race: Race, first_level: IsolationLevel, second_level: IsolationLevel
) -> None:
    pids: Queue[int] = Queue()

    def second() -> None:
        with acting(hardened, race.second_role, level=second_level) as session:
            pids.put(session.conn.info.backend_pid)
            race.second(session)

    with ThreadPoolExecutor(1) as pool:
        with acting(hardened, race.first_role, level=first_level) as session:
            race.first(session)
            session.check()
            outcome = pool.submit(second)
            waits_for(hardened, outcome, pids.get(timeout=30), session.conn.info.backend_pid)
        with refused_by_the_first(race, second_level):
            outcome.result(timeout=30)
    assert broken(hardened) == set()
    is_told_why_on_its_own(hardened, race, second_level)


@pytest.mark.parametrize(("first_level", "second_level"), PAIRS)
@pytest.mark.parametrize("race", RACES.values(), ids=RACES)
def test_of_two_transactions_that_break_a_sum_together_the_one_that_began_before_is_refused(
    hardened: Database, race: Race, first_level: IsolationLevel, second_level: IsolationLevel
) -> None:
    """The first ends before the second does anything but look."""
    with (
        refused_by_the_first(race, second_level),
        acting(hardened, race.second_role, level=second_level) as second,
    ):
        with acting(hardened, race.first_role, level=first_level) as first:
            race.first(first)
        race.second(second)
    assert broken(hardened) == set()
    is_told_why_on_its_own(hardened, race, second_level)


@contextmanager
def refused_by_the_first(race: Race, level: IsolationLevel) -> Iterator[None]:
    """At READ COMMITTED it sees what the first has done; else it cannot, and must not go on."""
    if level is IsolationLevel.READ_COMMITTED:
        with pytest.raises(errors.RaiseException, match=race.complaint):
            yield
    else:
        with pytest.raises(errors.SerializationFailure):
            yield


def is_told_why_on_its_own(database: Database, race: Race, level: IsolationLevel) -> None:
    with (
        pytest.raises(errors.RaiseException, match=race.complaint),
        acting(database, race.second_role, level=level) as session,
    ):
        race.second(session)


@pytest.mark.parametrize(("first_level", "second_level"), PAIRS)
@pytest.mark.parametrize("race", RACES.values(), ids=RACES)
def test_before_a_snapshot_could_break_a_sum(
    hardened: Database, race: Race, first_level: IsolationLevel, second_level: IsolationLevel
) -> None:
    """The same at the revision at which checks only lock."""
    hardened.downgrade("202511151130")
    could = second_level is not IsolationLevel.READ_COMMITTED and (
        IsolationLevel.SERIALIZABLE not in (first_level, second_level)
        or first_level is not second_level
    )
    # The second writes the event itself and not in its snapshot, which locking it did not change.
    with ExitStack() as stack:
        if not could:
            stack.enter_context(refused_by_the_first(race, second_level))
        elif race.first is repair:
            stack.enter_context(pytest.raises(errors.SerializationFailure))
            could = False
        second = stack.enter_context(acting(hardened, race.second_role, level=second_level))
        with acting(hardened, race.first_role, level=first_level) as first:
            race.first(first)
        race.second(second)
    assert bool(broken(hardened)) == could


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name.lower())
def test_who_cannot_be_serialized_succeeds_when_it_tries_again(
    hardened: Database, level: IsolationLevel
) -> None:
    """There is room for both."""

    def work(session: Session, channel: str) -> None:
        session.correct(A, -50)
        session.allocate(FRESH[A], (channel, 100), model=channel)

    with ExitStack() as stack:
        if level is not IsolationLevel.READ_COMMITTED:
            stack.enter_context(pytest.raises(errors.SerializationFailure))
        second = stack.enter_context(acting(hardened, level=level))
        with acting(hardened, level=level) as first:
            work(first, "direct")
        work(second, "email")
    if level is not IsolationLevel.READ_COMMITTED:
        with acting(hardened, level=level) as second:
            work(second, "email")
    assert broken(hardened) == set()
    assert hardened.execute(
        "SELECT sum(revenue_cents) FROM revenue_ledger WHERE allocation_id = %s", A
    ) == [(0,)]
    assert hardened.execute(
        "SELECT count(*) FROM attribution_allocations WHERE event_id = %s", FRESH[A]
    ) == [(2,)]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name.lower())
def test_a_check_writes_again_what_was_written_in_a_savepoint(
    hardened: Database, level: IsolationLevel
) -> None:
    """Whatever became of the savepoint, others cannot be serialized with the transaction."""

    def allocate(session: Session) -> None:
        session.allocate(FRESH[A], ("email", 100))
        session.check()

    def correct(session: Session) -> None:
        session.correct(A, -30)
        session.check()

    with ExitStack() as stack:
        late = [stack.enter_context(acting(hardened, level=LEVELS[1])) for _ in range(2)]
        with acting(hardened, level=level) as session:
            for model in ("m5", "m6", "m7"):
                with session.conn.transaction(force_rollback=model == "m6"):
                    session.allocate(FRESH[A], ("direct", 100), model=model)
                    session.correct(A, -30)
                    session.check()
            session.allocate(FRESH[A], ("direct", 100))
            session.correct(A, -30)
        for other, work in zip(late, (allocate, correct), strict=True):
            with pytest.raises(errors.SerializationFailure), other.conn.transaction():
                work(other)
    assert broken(hardened) == set()


@pytest.mark.parametrize("table", ["attribution_events", "revenue_ledger"])
def test_what_a_check_writes_is_as_it_was(hardened: Database, table: str) -> None:
    """Also at the end of the transaction that made it."""
    image = f"SELECT id, md5({table}::text) FROM {table} ORDER BY 1"
    before = dict(hardened.execute(image))
    with acting(hardened) as session:
        session.allocate(FRESH[A], ("direct", 100))
        session.correct(A, -30, id=NEW[A])
    after = dict(hardened.execute(image))
    assert {key: after[key] for key in before} == before
    written = "SELECT xmin FROM attribution_allocations WHERE event_id = %s"
    event = "SELECT xmin FROM attribution_events WHERE id = %s"
    posting = "SELECT xmin FROM revenue_ledger WHERE id = %s"
    assert hardened.execute(written, FRESH[A]) == hardened.execute(event, FRESH[A])
    assert hardened.execute(written, FRESH[A]) == hardened.execute(posting, A)


def move_revenue(session: Session) -> None:
    """A repair of what is not posted: a cent goes from one part to the other."""
    session.run(
        "UPDATE attribution_allocations SET allocated_revenue_cents = 99 -"
        " CASE WHEN id = %s THEN 48 ELSE 51 END WHERE event_id = %s AND model_version = 'm1'",
        SPLIT_PART[A],
        SPLIT[A],
    )


# What two transactions do at once that no check of a sum is for, with the role of each.
OTHERS: dict[str, tuple[str | None, Callable[[Session], object]]] = {
    "erase": ("migration_owner", lambda s: s.run("DELETE FROM tenants WHERE id = %s", A)),
    "ingest": ("app_rw", lambda s: s.insert("attribution_events")),
    "allocate": ("app_rw", lambda s: s.allocate(FRESH[A], ("referral", 100))),
    "reallocate": ("app_rw", move_revenue),
    "remove": (
        "app_rw",
        lambda s: s.run("DELETE FROM attribution_allocations WHERE event_id = %s", SPLIT[A]),
    ),
    "post": (
        "app_rw",
        lambda s: s.insert("revenue_ledger", allocation_id=SPLIT_PART[A], revenue_cents=49),
    ),
    "correct": ("app_rw", lambda s: s.correct(A, -60)),
    "remove the event": (
        "migration_owner",
        lambda s: s.run("DELETE FROM attribution_events WHERE id = %s", FRESH[A]),
    ),
    "remove the posting": (
        "migration_owner",
        lambda s: s.run("DELETE FROM revenue_ledger WHERE id = %s", A),
    ),
    "retire the code": (
        None,
        lambda s: s.run("DELETE FROM channel_taxonomy WHERE code = 'referral'"),
    ),
}
CONFLICTS = [
    ("erase", other) for other in ("ingest", "allocate", "reallocate", "post", "correct")
] + [
    ("post", "reallocate"),
    ("post", "remove"),
    ("allocate", "remove the event"),
    ("correct", "remove the posting"),
    ("allocate", "retire the code"),
]


@pytest.mark.parametrize(
    ("one", "other"),
    [pair for conflict in CONFLICTS for pair in (conflict, conflict[::-1])],
    ids=lambda name: str(name),
)
def test_at_every_level_nothing_is_left_of_what_another_transaction_removes_or_changes(
    make_database: MakeDatabase, templates: Templates, one: str, other: str
) -> None:
    for first_level in LEVELS:
        for second_level in LEVELS:
            template = templates.hardened
            database = make_database(template.migrator, template=template.name)
            (first_role, first), (second_role, second) = OTHERS[one], OTHERS[other]
            committed = False
            with (
                suppress(errors.SerializationFailure, errors.ForeignKeyViolation),
                acting(database, second_role, level=second_level) as late,
            ):
                with acting(database, first_role, level=first_level) as early:
                    first(early)
                committed = True
                second(late)
            assert committed
            assert broken(database) == set(), (first_level, second_level)


def waits_for(database: Database, outcome: Future[None], waiting: int, holder: int) -> None:
    """Return when one backend waits for another; fail when it goes on instead."""
    deadline = time.monotonic() + 30
    with database.connect() as conn:
        while conn.execute("SELECT pg_blocking_pids(%s)", [waiting]).fetchone() != ([holder],):
            assert not outcome.done(), f"it did not wait: {outcome.exception() or 'accepted'}"
            assert time.monotonic() < deadline, "it neither waits nor ends"


# Materialized views


AGE_MAX = 2147483647


@pytest.mark.parametrize("how", ["", "CONCURRENTLY"])
@pytest.mark.parametrize(
    ("updated_at", "age"),
    [("1901-01-01", AGE_MAX), ("-infinity", AGE_MAX), ("infinity", 0), ("2999-01-01", 0)],
)
def test_a_refresh_succeeds_whatever_the_rows_are_and_reads_every_tenants(
    hardened: Database, how: str, updated_at: str, age: int
) -> None:
    latest = {A: some_id(203), B: some_id(303)}
    with unchecked(hardened) as session:
        session.run("UPDATE revenue_ledger SET updated_at = %s", updated_at)
        for base, tenant in ((200, A), (300, B)):
            for number, day in ((1, 2), (3, 2), (4, 1)):
                session.insert(
                    "reconciliation_runs",
                    id=some_id(base + number),
                    tenant_id=tenant,
                    last_run_at="2025-06-01 00:00:00+00",
                    created_at=f"2025-01-0{day} 00:00:00+00",
                )
        for tenant in (A, B):
            session.insert("attribution_allocations", event_id=FRESH[tenant], tenant_id=tenant)
    with acting(hardened, hardened.migrator, None) as session:
        for view in MATERIALIZED_VIEWS:
            session.run(f"REFRESH MATERIALIZED VIEW {how} {view}")
    ages = hardened.execute(
        "SELECT tenant_id::text, data_freshness_seconds FROM mv_realtime_revenue"
    )
    assert dict(ages) == {A: age, B: age}
    runs = hardened.execute(
        "SELECT tenant_id::text, reconciliation_run_id::text FROM mv_reconciliation_status"
    )
    assert dict(runs) == latest
    groups = hardened.execute(
        "SELECT tenant_id::text, count(*), bool_and(is_balanced)"
        " FROM mv_allocation_summary GROUP BY 1 ORDER BY 1"
    )
    assert groups == [(A, 4, True), (B, 4, True)]


# The taxonomy


@pytest.mark.parametrize("role", APPLICATION_ROLES)
def test_application_roles_read_the_taxonomy_and_do_not_write_it(
    hardened: Database, role: str
) -> None:
    with acting(hardened, role) as session:
        assert session.run("SELECT count(*) FROM channel_taxonomy") == [(9,)]
        for write in (
            "INSERT INTO channel_taxonomy (code, family, is_paid, display_name)"
            " VALUES ('tv', 'tv', true, 'TV')",
            "UPDATE channel_taxonomy SET is_active = false",
            "DELETE FROM channel_taxonomy WHERE code = 'organic'",
            "TRUNCATE channel_taxonomy CASCADE",
        ):
            with pytest.raises(errors.InsufficientPrivilege), session.conn.transaction():
                session.run(write)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM channel_taxonomy WHERE code = 'tiktok_paid'",
        "UPDATE channel_taxonomy SET code = 'tiktok' WHERE code = 'tiktok_paid'",
    ],
)
def test_a_code_in_use_is_neither_removed_nor_renamed(hardened: Database, statement: str) -> None:
    key = "fk_attribution_allocations_channel_code"
    with (
        pytest.raises(errors.ForeignKeyViolation, match=key),
        acting(hardened, hardened.migrator) as session,
    ):
        session.run(statement)


# Personal data


PERSONAL: list[Any] = [
    {"email": None},
    {"EMAIL": None},
    {"e-mail": None},
    {"customerEmail": "x"},
    {"contact_emails": []},
    {"billing_address_2": "x"},
    {"ip": "x"},
    {"browser_ip": "x"},
    {"name": "x"},
    {"firstName": "x"},
    {"last name": "x"},
    {"phone": 1},
    {"date_of_birth": 1},
    {"order": 1, "shipping": {"to": {"name": "x"}}},
    {"items": [1, {"gift": [[{"email": "x"}]]}]},
    [{"phone": 1}],
    {'a "quoted" email': 1},
    {"a\\email": 1},
    {"a\nemail": 1},
    {"note": 'says "x": , ', "email": 1},
]
IMPERSONAL: list[Any] = [
    {},
    [],
    "email",
    {"product_name": "x", "emailed_at": "x", "zip": "x", "source_name": "x", "is_mobile": True},
    {"note": 'the "email": is missing'},
    {"note": '{"email": "x"}, "name": "x"'},
    {"note": ', "email": '},
    {'email": x': 1},
    {'the "name': 1},
    {"missing": ["email", "name", "ip"]},
    {"first": "ends with, ", "field": "email"},
    {"field": "name", "next": ": "},
]
DOCUMENTS = {
    "attribution_events": ["raw_payload"],
    "dead_events": ["raw_payload", "error_detail"],
}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in DOCUMENTS for column in DOCUMENTS[table]]
)
def test_keys_that_name_personal_data_are_refused_at_any_depth_and_no_others(
    hardened: Database, table: str, column: str
) -> None:
    refused, constraints = [], set()
    with acting(hardened) as session:
        for document in PERSONAL + IMPERSONAL:
            try:
                with session.conn.transaction():
                    session.insert(table, **{column: json.dumps(document)})
            except errors.CheckViolation as error:
                refused.append(document)
                constraints.add(error.diag.constraint_name)
    assert refused == PERSONAL
    assert constraints == {f"ck_{table}_{column}_names_no_pii"}


# Words that name personal data or nearly do, among what JSON writes around keys.
TEXTS = st.lists(
    st.sampled_from(
        ["email", "name", "ip", "z", "_", " ", ", ", "{", "}", "[", '"', "\\", ": ", "E", "1", "\n"]
    ),
    max_size=5,
).map("".join)
JSON_DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def keys_of(document: Any) -> Iterator[str]:
    if isinstance(document, Mapping):
        yield from document
        document = list(document.values())
    if isinstance(document, list):
        for inner in document:
            yield from keys_of(inner)


def test_a_document_names_personal_data_when_one_of_its_keys_does(
    templates_of: Callable[[str], Templates],
) -> None:
    with templates_of("superuser").hardened.connect() as conn:

        def names_pii(document: Any) -> bool:
            row = conn.execute("SELECT names_pii(%s)", [json.dumps(document)]).fetchone()
            assert row is not None
            return bool(row[0])

        @settings(max_examples=200, database=None, suppress_health_check=list(HealthCheck))
        @given(JSON_DOCUMENTS)
        def holds(document: Any) -> None:
            assert names_pii(document) == any(names_pii({key: 1}) for key in keys_of(document))

        holds()
