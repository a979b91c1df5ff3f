"""Hypothesis strategies for workloads. Importing the package registers all of them.

`workloads` is the one the engine draws from. Add a table with `@rows("table")`, a kind of operation
with `@operation("name", weight=..)`: see docs/extending.md.
"""

from __future__ import annotations

from invariants.catalog import Catalog
from invariants.contract import Contract
from strategies import allocations, events, hostile, ledger, taxonomy, tenants
from strategies.derived import require_generable
from strategies.drawing import exploring
from strategies.duets import duets
from strategies.registry import Values, new_row, operation, row_strategy, rows
from strategies.sweeps import sweeps
from strategies.workloads import workloads
from strategies.world import Known, World

__all__ = [
    "Known",
    "Values",
    "World",
    "allocations",
    "check",
    "duets",
    "events",
    "exploring",
    "hostile",
    "ledger",
    "new_row",
    "operation",
    "rows",
    "sweeps",
    "taxonomy",
    "tenants",
    "workloads",
]


def check(contract: Contract, catalog: Catalog) -> None:
    """Check that rows can be generated for every tenant-scoped table.

    Raises `UsageError` naming table and column: what is not generated is not tested.
    """
    written = frozenset(t for t in contract.tenancy.tables if row_strategy(t))
    require_generable(contract, catalog, written)
