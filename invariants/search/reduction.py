"""Makes a failing workload 1-minimal: nothing can be left out and no value made simpler.

It works on the concrete workload and runs it again for every attempt, which takes milliseconds;
Hypothesis's own shrinker needs minutes for the same, because it works on the choices behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, TypeVar

from invariants.checks import messages
from invariants.contract.contract import Contract
from invariants.schema.catalog import Catalog
from invariants.workload import schedules
from invariants.workload.operations import (
    OPERATOR,
    Assignments,
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
    Truncate,
    Update,
    Value,
    Workload,
    ident,
    inserted,
)

_UUID = re.compile(r"[0-9a-f]{8}-0000-4000-8000-([0-9a-f]{12})\Z")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d( .*)?|-?infinity)\Z")
# A fixed menu: amounts that must add up could otherwise be lowered by turns, one cent at a time.
_PLAIN_NUMBERS = (0, 1, 2, 3, 10, 100)
_PLAIN_TIME = "2024-03-01 00:00:00+00"

Attempt = Callable[[Workload], bool]
T = TypeVar("T")
Rows = TypeVar("Rows", Insert, Copy)


def reduce(workload: Workload, fails: Attempt, contract: Contract, catalog: Catalog) -> Workload:
    """The smallest workload found that still fails; `fails` is asked about every attempt.

    Removes operations in ever smaller chunks, then simplifies what is left until no single step
    makes it smaller; of sessions, the order of their turns as well. Primary keys stay: without them
    the server would choose, and every replay would be another. Nor do rows lose the last of their
    idempotency keys: what fails for the lack of one is another failure; and deliveries of a message
    stay the same message: they are changed alike. `workload` itself is taken to fail.
    """
    if workload.sessions:
        schedule = schedules.expanded(workload.sessions, workload.schedule)
        workload = replace(workload, schedule=schedule)
    tried: set[Workload] = {workload}
    keyless = _keyless(workload, contract, catalog)
    estranged = _estranged(workload, contract, catalog)

    def attempt(candidate: Workload) -> bool:
        nonlocal keyless, estranged
        if candidate in tried:
            return False
        tried.add(candidate)
        count = _keyless(candidate, contract, catalog)
        apart = _estranged(candidate, contract, catalog)
        if count > keyless or apart > estranged or not fails(candidate):
            return False
        keyless, estranged = count, apart
        return True

    workload = _without_chunks(workload, attempt)
    workload = _with_bare_inserts(workload, attempt, contract, catalog)
    # Round and round, going on where the last step succeeded: what failed just before fails again
    # more often than not. A whole round without success is the proof that nothing can go.
    position = failures = 0
    candidates = list(_smaller(workload, contract, catalog))
    while failures < len(candidates):
        position %= len(candidates)
        if attempt(candidates[position]):
            workload, failures = candidates[position], 0
            candidates = list(_smaller(workload, contract, catalog))
        else:
            position, failures = position + 1, failures + 1
    return workload


def _without_chunks(workload: Workload, attempt: Attempt) -> Workload:
    size = max(1, len(workload.operations) // 2)
    while size:
        position = len(workload.operations)
        while position > 0:
            start = max(0, position - size)
            rest = workload.operations[:start] + workload.operations[position:]
            if attempt(candidate := replace(workload, operations=rest)):
                workload = candidate
            position = start
        size //= 2
    return workload


def _keyless(workload: Workload, contract: Contract, catalog: Catalog) -> int:
    """How many rows are inserted without a key by which a second delivery is recognised."""
    defaults = {
        rule.table: {n: "" for n, c in catalog.tables[rule.table].columns.items() if c.has_default}
        for rule in contract.idempotency
        if rule.table in catalog.tables
    }
    return sum(
        contract.key_of(s.relation, {**defaults[s.relation], **row}) is None
        for operation in workload.all_operations
        for s in operation.statements
        if s.relation in defaults
        for row in inserted(s)
    )


def _estranged(workload: Workload, contract: Contract, catalog: Catalog) -> int:
    """How far deliveries with one number are from being the same message and saying the same."""
    return sum(
        not alike(one, other, contract, catalog)
        for one, other in combinations(workload.all_operations, 2)
        if one.delivery is not None and one.delivery == other.delivery
        for alike in (messages.same, messages.identical)
    )


def _replaced(
    workload: Workload, index: int, changed: Operation, contract: Contract, catalog: Catalog
) -> Workload:
    """The workload with one operation changed, and other deliveries of its message with it."""
    original = workload.all_operations[index]
    candidate = schedules.with_operation(workload, index, changed)
    if changed.delivery is not None:
        for i, other in enumerate(workload.all_operations):
            if i != index and messages.identical(original, other, contract, catalog):
                again = messages.renewed(changed, original, other, catalog)
                candidate = schedules.with_operation(candidate, i, again)
    return candidate


def _with_bare_inserts(
    workload: Workload, attempt: Attempt, contract: Contract, catalog: Catalog
) -> Workload:
    """Try each insert with no more columns than the table demands, before going one by one."""
    for i, operation in enumerate(workload.all_operations):
        for j, statement in enumerate(operation.statements):
            table = catalog.tables.get(statement.relation)
            if not isinstance(statement, Insert) or table is None:
                continue
            if workload.all_operations[i].statements[j] != statement:
                # It has become so with another delivery of its message.
                continue
            demanded = {
                c
                for c in statement.columns
                if c in table.primary_key
                or (table.columns[c].not_null and not table.columns[c].has_default)
            }
            keys = [k for r in contract.idempotency if r.table == table.name for k in r.keys]
            for key in ((), *keys):
                kept = [k for k, c in enumerate(statement.columns) if c in {*demanded, *key}]
                bare = replace(
                    statement,
                    columns=tuple(statement.columns[k] for k in kept),
                    rows=tuple(tuple(row[k] for k in kept) for row in statement.rows),
                )
                statements = workload.all_operations[i].statements
                changed = replace(
                    operation, statements=(*statements[:j], bare, *statements[j + 1 :])
                )
                candidate = _replaced(workload, i, changed, contract, catalog)
                if attempt(candidate):
                    workload = candidate
                    break
    return workload


def _smaller(workload: Workload, contract: Contract, catalog: Catalog) -> Iterator[Workload]:
    """Every workload that is one step simpler, the bigger steps first."""
    operations = workload.all_operations
    for i in reversed(range(len(workload.operations))):
        yield schedules.with_operation(workload, i, None)
    if workload.sessions:
        yield from schedules.simpler(workload)
    for i in range(len(workload.tenants)):
        fewer = replace(workload, tenants=workload.tenants[:i] + workload.tenants[i + 1 :])
        # Rows belong to somebody: without any tenant the file would not be read back.
        if fewer.tenants or not any(inserted(s) for o in operations for s in o.statements):
            yield fewer
    if workload.premise:
        yield replace(workload, premise="")
    for i, operation in enumerate(operations):
        for simpler in _smaller_operation(operation, workload, contract, catalog):
            yield _replaced(workload, i, simpler, contract, catalog)
    for i, operation in enumerate(operations):
        for moved in _moved(operation, workload):
            yield _replaced(workload, i, moved, contract, catalog)
    renamed = _mapped(workload, _Numbering())
    if renamed != workload:
        yield renamed
    # Numbers that must agree with each other become smaller together or not at all.
    for candidate in (_halved(workload), *_replaced_numbers(workload)):
        if candidate != workload:
            yield candidate


def _smaller_operation(
    operation: Operation, workload: Workload, contract: Contract, catalog: Catalog
) -> Iterator[Operation]:
    statements = operation.statements
    if len(statements) > 1:
        for i in range(len(statements)):
            yield replace(operation, statements=statements[:i] + statements[i + 1 :])
    for i, statement in enumerate(statements):
        for simpler in _smaller_statement(statement, catalog):
            yield replace(operation, statements=(*statements[:i], simpler, *statements[i + 1 :]))
    if operation.delivery is not None:
        yield replace(operation, delivery=None)
    if operation.inherits:
        yield replace(operation, inherits=False)
    yield from (replace(operation, settings=s) for s in _fewer(operation.settings, least=0))
    actor = operation.actor
    roles = (*contract.application_roles,)
    if actor.role in roles:
        for role in roles[: roles.index(actor.role)]:
            yield replace(operation, actor=replace(actor, role=role))
    if actor.role != OPERATOR and actor.tenant not in {t.id for t in workload.tenants}:
        # A session with the setting never made is the plainest; an empty one needs an earlier SET.
        for tenant in (None, "")[: 1 if actor.tenant == "" else 2 if actor.tenant else 0]:
            yield replace(operation, actor=replace(actor, tenant=tenant))


def _smaller_statement(statement: Statement, catalog: Catalog) -> Iterator[Statement]:
    key = catalog.identity(statement.relation)
    match statement:
        case Insert(relation, columns, rows, conflict):
            yield from (replace(statement, rows=r) for r in _fewer(rows))
            if conflict is not None:
                yield replace(statement, conflict=None)
                if conflict.updates:
                    yield replace(statement, conflict=replace(conflict, updates=()))
            yield from _narrower(statement, columns, rows, key)
            yield from (replace(statement, rows=r) for r in _simpler_rows(rows))
        case Copy(relation, columns, rows):
            yield catalog.chosen(Insert(relation, columns, rows))
            yield from (replace(statement, rows=r) for r in _fewer(rows))
            yield from _narrower(statement, columns, rows, key)
            yield from (replace(statement, rows=r) for r in _simpler_rows(rows))
        case Merge(relation, columns, row, on, updates, overriding):
            yield Insert(relation, columns, (row,), overriding=overriding)
            if updates:
                yield replace(statement, updates=())
            for i, column in enumerate(columns):
                if column not in (*key, *on, *updates):
                    yield replace(
                        statement,
                        columns=columns[:i] + columns[i + 1 :],
                        row=row[:i] + row[i + 1 :],
                    )
            yield from (replace(statement, row=r[0]) for r in _simpler_rows((row,)))
        case Update(_, assign, where):
            if len(assign) > 1:
                yield from (replace(statement, assign=a) for a in _fewer(assign))
            yield from (replace(statement, where=w) for w in _fewer(where, least=0))
            yield from (replace(statement, assign=a) for a in _simpler_assignments(assign))
        case Delete(_, where) | Select(_, where):
            yield from (replace(statement, where=w) for w in _fewer(where, least=0))
        case Truncate(_, True):
            yield replace(statement, cascade=False)
        case Refresh(_, True):
            yield replace(statement, concurrently=False)


def _moved(operation: Operation, workload: Workload) -> Iterator[Operation]:
    """The operation done by and for an earlier tenant: fewer tenants make a simpler story."""
    ids = [t.id for t in workload.tenants]
    if operation.actor.tenant in ids:
        for target in ids[: ids.index(operation.actor.tenant)]:
            source = operation.actor.tenant
            single = Workload((), (operation,))
            yield _mapped(single, _swap_ids(source, target)).operations[0]


def _fewer(items: tuple[T, ...], least: int = 1) -> Iterator[tuple[T, ...]]:
    if len(items) > least:
        for i in range(len(items)):
            yield items[:i] + items[i + 1 :]


def _narrower(
    statement: Rows, columns: tuple[str, ...], rows: tuple[Row, ...], key: tuple[str, ...]
) -> Iterator[Rows]:
    for i, column in enumerate(columns):
        if column in key:
            continue
        yield replace(
            statement,
            columns=columns[:i] + columns[i + 1 :],
            rows=tuple(row[:i] + row[i + 1 :] for row in rows),
        )


def _simpler_rows(rows: tuple[Row, ...]) -> Iterator[tuple[Row, ...]]:
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            for simpler in _simpler(value):
                changed = (*row[:c], simpler, *row[c + 1 :])
                yield (*rows[:r], changed, *rows[r + 1 :])


def _simpler_assignments(assign: Assignments) -> Iterator[Assignments]:
    for i, (column, value) in enumerate(assign):
        for simpler in _simpler(value):
            yield (*assign[:i], (column, simpler), *assign[i + 1 :])


def _simpler(value: Value) -> Sequence[Value]:
    """Simpler values than this one, the simplest first. References are not values of their own."""
    if isinstance(value, bool):
        return (False,) if value else ()
    if isinstance(value, int):
        sign = -1 if value < 0 else 1
        return [sign * v for v in _PLAIN_NUMBERS if v < abs(value)]
    if isinstance(value, Json):
        return tuple(dict.fromkeys(Json.of(d) for d in _simpler_documents(value.document)))
    if value is None or _UUID.match(value) or value in ("", "a"):
        return ()
    if _TIME.match(value):
        return (_PLAIN_TIME,) if value != _PLAIN_TIME else ()
    return ("a",)


def _simpler_documents(document: Any) -> Iterator[Any]:
    """Documents with less in them: none of it, one part alone, one part less, a simpler part."""
    if isinstance(document, dict) and document:
        yield {}
        yield from (part for part in document.values() if isinstance(part, dict | list))
        yield from ({k: v} for k, v in document.items() if len(document) > 2)
        for key, part in document.items():
            yield {k: v for k, v in document.items() if k != key}
            yield from ({**document, key: simpler} for simpler in _simpler_documents(part))
    elif isinstance(document, list) and document:
        yield []
        yield from document
        for i, part in enumerate(document):
            yield document[:i] + document[i + 1 :]
            yield from (
                [*document[:i], simpler, *document[i + 1 :]] for simpler in _simpler_documents(part)
            )
    elif document not in (1, {}, []):
        yield 1


def _swap(old: Value, new: Value) -> Callable[[Value], Value]:
    return lambda value: new if type(value) is type(old) and value == old else value


def _swap_ids(old: str, new: str) -> Callable[[Value], Value]:
    """One id in the place of another, as a text and, if they are numbers, as numbers."""
    swapped: dict[tuple[type, Value], Value] = {(str, old): new}
    if old.isdigit() and new.isdigit():
        swapped[int, int(old)] = int(new)
    return lambda value: swapped.get((type(value), value), value)


def _halved(workload: Workload) -> Workload:
    """Every number halved that is not somebody's id."""
    held = _ids(workload)

    def half(value: Value) -> Value:
        return value // 2 if type(value) is int and value > 3 and value not in held else value

    return _mapped(workload, half)


