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
- `routine`, `setting`, `membership` (role): refused or let pass with the operation that tried it.
- `privilege` (role, verb): promised by the contract; let pass when a statement that needs it was
  committed. `no privilege` (role): what is not promised; refused when permission was denied. Both
  on the schema as migrated only, because premises change privileges.

Unique indexes of materialized views are no guards of a write; domains' constraints are not seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from invariants.checks.base import Case
from invariants.checks.decided import decided
from invariants.checks.visibility import deciding
from invariants.contract.contract import Contract
from invariants.contract.sections import VERBS
from invariants.coverage.doors import expected_doors, tried
from invariants.coverage.guards import (
    NO_PRIVILEGE,
    PRIVILEGE,
    Guard,
    expected,
    looking,
    may_do,
    structural,
)
from invariants.coverage.met import Coverage, Met
from invariants.execution.history import Change, Record, Step
from invariants.execution.wire import ServerError
from invariants.schema.catalog import Catalog, Relation, Trigger
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

_DENIED = re.compile(r"permission denied for (?:table|view|materialized view) (\S+)\Z")


_ROW_SECURITY = re.compile(r'row-level security policy (?:"(.+)" )?.*for table "([^"]+)"\Z')


_FUNCTIONS = re.compile(r"(?:PL/pgSQL|SQL) function \"?(?:\w+\.)?(\w+)")


_RAISED = re.compile(r"\A.* at RAISE\b")


_NAMED_BY = {
    "23502": ("not null",),
    "23503": ("foreign key",),
    "23001": ("foreign key",),
    "23505": ("unique",),
    "23514": ("check",),
    "23P01": ("exclusion",),
}


class Recorder:
    """Counts what cases met. `catalog` is that of the schema as migrated."""

    def __init__(self, contract: Contract, catalog: Catalog) -> None:
        self.contract = contract
        self._doors = frozenset(expected_doors(contract, catalog))
        self._guards = frozenset(expected(contract, catalog)) | self._doors
        self._refused: Counter[Guard] = Counter()
        self._passed: Counter[Guard] = Counter()
        self._sent: Counter[tuple[str, str, frozenset[str]]] = Counter()
        self._kinds = Counter(dict.fromkeys(_kinds(contract, catalog), 0))
        self._roles = Counter(dict.fromkeys(contract.roles, 0))
        self._tables = Counter(dict.fromkeys(_written(contract, catalog), 0))
        self._decided = dict(_decided(contract, catalog))
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
            self._decided,
        )

    def observe(self, case: Case) -> None:
        """Count what one executed workload met."""
        index = self._indexes.get(id(case.catalog))
        if index is None:
            index = self._indexes[id(case.catalog)] = _Index(case.catalog)
        root = self.contract.tenancy.root
        for tenant in case.history.workload.tenants if root else ():
            assert root is not None
            if row := case.history.initial.find(root, (tenant.id,)):
                index.look_at(Change(root, None, row))
        for step in case.history.steps:
            role = step.operation.actor.role
            if role in self._roles:
                self._roles[role] += 1
            for door in tried(step) if self._doors else ():
                (self._refused if step.error else self._passed)[door] += 1
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
            may_do(self.contract, role, v, relation) for v in verbs
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
        self._known = {g for r in catalog.tables.values() for g in structural(r)}
        self._looking = {n: tuple(looking(r)) for n, r in catalog.tables.items()}
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


def _decided(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, str]]:
    """The promised ways to write a table of which triggers, rules or policies decide."""
    promised = {
        (verb, relation)
        for grants in contract.roles.values()
        for relation, verbs in grants.items()
        for verb in verbs
        if relation in catalog.tables
    }
    for verb, table in sorted(promised):
        by = (
            *decided(contract, catalog, table, verb).by,
            *deciding(contract, catalog, table, verb),
        )
        if by:
            yield f"{verb} on {table}", ", ".join(by)
