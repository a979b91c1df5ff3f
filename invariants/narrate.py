"""A counterexample as text for people: who did what, what the answer was, what was promised."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping

from invariants import premises, sql
from invariants.checks.base import Case, Violation
from invariants.history import Step
from invariants.operations import Copy, Statement, Workload, inserted

WIDTH = 100
_UUID = re.compile(r"'?\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b'?")
_VALUE_MAX = 60
# Columns that are in every table and explain nothing.
_DULL = ("created_at", "updated_at")


def narrate(case: Case, violation: Violation) -> str:
    """The whole story in a few lines, ids replaced by names; ends without a newline."""
    return "\n".join(_Story(case, violation).lines())


def summarise(case: Case, violation: Violation) -> str:
    """The violation in one sentence, ids replaced by names."""
    return _named(violation.summary, names_of(case.history.workload))


def names_of(workload: Workload) -> Mapping[str, str]:
    """Readable names for the ids of a workload: tenants by letter, rows by table and number."""
    names = {t.id: f"tenant {_letter(i)}" for i, t in enumerate(workload.tenants)}
    counts: dict[str, int] = {}
    for operation in workload.operations:
        for s in operation.statements:
            for row in inserted(s):
                value = row.get("id")
                if isinstance(value, str) and value not in names:
                    counts[s.relation] = counts.get(s.relation, 0) + 1
                    names[value] = f"{s.relation}#{counts[s.relation]}"
    return names


def _letter(position: int) -> str:
    return chr(ord("A") + position) if position < 26 else f"T{position}"


def _named(line: str, names: Mapping[str, str]) -> str:
    def name(match: re.Match[str]) -> str:
        bare = match[0].strip("'")
        if bare not in names:
            return f"#{bare[:4]}..{bare[-4:]}" if match[0] == bare else match[0]
        return names[bare]

    return _UUID.sub(name, line)


class _Story:
    def __init__(self, case: Case, violation: Violation) -> None:
        self.case, self.violation = case, violation
        self.names = names_of(case.history.workload)

    def named(self, text: str) -> str:
        return _named(text, self.names)

    def lines(self) -> Iterator[str]:
        workload = self.case.history.workload
        yield self.named(self.violation.summary)
        yield ""
        tenants = [self.names[t.id] for t in workload.tenants]
        if tenants:
            yield f"Given     {', '.join(tenants)}"
        if workload.premise:
            yield f"Given     {premises.DESCRIPTIONS[workload.premise]}"
        for step in self.case.history.steps:
            yield from self._step(step)
        yield from _wrapped("Promised  ", self.named(self.violation.promise), " " * 10)
        for evidence in self.violation.evidence:
            for row in evidence.rows:
                yield f"Shown by  {evidence.caption}"
                yield from _wrapped(" " * 12, self.named(_pairs(row)), " " * 12)

    def _step(self, step: Step) -> Iterator[str]:
        actor = step.operation.actor
        who = actor.role or "the operator"
        if actor.tenant is not None:
            who += f" for {self.named(actor.tenant)}" if actor.tenant else ", empty tenant setting"
        elif actor.role in self.case.contract.application_roles:
            who += ", no tenant setting"
        again = ", the same message again" if _redelivery(self.case, step) else ""
        marked = step.index == self.violation.operation
        yield f"{'->' if marked else '  '}{step.index + 1:>2}  {who}{again}"
        for statement in step.operation.statements:
            yield from _wrapped(" " * 6, self.named(spelled_short(statement)), " " * 8)
        yield from _wrapped("      = ", self.named(outcome(step)), " " * 8)


def _redelivery(case: Case, step: Step) -> bool:
    delivery = step.operation.delivery
    return delivery is not None and any(
        s.operation.delivery == delivery for s in case.history.steps[: step.index]
    )


def spelled_short(statement: Statement) -> str:
    """The statement with long literals cut; for reading, not for running."""
    text = sql.spelled(statement)
    if isinstance(statement, Copy):
        text += ": " + sql.copy_data(statement.rows).strip().replace("\t", " ")
    return re.sub(
        r"'((?:[^']|'')*)'",
        lambda m: m[0] if len(m[1]) <= _VALUE_MAX else f"'{m[1][:_VALUE_MAX]}...'",
        text,
    )


def outcome(step: Step) -> str:
    """What the server answered to an operation."""
    if step.error is not None:
        source = step.error.constraint or (
            f"{step.error.function}()" if step.error.function else ""
        )
        where = f", {source}" if source else ""
        return f"refused: {step.error.message} ({step.error.sqlstate}{where})"
    counts = [
        f"{a.count} {'row' if a.count == 1 else 'rows'}"
        for a in step.answers
        if a.count is not None
    ]
    return "accepted" + (f": {', '.join(counts)}" if counts else "")


def _pairs(row: Mapping[str, object]) -> str:
    shown = [f"{k}={v}" for k, v in row.items() if v not in ({}, None) and k not in _DULL]
    return "  ".join(
        p if len(p) <= _VALUE_MAX + 20 else p[: _VALUE_MAX + 17] + "..." for p in shown
    )


def _wrapped(first: str, text: str, rest: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]
