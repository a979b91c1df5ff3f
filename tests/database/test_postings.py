"""Postings and corrections at the head of the chain."""

import pytest
from psycopg import errors

from tests.database.hardened import NEW, SPLIT_PART, A, B, acting
from tests.databases import Database


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
