"""A counterexample as text for people: who did what, what the database answered, what was promised."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping

from invariants import premises, sql
from invariants.checks.base import Case, Violation
from invariants.history import Step
from invariants.operations import Copy, Insert, Merge, Statement, Workload

WIDTH = 100
_UUID = re.compile(r"'?\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b'?")
_VALUE_MAX = 60


def narrate(case: Case, violation: Violation) -> str:
    """The whole story in a few lines, ids replaced by names; ends without a newline."""
    names = names_of(case.history.workload)
    return "\n".join(_named(line, names) for line in _lines(case, violation, names))


def summarise(case: Case, violation: Violation) -> str:
    """The violation in one sentence, ids replaced by names."""
    return _named(violation.summary, names_of(case.history.workload))


def names_of(workload: Workload) -> Mapping[str, str]:
    """Readable names for the ids of a workload: tenants by letter, rows by table and number."""
    names = {t.id: f"tenant {_letter(i)}" for i, t in enumerate(workload.tenants)}
    counts: dict[str, int] = {}
    for operation in workload.operations:
        for s in operation.statements:
            rows = s.rows if isinstance(s, Insert | Copy) else (s.row,) if isinstance(s, Merge) else ()
            if rows and "id" in getattr(s, "columns", ()):
                place = s.columns.index("id")  # type: ignore[union-attr]
                for row in rows:
                    value = row[place]
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
        return f"<{names[bare]}>" if match[0] != bare else names[bare]

    return _UUID.sub(name, line)


def _lines(case: Case, violation: Violation, names: Mapping[str, str]) -> Iterator[str]:
    workload = case.history.workload
    yield violation.summary
    yield ""
    tenants = [names[t.id] for t in workload.tenants]
    if tenants:
        yield f"Given {' and '.join(tenants)}"
    if workload.premise:
        yield f"Given {premises.DESCRIPTIONS[workload.premise]}"
    for step in case.history.steps:
        yield from _step(case, step, marked=step.index == violation.operation)
    yield f"Promised  {violation.promise}"
    for evidence in violation.evidence:
        for row in evidence.rows:
            yield from _wrapped(f"Shown by  {evidence.caption}: ", _pairs(row), "          ")


def _step(case: Case, step: Step, *, marked: bool) -> Iterator[str]:
    actor = step.operation.actor
    who = actor.role or "the operator"
    if actor.role and actor.role != case.contract.tenancy.erased_by or actor.tenant is not None:
        if actor.tenant is None:
            who += ", no tenant setting"
        elif actor.tenant == "":
            who += ", empty tenant setting"
        else:
            who += f" as {actor.tenant}"
    again = ", the same message again" if _redelivery(case, step) else ""
    yield f"{'->' if marked else '  '}{step.index + 1:>2}  {who}{again}"
    for statement in step.operation.statements:
        yield from _wrapped("      ", spelled_short(statement), "        ")
    yield f"      = {_outcome(step)}"


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


def _outcome(step: Step) -> str:
    if step.error is not None:
        source = step.error.constraint or (f"{step.error.function}()" if step.error.function else "")
        return f"refused: {step.error.message} ({step.error.sqlstate}{', ' + source if source else ''})"
    counts = [
        f"{a.count} {'row' if a.count == 1 else 'rows'}" for a in step.answers if a.count is not None
    ]
    return "accepted" + (f": {', '.join(counts)}" if counts else "")


def _pairs(row: Mapping[str, object]) -> str:
    shown = [f"{k}={v if v is not None else 'NULL'}" for k, v in row.items() if v not in ({}, None)]
    return "  ".join(p if len(p) <= _VALUE_MAX + 20 else p[: _VALUE_MAX + 17] + "..." for p in shown)


def _wrapped(first: str, text: str, rest: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    ) or [first.rstrip()]
