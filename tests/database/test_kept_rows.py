"""Append-only tables at the head of the chain: who removes what."""

import pytest
from psycopg import errors

from tests.database.hardened import (
    APPLICATION_ROLES,
    FRESH,
    NEW,
    SPLIT,
    TABLES,
    A,
    B,
    acting,
    rows,
)
from tests.databases import Database

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
