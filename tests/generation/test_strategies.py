"""What the strategies draw: every kind of operation there is, rightful and not.

A kind that is no longer drawn makes no test fail elsewhere: nothing is found, and all is green.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import chain

import pytest

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.checks.values import pii_keys
from invariants.contract.contract import Contract
from invariants.contract.sections import Pii
from invariants.generation.personal import LOOKALIKES
from invariants.search.judge import Judge
from invariants.workload.operations import (
    OPERATOR,
    STATEMENTS,
    Attach,
    Become,
    Call,
    Comment,
    Delete,
    Inquire,
    Insert,
    Json,
    Leftover,
    Operation,
    Refresh,
    Select,
    Set,
    Shadow,
    Statement,
    Update,
    Value,
    Workload,
    inserted,
)
from tests.engine import UNKNOWN, A, B, drawn

MALFORMED = ("not-a-uuid", "' OR true --", "0")

EVENTS, ALLOCATIONS, LEDGER = "attribution_events", "attribution_allocations", "revenue_ledger"
DEAD, CODES = "dead_events", "channel_taxonomy"
VIEWS = ("v_realtime_revenue", "v_reconciliation_status")
DOCUMENTS = ((EVENTS, "raw_payload"), (DEAD, "raw_payload"), (DEAD, "error_detail"))
DRAWS = 300

Row = Mapping[str, Value]


def rows(table: str, statement: Statement) -> Iterator[Row]:
    """The rows that a statement would put into a table."""
    if statement.relation == table:
        yield from inserted(statement)


class Seen:
    """The operations of a workload with what was sent before each of them."""

    def __init__(self, workload: Workload, position: int, pii: Pii) -> None:
        self.operation: Operation = workload.operations[position]
        self.statements = self.operation.statements
        self.role, self.tenant = self.operation.actor.role, self.operation.actor.tenant
        self.earlier = workload.operations[:position]
        self.pii = pii

    def sent(self, table: str) -> list[Row]:
        return [r for s in self.statements for r in rows(table, s)]

    def known(self, table: str, id_: Value) -> Row:
        """What was last sent under an id, this operation included."""
        told = chain(self.earlier, [self.operation])
        found = [r for o in told for s in o.statements for r in rows(table, s) if r["id"] == id_]
        return found[-1] if found else {}

    def before(self, table: str) -> Iterator[Row]:
        """The rows sent to a table by earlier operations."""
        return (r for o in self.earlier for s in o.statements for r in rows(table, s))

    def named(self, value: Value) -> list[str]:
        """The keys of a document that name personal data."""
        return pii_keys(self.pii, value.document) if isinstance(value, Json) else []


@cache
def operations(judge: Judge, invariant: str) -> list[Seen]:
    """All operations of the workloads drawn for an invariant."""
    pii = judge.contract.pii
    assert pii is not None
    generated = generation.workloads(judge.contract, judge.catalog, INVARIANTS[invariant])
    return [
        Seen(workload, position, pii)
        for workload in drawn(generated, DRAWS)
        for position in range(len(workload.operations))
    ]


def corrections(seen: Seen) -> Iterator[tuple[Row, Row]]:
    """Corrections with what they correct."""
    for row in seen.sent(LEDGER):
        if row.get("corrects_id") is not None:
            yield row, seen.known(LEDGER, row["corrects_id"])


def postings(seen: Seen) -> Iterator[tuple[Row, Row]]:
    """Postings with what they post."""
    for row in seen.sent(LEDGER):
        if row.get("corrects_id") is None and (
            source := seen.known(ALLOCATIONS, row["allocation_id"])
        ):
            yield row, source


def cents(row: Row, column: str = "revenue_cents") -> int:
    value = row[column]
    assert isinstance(value, int)
    return value


def keys(value: Value) -> Iterator[str]:
    pending = [value.document] if isinstance(value, Json) else []
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield from part
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def assigned(seen: Seen, table: str) -> Iterator[tuple[str, Value]]:
    for s in seen.statements:
        if isinstance(s, Update) and s.relation == table:
            yield from s.assign


def does(seen: Seen, kind: type[Statement], *relations: str) -> bool:
    return any(isinstance(s, kind) and s.relation in relations for s in seen.statements)


Kind = Callable[[Seen], bool]


def by(
    kind: type[Statement],
    *relations: str,
    roles: Collection[str | None] = (),
    tenants: Collection[str | None] = (),
) -> Kind:
    """A kind of statement on one of some relations, by one of some roles, for some tenants."""
    return lambda s: (
        does(s, kind, *relations)
        and (not roles or s.role in roles)
        and (not tenants or s.tenant in tenants)
    )


def sends(table: str, column: str, value: Value) -> Kind:
    return lambda s: any(r.get(column) == value for r in s.sent(table))


def states(kind: type[Statement]) -> Kind:
    return lambda s: any(isinstance(t, kind) for t in s.statements)


def plants(table: str, column: str) -> Kind:
    return lambda s: any(s.named(r.get(column)) for r in s.sent(table))


def plants_lookalike(table: str, column: str) -> Kind:
    return lambda s: any(
        not s.named(r.get(column)) and not set(LOOKALIKES).isdisjoint(keys(r.get(column)))
        for r in s.sent(table)
    )


APPLICATION = ("app_rw", "app_ro", "app_admin")
REPAIR = ("migration_owner",)
KINDS: dict[str, Mapping[str, Kind]] = {
    "ledger": {
        "a posting": lambda s: any(
            cents(r) == cents(a, "allocated_revenue_cents") and r["tenant_id"] == a["tenant_id"]
            for r, a in postings(s)
        ),
        "a posting of another amount": lambda s: any(
            cents(r) != cents(a, "allocated_revenue_cents") for r, a in postings(s)
        ),
        "a posting of another tenant's allocation": lambda s: any(
            r["tenant_id"] != a["tenant_id"] for r, a in postings(s)
        ),
        "a second posting": lambda s: any(
            r["allocation_id"] == other["allocation_id"] and other.get("corrects_id") is None
            for r, _ in postings(s)
            for other in s.before(LEDGER)
        ),
        "a posting in the future": lambda s: any(
            r.get("updated_at") in ("infinity", "2101-01-01 00:00:00+00") for r, _ in postings(s)
        ),
        "a correction of part": lambda s: any(
            -cents(p) < cents(c) < 0 for c, p in corrections(s) if p
        ),
        "a correction of all": lambda s: any(
            cents(c) == -cents(p) != 0 for c, p in corrections(s) if p
        ),
        "a correction of more": lambda s: any(
            cents(c) < -cents(p) <= 0 for c, p in corrections(s) if p
        ),
        "a correction upwards": lambda s: any(cents(c) > 0 for c, _ in corrections(s)),
        "corrections in one transaction": lambda s: len(list(corrections(s))) > 1,
        "a correction of a correction": lambda s: any(
            p.get("corrects_id") is not None for _, p in corrections(s)
        ),
        "a correction of another tenant's posting": lambda s: any(
            p["tenant_id"] != c["tenant_id"] for c, p in corrections(s) if p
        ),
        "a correction of another allocation": lambda s: any(
            p["allocation_id"] != c["allocation_id"] for c, p in corrections(s) if p
        ),
        "a correction by the admin": lambda s: s.role == "app_admin" and any(corrections(s)),
        "a posted amount that changes": lambda s: any(
            isinstance(t, Update)
            and t.relation == ALLOCATIONS
            and "allocated_revenue_cents" in dict(t.assign)
            and any(r["allocation_id"] == dict(t.where).get("id") for r in s.before(LEDGER))
            for t in s.statements
        ),
        "a row given to another tenant": lambda s: any(
            c == "tenant_id" and v != s.tenant
            for t in s.statements if isinstance(t, Update)
            for c, v in t.assign
        ),
        "a repair of an amount": lambda s: (
            s.role == "migration_owner"
            and any(c == "revenue_cents" for c, _ in assigned(s, LEDGER))
        ),
        "a repair that removes a ledger row": by(Delete, LEDGER, roles=REPAIR),
        "a repair that removes an event": by(Delete, EVENTS, roles=REPAIR),
    },
    "read-path": {
        **{
            f"{view} read for {what}": by(Select, view, tenants=among)
            for view in VIEWS
            for what, among in {"a tenant": (A, B), "none": (None, "")}.items()
        },
        **{
            f"{view} read by {role}": by(Select, view, roles=(role,))
            for view in VIEWS
            for role in ("app_rw", "app_ro")
        },
        "a view read after a refresh": lambda s: (
            does(s, Select, *VIEWS)
            and any(isinstance(t, Refresh) for o in s.earlier for t in o.statements)
        ),
        "a view read for an unknown or a malformed one": by(
            Select, *VIEWS, tenants=(UNKNOWN, *MALFORMED)
        ),
        "a refresh": lambda s: any(
            isinstance(t, Refresh) and not t.concurrently for t in s.statements
        ),
        "a concurrent refresh": lambda s: any(
            isinstance(t, Refresh) and t.concurrently for t in s.statements
        ),
        "a refresh of all": lambda s: sum(isinstance(t, Refresh) for t in s.statements) > 1,
        "two runs at once": lambda s: any(
            r["tenant_id"] == other["tenant_id"] and r["last_run_at"] == other["last_run_at"]
            for r in s.sent("reconciliation_runs")
            for other in s.before("reconciliation_runs")
        ),
        **{
            f"a posting updated at {time}": sends(LEDGER, "updated_at", time)
            for time in ("infinity", "-infinity", "1901-01-01 00:00:00+00")
        },
        "a verified posting": sends(LEDGER, "is_verified", True),
    },
    "liveness": {
        **{f"{t} repaired": by(Update, t, roles=REPAIR) for t in (EVENTS, LEDGER)},
        "an update of what is append-only": by(Update, EVENTS, LEDGER, roles=APPLICATION),
        "a removal of what is append-only": by(Delete, EVENTS, LEDGER, roles=APPLICATION),
        "an event again": lambda s: (
            s.operation.delivery is not None
            and bool(s.sent(EVENTS))
            and any(o.delivery == s.operation.delivery for o in s.earlier)
        ),
        "an event without a key": lambda s: any(
            r.get("external_event_id") is None and r.get("correlation_id") is None
            for r in s.sent(EVENTS)
        ),
        "a split over statements": lambda s: (
            sum(t.relation == ALLOCATIONS and isinstance(t, Insert) for t in s.statements) > 1
        ),
        "an allocation of another tenant's event": lambda s: any(
            e and e["tenant_id"] != r["tenant_id"]
            for r in s.sent(ALLOCATIONS)
            for e in [s.known(EVENTS, r["event_id"])]
        ),
    },
    "cross-tenant": {
        **{
            f"a statement: {name}": states(kind)
            for name, kind in STATEMENTS.items()
            # There is no function without arguments to call; the others are only swept.
            if kind not in (Call, Comment, Attach, Shadow, Set, Become, Inquire, Leftover)
        },
        "a row handed to another tenant": lambda s: any(
            c == "tenant_id" and v != s.tenant and v in (A, B)
            for t in s.statements if isinstance(t, Update)
            for c, v in t.assign
        ),
        "a tenant erased": by(Delete, "tenants", roles=REPAIR),
        "a tenant removed by an application role": by(Delete, "tenants", roles=APPLICATION),
        "a row for another tenant": lambda s: (
            s.tenant in (A, B)
            and any(
                r.get("tenant_id") not in (None, s.tenant)
                for t in s.statements
                for r in rows(t.relation, t)
            )
        ),
        "a read for none": by(Select, DEAD, tenants=(None, "")),
        "a read for an unknown or a malformed one": lambda s: (
            s.tenant in (UNKNOWN, *MALFORMED) and any(isinstance(t, Select) for t in s.statements)
        ),
    },
    "taxonomy": {
        **{
            f"a channel {what} by {whom}": by(kind, CODES, roles=roles)
            for what, kind in (("added", Insert), ("changed", Update), ("removed", Delete))
            for whom, roles in (("maintenance", (OPERATOR,)), ("others", APPLICATION))
        },
        "an unknown channel": sends(ALLOCATIONS, "channel_code", "no_such_code"),
    },
    "pii": {
        **{f"a key in {t}.{c}": plants(t, c) for t, c in DOCUMENTS},
        **{f"a lookalike in {t}.{c}": plants_lookalike(t, c) for t, c in DOCUMENTS},
        "a key by update": lambda s: any(
            s.named(v) for t in s.statements for _, v in assigned(s, t.relation)
        ),
        "a key by repair": lambda s: (
            s.role in REPAIR and any(s.named(v) for _, v in assigned(s, EVENTS))
        ),
        "a document repaired": lambda s: (
            s.role == "migration_owner" and any(c == "raw_payload" for c, _ in assigned(s, EVENTS))
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("invariant", "kind"), [(invariant, kind) for invariant in KINDS for kind in KINDS[invariant]]
)
def test_a_kind_of_operation_is_drawn(head_judge: Judge, invariant: str, kind: str) -> None:
    is_it = KINDS[invariant][kind]
    assert any(is_it(seen) for seen in operations(head_judge, invariant))


def test_what_invariants_focus_on_is_there(contract: Contract) -> None:
    """A weight for a name that no schema has would be no weight at all."""
    anywhere = generation.strategies_of(replace(contract, strategies=()))
    assert {name for i in INVARIANTS.values() for name in i.focus} <= anywhere.operations.keys()


def test_before_there_are_corrections_and_views_none_are_drawn(judge: Judge) -> None:
    statements = [
        t
        for invariant in ("ledger", "read-path")
        for seen in operations(judge, invariant)
        for t in seen.statements
    ]
    assert {LEDGER, "mv_realtime_revenue"} <= {t.relation for t in statements}
    assert not any(t.relation in VIEWS for t in statements)
    assert not any("corrects_id" in t.columns for t in statements if isinstance(t, Insert))
