"""What a search met: which guards of the catalog refused something and let something pass.

A guard that nothing met was not tested, whatever the verdict. What counts, in doubt not:

- `check`, `exclusion`, `foreign key`, `unique`, `not null`: refused when an error names it; let
  pass when a committed change brought a row that it looked at. A CHECK looks at a row with a value
  in any of its columns; the others need one in all of them, and foreign keys and unique indexes an
  update that changed one. Predicates of partial indexes other than IS [NOT] NULL are not evaluated.
- `trigger`: refused when its function raised; let pass when a change it fires for was committed.
  Whether a WHEN was true is not known, so such a trigger is met by refusing alone.
- `policy`: refused when an error says so, or when an application role's statement left out exactly
  the rows of other tenants; let pass when its statement returned or changed rows. Where several
  policies apply to a statement, only one that the server names.
- `privilege` (role, verb): promised by the contract; let pass when a statement that needs it was
  committed. `no privilege` (role): what is not promised; refused when permission was denied. Both
  on the schema as migrated only, because premises change privileges.

Unique indexes of materialized views are no guards of a write; domains' constraints are not seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

from invariants.checks.base import Case
from invariants.contract.contract import Contract
from invariants.contract.sections import VERBS
from invariants.execution.history import Change, Record, Step
from invariants.execution.wire import ServerError
from invariants.schema.catalog import Catalog, Relation, Trigger, UniqueIndex
from invariants.workload.operations import (
    Copy,
    Delete,
    Insert,
    Merge,
    Refresh,
    Select,
    Statement,
    Truncate,
    Update,
)

PRIVILEGE, NO_PRIVILEGE = "privilege", "no privilege"
_NAMES_SHOWN = 6
_DENIED = re.compile(r"permission denied for (?:table|view|materialized view) (\S+)\Z")
_ROW_SECURITY = re.compile(r'row-level security policy (?:"(.+)" )?.*for table "([^"]+)"\Z')
_FUNCTIONS = re.compile(r"(?:PL/pgSQL|SQL) function \"?(?:\w+\.)?(\w+)")
_RAISED = re.compile(r"\A.* at RAISE\b")
_NULLNESS = re.compile(r"\(?\(?(\w+) IS (NOT )?NULL\)?\)?")


_NAMED_BY = {
    "23502": ("not null",),
    "23503": ("foreign key",),
    "23001": ("foreign key",),
    "23505": ("unique",),
    "23514": ("check",),
    "23P01": ("exclusion",),
}


class Guard(NamedTuple):
    """A catalog object that enforces something, by its kind, its relation and its name there."""

    kind: str
    relation: str
    name: str

    def __str__(self) -> str:
        if self.kind in (PRIVILEGE, NO_PRIVILEGE):
            return f"{self.kind} {self.name} on {self.relation}"
        return f"{self.kind} {self.relation}.{self.name}"


@dataclass(frozen=True)
class Met:
    """How often a guard refused something, and how often it let something pass."""

    refused: int = 0
    passed: int = 0

    def __add__(self, other: Met) -> Met:
        return Met(self.refused + other.refused, self.passed + other.passed)


@dataclass(frozen=True)
class Coverage:
    """What searches met. All that is expected is in it, with nothing counted when it never came.

    `kinds` are statements accepted, `roles` operations sent, `tables` rows that came.
    """

    guards: Mapping[Guard, Met] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)
    roles: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Coverage) -> Coverage:
        guards = dict(self.guards)
        for guard, met in other.guards.items():
            guards[guard] = guards.get(guard, Met()) + met
        return Coverage(
            guards,
            _summed(self.kinds, other.kinds),
            _summed(self.roles, other.roles),
            _summed(self.tables, other.tables),
        )

    @classmethod
    def merged(cls, parts: Iterable[Coverage]) -> Self:
        """What several searches, or processes, met together."""
        return sum(parts, cls())  # type: ignore[return-value]

    @property
    def never_met(self) -> tuple[Guard, ...]:
        """Guards that neither refused nor let pass: nothing was learned about them."""
        return self._where(lambda met: not met.refused and not met.passed)

    @property
    def never_refused(self) -> tuple[Guard, ...]:
        """Guards that let pass only; a promised privilege has nothing to refuse."""
        return tuple(
            g
            for g in self._where(lambda met: not met.refused and met.passed > 0)
            if g.kind != PRIVILEGE
        )

    @property
    def never_passed(self) -> tuple[Guard, ...]:
        """Guards that refused only; what is not promised is not to pass."""
        return tuple(
            g
            for g in self._where(lambda met: met.refused > 0 and not met.passed)
            if g.kind != NO_PRIVILEGE
        )

    @property
    def kinds_never_accepted(self) -> tuple[str, ...]:
        """Kinds of statement that some role may send and none was accepted of."""
        return _missing(self.kinds)

    @property
    def roles_never_acting(self) -> tuple[str, ...]:
        """Roles of the contract that sent nothing."""
        return _missing(self.roles)

    @property
    def tables_never_written(self) -> tuple[str, ...]:
        """Tables that may be written and that no row came into."""
        return _missing(self.tables)

    @property
    def complete(self) -> bool:
        """Whether something was recorded and nothing was left out."""
        return not self.gaps

    @cached_property
    def gaps(self) -> tuple[str, ...]:
        """One line for everything that was never met."""
        if not self.roles:
            return ("nothing was recorded: no search went far enough",)
        return (
            *(f"{g} was never met" for g in self.never_met),
            *(f"no {k} was ever accepted" for k in self.kinds_never_accepted),
            *(f"role {r} never acted" for r in self.roles_never_acting),
            *(f"no row ever came into {t}" for t in self.tables_never_written),
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """The few lines that a person reads; none when nothing was recorded."""
        if not self.roles:
            return ()
        met = len(self.guards) - len(self.never_met)
        first = f"guards: {met} of {len(self.guards)} met"
        told = [f"{first}; never met: {_listed(self.never_met)}" if self.never_met else first]
        for words, names in (
            ("statements never accepted", self.kinds_never_accepted),
            ("roles that never acted", self.roles_never_acting),
            ("tables never written", self.tables_never_written),
        ):
            if names:
                told.append(f"{words}: {_listed(names)}")
        return tuple(told)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads the counts back."""
        return {
            "guards": [
                {
                    "kind": g.kind,
                    "relation": g.relation,
                    "name": g.name,
                    "refused": met.refused,
                    "passed": met.passed,
                }
                for g, met in sorted(self.guards.items())
            ],
            "never_met": [str(g) for g in self.never_met],
            "never_refused": [str(g) for g in self.never_refused],
            "never_passed": [str(g) for g in self.never_passed],
            "kinds": dict(self.kinds),
            "kinds_never_accepted": list(self.kinds_never_accepted),
            "roles": dict(self.roles),
            "roles_never_acting": list(self.roles_never_acting),
            "tables": dict(self.tables),
            "tables_never_written": list(self.tables_never_written),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What another process wrote with `to_json`."""
        return cls(
            {
                Guard(g["kind"], g["relation"], g["name"]): Met(g["refused"], g["passed"])
                for g in data["guards"]
            },
            dict(data["kinds"]),
            dict(data["roles"]),
            dict(data["tables"]),
        )

    def _where(self, wanted: Callable[[Met], bool]) -> tuple[Guard, ...]:
        return tuple(sorted(g for g, met in self.guards.items() if wanted(met)))


class Recorder:
    """Counts what cases met. `catalog` is that of the schema as migrated."""

    def __init__(self, contract: Contract, catalog: Catalog) -> None:
        self.contract = contract
        self._guards = frozenset(_expected(contract, catalog))
        self._refused: Counter[Guard] = Counter()
        self._passed: Counter[Guard] = Counter()
        self._sent: Counter[tuple[str, str, frozenset[str]]] = Counter()
        self._kinds = Counter(dict.fromkeys(_kinds(contract, catalog), 0))
        self._roles = Counter(dict.fromkeys(contract.roles, 0))
        self._tables = Counter(dict.fromkeys(_written(contract, catalog), 0))
        self._applications = frozenset(contract.application_roles)
        # A premise has a catalog of its own, in which its triggers are disabled.
        self._indexes: dict[int, _Index] = {}

    @property
    def coverage(self) -> Coverage:
        """What was met so far."""
        passed = self._passed.copy()
        for index in self._indexes.values():
            for shape, count in index.shapes.items():
                passed.update(dict.fromkeys(index.looking_at[shape], count))
        for (role, relation, verbs), count in self._sent.items():
            for verb in verbs:
                passed[Guard(PRIVILEGE, relation, f"{role} {verb}")] += count
        return Coverage(
            {g: Met(self._refused[g], passed[g]) for g in sorted(self._guards)},
            dict(self._kinds),
            dict(self._roles),
            dict(self._tables),
        )

    def observe(self, case: Case) -> None:
        """Count what one executed workload met."""
        index = self._indexes.get(id(case.catalog))
        if index is None:
            index = self._indexes[id(case.catalog)] = _Index(case.catalog)
        root = self.contract.tenancy.root
        for tenant in case.history.workload.tenants:
            if row := case.history.initial.find(root, (tenant.id,)):
                index.look_at(Change(root, None, row))
        for step in case.history.steps:
            role = step.operation.actor.role
            if role in self._roles:
                self._roles[role] += 1
            if step.error is None:
                self._committed(case, index, step)
            else:
                self._refuse(case, index, step)

    def _committed(self, case: Case, index: _Index, step: Step) -> None:
        actor = step.operation.actor
        statements = step.operation.statements
        for statement in statements:
            if statement.kind in self._kinds:
                self._kinds[statement.kind] += 1
            if isinstance(statement, Truncate):
                self._passed.update(index.truncated(statement.relation))
            if actor.role in self._roles and not case.history.workload.premise:
                self._sent[actor.role, statement.relation, _verbs(statement)] += 1
        for change in step.changes:
            if change.after is not None and change.table in self._tables:
                self._tables[change.table] += 1
            index.look_at(change)
        if actor.role in self._applications:
            for statement, answer in step.queries:
                if answer.count:
                    for policy in _let_through(index, step, statement):
                        self._passed[policy] += 1
            # What is there before a later statement of the transaction is not known.
            if hiding := _hidden_by(case, index, step):
                self._refused[hiding] += 1

    def _refuse(self, case: Case, index: _Index, step: Step) -> None:
        error, statement = step.error, step.failed_statement
        premise = case.history.workload.premise
        assert error is not None
        said: re.Match[str] | None
        if error.sqlstate == "42501" and (said := _ROW_SECURITY.search(error.message)):
            guard = index.policy(said[2], said[1], _verbs(statement) - {"select"})
        elif error.sqlstate == "42501" and (said := _DENIED.match(error.message)):
            counts = step.operation.actor.role in self._roles and not premise
            guard = self._denied(index, step, said[1]) if counts else None
        else:
            guard = index.constraint(error) or index.raising(error, step)
        if guard is not None:
            self._refused[guard] += 1

    def _denied(self, index: _Index, step: Step, bare: str) -> Guard | None:
        """The promise or the lack of one by which a role was denied a relation."""
        role, statement = step.operation.actor.role, step.failed_statement
        relation = index.names.get(bare)
        if relation is None:
            return None
        verbs = _verbs(statement)
        if relation != statement.relation or not all(
            _promised(self.contract, role, v, relation) for v in verbs
        ):
            return Guard(NO_PRIVILEGE, relation, role)
        # Which of several was missing is not said.
        return Guard(PRIVILEGE, relation, f"{role} {min(verbs)}") if len(verbs) == 1 else None


class _Index:
    """The guards of one catalog, found by what is known when one is met."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        # The server names a relation without its schema.
        bare = Counter(n.rpartition(".")[2] for n in catalog.relations)
        self.names = {b: n for n in catalog.relations if bare[b := n.rpartition(".")[2]] == 1}
        self._known = {g for r in catalog.tables.values() for g in _structural(r)}
        self._looking = {n: tuple(_looking(r)) for n, r in catalog.tables.items()}
        # Committed changes by their shape, and the guards that look at one of that shape.
        self.shapes: Counter[tuple[object, ...]] = Counter()
        self.looking_at: dict[tuple[object, ...], tuple[Guard, ...]] = {}
        self._policies: dict[tuple[str, frozenset[str]], Guard | None] = {}

    def constraint(self, error: ServerError) -> Guard | None:
        """The constraint, unique index or NOT NULL column that an error names."""
        kinds = _NAMED_BY.get(error.sqlstate, ())
        name = error.column if error.sqlstate == "23502" else error.constraint
        guards = (Guard(kind, self.names.get(error.relation, ""), name) for kind in kinds)
        return next((g for g in guards if g in self._known), None)

    def look_at(self, change: Change) -> None:
        """Count a committed change for the guards that looked at it."""
        before, after = change.before, change.after
        # Nothing else matters to any of them than which columns have a value, and which changed.
        shape = (
            change.table,
            change.effect,
            after and tuple([v is None for v in after.values.values()]),
            before and after and tuple([v != after.get(c) for c, v in before.values.items()]),
        )
        if shape not in self.looking_at:
            self.looking_at[shape] = tuple(
                guard for guard, looks in self._looking.get(change.table, ()) if looks(change)
            )
        self.shapes[shape] += 1

    def truncated(self, table: str) -> tuple[Guard, ...]:
        """The triggers that let a TRUNCATE pass."""
        relation = self.catalog.tables.get(table)
        return tuple(
            Guard("trigger", table, t.name)
            for t in (relation.triggers if relation else ())
            if t.enabled and not t.conditional and "TRUNCATE" in t.events
        )

    def policy(self, bare: str, name: str | None, verbs: frozenset[str]) -> Guard | None:
        """The policy that says whether: the one named, or the only one there is for the verbs."""
        relation = self.catalog.tables.get(self.names.get(bare, ""))
        if relation is None or not relation.row_security:
            return None
        if name is not None:
            return Guard("policy", relation.name, name) if name in relation.policies else None
        return self.sole_policy(relation, verbs)

    def sole_policy(self, relation: Relation, verbs: frozenset[str]) -> Guard | None:
        """The policy that applies to all of the verbs, when no other applies to one of them."""
        key = relation.name, verbs
        if key not in self._policies:
            applying = [p for p, applies in relation.policy_verbs.items() if applies & verbs]
            sole = len(applying) == 1 and verbs <= relation.policy_verbs[applying[0]]
            self._policies[key] = Guard("policy", relation.name, applying[0]) if sole else None
        return self._policies[key]

    def raising(self, error: ServerError, step: Step) -> Guard | None:
        """The trigger whose function raised, the innermost first; None when it may be another."""
        if not _RAISED.search(error.context):
            return None
        statements = step.operation.statements
        for function in _FUNCTIONS.findall(error.context):
            found = [
                (relation.name, t)
                for relation in self.catalog.tables.values()
                for t in relation.triggers
                if t.function == function and t.enabled
            ]
            if not found:
                continue
            # TRUNCATE fires those of the table it names first; constraint triggers may be deferred.
            failed = step.failed_statement
            named = [(t, g) for t, g in found if t == failed.relation]
            truncating = isinstance(failed, Truncate)
            for some, among in (
                ([failed], named if truncating else []),
                ([failed], found),
                (statements, found),
            ):
                fitting = {
                    Guard("trigger", table, t.name)
                    for table, t in among
                    if any(self._fires(s, table, t) for s in some)
                }
                if fitting:
                    return fitting.pop() if len(fitting) == 1 else None
            return None
        return None

    def _fires(self, statement: Statement, table: str, trigger: Trigger) -> bool:
        if statement.relation == table:
            return bool(trigger.events & {v.upper() for v in _verbs(statement)})
        if isinstance(statement, Truncate):
            reached = statement.cascade and self.catalog.path(statement.relation, table)
            return bool(reached) and "TRUNCATE" in trigger.events
        cascading = isinstance(statement, Delete | Update | Merge | Insert)
        reached = cascading and self.catalog.path(statement.relation, table)
        return bool(reached) and bool(trigger.events & {"DELETE", "UPDATE"})


def _expected(contract: Contract, catalog: Catalog) -> Iterator[Guard]:
    """Every guard of the schema as migrated, and every promise of the contract about privileges."""
    for relation in catalog.tables.values():
        yield from _structural(relation)
    for role in contract.roles:
        for relation in catalog.relations.values():
            verbs = VERBS if relation.kind == "table" else ("select",)
            promised = [v for v in verbs if _promised(contract, role, v, relation.name)]
            for verb in promised:
                yield Guard(PRIVILEGE, relation.name, f"{role} {verb}")
            if len(promised) < len(verbs):
                yield Guard(NO_PRIVILEGE, relation.name, role)


def _structural(relation: Relation) -> Iterator[Guard]:
    if relation.row_security:
        yield from (Guard("policy", relation.name, p) for p in relation.policies)
    yield from (Guard("trigger", relation.name, t.name) for t in relation.triggers if t.enabled)
    for guard, _ in _constraints(relation):
        yield guard


Looks = Callable[[Change], bool]


def _looking(relation: Relation) -> Iterator[tuple[Guard, Looks]]:
    """The guards of a table that changes of rows pass, with whether one looked at a change."""
    yield from _constraints(relation)
    for trigger in relation.triggers:
        if trigger.enabled and not trigger.conditional:
            yield Guard("trigger", relation.name, trigger.name), _fired_by(trigger)


def _constraints(relation: Relation) -> Iterator[tuple[Guard, Looks]]:
    for check in relation.checks:
        yield Guard("check", relation.name, check.name), _any_set(check.columns)
    for check in relation.exclusions:
        yield Guard("exclusion", relation.name, check.name), _all_set(check.columns)
    for key in relation.foreign_keys:
        yield Guard("foreign key", relation.name, key.name), _all_set(key.columns)
    for unique in relation.uniques:
        yield Guard("unique", relation.name, unique.name), _indexed(unique)
    for column in relation.columns.values():
        if column.not_null:
            yield Guard("not null", relation.name, column.name), _written_row


def _written_row(change: Change) -> bool:
    return change.after is not None


def _any_set(columns: tuple[str, ...]) -> Looks:
    def looks(change: Change) -> bool:
        after = change.after
        return after is not None and (not columns or any(after.get(c) is not None for c in columns))

    return looks


def _all_set(columns: tuple[str, ...]) -> Looks:
    def looks(change: Change) -> bool:
        before, after = change.before, change.after
        if after is None or any(after.get(c) is None for c in columns):
            return False
        return before is None or any(before.get(c) != after.get(c) for c in columns)

    return looks


def _indexed(unique: UniqueIndex) -> Looks:
    keyed = _all_set(unique.columns)
    terms = _null_terms(unique.predicate)

    def looks(change: Change) -> bool:
        return (
            terms is not None
            and keyed(change)
            and change.after is not None
            and all((change.after.get(c) is not None) == wanted for c, wanted in terms)
        )

    return looks


def _null_terms(predicate: str | None) -> list[tuple[str, bool]] | None:
    """For `a IS NOT NULL AND b IS NULL` the columns, each with whether it has a value."""
    if predicate is None:
        return []
    terms = [_NULLNESS.fullmatch(t) for t in predicate.split(" AND ")]
    return [(t[1], bool(t[2])) for t in terms if t] if all(terms) else None


def _fired_by(trigger: Trigger) -> Looks:
    def looks(change: Change) -> bool:
        if change.effect.upper() not in trigger.events:
            return False
        before, after = change.before, change.after
        if before is None or after is None or not trigger.columns:
            return True
        return any(before.get(c) != after.get(c) for c in trigger.columns)

    return looks


def _let_through(index: _Index, step: Step, statement: Statement) -> Iterator[Guard]:
    """The policies that let a statement return or change rows."""
    relation = index.catalog.tables.get(statement.relation)
    if relation is None or not _isolates(relation, step):
        return
    effects = {c.effect for c in step.changes if c.table == relation.name}
    for verb in _verbs(statement):
        if verb == "select" or verb in effects:
            sole = index.sole_policy(relation, _ONE[verb])
            if sole is not None:
                yield sole


def _hidden_by(case: Case, index: _Index, step: Step) -> Guard | None:
    """The policy that left out the rows of other tenants, of those that the statement asks for."""
    statement = step.operation.statements[0]
    if not isinstance(statement, Select | Update | Delete) or not step.answers:
        return None
    relation = index.catalog.tables.get(statement.relation)
    if relation is None or not _isolates(relation, step):
        return None
    if not case.is_tenant_table(statement.relation):
        return None
    wanted = [
        r
        for r in step.before.records
        if r.table == relation.name and all(r.get(c) == v for c, v in statement.where)
    ]
    foreign = sum(_is_foreign(case, r, step.operation.actor.tenant) for r in wanted)
    if not foreign or step.answers[0].count != len(wanted) - foreign:
        return None
    return index.sole_policy(relation, _verbs(statement))


def _is_foreign(case: Case, record: Record, tenant: str | None) -> bool:
    return case.tenant_of(record) != tenant


def _isolates(relation: Relation, step: Step) -> bool:
    """Whether the policies of a table bind the actor."""
    return relation.row_security and (
        relation.row_security_forced or relation.owner != step.operation.actor.role
    )


def _verbs(statement: Statement) -> frozenset[str]:
    """The privileges that a statement needs; a condition also needs to read."""
    match statement:
        case Insert(conflict=conflict):
            return _UPSERT if conflict is not None and conflict.updates else _INSERT
        case Copy():
            return _INSERT
        case Merge(updates=updates):
            return _MERGE | _UPSERT if updates else _MERGE
        case Update(where=where) | Delete(where=where):
            return _FOUND[statement.kind] if where else _ONE[statement.kind]
        case Select() | Truncate():
            return _ONE[statement.kind]
    return frozenset()


_ONE = {verb: frozenset((verb,)) for verb in VERBS}
_FOUND = {verb: frozenset((verb, "select")) for verb in VERBS}
_INSERT, _UPSERT = _ONE["insert"], frozenset(("insert", "update"))
_MERGE = frozenset(("insert", "select"))


def _promised(contract: Contract, role: str, verb: str, relation: str) -> bool:
    if role == contract.tenancy.erased_by and relation == contract.tenancy.root:
        # To find the tenant it has to read.
        return verb in ("delete", "select")
    return contract.may(role, verb, relation)


def _kinds(contract: Contract, catalog: Catalog) -> Iterator[str]:
    """The kinds of statement of which some can be accepted, by what the contract promises.

    PostgreSQL refuses COPY into a table with row security; what calls a function is not promised.
    """
    may = {
        verb: [r for r in catalog.tables for role in contract.roles if contract.may(role, verb, r)]
        for verb in VERBS
    }
    yield from (verb for verb, tables in may.items() if tables)
    if may["insert"] and may["select"] and catalog.server_version >= 150000:
        yield Merge.kind
    if any(not catalog.tables[t].row_security for t in may["insert"]):
        yield Copy.kind
    if catalog.materialized_views:
        yield Refresh.kind


def _written(contract: Contract, catalog: Catalog) -> Iterator[str]:
    """The tables that some role may bring rows into or change, and those that maintenance keeps."""
    for table in catalog.tables:
        if any(contract.may(r, v, table) for r in contract.roles for v in ("insert", "update")):
            yield table
    yield from (t.table for t in contract.taxonomies)


def _missing(counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(name for name, count in counts.items() if not count)


def _summed(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {k: one.get(k, 0) + other.get(k, 0) for k in (*one, *other)}


def _listed(things: Collection[object]) -> str:
    shown = [str(t) for t in things][:_NAMES_SHOWN]
    left = len(things) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")
