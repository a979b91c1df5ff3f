"""The tenant setting, while triggers act for the tenant of a row."""

import pytest
from psycopg import errors

from tests.database.hardened import ALLOCATION, FRESH, NEW, A, B, Session, acting, setting
from tests.databases import Database


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
