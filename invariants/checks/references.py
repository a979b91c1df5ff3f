"""Which columns of a table name rows of another, or of itself: what contract and database say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invariants.contract.contract import Contract
from invariants.remembering import remembered
from invariants.schema.catalog import Catalog, ForeignKey, Relation


@dataclass(frozen=True)
class Reference:
    """Columns that name a row of `target` by these columns of it, the tenant's left out.

    `key` is the foreign key that says so, None where the contract alone does.
    """

    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    key: ForeignKey | None = None

    def names(self, row: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
        """Whether the row names this one."""
        pairs = zip(self.columns, self.target_columns, strict=True)
        if self.key is not None:
            # Of another tenant's row there may be one that is called the same.
            pairs = zip(self.key.columns, self.key.target_columns, strict=True)
        return all((value := row.get(c)) is not None and value == target.get(t) for c, t in pairs)


@remembered
def references(contract: Contract, catalog: Catalog) -> Mapping[str, tuple[Reference, ...]]:
    """The references of every table: those of the contract first; found out once."""
    return {name: _of(contract, catalog, table) for name, table in catalog.tables.items()}


def _of(contract: Contract, catalog: Catalog, table: Relation) -> tuple[Reference, ...]:
    whose = contract.tenancy.column
    told = dict(contract.references(table.name))
    found = [
        Reference((column,), target, _named_by(contract, catalog, table.name, column, target), key)
        for column, target in told.items()
        for key in (_only(table, column, target, whose),)
    ]
    for key in table.foreign_keys:
        named = [
            (c, t)
            for c, t in zip(key.columns, key.target_columns, strict=True)
            if c != whose or len(key.columns) == 1
        ]
        # That its tenant is there is asked of every row.
        if key.target == contract.tenancy.root and set(key.columns) == {whose}:
            continue
        if {c for c, _ in named} & told.keys():
            continue
        columns, targets = zip(*named, strict=True)
        found.append(Reference(columns, key.target, targets, key))
    return tuple(found)


def _named_by(
    contract: Contract, catalog: Catalog, table: str, column: str, target: str
) -> tuple[str, ...]:
    if (table, column) in contract.references_to:
        return (contract.references_to[table, column][1],)
    key = catalog.tables[target].primary_key
    own = tuple(c for c in key if c != contract.tenancy.column)
    return own if len(own) == 1 else key[:1]


def _only(table: Relation, column: str, target: str, whose: str) -> ForeignKey | None:
    """The foreign key that says the same as the contract."""
    return next(
        (
            k
            for k in table.foreign_keys
            if k.target == target and {*k.columns} - {whose} == {column}
        ),
        None,
    )