def _ids(workload: Workload) -> frozenset[int]:
    """The numbers that tenants, users and places go by: what names them is no amount."""
    named = {t.id for t in workload.tenants}
    for operation in workload.all_operations:
        named |= {operation.actor.tenant or "", *(value for _, value in operation.actor.said)}
    return frozenset(int(n) for n in named if n.isascii() and n.isdigit())


def _replaced_numbers(workload: Workload) -> Iterator[Workload]:
    """Every occurrence of a number replaced by a plainer one."""
    numbers: set[int] = set()
    held = _ids(workload)

    def collect(value: Value) -> Value:
        if type(value) is int:
            numbers.add(value)
        return value

    _mapped(workload, collect)
    for number in sorted(numbers - held, reverse=True):
        for plainer in _simpler(number):
            yield _mapped(workload, _swap(number, plainer))


class _Numbering:
    """Numbers ids in the order in which they first appear."""

    def __init__(self) -> None:
        # Unknown tenants keep their id: it must stay unlike that of any tenant.
        unknown = ident("unknown tenant", 0)
        self.order = {unknown: unknown}
        self.counts: dict[str, int] = {}

    def __call__(self, value: Value) -> Value:
        if not isinstance(value, str) or not _UUID.match(value):
            return value
        if value not in self.order:
            tag = value[:8]
            self.counts[tag] = self.counts.get(tag, 0) + 1
            self.order[value] = f"{tag}-0000-4000-8000-{self.counts[tag]:012x}"
        return self.order[value]


