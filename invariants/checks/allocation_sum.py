"""allocation-sum: rows that split an amount add up to it, after every commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invariants.checks import guards
from invariants.checks.base import Case, Condition, Evidence, Invariant, Violation, shown
from invariants.contract.contract import Contract
from invariants.contract.sections import Sum
from invariants.execution.history import Record, State, Step
from invariants.schema.catalog import Catalog
from invariants.workload import sql

# Tenant and the values of the `group_by` columns.
Group = tuple[Any, ...]


class AllocationSum(Invariant):
    """For each group that has rows, the sum differs from the total by at most the tolerance."""

    name = "allocation-sum"
    promise = "Allocations add up to the event's revenue, within the tolerance, after every commit."
    examines = "a change to rows that must add up"
    sweeps = ("sums", "magnitudes")
    concurrent = True
    duets = ("sums",)
    focus = {"refresh": 0, "probe": 0, "taxonomy": 0, "truncate": 0, "erase": 0, "repair": 2}

    def check(self, case: Case) -> Iterator[Violation]:
        """Check the groups that each operation touched."""
        for rule in case.contract.sums:
            for step in case.history.steps:
                for group in _touched(case, rule, step):
                    before = imbalance(case, rule, step.before, group)
                    after = imbalance(case, rule, step.after, group)
                    if after is not None and before is None:
                        yield self._violation(case, rule, step, group, after)

    def examined(self, case: Case) -> int:
        """Groups with rows that an operation touched."""
        return sum(
            any(group_of(case, rule, r) == group for r in step.after.rows(rule.table))
            for rule in case.contract.sums
            for step in case.history.steps
            for group in _touched(case, rule, step)
        )

    def unruled(self, contract: Contract, catalog: Catalog) -> str | None:
        """Without a rule there is nothing to check."""
        del catalog
        return None if contract.sums else "the contract has no [[sums]]"

    def _violation(
        self, case: Case, rule: Sum, step: Step, group: Group, amounts: tuple[int, Any]
    ) -> Violation:
        actual, expected = amounts
        total = _total(rule, step.after, group)
        left = any(
            c.before
            and c.after
            and group_of(case, rule, c.before) == group != group_of(case, rule, c.after)
            for c in step.changes
            if c.table == rule.table
        )
        effects = {
            c.effect
            for c in step.changes
            if c.table == rule.table
            and group in [group_of(case, rule, r) for r in (c.before, c.after) if r]
        }
        relation, kind = rule.table, min(effects, key=_ORDER.index) if effects else "update"
        if not effects:
            relation = rule.total_table
        key = case.catalog.tables[rule.table].foreign_key_of(rule.total_key)
        if left:
            guard = f"{guards.firing(rule.table, 'update', case.catalog)}: group left behind"
        elif (total is None or case.tenant_of(total) != group[0]) and key is not None:
            # Whichever statement made it: the cause is that the key crosses tenants.
            kind, guard = "reference", key.name
        else:
            guard = guards.firing(relation, kind, case.catalog)
        rows = [r for r in step.after.rows(rule.table) if group_of(case, rule, r) == group]
        return Violation(
            signature=self.signature(kind, relation, guard),
            operation=step.index,
            summary=f"rows of {rule.table} add up to {actual} where {rule.total_table}."
            f"{rule.total_column} is {expected}"
            + (": the group that a row left is not checked" if left else ""),
            promise=f"{rule.amount} by tenant, {', '.join(rule.group_by)} adds up to "
            f"{rule.total_table}.{rule.total_column}, give or take {rule.tolerance}.",
            proof=(Condition("state", step.index, _unbalanced(case, rule, group)),),
            evidence=(
                Evidence(f"the group in {rule.table}", shown(*rows)),
                Evidence(f"its total in {rule.total_table}", shown(total)),
            ),
        )


_ORDER = ("insert", "update", "delete")


def group_of(case: Case, rule: Sum, row: Record) -> Group:
    """The group a row counts into."""
    return (case.tenant_of(row), *(row[c] for c in rule.group_by))


def imbalance(case: Case, rule: Sum, state: State, group: Group) -> tuple[int, Any] | None:
    """(sum, total) of a group that does not add up; None when it does, or has no rows."""
    amounts = [r[rule.amount] for r in state.rows(rule.table) if group_of(case, rule, r) == group]
    if not amounts:
        return None
    total = _total(rule, state, group)
    expected = total[rule.total_column] if total else None
    actual = sum(a for a in amounts if a is not None)
    if expected is not None and abs(actual - expected) <= rule.tolerance:
        return None
    return actual, expected


def _total(rule: Sum, state: State, group: Group) -> Record | None:
    return state.find(rule.total_table, (group[1 + rule.group_by.index(rule.total_key)],))


def _touched(case: Case, rule: Sum, step: Step) -> list[Group]:
    groups: dict[Group, None] = {}
    for change in step.changes:
        if change.table == rule.table:
            for row in (change.before, change.after):
                if row is not None:
                    groups[group_of(case, rule, row)] = None
        elif change.table == rule.total_table:
            for row in step.after.rows(rule.table):
                if (row[rule.total_key],) == change.record.key:
                    groups[group_of(case, rule, row)] = None
    return list(groups)


def _unbalanced(case: Case, rule: Sum, group: Group) -> str:
    columns = (case.contract.tenancy.column, *rule.group_by)
    key: Mapping[str, Any] = dict(zip(columns, group, strict=True))
    if rule.table not in case.ownership.direct:
        key = {c: v for c, v in key.items() if c != case.contract.tenancy.column}
    where = " AND ".join(f"{sql.column(c)} = {sql.literal(v)}" for c, v in key.items())
    total_key = case.catalog.tables[rule.total_table].primary_key[0]
    total = (
        f"SELECT {sql.column(rule.total_column)} FROM {sql.name(rule.total_table)} "
        f"WHERE {sql.column(total_key)} = {sql.literal(key[rule.total_key])}"
    )
    return (
        f"(SELECT count(*) > 0 AND abs(sum({sql.column(rule.amount)}) - ({total})) "
        f"> {rule.tolerance} FROM {sql.name(rule.table)} WHERE {where})"
    )
