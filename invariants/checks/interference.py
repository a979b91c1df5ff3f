"""Noninterference: what a tenant observes is the same when the other tenants do nothing.

What is observed of an operation are rows and counts, what an error says, and notices; times and
ids that follow the clock or chance are masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from invariants.checks import guards, texts
from invariants.checks.astray import REFERENCE, signed
from invariants.checks.base import Case, Condition, Evidence, Signature, Violation
from invariants.checks.foreign import acting_for
from invariants.checks.sayings import way
from invariants.checks.sequences import CHANNEL, chosen, counted
from invariants.checks.values import as_read
from invariants.execution.history import Step
from invariants.execution.wire import Answer
from invariants.workload.operations import (
    Call,
    Leftover,
    Operation,
    Refresh,
    Select,
    Statement,
    Update,
    Value,
    Workload,
    inserted,
)

# Anywhere in a text: a document may hold a whole row.
_MOMENT = re.compile(rb"\d{4,}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[+-]\d\d(?::?\d\d)?)?")
_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# What one statement came to, as its client sees it: rows, a count, or what an error says; and
# notices, of the whole operation.
Observation = tuple[object, ...]


def interference(case: Case, tenant: str, crossed: int | None) -> Iterator[Violation]:
    """Compare what `tenant` observes with and without the others.

    After a reference across tenants, a collision that the contract accepts, or maintenance that
    comes out otherwise in one world (a code that others use stays), the two worlds differ
    for a known reason, and the comparison ends.
    """
    alone = iter(case.worlds[tenant].steps)
    known = _literals(case.history.workload)
    others = {t.id for t in case.history.workload.tenants} - {tenant}
    accepted = "primary-key-collision" in case.contract.accepted
    numbers = chosen(case.history.workload)
    for step in case.history.steps:
        if step.operation.actor.tenant in others:
            continue
        world = next(alone)
        if crossed is not None and step.index >= crossed:
            return
        if accepted and _collides(case, step, tenant):
            return
        if _maintained_apart(case, step, world, tenant):
            return
        if step.operation.actor.tenant != tenant or not case.is_application(step):
            continue
        if case.tenants_of(step) != {tenant} and case.contract.tenancy.members:
            # Of a user who is in other tenants as well, or in this one no more.
            continue
        seen = _observations(case, step, known, numbers)
        expected = _observations(case, world, known, numbers)
        if seen == expected:
            continue
        position = next(i for i, (a, b) in enumerate(zip(seen, expected, strict=False)) if a != b)
        statement = step.operation.statements[min(position, len(step.operation.statements) - 1)]
        yield Violation(
            signature=_interfered(case, step, world, statement, numbers),
            operation=step.index,
            summary=f"{step.operation.actor.role} {acting_for(step.operation.actor)} gets "
            f"another answer from {statement.relation} because of what other tenants did",
            promise="What a tenant observes does not depend on what other tenants do.",
            proof=(Condition("differs", step.index, tenant, _where(seen, expected)),),
            evidence=(
                Evidence("with the other tenants", (_told(seen[position]),)),
                Evidence("without them", (_told(expected[position]),)),
            ),
        )
        return


def _interfered(
    case: Case,
    step: Step,
    world: Step,
    statement: Statement,
    numbers: frozenset[bytes],
) -> Signature:
    said = step.notices or world.notices
    refused = (step.error or world.error) if step.error and world.error else None
    if refused and refused.function:
        guard = guards.refusing(refused, statement, case.catalog)
        return signed(statement.kind, statement.relation, guard)
    if key := _foreign_key_named(case, step, statement):
        return signed(REFERENCE, statement.relation, key)
    error = step.error or world.error
    literals = _literals(case.history.workload)
    plain = [_observations(case, s, literals, numbers, uncounted=True) for s in (step, world)]
    if isinstance(statement, Leftover):
        guard = guards.leaving(statement, case.catalog)
    elif error is None and isinstance(statement, Select) and statement.prepared:
        guard = guards.planned(statement.relation, case.catalog)
    elif plain[0] == plain[1]:
        guard = "numbered by a sequence"
    elif error is None and said and said[0].function:
        guard = said[0].function
    elif error is None:
        guard = guards.spanning(statement, case.contract.tenancy.column, case.catalog)
        guard = guard or way(step) or guards.isolating(statement.relation, case.catalog)
    else:
        guard = guards.refusing(error, statement, case.catalog)
    return signed(statement.kind, statement.relation, guard)


@dataclass(frozen=True)
class _Mask:
    """Replaces values that follow the clock or chance, so that two runs can be compared."""

    known: frozenset[bytes]
    clock: frozenset[str]
    # Columns that sequences number, where that is accepted, and what clients say in them.
    counted: frozenset[str] = frozenset()
    chosen: frozenset[bytes] = frozenset()

    def rows(self, answer: Answer) -> tuple[tuple[bytes | None, ...], ...]:
        masks = [
            self._hidden if c in self.clock else self._count if c in self.counted else self._value
            for c in answer.columns
        ]
        return tuple(
            sorted(
                (tuple(m(v) for m, v in zip(masks, row, strict=True)) for row in answer.rows),
                key=repr,
            )
        )

    def _hidden(self, value: bytes | None) -> bytes | None:
        del value
        return b"~"

    def _count(self, value: bytes | None) -> bytes | None:
        return value if value is None or value in self.chosen else b"~"

    def _value(self, value: bytes | None) -> bytes | None:
        if value is None or value in self.known:
            return value
        value = _MOMENT.sub(b"~", value)
        return _ID.sub(lambda m: m[0] if m[0] in self.known else b"~", value)


def _observations(
    case: Case,
    step: Step,
    known: frozenset[bytes],
    numbers: frozenset[bytes],
    *,
    uncounted: bool | None = None,
) -> list[Observation]:
    """What an operation's client sees; `uncounted` without what sequences hand out.

    Unless that is said, the contract decides.
    """
    if uncounted is None:
        uncounted = CHANNEL in case.contract.accepted
    seen: list[Observation] = []
    by_chance = {r.called for r in case.catalog.routines if r.called and r.by_chance}
    for statement, answer in step.queries:
        if isinstance(statement, Call) and statement.relation in by_chance:
            seen.append((answer.count, answer.columns, ()))
            continue
        clock = frozenset(c for t, c in case.contract.clock_columns if t == statement.relation)
        columns = counted(case.catalog, statement.relation) if uncounted else frozenset()
        mask = _Mask(known, clock, columns, numbers)
        seen.append((answer.count, answer.columns, mask.rows(answer)))
    seen.append(("refused", *texts.of_error(step.error, known)) if step.error else ("accepted",))
    seen.append(("told", *texts.of_notices(step.notices, known)))
    return seen


def _where(
    seen: list[Observation], expected: list[Observation]
) -> Literal["answer", "error", "notice"]:
    """In what two observations of an operation differ: in a text alone, or in more."""
    if seen[:-1] == expected[:-1]:
        return "notice"
    return "error" if seen[-2][0] == expected[-2][0] == "refused" else "answer"


def _literals(workload: Workload) -> frozenset[bytes]:
    """Every text the workload itself sends: a value that comes back was not made by the server."""
    found = {t.id for t in workload.tenants}
    for operation in workload.operations:
        for statement in operation.statements:
            for row in _rows_named(statement):
                found.update(v for v in row.values() if isinstance(v, str))
            if isinstance(statement, Call):
                found.update(v for v in statement.arguments if isinstance(v, str))
    return frozenset(f.encode() for f in found)


def _maintained_apart(case: Case, step: Step, world: Step, tenant: str) -> bool:
    """Whether others than the tenant changed its rows, or a list, in one world and not so in both.

    Refreshes apart, maintenance that was accepted in one world and refused in the other; and what
    changed rows of the tenant and found other rows to change where there are other tenants.
    """
    refreshes = all(isinstance(s, Refresh) for s in step.operation.statements)
    if case.is_application(step) or refreshes:
        return False
    if step.committed != world.committed:
        return True
    return [a.count for a in step.answers] != [a.count for a in world.answers] and any(
        case.tenant_of(r) == tenant for c in step.changes for r in (c.before, c.after) if r
    )


def _collides(case: Case, step: Step, tenant: str) -> bool:
    """Whether the operation names a primary key that another tenant's row already has."""
    return any(
        (owner := step.before.find(relation, key)) is not None and case.tenant_of(owner) != tenant
        for relation, key in _keys_named(case, step.operation)
    )


