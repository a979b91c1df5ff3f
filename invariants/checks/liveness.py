"""liveness: what the contract permits is accepted, with the effect it promises."""

from __future__ import annotations

from collections.abc import Iterator

from invariants import model, sql
from invariants.checks import guards
from invariants.checks.base import (
    Case,
    Condition,
    Evidence,
    Invariant,
    Violation,
    row_matches,
    shown,
)
from invariants.history import Step
from invariants.operations import Select


class Liveness(Invariant):
    """A schema that refuses everything passes every safety check; this one it does not pass."""

    name = "liveness"
    promise = "What the contract permits is accepted, with the effect it promises."
    share = 5
    readings_percent = 12
    focus = {
        "allocate": 12,
        "reassign": 14,
        "deallocate": 8,
        "reconcile": 10,
        "refresh": 13,
        "probe": 10,
        "repair": 6,
        "post_to_ledger": 8,
    }

    def check(self, case: Case) -> Iterator[Violation]:
        """Compare every operation with what the model of the contract expects."""
        for step in case.history.steps:
            expectation = model.expect(case.contract, case.catalog, step.before, step.operation)
            if expectation is None:
                continue
            if step.error is not None:
                yield self._refused(case, step)
                continue
            yield from self._unread(case, step, expectation)
            for amiss in model.disagreements(expectation, case.catalog, case.contract, step.after):
                yield self._without_effect(case, step, amiss)

    def _without_effect(self, case: Case, step: Step, amiss: model.Disagreement) -> Violation:
        columns = case.catalog.tables[amiss.table].primary_key
        values = dict(zip(columns, amiss.key, strict=True))
        wanted = row_matches(amiss.table, {**values, **(amiss.wanted or {})})
        return Violation(
            signature=self.signature(step.operation.statements[-1].kind, amiss.table, "no effect"),
            operation=step.index,
            summary=f"{step.operation.actor.role} is told that it went well, "
            f"but a row of {amiss.table} {amiss.what}",
            promise=self.promise,
            proof=(
                Condition("accepted", step.index),
                Condition("state", step.index, wanted if amiss.wanted is None else f"NOT {wanted}"),
            ),
            evidence=(Evidence("the row", shown(step.after.find(amiss.table, amiss.key))),),
        )

    def _refused(self, case: Case, step: Step) -> Violation:
        error, statement = step.error, step.failed_statement
        assert error is not None
        actor = step.operation.actor.role or "the operator"
        return Violation(
            signature=self.signature(
                statement.kind, statement.relation, guards.refusing(error, statement, case.catalog)
            ),
            operation=step.index,
            summary=f"{actor} may {statement.kind} {statement.relation} here and is refused: "
            f"{error.message} ({error.sqlstate})",
            promise=self.promise,
            proof=(Condition("refused", step.index),),
        )

    def _unread(
        self, case: Case, step: Step, expectation: model.Expectation
    ) -> Iterator[Violation]:
        for position, (table, keys) in expectation.selected.items():
            statement, answer = step.operation.statements[position], step.answers[position]
            assert isinstance(statement, Select)
            columns = case.catalog.tables[table].primary_key
            places = [answer.columns.index(c) for c in columns]
            got = {tuple((row[p] or b"").decode() for p in places) for row in answer.rows}
            missing = [k for k in keys if tuple(str(v) for v in k) not in got]
            if missing:
                key = dict(zip(columns, missing[0], strict=True))
                yield Violation(
                    signature=self.signature(
                        "select", table, guards.isolating(table, case.catalog)
                    ),
                    operation=step.index,
                    summary=f"{step.operation.actor.role} does not see {len(missing)} "
                    f"of its own rows in {sql.name(table)}",
                    promise=self.promise,
                    proof=(Condition("seen", step.index, f"NOT {row_matches(table, key)}"),),
                )
