"""Workloads as another hand could have left them: one thing in them is other than it was.

What comes of it is a workload like any other. Where every promise holds, no check may find fault
with what is done in it, whatever its labels and its order say.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from invariants.contract.contract import Contract
from invariants.workload import schedules
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Assignments,
    Conflict,
    Copy,
    Delete,
    Insert,
    Json,
    Merge,
    Operation,
    Refresh,
    Row,
    Select,
    Statement,
    Transaction,
    Truncate,
    Update,
    Value,
    Workload,
    ident,
)

T = TypeVar("T")
# Close to what is drawn, and not: other spellings, other types, the ends of a type's range.
STRANGE: tuple[Value, ...] = (
    None,
    True,
    -1,
    2**31 - 1,
    2**31,
    "",
    "100",
    "a ",
    "infinity",
    "20000-01-01 00:00:00+00",
    "0044-03-15 00:00:00+00 BC",
    "2024-03-01 01:00:00+01",
    Json.of({}),
    Json.of({"email": "x"}),
)


class Perturbations:
    """What can be changed in a workload of a schema, one change at a time."""

    def __init__(self, contract: Contract, views: tuple[str, ...]) -> None:
        self.contract, self.views = contract, views
        special = {contract.tenancy.erased_by, *contract.repair_roles} - {None}
        self.roles = (*contract.application_roles, *sorted(map(str, special)), OPERATOR)

    def of(self, shown: Workload) -> Iterator[Workload]:
        """Every workload that is one change away and that a file can hold."""
        return filter(_sendable, self._near(shown))

    def _near(self, shown: Workload) -> Iterator[Workload]:
        yield from _reordered(shown)
        for index, operation in enumerate(shown.all_operations):
            for changed in self._operation(shown, operation):
                yield schedules.with_operation(shown, index, changed)
        for at in range(len(shown.operations) + 1):
            for more in self._further(shown):
                yield _with_operations(
                    shown, (*shown.operations[:at], more, *shown.operations[at:])
                )
        yield _with_operations(shown, tuple(replace(o, delivery=1) for o in shown.operations))
        if not shown.sessions and len(shown.operations) > 1:
            *before, one, two = shown.operations
            sessions = ((Transaction(one),), (Transaction(two),))
            yield replace(shown, operations=tuple(before), sessions=sessions, schedule=(0, 1))

    def some(self, shown: Workload, count: int, seed: int) -> Iterator[Workload]:
        """The same `count` workloads every time, up to three changes away each."""
        chance = random.Random(seed)
        for _ in range(count):
            changed = shown
            for _ in range(chance.choice((1, 2, 2, 3))):
                near = list(self.of(changed))
                changed = chance.choice(near)
            yield changed

    def _operation(self, shown: Workload, operation: Operation) -> Iterator[Operation]:
        statements, actor = operation.statements, operation.actor
        for role in self.roles:
            yield replace(operation, actor=replace(actor, role=role))
        for tenant in (*_tenants(shown), None):
            yield replace(operation, actor=replace(actor, tenant=tenant))
        for delivery in (None, 1, 2):
            yield replace(operation, delivery=delivery)
        if len(statements) > 1:
            yield replace(operation, statements=statements[1:])
            yield replace(operation, statements=statements[:-1])
            yield replace(operation, statements=statements[::-1])
        for i, statement in enumerate(statements):
            for changed in self._statement(shown, statement):
                yield replace(
                    operation, statements=(*statements[:i], changed, *statements[i + 1 :])
                )
        for more in self._further(shown):
            yield replace(operation, statements=(*statements, *more.statements))
            yield replace(operation, statements=(*more.statements, *statements))

    def _further(self, shown: Workload) -> Iterator[Operation]:
        """What else could be done."""
        tenancy = self.contract.tenancy
        yield from shown.all_operations
        yield Operation(Actor(OPERATOR), tuple(Refresh(v) for v in self.views))
        for taxonomy in self.contract.taxonomies:
            yield Operation(Actor(OPERATOR), (Truncate(taxonomy.table, cascade=True),))
            if taxonomy.active:
                retired = Update(taxonomy.table, ((taxonomy.active, False),))
                yield Operation(Actor(OPERATOR), (retired,))
        if tenancy.erased_by and tenancy.root:
            for tenant in shown.tenants:
                erased = Delete(tenancy.root, (("id", tenant.id),))
                yield Operation(Actor(tenancy.erased_by), (erased,))
                yield Operation(Actor(OPERATOR), (erased,))
        for path in self.contract.read_paths:
            for spelled in _tenants(shown):
                actor = Actor(self.contract.application_roles[0], spelled)
                yield Operation(actor, (Select(path.view),))
        for rule in self.contract.append_only:
            if rule.repaired_by:
                for tenant in shown.tenants:
                    moved = Update(rule.table, (("id", ident("moved", 1)),))
                    yield Operation(Actor(rule.repaired_by, tenant.id), (moved,))

    def _statement(self, shown: Workload, statement: Statement) -> Iterator[Statement]:
        values = _values(shown)
        match statement:
            case Insert(relation, columns, rows, conflict):
                for at in range(len(columns)):
                    narrow = tuple(r[:at] + r[at + 1 :] for r in rows)
                    yield replace(statement, columns=_less(columns, at), rows=narrow)
                yield from (replace(statement, rows=r) for r in _rows(rows, values))
                yield replace(statement, conflict=Conflict() if conflict is None else None)
                yield replace(statement, conflict=Conflict(("id",), "", columns[1:]))
                yield Copy(relation, columns, rows)
                if "id" in columns:
                    yield Merge(relation, columns, rows[0], ("id",), columns[2:])
            case Copy(relation, columns, rows):
                yield Insert(relation, columns, rows)
                yield from (replace(statement, rows=r) for r in _rows(rows, values))
            case Merge(relation, columns, row, on):
                yield Insert(relation, columns, (row,))
                for at, column in enumerate(columns):
                    if column not in (*on, *statement.updates):
                        yield replace(statement, columns=_less(columns, at), row=_less(row, at))
                yield from (replace(statement, row=r) for (r,) in _rows((row,), values))
            case Update(relation, assign, where):
                yield from (replace(statement, where=w) for w in _terms(where, values))
                yield from (replace(statement, assign=a) for a in _terms(assign, values) if a)
                yield Delete(relation, where)
            case Delete(_, where):
                yield from (replace(statement, where=w) for w in _terms(where, values))
            case Select(_, where, columns):
                yield from (replace(statement, where=w) for w in _terms(where, values))
                yield replace(statement, columns=columns[1:] or ("id",))
            case Truncate(_, cascade):
                yield replace(statement, cascade=not cascade)
            case Refresh(_, concurrently):
                yield replace(statement, concurrently=not concurrently)


def _reordered(shown: Workload) -> Iterator[Workload]:
    operations = shown.operations
    for i, operation in enumerate(operations):
        yield _with_operations(shown, (*operations[:i], *operations[i + 1 :]))
        yield _with_operations(shown, (*operations[: i + 1], operation, *operations[i + 1 :]))
        if i:
            before = operations[i - 1]
            yield _with_operations(
                shown, (*operations[: i - 1], operation, before, *operations[i + 1 :])
            )
            joined = replace(operation, statements=before.statements + operation.statements)
            yield _with_operations(shown, (*operations[: i - 1], joined, *operations[i + 1 :]))


def _sendable(shown: Workload) -> bool:
    """COPY is sent by itself, and neither it nor TRUNCATE in a session beside others."""
    return all(
        len(o.statements) == 1 or not any(isinstance(s, Copy) for s in o.statements)
        for o in shown.operations
    ) and not any(
        isinstance(statement, Copy | Truncate)
        for session in shown.sessions
        for transaction in session
        for statement in transaction.operation.statements
    )


def _with_operations(shown: Workload, operations: tuple[Operation, ...]) -> Workload:
    return replace(shown, operations=operations)


def _tenants(shown: Workload) -> tuple[str, ...]:
    """What a session may say that it acts for, as it is spelled and otherwise."""
    ids = [t.id for t in shown.tenants]
    others = [s for i in ids for s in (i.upper(), f"{{{i}}}", i.replace("-", ""))]
    return (*ids, *others[:3], "", "not-a-tenant", ident("unknown tenant", 0))


def _values(shown: Workload) -> tuple[Value, ...]:
    """Values to put in the place of others: the workload's own first, then strange ones."""
    found: dict[Value, None] = {}
    for operation in shown.all_operations:
        for statement in operation.statements:
            for value in _sent(statement):
                found[value] = None
    ids = [v.upper() for v in found if isinstance(v, str) and v.count("-") == 4]
    return (*list(found)[:12], *ids[:2], *STRANGE)


def _sent(statement: Statement) -> tuple[Value, ...]:
    match statement:
        case Insert(_, _, rows) | Copy(_, _, rows):
            return tuple(v for row in rows for v in row)
        case Merge(_, _, row):
            return row
        case Update(_, assign, where):
            return tuple(v for _, v in (*assign, *where))
        case Delete(_, where) | Select(_, where):
            return tuple(v for _, v in where)
    return ()


def _rows(rows: tuple[Row, ...], values: tuple[Value, ...]) -> Iterator[tuple[Row, ...]]:
    for i, row in enumerate(rows):
        if len(rows) > 1:
            yield _less(rows, i)
        for at in range(len(row)):
            for value in values:
                changed = (*row[:at], value, *row[at + 1 :])
                yield (*rows[:i], changed, *rows[i + 1 :])


def _terms(terms: Assignments, values: tuple[Value, ...]) -> Iterator[Assignments]:
    for at, (column, _) in enumerate(terms):
        yield _less(terms, at)
        for value in values:
            yield (*terms[:at], (column, value), *terms[at + 1 :])


def _less(items: tuple[T, ...], at: int) -> tuple[T, ...]:
    return items[:at] + items[at + 1 :]
