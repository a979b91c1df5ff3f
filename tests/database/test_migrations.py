"""The documented chain of revisions: there and back, on data, by both kinds of migrator."""

import io
import logging
import uuid
from collections.abc import Iterator
from itertools import pairwise

import psycopg
import pytest
import yaml
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import errors, sql
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from invariants.schema.difference import catalog_difference, catalog_fingerprint
from tests.databases import (
    DOCUMENTED_HEAD,
    ROOT,
    TENANT_SCOPED_TABLES,
    Database,
    MakeDatabase,
    config,
    database_maker,
    plain_owner,
    some_id,
)

DOCUMENTED = [
    "baseline",
    "202511131115",
    "202511131119",
    "202511131120",
    "202511131121",
    "202511131232",
    "202511131240",
    "202511131250",
    "202511141200",
    "202511141201",
    "202511141300",
    "202511141301",
    "202511141302",
    "202511141310",
    "202511141311",
]
CANONICAL_CODES = {
    "facebook_paid",
    "facebook_brand",
    "google_search_paid",
    "google_display_paid",
    "tiktok_paid",
    "direct",
    "organic",
    "referral",
    "email",
}
LEGACY_CHANNELS = {
    "google_search",
    "facebook_ads",
    "direct",
    "email",
    "organic",
    "referral",
    "social",
    "paid_search",
    "display",
}


@pytest.fixture
def make_database(server_url: str) -> Iterator[MakeDatabase]:
    with database_maker(server_url) as make:
        yield make


@pytest.fixture
def as_superuser(make_database: MakeDatabase) -> Database:
    return make_database()


@pytest.fixture(scope="module")
def template(server_url: str) -> Iterator[Database]:
    with database_maker(server_url) as make:
        database = make()
        database.upgrade()
        yield database


@pytest.fixture
def documented(make_database: MakeDatabase, template: Database) -> Database:
    """A database at the documented head, migrated by a superuser."""
    return make_database(template=template.name)


@pytest.fixture(params=["superuser", "migration_owner"])
def database(
    request: pytest.FixtureRequest, server_url: str, make_database: MakeDatabase
) -> Database:
    """An empty database, migrated by a superuser or by a migration_owner that owns it."""
    if request.param == "superuser":
        return make_database()
    return make_database(migrator=plain_owner(server_url))


@pytest.fixture
def plain_role(server_url: str) -> Iterator[str]:
    """A role of this test alone, without any right."""
    name = f"test_role_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def add_event(database: Database, number: int = 1, revenue_cents: int = 100) -> None:
    """An event, in a tenant of the same number."""
    database.execute(
        "INSERT INTO tenants (id, name) VALUES (%s, 'A tenant') ON CONFLICT DO NOTHING",
        some_id(number),
    )
    database.execute(
        "INSERT INTO attribution_events (id, tenant_id, occurred_at, revenue_cents, raw_payload)"
        " VALUES (%s, %s, now(), %s, '{}')",
        some_id(number),
        some_id(number),
        revenue_cents,
    )


def add_allocations(database: Database, column: str, *rows: tuple[int, int, str, int]) -> None:
    """Rows of (id, event and tenant, channel, cents), in one transaction without triggers."""
    with database.connect() as conn, conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        for number, event, channel, cents in rows:
            conn.execute(
                sql.SQL(
                    "INSERT INTO attribution_allocations"
                    " (id, tenant_id, event_id, model_version, allocated_revenue_cents, {})"
                    " VALUES (%s, %s, %s, 'v1', %s, %s)"
                ).format(sql.Identifier(column)),
                [some_id(number), some_id(event), some_id(event), cents, channel],
            )


def channels(database: Database, column: str) -> dict[int, str]:
    rows = database.execute(f"SELECT id, {column} FROM attribution_allocations")
    return {row[0].int: row[1] for row in rows}


# The chain


def test_the_chain_is_the_documented_one() -> None:
    script = ScriptDirectory.from_config(config())
    revisions = list(script.walk_revisions("base", DOCUMENTED_HEAD))
    assert [revision.revision for revision in reversed(revisions)] == DOCUMENTED
    assert len(script.get_heads()) == 1


