"""A counterexample as text for people: who did what, what the answer was, what was promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from invariants.checks.base import Case, Violation
from invariants.contract import premises
from invariants.counterexamples import timeline
from invariants.counterexamples.wording import (
    VALUE_MAX,
    named,
    names_of,
    outcome,
    sent_before,
    session,
    spelled_short,
    who,
    wrapped,
)
from invariants.escaping import shown
from invariants.execution.history import Step

# Columns that are in every table and explain nothing.
_DULL = ("created_at", "updated_at")


def narrate(case: Case, violation: Violation) -> str:
    """The whole story in a few lines, ids replaced by names; ends without a newline."""
    return "\n".join(_Story(case, violation).lines())


def summarise(case: Case, violation: Violation) -> str:
    """The violation in one sentence, ids replaced by names."""
    return shown(named(violation.summary, names_of(case.history.workload)))


class _Story:
    def __init__(self, case: Case, violation: Violation) -> None:
        self.case, self.violation = case, violation
        self.names = names_of(case.history.workload)

    def named(self, text: str) -> str:
        return named(text, self.names)

    def lines(self) -> Iterator[str]:
        workload = self.case.history.workload
        yield shown(self.named(self.violation.summary))
        yield ""
        tenants = [self.names[t.id] for t in workload.tenants]
        if tenants:
            yield shown(f"Given     {', '.join(tenants)}")
        if workload.premise:
            yield f"Given     {premises.DESCRIPTIONS[workload.premise]}"
        for step in self.case.history.steps:
            if step.place is None:
                yield from self._step(step)
        yield from timeline.lines(self.case, self.violation.operation, self.names)
        yield from wrapped("Promised  ", self.named(self.violation.promise), " " * 10)
        for evidence in self.violation.evidence:
            for row in evidence.rows:
                yield shown(f"Shown by  {evidence.caption}")
                yield from wrapped(" " * 12, self.named(_pairs(row)), " " * 12)

    def _step(self, step: Step) -> Iterator[str]:
        actor = who(step.operation.actor, self.names, self.case.contract.application_roles)
        again = ", the same message again" if sent_before(self.case.history, step) else ""
        actor += session(step.operation)
        marked = step.index == self.violation.operation
        yield f"{'->' if marked else '  '}{step.index + 1:>2}  {shown(actor)}{again}"
        for statement in step.operation.statements:
            yield from wrapped(" " * 6, self.named(spelled_short(statement)), " " * 8)
        yield from wrapped("      = ", self.named(outcome(step)), " " * 8)


def _pairs(row: Mapping[str, object]) -> str:
    shown = [f"{k}={v}" for k, v in row.items() if v not in ({}, None) and k not in _DULL]
    return "  ".join(p if len(p) <= VALUE_MAX + 20 else p[: VALUE_MAX + 17] + "..." for p in shown)
