"""idempotent-ingest: a message delivered again leaves the state as it was, without an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from invariants.checks import guards, messages
from invariants.checks.base import (
    COMPARABLE,
    Case,
    Condition,
    Evidence,
    Invariant,
    Violation,
    changed_proof,
    row_matches,
    shown,
)
from invariants.checks.ownership import printed
from invariants.checks.values import fits
from invariants.contract.contract import Contract
from invariants.contract.sections import Idempotency
from invariants.execution.history import Change, Record, Step
from invariants.schema.catalog import Catalog
from invariants.workload import sql
from invariants.workload.operations import Insert, Value

# The columns of the key and its values.
Key = tuple[tuple[str, ...], tuple[object, ...]]


class IdempotentIngest(Invariant):
    """One row for one message, first write wins; the same key in another tenant is another row."""

    name = "idempotent-ingest"
    promise = (
        "Sending an ingest again, at any later point, leaves one row, the first, and no error."
    )
    examines = "a message that was delivered again"
    sweeps: ClassVar[tuple[str, ...]] = ("keys", "alike", "elsewhere")
    concurrent = True
    duets: ClassVar[tuple[str, ...]] = ("deliveries",)
    focus = {"refresh": 0, "probe": 0, "erase": 0, "truncate": 0}

    def check(self, case: Case) -> Iterator[Violation]:
        """Check deliveries, first and again, and that no key stands twice."""
        yield from self._redelivered(case)
        yield from self._swallowed(case)
        for step in case.history.steps:
            for change in step.changes:
                if change.after is not None:
                    yield from self._duplicate(case, step, change.after)

    def _redelivered(self, case: Case) -> Iterator[Violation]:
        for earlier, step in _deliveries(case):
            if (
                step.error is not None
                and not step.gave_way
                and messages.ignores_what_is_there(step.operation)
                and messages.identical(
                    earlier.operation, step.operation, case.contract, case.catalog
                )
            ):
                yield self._refused(case, earlier, step)
            for change in step.changes:
                yield self._changed(case, earlier, step, change)

    def examined(self, case: Case) -> int:
        """Deliveries of a message whose first delivery is still there."""
        return sum(1 for _ in _deliveries(case))

    def unruled(self, contract: Contract, catalog: Catalog) -> str | None:
        """Without a rule there is nothing to check."""
        del catalog
        return None if contract.idempotency else "the contract has no [[idempotency]]"

    def _refused(self, case: Case, earlier: Step, step: Step) -> Violation:
        assert step.error is not None
        statement = step.failed_statement
        return Violation(
            signature=self.signature(
                "insert", statement.relation, guards.refusing(step.error, statement, case.catalog)
            ),
            operation=step.index,
            summary=f"the second delivery into {statement.relation} is refused: "
            f"{step.error.message}",
            promise="Sending an ingest again gives the client no error.",
            proof=(Condition("accepted", earlier.index), Condition("refused", step.index)),
        )

    def _changed(self, case: Case, earlier: Step, step: Step, change: Change) -> Violation:
        rule = _rule(case, change.table)
        guard = "first write wins"
        if change.effect == "insert":
            key = _key(case, rule, change.record) if rule else None
            guard = _keeping(case, step, change.table, key[0]) if key else "no key"
        return Violation(
            signature=self.signature(change.effect, change.table, guard),
            operation=step.index,
            summary=f"the second delivery of a message {_DONE[change.effect]} "
            f"a row of {change.table}",
            promise="Sending an ingest again leaves the state as it was: one row, "
            "the first write wins.",
            proof=(Condition("accepted", earlier.index), *changed_proof(case, step, change)),
            evidence=(
                Evidence(
                    "the first delivery's rows",
                    shown(*(c.after for c in earlier.changes if c.table == change.table)),
                ),
                Evidence("what the second one made of it", shown(change.before, change.after)),
            ),
        )

    def _swallowed(self, case: Case) -> Iterator[Violation]:
        """A delivery that is accepted although no row of its tenant has its key afterwards."""
        for step in case.history.steps:
            if step.operation.delivery is None or not step.committed:
                continue
            if not messages.ignores_what_is_there(step.operation):
                # What else it does may well have removed the row, or changed its key.
                continue
            for statement in step.operation.statements:
                rule = _rule(case, statement.relation)
                if rule is None or not isinstance(statement, Insert):
                    continue
                for row in messages.rows(statement):
                    if _is_lost(case, rule, step, row):
                        yield self._lost(case, rule, step, statement, row)

    def _lost(
        self,
        case: Case,
        rule: Idempotency,
        step: Step,
        statement: Insert,
        row: Mapping[str, Value],
    ) -> Violation:
        key = _key(case, rule, row)
        assert key is not None
        tenant = case.contract.tenancy.column
        guard = guards.folding(rule.table, case.catalog)
        guard = guard or guards.spanning(statement, tenant, case.catalog)
        guard = guard or guards.firing(rule.table, "insert", case.catalog, "BEFORE")
        wanted = {tenant: row.get(tenant), **dict(zip(*key, strict=True))}
        return Violation(
            signature=self.signature("insert", rule.table, guard),
            operation=step.index,
            summary=f"a delivery into {rule.table} is accepted, "
            "and no row of its tenant has its key",
            promise="One message is one row; the same key in another tenant is another row.",
            proof=(
                Condition("accepted", step.index),
                Condition("state", step.index, f"NOT {row_matches(rule.table, wanted)}"),
            ),
            evidence=(Evidence("what was delivered", (wanted,)),),
        )

    def _duplicate(self, case: Case, step: Step, row: Record) -> Iterator[Violation]:
        rule = _rule(case, row.table)
        key = _key(case, rule, row) if rule else None
        if rule is None or key is None:
            return
        twins = [
            r
            for r in step.after.rows(row.table)
            if r is not row
            and case.tenant_of(r) == case.tenant_of(row)
            and _key(case, rule, r) == key
        ]
        if not twins or _rewritten(case, step, (row, *twins)):
            return
        where = " AND ".join(
            f"{sql.column(c)} = {sql.literal(str(v))}"
            for c, v in (
                (case.contract.tenancy.column, case.tenant_of(row)),
                *zip(*key, strict=True),
            )
        )
        yield Violation(
            signature=self.signature("insert", row.table, _keeping(case, step, row.table, key[0])),
            operation=step.index,
            summary=f"{row.table} has {len(twins) + 1} rows with the same key "
            f"({', '.join(key[0])})",
            promise="One message is one row.",
            proof=(
                Condition(
                    "state",
                    step.index,
                    f"(SELECT count(*) > 1 FROM {sql.name(row.table)} WHERE {where})",
                ),
            ),
            evidence=(Evidence("rows with one key", shown(row, *twins)),),
        )


_DONE = {"insert": "made", "update": "changed", "delete": "removed"}


def _rule(case: Case, table: str) -> Idempotency | None:
    return next((r for r in case.contract.idempotency if r.table == table), None)


def _is_lost(case: Case, rule: Idempotency, step: Step, row: Mapping[str, Value]) -> bool:
    """Whether a row that was accepted is not there, neither by its key nor by its primary key.

    A primary key that somebody has already is another matter: see the contract's accepted channels.
    """
    key, tenant = _key(case, rule, row), printed(row.get(case.contract.tenancy.column))
    table = case.catalog.tables[rule.table]
    if key is None or tenant is None or tenant != step.operation.actor.tenant:
        return False
    if any(
        table.columns[c].type not in COMPARABLE or not fits(table.columns[c], row[c])
        for c in key[0]
    ):
        # The server may read it as something that is spelled otherwise.
        return False
    taken = tuple(row.get(c) for c in table.primary_key)
    return not any(
        # Another session may have removed since what was there when the delivery looked.
        state.find(rule.table, taken)
        or any(
            case.tenant_of(r) == tenant and _key(case, rule, r) == key
            for r in state.rows(rule.table)
        )
        for state in (step.since if step.place else (step.after,))
    )


def _key(case: Case, rule: Idempotency, row: Record | Mapping[str, Value]) -> Key | None:
    """The key of a row: the first whose columns are all set."""
    return case.contract.key_of(rule.table, row.values if isinstance(row, Record) else row)


def _deliveries(case: Case) -> Iterator[tuple[Step, Step]]:
    """Deliveries of a message that was accepted before and is still there, with the first one."""
    first: dict[tuple[object, int], list[Step]] = {}
    for step in case.history.steps:
        operation = step.operation
        if operation.delivery is None:
            continue
        known = first.setdefault((operation.actor.tenant, operation.delivery), [])
        earlier = next(
            (
                e
                for e in known
                if messages.same(e.operation, operation, case.contract, case.catalog)
            ),
            None,
        )
        if earlier is None:
            if step.committed and any(c.effect == "insert" for c in step.changes):
                known.append(step)
        elif _still_there(case, earlier, step) and not _misnamed(case, earlier, step):
            yield earlier, step


def _still_there(case: Case, earlier: Step, step: Step) -> bool:
    """Whether what the message says is there with its keys, so a second delivery adds nothing."""
    sent = [(s.relation, r) for s in _inserts(step) for r in messages.rows(s)]
    made = [c.record for c in earlier.changes if c.effect == "insert"]
    for record in made:
        now = step.before.find(record.table, record.key)
        rule = _rule(case, record.table)
        if now is None or (rule and _key(case, rule, now) != _key(case, rule, record)):
            return False
        if any(now.get(c) != record.get(c) for c in _computed(case, record.table)):
            return False
    tables = {table for table, _ in sent}
    if sum(record.table in tables for record in made) >= len(sent):
        return True
    # What was there before the first delivery did not come with it, and may have gone since.
    return all(
        any(
            case.contract.key_of(table, row)
            == case.contract.key_of(table, known.values)
            is not None
            and case.tenant_of(known) == step.operation.actor.tenant
            for known in step.before.rows(table)
        )
        for table, row in sent
    )


def _misnamed(case: Case, earlier: Step, step: Step) -> bool:
    """Whether a row's id is none, or another row's: what is refused then is the id."""
    made = {(c.table, c.record.key) for c in earlier.changes if c.effect == "insert"}
    for statement in _inserts(step):
        table = case.catalog.tables[statement.relation]
        for row in messages.rows(statement):
            if any(c in row and not fits(table.columns[c], row[c]) for c in table.primary_key):
                return True
            key = tuple(row.get(c) for c in table.primary_key)
            taken = any(state.find(statement.relation, key) for state in step.since[:-1])
            if taken and (statement.relation, key) not in made:
                return True
    return False


def _computed(case: Case, table: str) -> frozenset[str]:
    """Columns of unique indexes that triggers fill in: who rewrites one has made another key."""
    filled = guards.filled_in(table, case.catalog)
    keys = {c for r in case.contract.idempotency for k in r.keys for c in k if r.table == table}
    uniques = (u.columns for u in case.catalog.tables[table].uniques if not u.primary)
    found = {c for columns in uniques for c in columns if c in filled or "*" in filled}
    return frozenset(found - keys - {case.contract.tenancy.column})


def _rewritten(case: Case, step: Step, rows: tuple[Record, ...]) -> bool:
    """Whether somebody has changed what a trigger made of one of these rows for a unique index."""
    computed, keys = _computed(case, rows[0].table), {r.key for r in rows}
    return any(
        c.before is not None
        and c.after is not None
        and c.table == rows[0].table
        and c.record.key in keys
        and any(c.before.get(name) != c.after.get(name) for name in computed)
        for s in (case.history.steps[: step.index + 1] if computed else ())
        for c in s.changes
    )


def _keeping(case: Case, step: Step, table: str, columns: tuple[str, ...]) -> str:
    """What keeps a key from standing twice.

    Where it did so for this message, but for the settings of the session that sent it now: what
    makes another key of them.
    """
    plain = [
        e
        for e in case.history.steps[: step.index]
        if not e.operation.settings
        and e.committed
        and not e.changes
        and messages.same(e.operation, step.operation, case.contract, case.catalog)
    ]
    found = guards.computing(table, case.catalog) if step.operation.settings and plain else ""
    return found or f"unique ({', '.join(columns)})"


def _inserts(step: Step) -> list[Insert]:
    return [s for s in step.operation.statements if isinstance(s, Insert)]