def test_up_down_up_leaves_the_same_catalog(database: Database) -> None:
    database.upgrade("baseline")
    empty = database.fingerprint()
    database.upgrade()
    full = database.fingerprint()
    assert database.revision() == DOCUMENTED_HEAD
    database.downgrade("base")
    assert catalog_difference(empty, database.fingerprint()) == []
    assert database.revision() is None
    database.upgrade()
    assert catalog_difference(full, database.fingerprint()) == []


def test_every_revision_can_be_undone_and_repeated(database: Database) -> None:
    database.upgrade("baseline")
    for before, revision in pairwise(DOCUMENTED):
        below = database.fingerprint()
        database.upgrade(revision)
        above = database.fingerprint()
        assert catalog_difference(below, above) != []
        database.downgrade(before)
        assert catalog_difference(below, database.fingerprint()) == [], f"down from {revision}"
        database.upgrade(revision)
        assert catalog_difference(above, database.fingerprint()) == [], f"up to {revision} again"


def test_both_migrators_make_the_same_catalog(as_superuser: Database, database: Database) -> None:
    as_superuser.upgrade()
    database.upgrade()
    superuser = as_superuser.execute("SELECT current_user")[0][0]

    def anonymous(fingerprint: dict[str, str], owner: str) -> dict[str, str]:
        return {
            key: value.replace(f"owner {owner}", "owner OWNER")
            for key, value in fingerprint.items()
            if not key.startswith(("privileges", "database"))
        }

    assert (
        catalog_difference(
            anonymous(as_superuser.fingerprint(), superuser),
            anonymous(database.fingerprint(), database.migrator or superuser),
        )
        == []
    )


def test_migrating_as_owner_makes_the_owner_own_everything(database: Database) -> None:
    database.upgrade()
    owners = database.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace"
    )
    superuser = database.execute("SELECT current_user")[0][0]
    assert owners == [(database.migrator or superuser,)]


# env.py


def test_the_printed_sql_makes_the_same_catalog(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    online, offline = make_database(), make_database()
    online.upgrade()
    printed = io.StringIO()
    command.upgrade(config(output=printed), DOCUMENTED_HEAD, sql=True)
    offline.execute(printed.getvalue())
    assert offline.revision() == DOCUMENTED_HEAD
    assert catalog_difference(online.fingerprint(), offline.fingerprint()) == []

    online.downgrade("baseline")
    printed = io.StringIO()
    command.downgrade(config(output=printed), f"{DOCUMENTED_HEAD}:baseline", sql=True)
    offline.execute(printed.getvalue())
    assert offline.revision() == "baseline"
    assert catalog_difference(online.fingerprint(), offline.fingerprint()) == []


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_database_url_names_the_database(
    as_superuser: Database, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", as_superuser.url(scheme))
    command.upgrade(config(), DOCUMENTED_HEAD)
    assert as_superuser.revision() == DOCUMENTED_HEAD


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "set DATABASE_URL"),
        ("", "set DATABASE_URL"),
        ("host=localhost password=secret", "not a URL"),
        ("mysql://user:secret@localhost/db", "must be postgresql://"),
    ],
)
def test_without_a_usable_database_the_error_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, value: str | None, complaint: str
) -> None:
    if value is None:
        monkeypatch.delenv("DATABASE_URL", raising=False)
    else:
        monkeypatch.setenv("DATABASE_URL", value)
    with pytest.raises(CommandError, match=complaint) as failure:
        command.upgrade(config(), "head")
    assert "\n" not in str(failure.value)
    assert "secret" not in str(failure.value)


def test_a_passed_connection_inside_a_transaction_is_not_committed(as_superuser: Database) -> None:
    with as_superuser.connection() as connection:
        connection.execute(text("CREATE TABLE of_the_caller ()"))
        command.upgrade(config(connection), DOCUMENTED_HEAD)
        assert not connection.closed
        connection.rollback()
        assert connection.execute(text("SELECT to_regclass('tenants')")).scalar() is None
        assert connection.execute(text("SELECT to_regclass('of_the_caller')")).scalar() is None


