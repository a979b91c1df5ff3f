"""Which relations a contract places, and what is made of those that it does not.

Every relation that a role may reach is to be a tenant's table, shared, a list of codes, or what a
role is promised to read. What is nowhere is tried like all others, as if it were placed where its
columns say and promised as it is granted; the model of the contract has no opinion on it. Of a view
it has: what `[roles]` does not name is promised to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from invariants.schema.catalog import Catalog, Relation
from invariants.schema.privileges import Reached, read_reached
from invariants.schema.reader import read_catalog

if TYPE_CHECKING:
    from invariants.contract.contract import Contract


def placed(contract: Contract) -> frozenset[str]:
    """The relations of which the contract says whose rows they have."""
    tenancy = contract.tenancy
    return frozenset(
        (
            *tenancy.rooted,
            *tenancy.shared,
            *((tenancy.members.table,) if tenancy.members else ()),
            *(level.root for level in tenancy.within),
            *(t.table for t in contract.taxonomies),
            *(name for p in contract.read_paths for name in (p.view, p.filled_by)),
        )
    )


def promised_views(contract: Contract, catalog: Catalog) -> frozenset[str]:
    """The views that some role is promised something of: they say for themselves whose rows."""
    named = {name for grants in contract.roles.values() for name in grants}
    views = (r for r in catalog.relations.values() if r.kind in ("view", "matview"))
    return frozenset(r.name for r in views if r.name in named)


def unplaced(contract: Contract, catalog: Catalog, reached: Reached) -> tuple[Relation, ...]:
    """The relations that an application role reaches and the contract does not place."""
    known = placed(contract) | contract.anywhere | promised_views(contract, catalog)
    roles = set(contract.application_roles)
    # A partition belongs to its parent, whichever of them is reached.
    reachable = {
        relation.part_of or name
        for name, relation in catalog.relations.items()
        if roles & reached.get(name, {}).keys()
    }
    return tuple(r for n, r in catalog.relations.items() if n in reachable - known)


def settled(contract: Contract, catalog: Catalog, reached: Reached) -> Contract:
    """The contract with what it does not place put where its columns say: see `unplaced`."""
    if contract.unplaced is not None:
        return contract
    found = unplaced(contract, catalog, reached)
    tenancy = contract.tenancy
    tables = [r for r in found if r.kind == "table"]
    direct = [r.name for r in tables if tenancy.column in r.columns]
    owned = {*tenancy.owned, *direct}
    scoped: dict[str, str] = {}
    for relation in tables:
        column = parent_column(relation, owned)
        if column and relation.name not in owned:
            scoped[relation.name] = column
            owned.add(relation.name)
    return replace(
        contract,
        unplaced=frozenset(r.name for r in found),
        tenancy=replace(
            tenancy,
            tables=(*tenancy.tables, *direct),
            scoped_by={**tenancy.scoped_by, **scoped},
        ),
        roles={
            role: {**grants, **_granted(role, tables, reached)}
            if role in contract.application_roles
            else grants
            for role, grants in contract.roles.items()
        },
    )


def settled_by(conn: psycopg.Connection[Any], contract: Contract) -> Contract:
    """The contract as `settled` by what the database `conn` is connected to says."""
    catalog = read_catalog(conn)
    return settled(contract, catalog, read_reached(conn, catalog, contract.roles))


def parent_column(relation: Relation, owned: set[str]) -> str | None:
    """A column that has to name a row of a tenant's table."""
    return next(
        (
            key.columns[0]
            for key in relation.foreign_keys
            if len(key.columns) == 1
            and key.target in owned
            and key.target != relation.name
            and relation.columns[key.columns[0]].not_null
        ),
        None,
    )


def _granted(
    role: str, relations: Sequence[Relation], reached: Reached
) -> Mapping[str, frozenset[str]]:
    return {r.name: verbs for r in relations if (verbs := reached.get(r.name, {}).get(role))}
