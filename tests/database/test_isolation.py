"""Tenants keep apart at the head of the chain."""

from typing import Any

import pytest
from psycopg import errors

from tests.database.hardened import (
    APPLICATION_ROLES,
    FRESH,
    MATERIALIZED_VIEWS,
    REFERENCES,
    SPLIT_PART,
    A,
    B,
    Session,
    acting,
    rows,
)
from tests.databases import TENANT_SCOPED_TABLES, Database


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