def test_a_passed_connection_keeps_its_timeouts_and_the_program_its_logging(
    as_superuser: Database,
) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("invariants").disabled)
    with as_superuser.connection() as connection:
        command.upgrade(config(connection), DOCUMENTED_HEAD)
        assert not connection.closed
        assert not connection.in_transaction()
        for setting in ("lock_timeout", "statement_timeout"):
            assert connection.execute(text(f"SHOW {setting}")).scalar() == "0"
    assert before == (root.level, list(root.handlers), logging.getLogger("invariants").disabled)


def test_an_upgrade_that_fails_leaves_nothing_of_itself(as_superuser: Database) -> None:
    as_superuser.upgrade("202511141200")
    add_event(as_superuser)
    as_superuser.execute(
        "INSERT INTO revenue_ledger (tenant_id, revenue_cents) VALUES (%s, 1)", some_id(1)
    )
    before = as_superuser.fingerprint()
    with pytest.raises(DBAPIError):
        as_superuser.upgrade()
    assert as_superuser.revision() == "202511141200"
    assert catalog_difference(before, as_superuser.fingerprint()) == []


# Roles and grants


def test_roles_exist_and_carry_no_special_right(documented: Database) -> None:
    rows = documented.execute(
        "SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb FROM pg_roles"
        " WHERE rolname IN ('app_rw', 'app_ro', 'app_admin', 'migration_owner') ORDER BY 1"
    )
    names = ("app_admin", "app_ro", "app_rw", "migration_owner")
    assert rows == [(name, False) for name in names]


def test_grants_are_the_documented_ones(documented: Database) -> None:
    rows = documented.execute("""
        SELECT c.relname, coalesce(r.rolname, 'PUBLIC'),
               string_agg(a.privilege_type, ' ' ORDER BY a.privilege_type)
        FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.relnamespace = 'public'::regnamespace AND a.grantee <> c.relowner
        GROUP BY 1, 2
    """)
    assert {(table, role): privileges for table, role, privileges in rows} == {
        ("attribution_events", "app_rw"): "INSERT SELECT",
        ("dead_events", "app_rw"): "DELETE INSERT SELECT UPDATE",
        ("attribution_allocations", "app_rw"): "DELETE INSERT SELECT UPDATE",
        ("revenue_ledger", "app_rw"): "INSERT SELECT",
        ("reconciliation_runs", "app_rw"): "DELETE INSERT SELECT UPDATE",
        ("mv_realtime_revenue", "app_rw"): "SELECT",
        ("mv_reconciliation_status", "app_rw"): "SELECT",
        **{(table, "app_ro"): "SELECT" for table in TENANT_SCOPED_TABLES},
        ("mv_realtime_revenue", "app_ro"): "SELECT",
        ("mv_reconciliation_status", "app_ro"): "SELECT",
        ("revenue_ledger", "app_admin"): "INSERT SELECT",
    }


# Objects and comments


def test_documented_indexes_exist_with_their_definitions(documented: Database) -> None:
    rows = documented.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
        " AND indexname LIKE 'idx_%'"
    )
    definitions = dict(rows)
    # 17 of the tenant-scoped tables, one of tenants, 4 of the materialized views (001 D).
    assert len(definitions) == 22
    for name, ending in {
        "idx_attribution_events_tenant_external_event_id": (
            "(tenant_id, external_event_id) WHERE (external_event_id IS NOT NULL)"
        ),
        "idx_attribution_events_tenant_correlation_id": (
            "(tenant_id, correlation_id)"
            " WHERE ((correlation_id IS NOT NULL) AND (external_event_id IS NULL))"
        ),
        "idx_attribution_allocations_tenant_event_model_channel": (
            "(tenant_id, event_id, model_version, channel_code) WHERE (model_version IS NOT NULL)"
        ),
        "idx_revenue_ledger_tenant_allocation_id": (
            "(tenant_id, allocation_id) WHERE (allocation_id IS NOT NULL)"
        ),
        "idx_mv_allocation_summary_key": "(tenant_id, event_id, model_version)",
        "idx_mv_realtime_revenue_tenant_id": "(tenant_id)",
        "idx_mv_reconciliation_status_tenant_id": "(tenant_id)",
    }.items():
        assert definitions[name].startswith("CREATE UNIQUE INDEX")
        assert definitions[name].endswith(ending)
    assert definitions["idx_mv_allocation_summary_drift"].endswith(
        "(drift_cents) WHERE (drift_cents > 1)"
    )


