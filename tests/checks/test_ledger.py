"""Ledger rows are judged by what they name, whichever operation it was that broke it.

Each flaw takes one guard away from the schema at head; with the guard nothing is found.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from invariants.search.judge import Judge
from invariants.workload.operations import Delete, Operation, Update
from tests.engine import (
    KEEP_FIRST,
    A,
    B,
    Lab,
    allocation,
    allocation_id,
    correction,
    erasure,
    event,
    event_id,
    key,
    of,
    posting,
    refused_without_violation,
    repair,
    workload,
)

NAME = "ledger"
ALLOCATIONS = "attribution_allocations"
LEDGER = "revenue_ledger"
POSTED = (of(A, event(1)), of(A, allocation(1)), of(A, posting(1)))
OF_ANY_AMOUNT = f"ALTER TABLE {LEDGER} DROP CONSTRAINT fk_revenue_ledger_posted_allocation"
# What a reference to the id alone leaves to chance: the tenant and the amount.
OF_ANY_TENANT = f"{OF_ANY_AMOUNT}, ADD FOREIGN KEY (allocation_id) REFERENCES {ALLOCATIONS} (id)"
CORRECTING_ANYTHING = f"ALTER TABLE {LEDGER} DROP CONSTRAINT fk_revenue_ledger_corrected_posting"
CORRECTING_CORRECTIONS = """
    DO $$ BEGIN
        EXECUTE replace(
            pg_get_functiondef('check_ledger_net'::regproc),
            'posting.corrects_id IS NOT NULL', 'false'
        );
    END $$