def _keys_named(case: Case, operation: Operation) -> Iterator[tuple[str, tuple[object, ...]]]:
    for statement in operation.statements:
        for name in case.catalog.behind(statement.relation):
            key = case.catalog.tables[name].primary_key
            for source in _rows_named(statement) if key else ():
                if all(c in source for c in key):
                    columns = case.catalog.tables[name].columns
                    yield name, tuple(as_read(columns[c], source[c]) for c in key)


def _foreign_key_named(case: Case, step: Step, statement: Statement) -> str:
    """The foreign key through which a statement names another tenant's row, if it does."""
    table = case.catalog.tables.get(statement.relation)
    for key in table.foreign_keys if table else ():
        if key.target not in case.contract.tenancy.owned:
            continue
        for source in _rows_named(statement):
            target = step.before.find(key.target, tuple(source.get(c) for c in key.columns))
            if target is not None and case.tenant_of(target) != step.operation.actor.tenant:
                return key.name
    return ""


def _rows_named(statement: Statement) -> tuple[dict[str, Value], ...]:
    """The columns a statement writes, row by row."""
    return (dict(statement.assign),) if isinstance(statement, Update) else inserted(statement)


def _told(observation: Observation) -> Mapping[str, object]:
    if observation[0] in ("refused", "accepted"):
        return {"answer": " ".join(map(str, filter(None, observation)))}
    if observation[0] == "told":
        return {"notices": "; ".join(map(str, observation[1:])) or "none"}
    count, columns, rows = observation
    del columns
    return {"rows": count, "content": repr(rows)[:200]} if rows else {"rows": count}
