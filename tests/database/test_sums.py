"""The sum of allocations at the head of the chain."""

import pytest
from psycopg import errors

from tests.database.hardened import ALLOCATION, FRESH, NEW, SPLIT, SPLIT_PART, A, acting, rows
from tests.databases import Database


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