def test_comments_are_there(documented: Database) -> None:
    fingerprint = documented.fingerprint()
    for table in [*TENANT_SCOPED_TABLES, "tenants", "channel_taxonomy"]:
        assert fingerprint[f"comment table public.{table}"]
    for table in ("attribution_events", "dead_events", "attribution_allocations"):
        assert fingerprint[f"comment table column public.{table}.correlation_id"]
    assert fingerprint["comment table public.revenue_ledger"] == (
        "Write-once financial ledger. Application roles may only INSERT. No UPDATE/DELETE for app"
        " roles; corrections via new ledger entries. Purpose: Revenue verification and aggregation."
        " Data class: Non-PII. Ownership: Reconciliation service. RLS enabled for tenant isolation."
    )
    assert fingerprint["comment table column public.channel_taxonomy.is_paid"] == (
        "Indicates whether spend is expected for this channel. Purpose: Enable paid vs organic"
        " channel segmentation. Data class: Non-PII."
    )
    for table, name in (
        ("attribution_allocations", "check_allocation_sum"),
        ("attribution_events", "events_prevent_mutation"),
        ("revenue_ledger", "ledger_prevent_mutation"),
    ):
        assert fingerprint[f"comment trigger trg_{name} on public.{table}"]


def test_row_level_security_is_forced_on_the_tenant_scoped_tables(database: Database) -> None:
    database.upgrade()
    rows = database.execute(
        "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
    )
    assert {row[0] for row in rows} == set(TENANT_SCOPED_TABLES)
    predicate = "(tenant_id = (current_setting('app.current_tenant_id'::text))::uuid)"
    policies = database.execute(
        "SELECT tablename, policyname, cmd, qual, with_check FROM pg_policies"
    )
    assert set(policies) == {
        (table, "tenant_isolation_policy", "ALL", predicate, predicate)
        for table in TENANT_SCOPED_TABLES
    }


def test_taxonomy_holds_the_canonical_codes_and_the_mapping_uses_no_other(
    documented: Database,
) -> None:
    codes = {row[0] for row in documented.execute("SELECT code FROM channel_taxonomy")}
    assert codes == CANONICAL_CODES
    mapping = yaml.safe_load((ROOT / "db" / "channel_mapping.yaml").read_text(encoding="utf-8"))
    sources: dict[str, dict[str, str]] = mapping["sources"]
    assert set(sources) == {
        "facebook_ads",
        "google_ads",
        "tiktok_ads",
        "shopify",
        "stripe",
        "paypal",
        "woocommerce",
    }
    assert sources["facebook_ads"]["FB_BRAND"] == "facebook_brand"
    indicators = [indicator for source in sources.values() for indicator in source]
    assert all(isinstance(indicator, str) for indicator in indicators)
    assert {code for source in sources.values() for code in source.values()} == CANONICAL_CODES


# Revisions that meet data


def test_ledger_rows_without_allocation_stop_the_upgrade_by_name(database: Database) -> None:
    database.upgrade("202511141301")
    for number in (1, 2):
        add_event(database, number)
        database.execute(
            "INSERT INTO revenue_ledger (id, tenant_id, revenue_cents) VALUES (%s, %s, 1)",
            some_id(70 + number),
            some_id(number),
        )
    with pytest.raises(DBAPIError) as failure:
        database.upgrade("202511141302")
    message = str(failure.value.orig)
    assert "2 rows without allocation_id" in message
    assert some_id(71) in message
    assert some_id(72) in message
    assert database.revision() == "202511141301"
    forced = database.execute(
        "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'revenue_ledger'"
    )
    assert forced == [(True,)]


def test_ledger_rows_with_allocation_pass(database: Database) -> None:
    database.upgrade("202511141301")
    add_event(database)
    add_allocations(database, "channel", (1, 1, "direct", 100))
    database.execute(
        "INSERT INTO revenue_ledger (tenant_id, allocation_id, revenue_cents) VALUES (%s, %s, 100)",
        some_id(1),
        some_id(1),
    )
    database.upgrade("202511141302")
    with pytest.raises(errors.NotNullViolation):
        database.execute("INSERT INTO revenue_ledger (tenant_id) VALUES (%s)", some_id(1))


