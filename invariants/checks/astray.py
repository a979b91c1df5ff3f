"""References from a tenant's row to another tenant's, and rows of tenants that are not there."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.checks.base import (
    Case,
    Condition,
    Evidence,
    Signature,
    Violation,
    key_of,
    row_matches,
    shown,
)
from invariants.checks.ownership import owner_in, printed
from invariants.execution.history import Record, State, Step
from invariants.schema.catalog import ForeignKey
from invariants.workload import sql

REFERENCE = "reference"
"""The kind of a violation whose cause is a foreign key, whichever statement made the row."""


def references(case: Case, step: Step) -> Iterator[Violation]:
    """Rows that came or changed and refer to another tenant's."""
    for change in step.changes:
        row = change.after
        if row is None or change.table not in case.contract.tenancy.owned:
            continue
        for key in _keys(case, change.table):
            if key.target not in case.contract.tenancy.owned:
                continue
            target = _target(case, step, key, row)
            if target is None:
                continue
            # As it is now: an id may be another tenant's later on.
            there = step.after, step.before
            owner, theirs = (owner_in(case.ownership, r, *there) for r in (row, target))
            if theirs in (owner, None):
                continue
            yield Violation(
                signature=signed(REFERENCE, change.table, key.name),
                operation=step.index,
                summary=f"a row of {change.table} refers to another tenant's row "
                f"in {key.target}, through {key.name}",
                promise="No row refers to a row of another tenant.",
                proof=(
                    Condition("state", step.index, _refers(case, key, row)),
                    Condition("state", step.index, _crosses(case, key, row)),
                ),
                evidence=(
                    Evidence(f"the row in {change.table}", shown(row)),
                    Evidence(f"the row in {key.target} it refers to", shown(target)),
                ),
            )


def orphans(case: Case, step: Step) -> Iterator[Violation]:
    """Rows that came without their tenant being there, or stayed when it went."""
    root = case.contract.tenancy.root
    if root is None:
        return
    gone = {c.record.key for c in step.changes if c.table == root and c.after is None}
    rows = [c.after for c in step.changes if c.after is not None]
    if gone:
        rows = [r for t in case.contract.tenancy.owned for r in step.after.rows(t)]
    seen: set[str] = set()
    for row in rows:
        tenant = case.tenant_of(row)
        if row.table not in case.ownership.direct or tenant is None:
            continue
        if row.table in seen or _tenant_there(case, step.after, root, tenant):
            continue
        seen.add(row.table)
        column, key = case.contract.tenancy.column, case.catalog.tables[root].id_column
        reference = case.catalog.tables[row.table].foreign_key_of(column)
        owned = row_matches(row.table, key_of(case, row) | {column: tenant})
        yield Violation(
            signature=signed(
                REFERENCE, row.table, reference.name if reference else "no foreign key"
            ),
            operation=step.index,
            summary=f"a row of {row.table} belongs to a tenant that is not there",
            promise="Every row belongs to a tenant that is there.",
            proof=(
                Condition("state", step.index, owned),
                Condition("state", step.index, f"NOT {row_matches(root, {key: tenant})}"),
            ),
            evidence=(Evidence(f"the row in {row.table}", shown(row)),),
        )


def _target(case: Case, step: Step, key: ForeignKey, row: Record) -> Record | None:
    values = tuple(row[c] for c in key.columns)
    if None in values:
        return None
    if key.target_columns == case.catalog.tables[key.target].primary_key:
        return step.after.find(key.target, values)
    return next(
        (
            r
            for r in step.after.rows(key.target)
            if tuple(r[c] for c in key.target_columns) == values
        ),
        None,
    )


def _refers(case: Case, key: ForeignKey, row: Record) -> str:
    return row_matches(row.table, key_of(case, row) | {c: row[c] for c in key.columns})


def _crosses(case: Case, key: ForeignKey, row: Record) -> str:
    terms = [
        f"{sql.column(t)} = {sql.literal(row[c])}"
        for c, t in zip(key.columns, key.target_columns, strict=True)
    ]
    found = f"SELECT FROM {sql.name(key.target)} WHERE {' AND '.join(terms)}"
    if key.target not in case.ownership.direct:
        # Whose it is depends on the row that it refers to itself.
        return f"EXISTS ({found})"
    column, tenant = sql.column(case.contract.tenancy.column), sql.literal(case.tenant_of(row))
    return f"EXISTS ({found} AND {column} IS DISTINCT FROM {tenant})"


def _keys(case: Case, table: str) -> tuple[ForeignKey, ...]:
    """The foreign keys of a table, and what the contract says in their place."""
    told = (
        ForeignKey(f"{table}.{column}", table, (column,), *_pair(target), "", "")
        for (name, column), target in case.contract.references_to.items()
        if name == table
    )
    return (*case.catalog.tables[table].foreign_keys, *told)


def _pair(target: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    return target[0], (target[1],)


def _tenant_there(case: Case, state: State, root: str, tenant: str) -> bool:
    key = case.catalog.tables[root].id_column
    return any(printed(r[key]) == tenant for r in state.rows(root))


def signed(kind: str, relation: str, guard: str) -> Signature:
    """A signature of cross-tenant."""
    return Signature("cross-tenant", kind, relation, guard)
