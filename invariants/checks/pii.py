"""pii: no key that names personal data is stored, at any depth; what only looks similar is."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.checks import guards, model
from invariants.checks.base import (
    Case,
    Condition,
    Evidence,
    Invariant,
    Violation,
    key_of,
    row_matches,
    shown,
)
from invariants.checks.values import pii_keys
from invariants.contract.contract import Contract
from invariants.contract.sections import Pii
from invariants.execution.history import Change, Step
from invariants.schema.catalog import Catalog
from invariants.workload import sql


class PiiKeptOut(Invariant):
    """Documents are judged by their keys, as the contract's words say."""

    name = "pii"
    promise = "No key that names personal data is stored, at any depth; what is none is accepted."
    sweeps = ("documents",)
    examines = "a document"
    focus = {
        "record": 4,
        "tamper": 12,
        "repair": 8,
        "refresh": 0,
        "probe": 0,
        "taxonomy": 0,
        "truncate": 0,
        "erase": 0,
    }

    def check(self, case: Case) -> Iterator[Violation]:
        """Check every document that is new, and every refusal of one."""
        pii = case.contract.pii
        if pii is None:
            return
        for step in case.history.steps:
            for change in step.changes:
                for table, column in pii.columns:
                    if change.table == table and change.after is not None:
                        yield from self._stored(case, pii, step, change, column)
            if step.error is not None:
                yield from self._refused(case, pii, step)

    def examined(self, case: Case) -> int:
        """Documents that were stored."""
        columns = case.contract.pii.columns if case.contract.pii else ()
        return sum(
            change.table == table
            and change.after is not None
            and change.after[column] is not None
            and (change.before is None or change.before[column] != change.after[column])
            for step in case.history.steps
            for change in step.changes
            for table, column in columns
        )

    def unruled(self, contract: Contract, catalog: Catalog) -> str | None:
        """Without a rule there is nothing to check."""
        del catalog
        return None if contract.pii and contract.pii.columns else "the contract has no [pii]"

    def _stored(
        self, case: Case, pii: Pii, step: Step, change: Change, column: str
    ) -> Iterator[Violation]:
        after = change.after
        assert after is not None
        if change.before is not None and change.before[column] == after[column]:
            return
        keys = pii_keys(pii, after[column])
        if not keys:
            return
        paths = " OR ".join(
            "jsonb_path_exists(t.{c}::jsonb, {p})".format(
                c=sql.column(column), p=sql.literal(f"$.**.{_quoted(k)}")
            )
            for k in keys[:1]
        )
        where = row_matches(change.table, key_of(case, after)).removeprefix("EXISTS (SELECT FROM ")
        table, _, condition = where.removesuffix(")").partition(" WHERE ")
        yield Violation(
            signature=self.signature(change.effect, change.table, column),
            operation=step.index,
            summary=f"{change.table}.{column} holds a key that names personal data: {keys[0]!r}",
            promise=self.promise,
            proof=(
                Condition(
                    "state",
                    step.index,
                    f"EXISTS (SELECT FROM {table} t WHERE {condition} AND ({paths}))",
                ),
            ),
            evidence=(Evidence("the row", shown(after)),),
        )

    def _refused(self, case: Case, pii: Pii, step: Step) -> Iterator[Violation]:
        error, statement = step.error, step.failed_statement
        assert error is not None
        relation = case.catalog.tables.get(statement.relation)
        checked = {c for t, c in pii.columns if t == statement.relation}
        if relation is None or not checked:
            return
        concerned = any(
            c.name == error.constraint and checked & set(c.columns) for c in relation.checks
        ) or bool(error.function)
        prediction = model.predict(case.contract, case.catalog, step.before, step.operation)
        if not concerned or prediction is None or not prediction.commits:
            return
        yield Violation(
            signature=self.signature(
                statement.kind,
                statement.relation,
                f"{guards.refusing(error, statement, case.catalog)} refuses other keys",
            ),
            operation=step.index,
            summary=f"{statement.relation} refuses a document without a key that names personal "
            f"data: {error.message}",
            promise=self.promise,
            proof=(Condition("refused", step.index),),
        )


def _quoted(key: str) -> str:
    """A key in a jsonpath."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