def test_legacy_channels_are_mapped_for_every_tenant(database: Database) -> None:
    database.upgrade("202511141310")
    legacy = dict(enumerate(sorted(LEGACY_CHANNELS), start=1))
    for number in legacy:
        add_event(database, number)
    # Out of balance on purpose: rows may be older than the trigger.
    add_allocations(database, "channel", *((n, n, name, 7) for n, name in legacy.items()))
    database.upgrade()
    mapped = {
        "google_search": "google_search_paid",
        "paid_search": "google_search_paid",
        "facebook_ads": "facebook_paid",
        "social": "facebook_paid",
        "display": "google_display_paid",
    }
    after = channels(database, "channel_code")
    assert after == {n: mapped.get(name, name) for n, name in legacy.items()}
    add_event(database, 99, revenue_cents=0)
    with pytest.raises(errors.ForeignKeyViolation):
        database.execute(
            "INSERT INTO attribution_allocations (tenant_id, event_id, channel_code)"
            " VALUES (%s, %s, 'google_search')",
            some_id(99),
            some_id(99),
        )


def test_canonical_codes_map_back_to_legal_legacy_values(database: Database) -> None:
    database.upgrade()
    codes = dict(enumerate(sorted(CANONICAL_CODES), start=1))
    for number in codes:
        add_event(database, number)
    add_allocations(database, "channel_code", *((n, n, code, 100) for n, code in codes.items()))
    database.downgrade("202511141310")
    mapped = {
        "google_search_paid": "google_search",
        "google_display_paid": "display",
        "facebook_paid": "facebook_ads",
        "facebook_brand": "social",
        "tiktok_paid": "social",
    }
    after = channels(database, "channel")
    assert after == {n: mapped.get(code, code) for n, code in codes.items()}
    assert set(after.values()) <= LEGACY_CHANNELS
    validated = database.execute(
        "SELECT convalidated FROM pg_constraint"
        " WHERE conname = 'ck_attribution_allocations_channel_code_valid'"
    )
    assert validated == [(True,)]
    trigger = database.execute(
        "SELECT tgenabled FROM pg_trigger WHERE tgname = 'trg_check_allocation_sum'"
    )
    assert trigger == [("O",)]


@pytest.mark.parametrize(
    ("start", "end", "column", "pair"),
    [
        ("202511141310", "202511141311", "channel", ("google_search", "paid_search")),
        ("202511141310", "202511141311", "channel", ("facebook_ads", "social")),
        ("202511141311", "202511141310", "channel_code", ("facebook_brand", "tiktok_paid")),
    ],
)
def test_channels_that_would_merge_stop_the_migration_by_name(
    database: Database, start: str, end: str, column: str, pair: tuple[str, str]
) -> None:
    database.upgrade(start)
    add_event(database)
    add_allocations(database, column, (1, 1, pair[0], 40), (2, 1, pair[1], 60))
    migrate = database.upgrade if end > start else database.downgrade
    with pytest.raises(DBAPIError) as failure:
        migrate(end)
    message = str(failure.value.orig)
    assert "1 groups of rows would meet in one channel" in message
    assert f"event {some_id(1)}, model version v1: {pair[0]} and {pair[1]}" in message
    assert channels(database, column) == {1: pair[0], 2: pair[1]}


def test_mv_allocation_summary_is_built_from_every_tenants_rows(database: Database) -> None:
    database.upgrade("202511131232")
    for number, cents in ((1, 100), (2, 99), (3, 90)):
        add_event(database, number, revenue_cents=100)
        add_allocations(database, "channel", (number, number, "direct", cents))
    database.upgrade("202511131240")
    rows = database.execute("""
        SELECT tenant_id = event_id, model_version, total_allocated_cents, event_revenue_cents,
               is_balanced, drift_cents
        FROM mv_allocation_summary ORDER BY event_id
    """)
    assert rows == [
        (True, "v1", 100, 100, True, 0),
        (True, "v1", 99, 100, True, 1),
        (True, "v1", 90, 100, False, 10),
    ]


# check_allocation_sum, as documented: per row and at once


