"""cross-tenant: no tenant reads, changes, refers to or notices another tenant's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from invariants.checks import astray, guards, texts
from invariants.checks.base import (
    Case,
    Condition,
    Evidence,
    Invariant,
    Violation,
    changed_proof,
    key_of,
    reached,
    row_matches,
    shown,
)
from invariants.checks.foreign import acting_for, foreign_rows
from invariants.checks.interference import interference
from invariants.checks.ownership import owner_in
from invariants.checks.sayings import way
from invariants.execution.history import Change, State, Step
from invariants.execution.wire import Answer
from invariants.schema.announcements import announcing
from invariants.workload import sql
from invariants.workload.operations import (
    Actor,
    Call,
    Leftover,
    Select,
    Statement,
    Workload,
)

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
            for violation in astray.references(case, step):
                crossed = step.index if crossed is None else crossed
                yield violation
            yield from astray.orphans(case, step)
        for tenant in case.worlds:
            yield from interference(case, tenant, crossed)

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
                summary=f"{actor.role} {acting_for(actor)} read {len(foreign)} "
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
                summary=f"{actor.role} {acting_for(actor)}, next on a connection, finds "
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
            summary=f"{actor.role} {acting_for(actor)} is told what a row of another "
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
                summary=f"{actor.role} {acting_for(actor)} {word} a row of another tenant "
                f"in {change.table}",
                promise="An actor never creates, changes or removes another tenant's row.",
                proof=_made(case, step, change) or changed_proof(case, step, change),
                evidence=(
                    Evidence("before", shown(change.before)),
                    Evidence("after", shown(change.after)),
                ),
            )


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


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
