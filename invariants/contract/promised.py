"""The catalog as the contract promises it: what rows are made and outcomes predicted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from invariants.contract.sections import RowColumn
from invariants.schema.catalog import Catalog, Column, ForeignKey, Relation


def promised(rows: Mapping[str, tuple[RowColumn, ...]], tenant: str, catalog: Catalog) -> Catalog:
    """The catalog with what the contract says of `rows` in place of what the database does.

    Rows are made, and outcomes predicted, from it: a column that has lost its NOT NULL, its
    length or its key is judged by what was promised of it.
    """
    relations = dict(catalog.relations)
    for table, columns in rows.items():
        if table in relations:
            relations[table] = _as_promised(relations[table], columns, tenant)
    return replace(catalog, relations=relations)


def _as_promised(relation: Relation, promised: tuple[RowColumn, ...], tenant: str) -> Relation:
    columns = dict(relation.columns)
    for column in promised:
        if column.name in columns:
            columns[column.name] = _column_as_promised(columns[column.name], column)
    told = {c.name: c.gone_with for c in promised if c.gone_with}

    def key_as_promised(key: ForeignKey) -> ForeignKey:
        # The tenant is only there to keep a reference to a row within it.
        naming = [c for c in key.columns if c != tenant] or key.columns
        actions = {told[c] for c in naming if c in told}
        return replace(key, on_delete=actions.pop()) if len(actions) == 1 else key

    return replace(
        relation,
        columns=columns,
        primary_key=tuple(c.name for c in promised if c.key) or relation.primary_key,
        foreign_keys=tuple(map(key_as_promised, relation.foreign_keys)),
    )


def _column_as_promised(column: Column, promised: RowColumn) -> Column:
    return replace(
        column,
        type=promised.type,
        length=promised.length,
        scale=promised.scale,
        not_null=promised.key or not promised.nullable,
    )