@pytest.fixture
def with_event(documented: Database) -> Database:
    """The documented head with one event of 100 cents, and another tenant's."""
    add_event(documented, 1)
    add_event(documented, 2)
    return documented


def allocate(database: Database, *parts: tuple[str, int], model: str = "v1") -> None:
    """One INSERT of all parts for event 1, by the superuser."""
    values = ", ".join(
        f"('{some_id(1)}', '{some_id(1)}', '{model}', '{code}', {cents})" for code, cents in parts
    )
    database.execute(
        "INSERT INTO attribution_allocations"
        " (tenant_id, event_id, model_version, channel_code, allocated_revenue_cents)"
        f" VALUES {values}"
    )


@pytest.mark.parametrize("cents", [99, 100, 101])
def test_sum_within_one_cent_is_accepted(with_event: Database, cents: int) -> None:
    allocate(with_event, ("direct", cents))


@pytest.mark.parametrize("cents", [0, 98, 102])
def test_sum_off_by_more_is_refused(with_event: Database, cents: int) -> None:
    with pytest.raises(errors.RaiseException, match=f"sum to {cents} cents, its revenue is 100"):
        allocate(with_event, ("direct", cents))


def test_one_statement_may_split(with_event: Database) -> None:
    allocate(with_event, ("direct", 40), ("email", 60))


def test_the_first_part_of_a_split_over_two_statements_is_refused(with_event: Database) -> None:
    with with_event.connect() as conn, conn.transaction(), pytest.raises(errors.RaiseException):
        conn.execute(
            "INSERT INTO attribution_allocations"
            " (tenant_id, event_id, channel_code, allocated_revenue_cents)"
            " VALUES (%s, %s, 'direct', 40)",
            [some_id(1), some_id(1)],
        )


def test_removing_all_allocations_is_refused(with_event: Database) -> None:
    allocate(with_event, ("direct", 40), ("email", 60))
    with pytest.raises(errors.RaiseException, match="sum to 0 cents"):
        with_event.execute("DELETE FROM attribution_allocations")


def test_each_model_version_has_a_sum_of_its_own(with_event: Database) -> None:
    allocate(with_event, ("direct", 100), model="v1")
    allocate(with_event, ("direct", 100), model="v2")


def test_the_group_a_row_is_moved_out_of_is_not_checked(with_event: Database) -> None:
    allocate(with_event, ("direct", 100), ("email", 0), model="v1")
    with_event.execute(
        "UPDATE attribution_allocations SET model_version = 'v2' WHERE channel_code = 'direct'"
    )
    sums = with_event.execute(
        "SELECT model_version, allocated_revenue_cents FROM attribution_allocations ORDER BY 1"
    )
    assert sums == [("v1", 0), ("v2", 100)]


def test_an_event_the_writer_cannot_see_is_not_checked(with_event: Database) -> None:
    with with_event.connect() as conn, conn.transaction():
        conn.execute("SET LOCAL ROLE app_rw")
        conn.execute("SELECT set_config('app.current_tenant_id', %s, true)", [some_id(1)])
        conn.execute(
            "INSERT INTO attribution_allocations"
            " (tenant_id, event_id, channel_code, allocated_revenue_cents)"
            " VALUES (%s, %s, 'direct', 7)",
            [some_id(1), some_id(2)],
        )


# Guard triggers, as documented: refuse, and discard what migration_owner does


