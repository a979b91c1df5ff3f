"""What every invariant has in common: the case it judges, the violation it reports, the proof.

A check is a pure function of a case. It never touches a database; what it needs to have run besides
the workload itself it asks for as further worlds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

from invariants.checks import model
from invariants.checks.outcome import Prediction
from invariants.checks.ownership import Find, Ownership, owner_in, printed
from invariants.checks.sayings import way
from invariants.contract.contract import Contract
from invariants.execution.history import Change, History, Record, Step
from invariants.schema.catalog import Catalog
from invariants.workload import sql
from invariants.workload.operations import Call, Json, Value, Workload

# Types whose values come back as they were sent; a time, say, comes back spelled another way.
COMPARABLE = ("uuid", "text", "character varying", "integer", "bigint", "smallint", "boolean")


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells one cause from another: what was done to which relation, past which guard.

    `together` is set where it takes sessions side by side: one after the other, the same
    transactions do no harm.
    """

    invariant: str
    kind: str
    relation: str
    guard: str
    together: bool = False

    def __str__(self) -> str:
        last = "sessions together" if self.together else ""
        parts = (self.invariant, self.kind, self.relation, self.guard, last)
        return "/".join(p for p in parts if p)


@dataclass(frozen=True, slots=True)
class Condition:
    """One fact of a violation, in a form that psql can test.

    refused, accepted: what the server said to the operation; `query`, if given, is the SQLSTATE
    with which it was refused. `state`: an SQL condition that the
    superuser evaluates once the operation is over. `seen`: an SQL condition that the actor
    evaluates at the end of the operation's transaction. `returned`: so many rows came of its
    last statement. `differs`: the operation's answer is
    another one when the other tenants do nothing. `told`: a text that the actor got with the answer
    has this in it. `where` says in what of all that it got;
    an announcement has its channel on a line before.
    """

    kind: Literal["refused", "accepted", "state", "seen", "differs", "told", "returned"]
    operation: int
    query: str = ""
    where: Literal["answer", "error", "notice", "announcement"] = "answer"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows that show the violation, under a caption."""

    caption: str
    rows: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold: all conditions of `proof` together are the violation."""

    signature: Signature
    operation: int
    summary: str
    promise: str
    proof: tuple[Condition, ...]
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Case:
    """All a check may look at. `worlds` holds the histories it asked for, by its name for them."""

    contract: Contract
    catalog: Catalog
    history: History
    worlds: Mapping[str, History] = field(default_factory=dict)
    _predictions: dict[int, Prediction | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _owners: dict[Record, str | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def predicted(self, step: Step) -> Prediction | None:
        """What the contract says must come of a step; None where it is silent."""
        if step.index not in self._predictions:
            self._predictions[step.index] = model.predict(
                self.contract, self.catalog, step.before, step.operation
            )
        return self._predictions[step.index]

    @cached_property
    def ownership(self) -> Ownership:
        """Whose rows are, and for whom sessions act."""
        return Ownership(self.contract, self.catalog)

    def tenant_of(self, record: Record) -> str | None:
        """The tenant a row belongs to; None for a table that is nobody's.

        Where it belongs to one through another row, that is looked for from the end on: a row may
        be asked about that was there for a while only.
        """
        if record.table in self.ownership.direct:
            return printed(record.get(self.contract.tenancy.column))
        if record.table not in self.contract.tenancy.scoped_by:
            return self.ownership.owner(record.table, record.values, _nowhere)
        if record not in self._owners:
            steps = self.history.steps
            states = (*(s.after for s in reversed(steps)), self.history.initial)
            self._owners[record] = owner_in(self.ownership, record, *dict.fromkeys(states))
        return self._owners[record]

    def acting_for(self, step: Step) -> str | None:
        """The tenant that a step's session says it acts for, however it spells it."""
        return self.ownership.meant(step.operation.actor.tenant)

    def tenants_of(self, step: Step) -> frozenset[str | None]:
        """The tenants that a step's session acts for; `None` is nobody.

        Whoever is made a member of a tenant by the step itself does not act for it yet, unless
        the tenant is new as well.
        """
        tenants = self.ownership.tenants_of(step.operation.actor, (step.before,))
        root = self.contract.tenancy.root
        if self.contract.tenancy.members is None or root is None:
            return tenants
        made = (c.after for c in step.changes if c.table == root and c.before is None)
        return tenants | {self.tenant_of(r) for r in made if r is not None}

    def is_tenant_table(self, table: str) -> bool:
        """Whether each row of the table belongs to one tenant."""
        return self.ownership.owned(table)

    def is_application(self, step: Step) -> bool:
        """Whether the actor is bound to one tenant by the contract."""
        return step.operation.actor.role in self.contract.application_roles


_nowhere: Find = lambda _table, _wanted: None  # noqa: E731


class Invariant(ABC):
    """A named promise and the check that it held. Register it in `invariants.checks`."""

    name: ClassVar[str]
    promise: ClassVar[str]
    # What `examined` counts, as in "none had ... to look at".
    examines: ClassVar[str]
    # Weights of operation strategies by name; those not named keep their own weight.
    focus: ClassVar[Mapping[str, int]] = {}
    # Whether it says something of the schema as migrated, with nothing done to it.
    asks_schema: ClassVar[bool] = False
    # Whether it is about tenants: every relation is to be placed, every session to say who it is.
    of_tenants: ClassVar[bool] = False
    # Altered schemas to try besides the migrated one.
    premises: ClassVar[tuple[str, ...]] = ()
    # What is enumerated before anything is drawn (`generation.sweeps`).
    sweeps: ClassVar[tuple[str, ...]] = ()
    # Whether it is asked of sessions that go on side by side, and about what (`generation.duets`).
    concurrent: ClassVar[bool] = False
    duets: ClassVar[tuple[str, ...]] = ()
    # How much of a run's time it needs, compared with others.
    share: ClassVar[int] = 3
    # In how many of a hundred workloads everything is read at the end, for every tenant and none.
    readings_percent: ClassVar[int] = 0

    def worlds(self, workload: Workload) -> Mapping[str, Workload]:
        """Further workloads whose histories the check needs."""
        del workload
        return {}

    @abstractmethod
    def check(self, case: Case) -> Iterator[Violation]:
        """All violations of this invariant in the case."""

    @abstractmethod
    def examined(self, case: Case) -> int:
        """How many facts of the case the check looked at that could have been a violation."""

    def unruled(self, contract: Contract, catalog: Catalog) -> str | None:
        """What the contract lacks for this invariant to say anything; None when it has it."""
        del contract, catalog
        return None

    def unjudged(self, workload: Workload) -> str | None:
        """Why this invariant says nothing of such a workload; None where it does."""
        if workload.premise and workload.premise not in self.premises:
            return f"{self.name} is not judged on the altered schema {workload.premise!r}"
        if workload.sessions and not self.concurrent:
            return f"{self.name} is not judged of sessions that go on side by side"
        if not workload.all_operations and not self.asks_schema:
            return f"{self.name} is not judged of a workload without operations"
        return None

    def signature(self, kind: str, relation: str, guard: str) -> Signature:
        """A signature of this invariant."""
        return Signature(self.name, kind, relation, guard)


def row_matches(table: str, values: Mapping[str, object]) -> str:
    """An SQL condition: a row with these values exists."""
    terms = [
        f"{sql.column(c)} IS NULL" if v is None else f"{sql.column(c)} = {sql.literal(_value(v))}"
        for c, v in values.items()
    ]
    return f"EXISTS (SELECT FROM {sql.name(table)} WHERE {' AND '.join(terms) or 'true'})"


def _value(value: object) -> Value:
    if isinstance(value, dict | list):
        return Json.of(value)
    return value if isinstance(value, bool | int | str) else str(value)


def key_of(case: Case, record: Record) -> dict[str, object]:
    """Primary key columns and values of a row; the whole row where there is no primary key."""
    columns = case.catalog.tables[record.table].primary_key
    return {c: record[c] for c in columns} if columns else dict(record.values)


def exists(case: Case, record: Record) -> str:
    """An SQL condition: the row with this primary key exists."""
    return row_matches(record.table, key_of(case, record))


def kept(case: Case, change: Change) -> str:
    """An SQL condition: the changed row still has the values it had before.

    Values that the server's clock made are left out: they differ from run to run.
    """
    before, after = change.before, change.after
    assert before is not None
    values = key_of(case, before)
    if after is not None:
        columns = case.catalog.tables[change.table].columns
        values |= {
            c: v
            for c, v in before.values.items()
            if v != after.get(c)
            and not (columns[c].type.startswith("timestamp") and columns[c].has_default)
        }
    return row_matches(change.table, values)


def changed_proof(case: Case, step: Step, change: Change) -> tuple[Condition, ...]:
    """The conditions that together say: this operation made this change."""
    if change.before is None:
        return (Condition("state", step.index, exists(case, change.record)),)
    present = kept(case, change)
    if change.after is not None and present == exists(case, change.before):
        # Only what the clock had made has changed: what it is now is all that can be told.
        told = {c: v for c, v in change.after.values.items() if v != change.before.get(c)}
        changed = row_matches(change.table, key_of(case, change.before) | told)
        return (
            Condition("state", step.index - 1, f"NOT {changed}"),
            Condition("state", step.index, changed),
        )
    return (
        Condition("state", step.index - 1, present),
        Condition("state", step.index, f"NOT {present}"),
    )


def reached(case: Case, step: Step, change: Change) -> str:
    """The way by which an operation reached a table: what it said, a routine, a view, foreign keys.

    Empty where it names the table, or where none of them is the way.
    """
    named = [s.relation for s in step.operation.statements]
    if said := way(step):
        return said
    if change.table in named:
        return ""
    if called := [s.relation for s in step.operation.statements if isinstance(s, Call)]:
        return called[0]
    for relation in named:
        found = case.catalog.relations.get(relation)
        if found is not None and (found.kind == "view" or found.part_of == change.table):
            return relation
        if path := case.catalog.path(relation, change.table):
            return ",".join(k.name for k in path)
    return ""


def shown(*records: Record | None) -> tuple[Mapping[str, object], ...]:
    """Rows as evidence, leaving out the missing ones."""
    return tuple(dict(r.values) for r in records if r is not None)
