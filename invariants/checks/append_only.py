"""append-only: committed rows of append-only tables stay, whatever an application role does.

Each layer that is promised must hold alone, so the workloads also run on two altered schemas: with
every privilege granted the triggers must refuse, with the triggers disabled the privileges must.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from invariants.checks import guards
from invariants.checks.base import (
    COMPARABLE,
    Case,
    Condition,
    Evidence,
    Invariant,
    Violation,
    changed_proof,
    kept,
    reached,
    row_matches,
    shown,
)
from invariants.checks.values import fits
from invariants.contract import premises
from invariants.contract.contract import Contract
from invariants.contract.sections import Layer
from invariants.execution.history import Change, Record, Step
from invariants.schema.catalog import Catalog
from invariants.workload.operations import OPERATOR, Delete, Truncate, Update

# The layer that is left where a premise takes the other away.
_ALONE: Mapping[str, Layer] = {premises.GRANTED: "trigger", premises.UNTRIGGERED: "privilege"}


class AppendOnly(Invariant):
    """Rows stay byte for byte; the repair role's repair takes effect when it reports success."""

    name = "append-only"
    promise = "A committed row of an append-only table stays as it is; a repair takes effect."
    examines = "a write by an application role while an append-only table has rows, or a repair"
    premises = (premises.GRANTED, premises.UNTRIGGERED)
    sweeps = ("parents", "layers", "writers", "unlocking", "unlocking as another")
    concurrent = True
    duets = ("repairs",)
    share = 6
    focus = {
        "tamper": 14,
        "repair": 14,
        "truncate": 10,
        "refresh": 0,
        "probe": 0,
        "taxonomy": 0,
        "erase": 0,
    }

    def check(self, case: Case) -> Iterator[Violation]:
        """Check every change to an append-only table, and every repair."""
        premise = case.history.workload.premise
        granted = premise == premises.GRANTED
        # On an altered schema one layer is alone: it is to hold where it is promised.
        alone = _ALONE.get(premise)
        rules = [r for r in case.contract.append_only if alone is None or alone in r.layers]
        for step in case.history.steps:
            role = step.operation.actor.role
            if granted and case.is_application(step):
                # What is refused is not to look as if it had been done.
                for table in (*filter(None, (case.contract.tenancy.root,)), *_tables(case)):
                    yield from self._repair(case, step, table)
            for rule in rules:
                if role == rule.repaired_by:
                    yield from self._repair(case, step, rule.table)
                elif role not in (OPERATOR, case.contract.tenancy.erased_by):
                    for change in step.changes:
                        if change.table == rule.table and change.before is not None:
                            yield self._lost(case, step, change)

    def examined(self, case: Case) -> int:
        """Writes while rows are there that must stay, and repairs that found a row."""
        count = 0
        for step in case.history.steps:
            role = step.operation.actor.role
            if step.operation.reads_only or role in (OPERATOR, case.contract.tenancy.erased_by):
                continue
            kept = {r.table for r in step.before.records}
            for rule in case.contract.append_only:
                count += role != rule.repaired_by and rule.table in kept
        return count + sum(
            any(_aimed_at(case, step, statement))
            for step in case.history.steps
            for rule in case.contract.append_only
            if step.committed and step.operation.actor.role == rule.repaired_by
            for statement in step.operation.statements[:1]
            if isinstance(statement, Update | Delete) and statement.relation == rule.table
        )

    def unruled(self, contract: Contract, catalog: Catalog) -> str | None:
        """Without a rule there is nothing to check."""
        del catalog
        return None if contract.append_only else "the contract has no [[append_only]]"

    def _lost(self, case: Case, step: Step, change: Change) -> Violation:
        actor = step.operation.actor
        truncated = any(isinstance(s, Truncate) for s in step.operation.statements)
        kind = "truncate" if truncated else change.effect
        guard = "" if truncated else reached(case, step, change)
        if not guard:
            premise = case.history.workload.premise
            guard = (
                guards.firing(change.table, kind, case.catalog)
                if premise == premises.GRANTED
                else "privilege"
            )
        word = "removed" if change.after is None else "changed"
        return Violation(
            signature=self.signature(kind, change.table, guard),
            operation=step.index,
            summary=f"{actor.role} {word} a committed row of {change.table}"
            + (f" by way of {guard}" if change.table not in _named(step) else ""),
            promise="A committed row of an append-only table stays, byte for byte, "
            "whatever an application role does by whatever path.",
            proof=changed_proof(case, step, change),
            evidence=(
                Evidence("before", shown(change.before)),
                Evidence("after", shown(change.after)),
            ),
        )

    def _repair(self, case: Case, step: Step, table: str) -> Iterator[Violation]:
        """A repair that the server reports as done, and that changed nothing."""
        if not step.committed or len(step.operation.statements) != 1:
            return
        (statement,) = step.operation.statements
        if not isinstance(statement, Update | Delete) or statement.relation != table:
            return
        for row in _aimed_at(case, step, statement):
            after = step.after.find(table, row.key)
            if isinstance(statement, Update):
                columns = case.catalog.tables[table].columns
                wanted = {
                    c: v
                    for c, v in statement.assign
                    if isinstance(v, int | str)
                    and columns[c].type in COMPARABLE
                    # Spelled otherwise it may be what is there already.
                    and fits(columns[c], v)
                    and row[c] != v
                }
                # With another key it is elsewhere, and no longer as it was.
                done = not wanted or after is None or any(after[c] != row[c] for c in wanted)
            else:
                wanted, done = {}, after is None
            if done:
                continue
            change = Change(table, row, after if isinstance(statement, Update) else None)
            present = kept(case, Change(table, row, row))
            undone = (
                f"NOT {row_matches(table, {**dict(statement.where), **wanted})}"
                if wanted
                else present
            )
            yield Violation(
                signature=self.signature(
                    statement.kind,
                    table,
                    guards.firing(table, statement.kind, case.catalog, "BEFORE"),
                ),
                operation=step.index,
                summary=f"{step.operation.actor.role} {statement.kind}s a row of {table}, is told "
                "that it went well, and the row is as it was",
                promise="What reports success took effect; what is not permitted is refused.",
                proof=(
                    Condition("accepted", step.index),
                    Condition("state", step.index, present),
                    Condition("state", step.index, undone),
                ),
                evidence=(
                    Evidence("the row before", shown(change.before)),
                    Evidence("the row after", shown(after)),
                ),
            )
            return


def _aimed_at(case: Case, step: Step, statement: Update | Delete) -> Iterator[Record]:
    """Rows of the actor's tenant that the statement names, by columns that compare as they are.

    Beside other sessions only those count that were there from its beginning and to its end.
    """
    tenant = step.operation.actor.tenant
    for row in step.before.rows(statement.relation):
        if any(row not in state.records for state in step.during):
            continue
        if case.tenant_of(row) == tenant and all(row.get(c) == v for c, v in statement.where):
            yield row


def _tables(case: Case) -> tuple[str, ...]:
    return tuple(a.table for a in case.contract.append_only)


def _named(step: Step) -> set[str]:
    return {s.relation for s in step.operation.statements}