@pytest.mark.parametrize("table", ["attribution_events", "revenue_ledger"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET revenue_cents = 1", "DELETE FROM {}"])
def test_guards_refuse_everybody_and_discard_repairs(
    with_event: Database, table: str, statement: str
) -> None:
    allocate(with_event, ("direct", 100))
    with_event.execute(
        "INSERT INTO revenue_ledger (tenant_id, allocation_id, revenue_cents)"
        " SELECT tenant_id, id, 100 FROM attribution_allocations"
    )
    query = statement.format(table)
    before = with_event.execute(f"SELECT * FROM {table}")
    with pytest.raises(errors.RaiseException, match="are not allowed"):
        with_event.execute(query)
    with with_event.connect() as conn, conn.transaction():
        conn.execute(f"GRANT SELECT, UPDATE, DELETE ON {table} TO migration_owner".encode())
        conn.execute("SET LOCAL ROLE migration_owner")
        conn.execute("SELECT set_config('app.current_tenant_id', %s, true)", [some_id(1)])
        assert conn.execute(query.encode()).rowcount == 0
    assert with_event.execute(f"SELECT * FROM {table}") == before


# catalog_fingerprint and catalog_difference


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            "ALTER TABLE revenue_ledger DISABLE TRIGGER trg_ledger_prevent_mutation",
            "changed: trigger public.revenue_ledger.trg_ledger_prevent_mutation",
        ),
        (
            "ALTER TABLE attribution_events NO FORCE ROW LEVEL SECURITY",
            "changed: table public.attribution_events",
        ),
        (
            "ALTER POLICY tenant_isolation_policy ON dead_events WITH CHECK (true)",
            "changed: policy public.dead_events.tenant_isolation_policy",
        ),
        (
            "ALTER FUNCTION check_allocation_sum() SECURITY DEFINER",
            "changed: function public.check_allocation_sum()",
        ),
        (
            "ALTER FUNCTION check_allocation_sum() SET search_path = public",
            "changed: function public.check_allocation_sum()",
        ),
        (
            "GRANT UPDATE (revenue_cents) ON revenue_ledger TO app_rw",
            "added: privileges column public.revenue_ledger.revenue_cents",
        ),
        (
            "GRANT TRUNCATE ON revenue_ledger TO app_rw",
            "changed: privileges relation public.revenue_ledger",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION check_allocation_sum() FROM PUBLIC",
            "changed: privileges function public.check_allocation_sum()",
        ),
        (
            "ALTER TABLE tenants DISABLE TRIGGER ALL",
            "changed: internal trigger public.tenants.dead_events_tenant_id_fkey"
            ' "RI_FKey_cascade_del"',
        ),
        (
            "DROP INDEX idx_revenue_ledger_tenant_allocation_id",
            "removed: index public.idx_revenue_ledger_tenant_allocation_id",
        ),
        (
            "COMMENT ON COLUMN dead_events.correlation_id IS 'other'",
            "changed: comment table column public.dead_events.correlation_id",
        ),
        (
            "ALTER TABLE dead_events ALTER COLUMN source SET DEFAULT 'x'",
            "changed: column public.dead_events.source",
        ),
        ("CREATE TYPE mood AS ENUM ('good', 'bad')", "added: type public.mood"),
        (
            "CREATE SCHEMA side CREATE VIEW peek AS SELECT 1 AS one",
            "added: view side.peek",
        ),
        (
            "CREATE AGGREGATE total(integer) (SFUNC = int4pl, STYPE = integer)",
            "added: aggregate public.total(integer)",
        ),
    ],
)
def test_a_change_of_the_catalog_is_named(documented: Database, change: str, expected: str) -> None:
    before = documented.fingerprint()
    documented.execute(change)
    assert expected in catalog_difference(before, documented.fingerprint())


def test_a_change_of_owner_is_named(documented: Database, plain_role: str) -> None:
    before = documented.fingerprint()
    documented.execute(f"ALTER TABLE tenants OWNER TO {plain_role}")
    difference = catalog_difference(before, documented.fingerprint())
    assert "changed: table public.tenants" in difference
    assert f"    + owner {plain_role}" in difference
    documented.execute("ALTER TABLE tenants OWNER TO CURRENT_USER")


def test_what_leaves_no_trace_is_no_difference(documented: Database) -> None:
    before = documented.fingerprint()
    for statement in (
        "ALTER TABLE tenants ADD COLUMN gone text",
        "ALTER TABLE tenants DROP COLUMN gone",
        "GRANT SELECT ON tenants TO app_ro",
        "REVOKE SELECT ON tenants FROM app_ro",
        "INSERT INTO tenants (name) VALUES ('A tenant')",
        "UPDATE alembic_version SET version_num = 'other'",
    ):
        documented.execute(statement)
    assert catalog_difference(before, documented.fingerprint()) == []


def test_reading_the_catalog_leaves_the_connection_as_it_was(as_superuser: Database) -> None:
    with as_superuser.connect() as conn:
        conn.execute("SET search_path = public")
        catalog_fingerprint(conn)
        assert conn.execute("SHOW search_path").fetchone() == ("public",)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