"""


def unchecked(what: str) -> str:
    return f"DROP TRIGGER trg_check_ledger_net_of_{what} ON {LEDGER}"


def found(lab: Lab, flaw: str, *operations: Operation) -> set[str]:
    return set(lab.tells_apart(NAME, workload(*operations), broken=flaw))


def test_a_posting_of_another_amount(head_lab: Lab) -> None:
    # The operation after it has no part in it.
    shown = workload(*POSTED[:2], of(A, posting(1, cents=99)), of(A, event(2)))
    faults = head_lab.tells_apart(NAME, shown, broken=OF_ANY_AMOUNT)
    assert set(faults) == {f"insert/{LEDGER}/revenue_cents posted"}
    posted, source = faults.popitem()[1].rows
    assert (posted["revenue_cents"], source["allocated_revenue_cents"]) == (99, 100)


def test_an_amount_that_changes_once_it_is_posted(head_lab: Lab) -> None:
    def amount(number: int, cents: int) -> Update:
        return Update(ALLOCATIONS, (("allocated_revenue_cents", cents),), key(ALLOCATIONS, number))

    split = of(A, allocation(1, cents=60), allocation(2, cents=40, channel_code="email"))
    moved = of(A, amount(1, 50), amount(2, 50))
    operations = of(A, event(1)), split, of(A, posting(1, cents=60)), moved
    assert found(head_lab, OF_ANY_AMOUNT, *operations) == {
        f"update/{ALLOCATIONS}/revenue_cents posted"
    }


def test_a_repair_to_another_amount(head_lab: Lab) -> None:
    change = repair(Update(LEDGER, (("revenue_cents", 7),), key(LEDGER, 1)))
    assert found(head_lab, OF_ANY_AMOUNT, *POSTED, change) == {
        f"update/{LEDGER}/revenue_cents posted"
    }


def test_a_second_posting(head_lab: Lab) -> None:
    flaw = "DROP INDEX idx_revenue_ledger_tenant_allocation_id"
    shown = workload(*POSTED, of(A, posting(2)))
    faults = head_lab.tells_apart(NAME, shown, broken=flaw)
    assert set(faults) == {f"insert/{LEDGER}/allocation_id posted once"}
    (fault,) = faults.values()
    assert fault.violation.operation == 3
    assert len(fault.rows) == 2


def test_a_posting_of_another_tenants_allocation(head_lab: Lab) -> None:
    operations = of(B, event(1, B)), of(B, allocation(1, B)), of(A, posting(1))
    assert found(head_lab, OF_ANY_TENANT, *operations) == {
        f"insert/{LEDGER}/{LEDGER}.allocation_id traced"
    }


def test_another_tenants_posting_is_no_second_one(head_lab: Lab) -> None:
    """The one who posts what is not its own is to blame, for that alone."""
    flaw = f"{OF_ANY_TENANT}; DROP INDEX idx_revenue_ledger_tenant_allocation_id"
    assert found(head_lab, flaw, *POSTED, of(B, posting(2, B))) == {
        f"insert/{LEDGER}/{LEDGER}.allocation_id traced"
    }


def test_a_posting_of_an_allocation_that_is_not_there(head_lab: Lab) -> None:
    assert found(head_lab, OF_ANY_AMOUNT, of(A, posting(1))) == {
        f"insert/{LEDGER}/{LEDGER}.allocation_id traced"
    }


def test_a_posted_allocation_that_goes_away(head_lab: Lab) -> None:
    remove = of(A, Delete(ALLOCATIONS, key(ALLOCATIONS, 1)))
    assert found(head_lab, OF_ANY_AMOUNT, *POSTED, remove) == {
        f"delete/{ALLOCATIONS}/{LEDGER}.allocation_id traced"
    }


def test_an_allocation_of_another_tenants_event(head_lab: Lab) -> None:
    flaw = (
        f"ALTER TABLE {ALLOCATIONS}"
        " DROP CONSTRAINT fk_attribution_allocations_tenant_event_id,"
        " ADD FOREIGN KEY (event_id) REFERENCES attribution_events (id)"
    )
    shown = workload(of(B, event(1, B)), of(A, allocation(1)), of(A, posting(1)))
    faults = head_lab.tells_apart(NAME, shown, broken=flaw)
    assert set(faults) == {f"insert/{LEDGER}/{ALLOCATIONS}.event_id traced"}
    # The row, what leads astray, and where to.
    assert [r["id"] for r in faults.popitem()[1].rows][1:] == [allocation_id(1), event_id(1)]


def test_a_repair_that_takes_the_event_of_a_posting(head_lab: Lab) -> None:
    flaw = f"ALTER TABLE {ALLOCATIONS} DROP CONSTRAINT fk_attribution_allocations_tenant_event_id"
    remove = repair(Delete("attribution_events", key("attribution_events", 1)))
    assert found(head_lab, flaw, *POSTED, remove) == {
        f"delete/attribution_events/{ALLOCATIONS}.event_id traced"
    }


def test_a_correction_of_another_tenants_posting(head_lab: Lab) -> None:
    theirs = of(B, event(2, B)), of(B, allocation(2, B, of_event=2))
    correct = of(B, correction(2, B, cents=-1, of_allocation=2))
    assert found(head_lab, CORRECTING_ANYTHING, *POSTED, *theirs, correct) == {
        f"insert/{LEDGER}/{LEDGER}.corrects_id traced",
        # Whoever's it is, it posts another allocation.
        f"insert/{LEDGER}/allocation_id of the posting",
    }


def test_a_correction_of_a_posting_that_is_not_there(head_lab: Lab) -> None:
    correct = of(A, correction(2, cents=-1, of_posting=9))
    assert found(head_lab, CORRECTING_ANYTHING, *POSTED, correct) == {
        f"insert/{LEDGER}/{LEDGER}.corrects_id traced"
    }


def test_a_correction_of_a_correction(head_lab: Lab) -> None:
    first, second = correction(2, cents=10), correction(3, cents=-5, of_posting=2)
    assert found(head_lab, CORRECTING_CORRECTIONS, *POSTED, of(A, first), of(A, second)) == {
        f"insert/{LEDGER}/corrects_id a posting"
    }


def test_a_corrected_posting_that_becomes_a_correction(head_lab: Lab) -> None:
    change = repair(Update(LEDGER, (("corrects_id", posting(2).rows[0][0]),), key(LEDGER, 1)))
    operations = *POSTED, of(A, correction(2, cents=-10)), change
    # The two correct each other, so either is wrong.
    assert found(head_lab, unchecked("repair"), *operations) == {
        f"update/{LEDGER}/corrects_id a posting"
    }


def test_a_correction_that_names_another_allocation(head_lab: Lab) -> None:
    other = of(A, allocation(2, model_version="m2"))
    correct = of(A, correction(2, cents=-10, of_allocation=2))
    assert found(head_lab, CORRECTING_ANYTHING, *POSTED, other, correct) == {
        f"insert/{LEDGER}/allocation_id of the posting"
    }


@pytest.mark.parametrize("cents", [(-101,), (-60, -41), (50, -100, -51)])
def test_corrections_below_zero(head_lab: Lab, cents: tuple[int, ...]) -> None:
    corrections = [of(A, correction(2 + i, cents=c)) for i, c in enumerate(cents)]
    shown = workload(*POSTED, *corrections)
    faults = head_lab.tells_apart(NAME, shown, broken=unchecked("correction"))
    assert set(faults) == {f"insert/{LEDGER}/net below zero"}
    # Only the last one is too much.
    (fault,) = faults.values()
    assert fault.violation.operation == 2 + len(cents)
    assert "to -1" in fault.violation.summary


def test_a_repair_that_takes_a_posting_below_zero(head_lab: Lab) -> None:
    change = repair(Update(LEDGER, (("revenue_cents", -101),), key(LEDGER, 2)))
    operations = *POSTED, of(A, correction(2, cents=-10)), change
    assert found(head_lab, unchecked("repair"), *operations) == {f"update/{LEDGER}/net below zero"}


def test_a_repair_that_takes_back_what_corrections_need(head_lab: Lab) -> None:
    raised = of(A, correction(2, cents=50))
    refunded = of(A, correction(3, cents=-150))
    remove = repair(Delete(LEDGER, key(LEDGER, 2)))
    assert found(head_lab, unchecked("repair"), *POSTED, raised, refunded, remove) == {
        f"delete/{LEDGER}/net below zero"
    }


def test_what_is_refused_is_no_violation(head_judge: Judge) -> None:
    refused = (
        posting(2),
        correction(2, cents=-101),
        correction(2, cents=-1, of_posting=9),
        correction(2, cents=-1, of_allocation=2),
        Update(LEDGER, (("revenue_cents", 7),)),
        Delete(LEDGER),
        Delete(ALLOCATIONS),
    )
    shown = workload(*POSTED, *(of(A, s) for s in refused))
    assert refused_without_violation(head_judge, NAME, shown) == list(range(3, 10))


def test_postings_corrections_and_refunds_are_no_violation(head_judge: Judge) -> None:
    shown = workload(
        *POSTED,
        of(A, replace(posting(2), conflict=KEEP_FIRST), delivery=1),
        # In one transaction an intermediate net may be below zero.
        of(A, correction(3, cents=-130), correction(4, cents=40)),
        of(A, correction(5, cents=-9), role="app_admin"),
        of(A, correction(6, cents=-1)),
        # Refunded in full; the posting can still be raised.
        of(A, correction(7, cents=25)),
        of(A, event(2, cents=0)),
        of(A, allocation(2, of_event=2, cents=0), posting(8, of_allocation=2, cents=0)),
        # The same for another tenant, with what the two may share.
        of(B, event(3, B, external_event_id="order-1")),
        of(B, allocation(3, B, of_event=3), posting(9, B, of_allocation=3)),
        of(B, correction(10, B, cents=-100, of_posting=9, of_allocation=3)),
    )
    assert refused_without_violation(head_judge, NAME, shown) == []


def test_repairs_and_erasure_are_no_violation(head_judge: Judge) -> None:
    shown = workload(
        *POSTED,
        of(A, correction(2, cents=-100)),
        repair(Update(LEDGER, (("revenue_cents", -90),), key(LEDGER, 2))),
        repair(Delete(LEDGER, key(LEDGER, 2))),
        repair(Delete(LEDGER, key(LEDGER, 1))),
        of(A, posting(3)),
        erasure(),
    )
    assert refused_without_violation(head_judge, NAME, shown) == []


def test_before_there_are_corrections_every_row_is_a_posting(lab: Lab) -> None:
    """The documented schema has no column for them and lets any amount be posted."""
    shown = workload(*POSTED[:2], of(A, posting(1, cents=99)))
    assert set(lab.findings(NAME, shown)) == {f"insert/{LEDGER}/revenue_cents posted"}
    assert lab.findings(NAME, workload(*POSTED)) == {}
