"""Generation: workloads drawn by Hypothesis and workloads that are enumerated, for any schema.

May know of the contract, the catalog and what checks ask for; of no table, and of no database. What
is special to one schema comes from its own strategies (`[strategies]` in the contract), which
register rows with `@rows("table")` and operations with `@operation("name", weight=..)`: see
docs/extending.md.
"""

from __future__ import annotations

from invariants.contract.contract import Contract
from invariants.generation import loading
from invariants.generation.derived import require_generable
from invariants.generation.drawing import exploring
from invariants.generation.duets import duets
from invariants.generation.loading import files_of, strategies_of
from invariants.generation.registry import Values, new_row, operation, rows
from invariants.generation.sweeps import sweep, sweeps
from invariants.generation.workloads import workloads
from invariants.generation.world import Known, World
from invariants.schema.catalog import Catalog

__all__ = [
    "Known",
    "Values",
    "World",
    "check",
    "duets",
    "exploring",
    "files_of",
    "new_row",
    "operation",
    "rows",
    "strategies_of",
    "sweep",
    "sweeps",
    "workloads",
]


def check(contract: Contract, catalog: Catalog) -> None:
    """Check that rows can be generated for every tenant-scoped table.

    Raises `UsageError` naming table and column: what is not generated is not tested. So it does
    for a module of strategies that cannot be loaded, or that speaks about what is not there.
    """
    loading.check(contract, catalog)
    written = strategies_of(contract).rows
    require_generable(
        contract, catalog, frozenset(t for t in contract.tenancy.owned if t in written)
    )
