"""Which refreshes of materialized views the contract, or the schema, means to be possible."""

from __future__ import annotations

from invariants.contract.contract import Contract
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Refresh


def refreshable(contract: Contract, catalog: Catalog, statement: Refresh) -> bool:
    """Whether it may be sent at all.

    A concurrent refresh needs a unique index over all rows. Where there is none, and no read path
    of the contract is filled by the view, nobody has said that it should be possible.
    """
    if not statement.concurrently:
        return True
    if any(path.filled_by == statement.relation for path in contract.read_paths):
        return True
    view = catalog.relations.get(statement.relation)
    indexes = view.uniques if view is not None else ()
    return any(not i.predicate and not i.expressions for i in indexes)
