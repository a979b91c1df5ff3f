"""cross-tenant: no tenant reads, changes, refers to or notices another tenant's rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from invariants.checks import guards, texts
from invariants.checks.base import (
    Case,
    Condition,
    Evidence,
    Invariant,
    Signature,
    Violation,
    changed_proof,
    key_of,
    reached,
    row_matches,
    shown,
)
from invariants.checks.ownership import link_of, owner_in, printed
from invariants.checks.sayings import way
from invariants.checks.sequences import CHANNEL, chosen, counted
from invariants.checks.values import as_read
from invariants.execution.history import Change, Record, State, Step
from invariants.execution.wire import Answer
from invariants.schema.announcements import announcing
from invariants.schema.catalog import ForeignKey
from invariants.workload import sql
from invariants.workload.operations import (
    Actor,
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

# The kind of a violation whose cause is a foreign key, whichever statement made the row.
_REFERENCE = "reference"

# What one statement came to, as its client sees it: rows, a count, or what an error says; and
# notices, of the whole operation.
Observation = tuple[object, ...]


_LEFT = {"setting": "the tenant setting"}


class CrossTenant(Invariant):
    """Rows seen and changed, references, rows of nobody, no tenant setting, noninterference."""

    name = "cross-tenant"
    promise = "A tenant never receives, changes, refers to or notices another tenant's rows."
    examines = "an operation for one tenant while another has rows"
    readings_percent = 40
    sweeps = (
        *("routines", "settings", "becoming", "plans", "twins", "crossing", "shown", "writes"),
        *("leaks", "views", "trespasses", "unplaced", "parts", "handovers"),
    )
    of_tenants = True
    concurrent = True
    duets = ("erasures",)
    share = 8
    focus = {"refresh": 3, "probe": 6}

    def worlds(self, workload: Workload) -> Mapping[str, Workload]:
        """The world without the others, for the tenant that acts last: it can notice the most.

        Not of sessions side by side: that one waits for another is no secret.
        """
        if workload.sessions:
            return {}
        ids = {t.id for t in workload.tenants}
        acting = [o.actor.tenant for o in workload.operations if o.actor.tenant in ids]
        if len(set(acting)) < 2 or acting[-1] is None:
            return {}
        return {acting[-1]: workload.without_others(acting[-1])}

    def check(self, case: Case) -> Iterator[Violation]:
        """Check all parts."""
        crossed: int | None = None
        plain: set[tuple[Actor, str]] = set()
        for step in case.history.steps:
            if case.is_application(step):
                yield from self._seen(case, step, plain)
                yield from self._left(case, step)
                if step.place is None:
                    yield from self._betrayed(case, step)
                    yield from self._announced(case, step)
            if case.is_application(step) or self._repairs(case, step):
                yield from self._changed(case, step)
            for violation in self._references(case, step):
                crossed = step.index if crossed is None else crossed
                yield violation
            yield from self._orphans(case, step)
        for tenant in case.worlds:
            yield from self._interference(case, tenant, crossed)

    def _repairs(self, case: Case, step: Step) -> bool:
        """Whether a role that repairs acts for one tenant; an erasure is for none."""
        actor = step.operation.actor
        return (
            actor.role in case.contract.repair_roles
            and actor.tenant is not None
            and all(s.relation in case.contract.tenancy.owned for s in step.operation.statements)
        )

    def examined(self, case: Case) -> int:
        """Operations of application roles while a tenant other than theirs has rows."""
        tables = frozenset(case.contract.tenancy.owned)
        owners: dict[State, set[str | None]] = {}
        count = 0
        for step in case.history.steps:
            if case.is_application(step):
                if step.before not in owners:
                    rows = (r for r in step.before.records if r.table in tables)
                    owners[step.before] = {case.tenant_of(r) for r in rows}
                count += bool(owners[step.before] - case.tenants_of(step))
        return count

    def _seen(self, case: Case, step: Step, plain: set[tuple[Actor, str]]) -> Iterator[Violation]:
        actor = step.operation.actor
        for statement, answer in step.queries:
            if not isinstance(statement, Select | Call):
                continue
            if isinstance(statement, Call) and statement.procedure:
                # CALL is no part of another query: what it gives back is compared in two worlds.
                continue
            found = foreign_rows(case, step, statement.relation, answer)
            if found is None:
                continue
            foreign, clause = found
            called = isinstance(statement, Call)
            source = f"({sql.spelled(statement)}) q" if called else sql.name(statement.relation)
            guard = guards.isolating(statement.relation, case.catalog)
            met = (actor, statement.relation)
            if said := way(step):
                # Where it sees as much without saying anything, that is not the way.
                guard = guard if met in plain else said
            else:
                plain.add(met)
            shown = Condition("seen", step.index, f"EXISTS (SELECT FROM {source} WHERE {clause})")
            if isinstance(statement, Select) and statement.prepared:
                guard = guards.planned(statement.relation, case.catalog)
                shown = Condition("returned", step.index, str(answer.count))
            left = _still_said(case, step)
            yield Violation(
                signature=self.signature(statement.kind, statement.relation, guard)
                if left is None
                else self.signature(left.kind, left.relation, guards.leaving(left, case.catalog)),
                operation=step.index,
                summary=f"{actor.role} {_acting_for(actor)} read {len(foreign)} "
                f"{_rows(len(foreign))} of another tenant from {statement.relation}",
                promise="An actor never receives another tenant's data, "
                "and without a tenant sees nothing.",
                proof=(shown,),
                evidence=(Evidence("returned to it", _readable(answer, foreign)),),
            )

    def _left(self, case: Case, step: Step) -> Iterator[Violation]:
        """What an actor finds in its session of what another one did there."""
        actor = step.operation.actor
        for statement, answer in step.queries:
            if not isinstance(statement, Leftover) or not answer.rows:
                continue
            if statement.target == "setting":
                served = actor.silent and statement.relation in case.contract.tenancy.settings
            else:
                served = statement.target != "server settings"
            before = case.history.steps[: step.index]
            others = (s.operation.actor for s in before if s.operation.actor.role == actor.role)
            if not served or all(a.tenant == actor.tenant for a in others):
                continue
            yield Violation(
                signature=self.signature(
                    statement.kind, statement.relation, guards.leaving(statement, case.catalog)
                ),
                operation=step.index,
                summary=f"{actor.role} {_acting_for(actor)}, next on a connection, finds "
                f"{_LEFT.get(statement.target, statement.target)} of whoever had it before",
                promise="What one actor did on a connection is over with its transaction, and "
                "neither serves the next one nor keeps anybody waiting.",
                proof=(Condition("seen", step.index, f"EXISTS ({sql.spelled(statement)})"),),
                evidence=(Evidence("found in the session", _readable(answer, list(answer.rows))),),
            )

    def _betrayed(self, case: Case, step: Step) -> Iterator[Violation]:
        """A text with a value of another tenant's row in it."""
        if (found := texts.betrayed(case, step)) is None:
            return
        value, record = found
        statement, actor = step.failed_statement, step.operation.actor
        said = next(t for t in texts.received(step) if value in t)
        yield Violation(
            signature=self.signature(
                statement.kind, statement.relation, _telling(case, step, statement)
            ),
            operation=step.index,
            summary=f"{actor.role} {_acting_for(actor)} is told what a row of another "
            f"tenant in {record.table} has in it",
            promise="No text that an actor gets has a value of another tenant's row in it.",
            proof=(Condition("told", step.index, value, texts.where(step, value)),),
            evidence=(
                Evidence("what it was told", ({"text": said},)),
                Evidence("the other tenant's row", shown(record)),
            ),
        )

    def _announced(self, case: Case, step: Step) -> Iterator[Violation]:
        """A value of a row that is told whoever listens: for channels there are no privileges."""
        if (found := texts.announced(case, step)) is None:
            return
        told, value, change = found
        by = next(iter(announcing(case.catalog, change.table, change.effect)), "")
        yield Violation(
            signature=self.signature("notify", change.table, by or f"channel {told.channel}"),
            operation=step.index,
            summary=f"whoever listens to {told.channel} is told what a row of a tenant in "
            f"{change.table} has in it",
            promise="No notification has a value of a tenant's row in it: everybody may listen.",
            proof=(Condition("told", step.index, f"{told.channel}\n{value}", "announcement"),),
            evidence=(
                Evidence("what is told", ({"channel": told.channel, "payload": told.payload},)),
                Evidence("the row", shown(change.record)),
            ),
        )

    def _changed(self, case: Case, step: Step) -> Iterator[Violation]:
        actor = step.operation.actor
        for change in step.changes:
            if not case.is_tenant_table(change.table):
                continue
            if not _crosses_over(case, step, change):
                continue
            guard = reached(case, step, change) or guards.isolating(change.table, case.catalog)
            word = {"insert": "created", "update": "changed", "delete": "removed"}[change.effect]
            yield Violation(
                signature=self.signature(change.effect, change.table, guard),
                operation=step.index,
                summary=f"{actor.role} {_acting_for(actor)} {word} a row of another tenant "
                f"in {change.table}",
                promise="An actor never creates, changes or removes another tenant's row.",
                proof=_made(case, step, change) or changed_proof(case, step, change),
                evidence=(
                    Evidence("before", shown(change.before)),
                    Evidence("after", shown(change.after)),
                ),
            )

    def _references(self, case: Case, step: Step) -> Iterator[Violation]:
        for change in step.changes:
            row = change.after
            if row is None or change.table not in case.contract.tenancy.owned:
                continue
            for key in _keys(case, change.table):
                if key.target not in case.contract.tenancy.owned:
                    continue
                target = _target(case, step, key, row)
                if target is None:
                    continue
                # As it is now: an id may be another tenant's later on.
                there = step.after, step.before
                owner, theirs = (owner_in(case.ownership, r, *there) for r in (row, target))
                if theirs in (owner, None):
                    continue
                yield Violation(
                    signature=self.signature(_REFERENCE, change.table, key.name),
                    operation=step.index,
                    summary=f"a row of {change.table} refers to another tenant's row "
                    f"in {key.target}, through {key.name}",
                    promise="No row refers to a row of another tenant.",
                    proof=(
                        Condition("state", step.index, _refers(case, key, row)),
                        Condition("state", step.index, _crosses(case, key, row)),
                    ),
                    evidence=(
                        Evidence(f"the row in {change.table}", shown(row)),
                        Evidence(f"the row in {key.target} it refers to", shown(target)),
                    ),
                )

    def _orphans(self, case: Case, step: Step) -> Iterator[Violation]:
        """Rows that came without their tenant being there, or stayed when it went."""
        root = case.contract.tenancy.root
        if root is None:
            return
        gone = {c.record.key for c in step.changes if c.table == root and c.after is None}
        rows = [c.after for c in step.changes if c.after is not None]
        if gone:
            rows = [r for t in case.contract.tenancy.owned for r in step.after.rows(t)]
        seen: set[str] = set()
        for row in rows:
            tenant = case.tenant_of(row)
            if row.table not in case.ownership.direct or tenant is None:
                continue
            if row.table in seen or _tenant_there(case, step.after, root, tenant):
                continue
            seen.add(row.table)
            column, key = case.contract.tenancy.column, case.catalog.tables[root].id_column
            reference = case.catalog.tables[row.table].foreign_key_of(column)
            owned = row_matches(row.table, key_of(case, row) | {column: tenant})
            yield Violation(
                signature=self.signature(
                    _REFERENCE, row.table, reference.name if reference else "no foreign key"
                ),
                operation=step.index,
                summary=f"a row of {row.table} belongs to a tenant that is not there",
                promise="Every row belongs to a tenant that is there.",
                proof=(
                    Condition("state", step.index, owned),
                    Condition("state", step.index, f"NOT {row_matches(root, {key: tenant})}"),
                ),
                evidence=(Evidence(f"the row in {row.table}", shown(row)),),
            )

    def _interference(self, case: Case, tenant: str, crossed: int | None) -> Iterator[Violation]:
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
            position = next(
                i for i, (a, b) in enumerate(zip(seen, expected, strict=False)) if a != b
            )
            statement = step.operation.statements[min(position, len(step.operation.statements) - 1)]
            yield Violation(
                signature=self._interfered(case, step, world, statement, numbers),
                operation=step.index,
                summary=f"{step.operation.actor.role} {_acting_for(step.operation.actor)} gets "
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
        self,
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
            return self.signature(statement.kind, statement.relation, guard)
        if key := _foreign_key_named(case, step, statement):
            return self.signature(_REFERENCE, statement.relation, key)
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
        return self.signature(statement.kind, statement.relation, guard)


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


def _target(case: Case, step: Step, key: ForeignKey, row: Record) -> Record | None:
    values = tuple(row[c] for c in key.columns)
    if None in values:
        return None
    if key.target_columns == case.catalog.tables[key.target].primary_key:
        return step.after.find(key.target, values)
    return next(
        (
            r
            for r in step.after.rows(key.target)
            if tuple(r[c] for c in key.target_columns) == values
        ),
        None,
    )


def _refers(case: Case, key: ForeignKey, row: Record) -> str:
    return row_matches(row.table, key_of(case, row) | {c: row[c] for c in key.columns})


def _crosses(case: Case, key: ForeignKey, row: Record) -> str:
    terms = [
        f"{sql.column(t)} = {sql.literal(row[c])}"
        for c, t in zip(key.columns, key.target_columns, strict=True)
    ]
    found = f"SELECT FROM {sql.name(key.target)} WHERE {' AND '.join(terms)}"
    if key.target not in case.ownership.direct:
        # Whose it is depends on the row that it refers to itself.
        return f"EXISTS ({found})"
    column, tenant = sql.column(case.contract.tenancy.column), sql.literal(case.tenant_of(row))
    return f"EXISTS ({found} AND {column} IS DISTINCT FROM {tenant})"


def _keys(case: Case, table: str) -> tuple[ForeignKey, ...]:
    """The foreign keys of a table, and what the contract says in their place."""
    told = (
        ForeignKey(f"{table}.{column}", table, (column,), *_pair(target), "", "")
        for (name, column), target in case.contract.references_to.items()
        if name == table
    )
    return (*case.catalog.tables[table].foreign_keys, *told)


def _pair(target: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    return target[0], (target[1],)


def _tenant_there(case: Case, state: State, root: str, tenant: str) -> bool:
    key = case.catalog.tables[root].id_column
    return any(printed(r[key]) == tenant for r in state.rows(root))


def _crosses_over(case: Case, step: Step, change: Change) -> bool:
    """Whether a changed row is, or was, of another tenant or another place within it."""
    ownership, allowed = case.ownership, case.tenants_of(step)
    actor, relation = step.operation.actor, case.catalog.relations[change.table]
    for record, state in ((change.before, step.before), (change.after, step.after)):
        if record is None:
            continue
        owner = owner_in(ownership, record, state, step.before)
        if owner is None and record.table in ownership.tenancy.scoped_by:
            # Its parent is not there: that is for foreign keys to prevent.
            continue
        if owner not in allowed or ownership.beyond(relation, record.values, actor):
            return True
    return False


def foreign_rows(
    case: Case, step: Step, name: str, answer: Answer
) -> tuple[list[tuple[bytes | None, ...]], str] | None:
    """The rows of an answer that are another tenant's, and an SQL condition that finds them.

    None where there are none, or where what was read does not say whose they are.
    """
    tenancy, ownership = case.contract.tenancy, case.ownership
    allowed = case.tenants_of(step)
    table = ownership.whole(name)
    if table in tenancy.shared:
        return None
    if table in tenancy.scoped_by:
        column = tenancy.scoped_by[table]
    elif table == tenancy.root:
        column = case.catalog.tables[table].id_column
    else:
        column = tenancy.column
    if column in answer.columns:
        position = answer.columns.index(column)
        whose = partial(_owner_read, case, step, table, position)
        foreign = [
            r for r in answer.rows if r[position] is not None and whose(r) not in (*allowed, None)
        ]
        if foreign:
            if table in tenancy.scoped_by:
                values = sorted({(r[position] or b"").decode() for r in foreign})
                listed = ", ".join(map(sql.literal, values))
                return foreign, f"{sql.column(column)}::text IN ({listed})"
            tenants = sorted(filter(None, allowed))
            if len(tenants) < 2:
                tenant = sql.literal(tenants[0] if tenants else None)
                return foreign, f"{sql.column(column)}::text IS DISTINCT FROM {tenant}"
            listed = ", ".join(map(sql.literal, tenants))
            return foreign, f"{sql.column(column)}::text NOT IN ({listed})"
    said = dict(step.operation.actor.said)
    for level in tenancy.within:
        if level.column in answer.columns and level.name in said and table != level.root:
            position = answer.columns.index(level.column)
            wanted = said[level.name].encode()
            foreign = [r for r in answer.rows if r[position] not in (wanted, None)]
            if foreign:
                value = sql.literal(said[level.name])
                return foreign, f"{sql.column(level.column)}::text IS DISTINCT FROM {value}"
    return None


def _owner_read(
    case: Case, step: Step, table: str, position: int, row: tuple[bytes | None, ...]
) -> str | None:
    """Whose a row is that was read, by what stands at this place in it."""
    value = (row[position] or b"").decode()
    if table not in case.contract.tenancy.scoped_by:
        return value
    link = link_of(case.contract, case.catalog, table)
    if link is None:
        return None
    column = case.contract.tenancy.scoped_by[table]
    target, columns = link
    to = dict(columns)[column]
    for state in (step.before, step.after):
        for record in state.rows(target):
            if printed(record.get(to)) == value:
                return owner_in(case.ownership, record, state)
    return None


def _readable(
    answer: Answer, rows: list[tuple[bytes | None, ...]]
) -> tuple[Mapping[str, object], ...]:
    return tuple(
        {
            c: None if v is None else v.decode(errors="replace")
            for c, v in zip(answer.columns, row, strict=True)
        }
        for row in rows[:5]
    )


def _told(observation: Observation) -> Mapping[str, object]:
    if observation[0] in ("refused", "accepted"):
        return {"answer": " ".join(map(str, filter(None, observation)))}
    if observation[0] == "told":
        return {"notices": "; ".join(map(str, observation[1:])) or "none"}
    count, columns, rows = observation
    del columns
    return {"rows": count, "content": repr(rows)[:200]} if rows else {"rows": count}


def _still_said(case: Case, step: Step) -> Leftover | None:
    """What the session of a silent actor still says of whoever had it before, if it does."""
    told = case.contract.tenancy.settings
    left = (s for s, a in step.queries if isinstance(s, Leftover) and a.rows)
    return next((s for s in left if step.operation.actor.silent and s.relation in told), None)


def _telling(case: Case, step: Step, statement: Statement) -> str:
    """Who made a text: the function that did, or what refused."""
    if step.error is not None:
        return guards.refusing(step.error, statement, case.catalog)
    return step.notices[0].function or guards.isolating(statement.relation, case.catalog)


def _made(case: Case, step: Step, change: Change) -> tuple[Condition, ...]:
    """That a row is there, and whose it is; empty for what is told in another way."""
    column = case.contract.tenancy.column
    if change.before is not None or change.record.get(column) is None:
        return ()
    values = key_of(case, change.record) | {column: change.record[column]}
    return (Condition("state", step.index, row_matches(change.table, values)),)


def _acting_for(actor: Actor) -> str:
    said = ", ".join(f"{name} {value}" for name, value in actor.said)
    if actor.tenant is None:
        return f"as {said}" if said else "without a tenant setting"
    if not actor.tenant:
        return "with an empty tenant setting"
    return f"for {actor.tenant}{f' as {said}' if said else ''}"


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
