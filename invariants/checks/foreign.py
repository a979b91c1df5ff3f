"""Which rows of an answer are another tenant's, and whom the session that got it acts for."""

from __future__ import annotations

from functools import partial

from invariants.checks.base import Case
from invariants.checks.ownership import link_of, owner_in, printed
from invariants.execution.history import Step
from invariants.execution.wire import Answer
from invariants.workload import sql
from invariants.workload.operations import Actor


def foreign_rows(
    case: Case, step: Step, name: str, answer: Answer
) -> tuple[list[tuple[bytes | None, ...]], str] | None:
    """The rows of an answer that are another tenant's, and an SQL condition that finds them.

    None where there are none, or where what was read does not say whose they are.
    """
    tenancy, ownership = case.contract.tenancy, case.ownership
    allowed = case.tenants_of(step)
    table = ownership.whole(name)
    if table in tenancy.shared:
        return None
    if table in tenancy.scoped_by:
        column = tenancy.scoped_by[table]
    elif table == tenancy.root:
        column = case.catalog.tables[table].id_column
    else:
        column = tenancy.column
    if column in answer.columns:
        position = answer.columns.index(column)
        whose = partial(_owner_read, case, step, table, position)
        foreign = [
            r for r in answer.rows if r[position] is not None and whose(r) not in (*allowed, None)
        ]
        if foreign:
            if table in tenancy.scoped_by:
                values = sorted({(r[position] or b"").decode() for r in foreign})
                listed = ", ".join(map(sql.literal, values))
                return foreign, f"{sql.column(column)}::text IN ({listed})"
            tenants = sorted(filter(None, allowed))
            if len(tenants) < 2:
                tenant = sql.literal(tenants[0] if tenants else None)
                return foreign, f"{sql.column(column)}::text IS DISTINCT FROM {tenant}"
            listed = ", ".join(map(sql.literal, tenants))
            return foreign, f"{sql.column(column)}::text NOT IN ({listed})"
    said = dict(step.operation.actor.said)
    for level in tenancy.within:
        if level.column in answer.columns and level.name in said and table != level.root:
            position = answer.columns.index(level.column)
            wanted = said[level.name].encode()
            foreign = [r for r in answer.rows if r[position] not in (wanted, None)]
            if foreign:
                value = sql.literal(said[level.name])
                return foreign, f"{sql.column(level.column)}::text IS DISTINCT FROM {value}"
    return None


def _owner_read(
    case: Case, step: Step, table: str, position: int, row: tuple[bytes | None, ...]
) -> str | None:
    """Whose a row is that was read, by what stands at this place in it."""
    value = (row[position] or b"").decode()
    if table not in case.contract.tenancy.scoped_by:
        return value
    link = link_of(case.contract, case.catalog, table)
    if link is None:
        return None
    column = case.contract.tenancy.scoped_by[table]
    target, columns = link
    to = dict(columns)[column]
    for state in (step.before, step.after):
        for record in state.rows(target):
            if printed(record.get(to)) == value:
                return owner_in(case.ownership, record, state)
    return None


def acting_for(actor: Actor) -> str:
    """Whom a session acts for, in words."""
    said = ", ".join(f"{name} {value}" for name, value in actor.said)
    if actor.tenant is None:
        return f"as {said}" if said else "without a tenant setting"
    if not actor.tenant:
        return "with an empty tenant setting"
    return f"for {actor.tenant}{f' as {said}' if said else ''}"
