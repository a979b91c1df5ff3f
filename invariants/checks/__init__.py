"""The invariants, by name. One module each; a new one is added to the list below.

May know of the contract, the catalog and a history; draws nothing, and sends nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from invariants.checks.allocation_sum import AllocationSum
from invariants.checks.append_only import AppendOnly
from invariants.checks.base import Case, Condition, Evidence, Invariant, Signature, Violation
from invariants.checks.cross_tenant import CrossTenant
from invariants.checks.idempotent_ingest import IdempotentIngest
from invariants.checks.ledger import LedgerAddsUp
from invariants.checks.liveness import Liveness
from invariants.checks.pii import PiiKeptOut
from invariants.checks.read_path import ReadPathTrue
from invariants.checks.taxonomy import TaxonomyKept
from invariants.errors import UsageError

__all__ = [
    "INVARIANTS",
    "Case",
    "Condition",
    "Evidence",
    "Invariant",
    "Signature",
    "Violation",
    "chosen",
]

INVARIANTS: Mapping[str, Invariant] = {
    i.name: i
    for i in (
        CrossTenant(),
        AppendOnly(),
        AllocationSum(),
        IdempotentIngest(),
        TaxonomyKept(),
        LedgerAddsUp(),
        ReadPathTrue(),
        PiiKeptOut(),
        Liveness(),
    )
}


def chosen(names: Sequence[str]) -> tuple[Invariant, ...]:
    """The invariants of these names, all when there are none.

    Raises `UsageError` for an unknown one.
    """
    for name in names:
        if name not in INVARIANTS:
            raise UsageError(
                f"--invariant: {name!r} is not known; use one of: {', '.join(INVARIANTS)}"
            )
    return tuple(i for n, i in INVARIANTS.items() if not names or n in names)
