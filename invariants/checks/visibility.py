"""What policies ask for besides the tenant: which of its rows a session sees is left open.

A row may have to be published, or its author's, or its reader a manager. Whether that is so,
neither contract nor model say; that nobody sees another tenant's is another invariant's to check.
"""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.remembering import remembered
from invariants.schema.catalog import Catalog
from invariants.schema.definitions import PolicyText
from invariants.schema.reach import Reach


@remembered
def deciding(contract: Contract, catalog: Catalog, table: str, verb: str) -> tuple[str, ...]:
    """The policies that decide of a tenant's own rows, by more than whose they are.

    Nothing where the contract says itself what rows hold (`[rows]`), or where one policy lets
    every row of the tenant pass.
    """
    return () if table in contract.rows else tuple(_found(contract, catalog, table, verb))


def _found(contract: Contract, catalog: Catalog, table: str, verb: str) -> Iterator[str]:
    relation = catalog.relations.get(table)
    if relation is None or not relation.row_security:
        return
    policies = [p for p in catalog.definitions.policies if p.table == table and verb in p.verbs]
    asking = [p for p in policies if _asks_more(contract, catalog, p)]
    yield from (p.name for p in asking if not p.permissive)
    permissive = [p for p in policies if p.permissive]
    if all(p in asking for p in permissive):
        yield from (p.name for p in permissive)


def _asks_more(contract: Contract, catalog: Catalog, policy: PolicyText) -> bool:
    bare = policy.table.rpartition(".")[2]
    free = {*catalog.relations[policy.table].columns} - _placing(contract, catalog, policy.table)
    if any(c[-1] in free and c[-2:-1] in ((), (bare,)) for c in policy.effects.columns):
        return True
    reached = Reach(catalog, catalog.definitions).of_effects(policy.effects)
    routines = catalog.definitions.routine
    elsewhere = {c[-1] for c in policy.effects.columns if c[-2:-1] != (bare,)}
    called = (routines[r].effects.columns for r in reached.routines if r in routines)
    in_routines = {c[-1] for columns in called for c in columns}
    return any(
        said & ({*catalog.relations[table].columns} - _placing(contract, catalog, table))
        for table in reached.reads & catalog.relations.keys()
        for said in (in_routines, elsewhere if table != policy.table else set())
    )


def _placing(contract: Contract, catalog: Catalog, table: str) -> set[str]:
    """The columns that say whose a row is, and those by which rows are found."""
    tenancy, relation = contract.tenancy, catalog.relations[table]
    placing = {tenancy.column, *relation.primary_key, *(w.column for w in tenancy.within)}
    placing |= {c for t, c in tenancy.tied if t == table}
    placing |= {c for k in relation.foreign_keys if k.target in tenancy.rooted for c in k.columns}
    if table in tenancy.scoped_by:
        placing.add(tenancy.scoped_by[table])
    if tenancy.members is not None and tenancy.members.table == table:
        placing |= {tenancy.members.user, tenancy.members.tenant}
    return placing