def _mapped(workload: Workload, change: Callable[[Value], Value]) -> Workload:
    """The workload with every value and every tenant setting changed."""

    def row(r: Row) -> Row:
        return tuple(map(change, r))

    def pairs(a: Assignments) -> Assignments:
        return tuple((c, change(v)) for c, v in a)

    def text(value: str) -> str:
        changed = change(value)
        return changed if isinstance(changed, str) else value

    def statement(s: Statement) -> Statement:
        match s:
            case Insert(_, _, rows) | Copy(_, _, rows):
                return replace(s, rows=tuple(map(row, rows)))
            case Merge(_, _, r):
                return replace(s, row=row(r))
            case Update(_, assign, where):
                return replace(s, assign=pairs(assign), where=pairs(where))
            case Delete(_, where) | Select(_, where):
                return replace(s, where=pairs(where))
        return s

    def operation(o: Operation) -> Operation:
        return replace(
            o,
            actor=replace(
                o.actor,
                tenant=text(o.actor.tenant) if o.actor.tenant else o.actor.tenant,
                said=tuple((name, text(value)) for name, value in o.actor.said),
            )
            if o.actor.tenant or o.actor.said
            else o.actor,
            statements=tuple(map(statement, o.statements)),
        )

    return replace(
        workload,
        tenants=tuple(replace(t, id=text(t.id), row=row(t.row)) for t in workload.tenants),
        operations=tuple(map(operation, workload.operations)),
        sessions=tuple(
            tuple(replace(t, operation=operation(t.operation)) for t in s)
            for s in workload.sessions
        ),
    )
