"""Generation: workloads drawn by Hypothesis and workloads that are enumerated, for any schema.

May know of the contract, the catalog and what checks ask for; of no table, and of no database. What
is special to one schema comes from its own strategies (`[strategies]` in the contract), which
register rows with `@rows("table")` and operations with `@operation("name", weight=..)`: see
docs/extending.md.
"""

from __future__ import annotations

from invariants.contract.contract import Contract
from invariants.generation import hostile, taxonomies, tenants
from invariants.generation.derived import require_generable
from invariants.generation.drawing import exploring
from invariants.generation.duets import duets
from invariants.generation.registry import Values, new_row, operation, row_strategy, rows
from invariants.generation.sweeps import sweeps
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
    "hostile",
    "new_row",
    "operation",
    "rows",
    "sweeps",
    "taxonomies",
    "tenants",
    "workloads",
]


def check(contract: Contract, catalog: Catalog) -> None:
    """Check that rows can be generated for every tenant-scoped table.

    Raises `UsageError` naming table and column: what is not generated is not tested.
    """
    written = frozenset(t for t in contract.tenancy.tables if row_strategy(t))
    require_generable(contract, catalog, written)


import strategies  # noqa: E402, F401
