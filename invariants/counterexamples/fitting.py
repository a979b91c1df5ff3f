"""Whether a schema has all that a workload names: asked before anything of a file is sent.

A file may be somebody else's. Each name in it is looked up in catalog and contract, so that what is
sent is a name that is there, in quotes, or a bound value; and so that what cannot be executed is
never taken for something that holds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from psycopg import adapters

from invariants.checks.sayings import own_tenancy
from invariants.contract.contract import ANYBODY, Contract
from invariants.contract.premises import DESCRIPTIONS
from invariants.reading import Misfit, quoted
from invariants.schema.catalog import COMMENTED, Catalog, Relation, RelationKind
from invariants.workload.inquiries import ATTRIBUTES, PRIVILEGES
from invariants.workload.operations import (
    OPERATOR,
    Attach,
    Become,
    Call,
    Comment,
    Copy,
    Delete,
    Inquire,
    Insert,
    Leftover,
    Merge,
    Operation,
    Refresh,
    Select,
    Set,
    Shadow,
    Statement,
    Truncate,
    Update,
    Workload,
)

_GONE = "replay it at a revision that has it"


def check(workload: Workload, contract: Contract, catalog: Catalog) -> None:
    """Raises `Misfit` for the first thing that the workload names and the schema has not."""
    check_premise(workload.premise)
    fitting = _Fitting(contract, catalog)
    root = contract.tenancy.root
    for i, tenant in enumerate(workload.tenants):
        if root is None:
            if tenant.columns:
                raise Misfit(f"tenants[{i}].row", "no table lists tenants", "leave it empty")
            continue
        fitting.columns(
            fitting.relation(f"tenants[{i}]", root), tenant.columns, f"tenants[{i}].row"
        )
    for i, operation in enumerate(workload.operations):
        fitting.operation(operation, f"operations[{i}]")
    for i, session in enumerate(workload.sessions):
        for j, transaction in enumerate(session):
            fitting.operation(transaction.operation, f"sessions[{i}][{j}]")


def check_premise(premise: str) -> None:
    """Raises `Misfit` for a premise that this version does not know."""
    if premise not in DESCRIPTIONS:
        known = ", ".join(filter(None, DESCRIPTIONS))
        raise Misfit("premise", f"{quoted(premise)} is not known", f'use one of: "", {known}')


class _Fitting:
    """Looks names up in one schema."""

    def __init__(self, contract: Contract, catalog: Catalog) -> None:
        self.contract, self.catalog = contract, catalog

    def operation(self, operation: Operation, place: str) -> None:
        """Who acts, and each of its statements."""
        role = operation.actor.role
        known = (*self.contract.roles, ANYBODY)
        if role != OPERATOR and (role not in known or role not in self.catalog.roles):
            raise Misfit(
                f"{place}.role",
                f"the contract has no role {quoted(role)}",
                f'use one of: "", {", ".join(known)}',
            )
        for name, _ in operation.actor.said:
            names = self.contract.tenancy.session.names
            if name not in names:
                told = ", ".join(sorted(names)) or "none"
                raise Misfit(
                    f"{place}.said", f"no session says {quoted(name)}", f"use one of: {told}"
                )
        for i, statement in enumerate(operation.statements):
            at = f"{place}.statements[{i}]"
            self.statement(statement, at)
            if role == OPERATOR:
                self.by_operator(statement, at)

    def by_operator(self, statement: Statement, place: str) -> None:
        """Who maintains the database changes rows of tables and refreshes views, no more."""
        match statement:
            case Refresh() | Select():
                return
            case Insert() | Update() | Delete() | Merge() | Copy() | Truncate():
                if statement.relation in self.catalog.tables:
                    return
        raise Misfit(
            place, f"the operator does no {statement.kind} of that", "name a role of the contract"
        )

    def statement(self, statement: Statement, place: str) -> None:
        """What one statement names."""
        at = f"{place}.relation"
        match statement:
            case Call(relation) if "(" in relation:
                self._call(statement, place)
            case Call(relation):
                self._there("function without arguments", relation, self.catalog.functions, at)
                if statement.arguments or statement.procedure:
                    raise Misfit(at, f"{quoted(relation)} lacks its types", "write name(types)")
            case Attach(relation):
                triggers = [r.signature for r in self.catalog.routines if r.is_trigger]
                self._there("trigger function", relation, triggers, at)
            case Comment(relation, "function" | "procedure" as target):
                procedures = target == "procedure"
                known = [r.signature for r in self.catalog.routines if r.procedure == procedures]
                self._there(target, relation, known, at)
            case Comment(relation, target):
                if COMMENTED[self.relation(at, relation).kind] != target:
                    raise Misfit(at, f"{quoted(relation)} is no {target}", _GONE)
            case Shadow():
                self._shadow(statement, at)
            case Set() | Become():
                self._session(statement, at)
            case Inquire():
                self._inquiry(statement, place)
            case Leftover(relation, target):
                names = self._settings() if target == "setting" else (target,)
                self._there(target, relation, names, at)
            case Truncate(relation):
                self._kind(relation, "table", at)
            case Refresh(relation):
                self._kind(relation, "matview", at)
            case _:
                self._rows(statement, place)

    def relation(self, place: str, name: str) -> Relation:
        """The relation of this name."""
        self._there("relation", name, self.catalog.relations, place)
        return self.catalog.relations[name]

    def columns(self, relation: Relation, names: Iterable[str], place: str) -> None:
        """That the relation has all columns."""
        for name in names:
            if name not in relation.columns:
                raise Misfit(
                    place,
                    f"{quoted(relation.name)} has no column {quoted(name)} in this schema",
                    f"{_GONE}, or use one of: {', '.join(relation.columns)}",
                )

    def _rows(self, statement: Statement, place: str) -> None:
        """What reads or writes rows by their columns."""
        relation = self.relation(f"{place}.relation", statement.relation)
        for name in ("columns", "on", "updates"):
            self.columns(relation, getattr(statement, name, ()), f"{place}.{name}")
        for name in ("assign", "where"):
            columns = (column for column, _ in getattr(statement, name, ()))
            self.columns(relation, columns, f"{place}.{name}")
        if isinstance(statement, Select) and statement.leak:
            self.columns(relation, (statement.leak,), f"{place}.leak")
        if isinstance(statement, Insert) and statement.conflict is not None:
            conflict = statement.conflict
            self.columns(relation, conflict.target, f"{place}.conflict.target")
            self.columns(relation, conflict.updates, f"{place}.conflict.updates")
            known = [u.predicate for u in relation.uniques if u.predicate]
            if conflict.where and conflict.where not in known:
                raise Misfit(
                    f"{place}.conflict.where",
                    f"no unique index of {quoted(relation.name)} has the predicate "
                    f"{quoted(conflict.where)}",
                    f"use one of: {', '.join(known)}" if known else "leave it empty",
                )

    def _call(self, statement: Call, place: str) -> None:
        """A routine by the types it takes, and a value for each."""
        known = {r.called: r for r in self.catalog.routines if r.called}
        self._there("routine", statement.relation, known, f"{place}.relation")
        routine = known[statement.relation]
        if len(statement.arguments) != len(routine.arguments):
            raise Misfit(
                f"{place}.arguments",
                f"{len(statement.arguments)} values for {len(routine.arguments)} arguments",
                "write one for each",
            )
        if statement.procedure != routine.procedure:
            word = "a procedure" if routine.procedure else "a function"
            raise Misfit(
                f"{place}.procedure",
                f"{quoted(statement.relation)} is {word}",
                f"write {str(routine.procedure).lower()}",
            )

    def _session(self, statement: Set | Become, place: str) -> None:
        """A setting of the schema's own, which says not for whom a session acts; or a role."""
        name = statement.relation
        if isinstance(statement, Become):
            self._there("role", name, self.catalog.roles, place)
        elif not _OWN_SETTING.match(name):
            raise Misfit(place, f"{quoted(name)} is no setting of a schema's own", _GONE)
        elif own_tenancy(name, self.contract):
            raise Misfit(
                place, f"{quoted(name)} says for whom a session acts", "write it as tenant or said"
            )

    def _inquiry(self, statement: Inquire, place: str) -> None:
        """A privilege that there is, and what it is on."""
        target, standing = statement.target, self.catalog.standing
        known: Collection[str] = {
            "relation": self.catalog.relations,
            "sequence": self.catalog.sequences,
            "schema": standing.schemas,
            "database": ("database",),
            "parameter": standing.parameters,
            "role": self.catalog.roles,
            "attribute": ATTRIBUTES,
            "routine": [r.called for r in self.catalog.routines],
        }[target]
        self._there(target, statement.relation, known, f"{place}.relation")
        if statement.privilege not in PRIVILEGES[target]:
            raise Misfit(
                f"{place}.privilege",
                f"{quoted(statement.privilege)} is no privilege on a {target}",
                f"use one of: {', '.join(PRIVILEGES[target])}",
            )

    def _settings(self) -> tuple[str, ...]:
        """Settings that say for whom a session acts, and those that the schema makes."""
        made = (left.name for left in self.catalog.lingering if left.target == "setting")
        return (*self.contract.tenancy.settings, *made)

    def _kind(self, name: str, kind: RelationKind, place: str) -> None:
        if self.relation(place, name).kind != kind:
            raise Misfit(place, f"{quoted(name)} is no {COMMENTED[kind]}", _GONE)

    def _shadow(self, statement: Shadow, place: str) -> None:
        """What some function looks for; or did so, before it was mended, by one of these names."""
        schema, _, name = statement.relation.rpartition(".")
        known = {s.name for s in self.catalog.sought if s.kind == statement.target}
        if statement.target == "relation":
            known |= {n if "." in n else f"public.{n}" for n in self.catalog.relations}
        of_server = schema == "pg_catalog" and (
            name in _SYSTEM_RELATIONS
            if statement.target == "relation"
            else adapters.types.get(name) is not None
        )
        if not of_server:
            self._there(statement.target, statement.relation, known, place)

    def _there(self, what: str, name: str, known: Collection[str], place: str) -> None:
        if name not in known:
            raise Misfit(place, f"this schema has no {what} {quoted(name)}", _GONE)


# Of at least two parts: the server itself has no such settings.
_OWN_SETTING = re.compile(r"[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)+\Z")
# What everybody may read of the server's own catalog, and functions may look for.
_SYSTEM_RELATIONS = frozenset(
    f"pg_{name}"
    for name in (
        *("attribute", "class", "constraint", "index", "indexes", "matviews", "namespace"),
        *("policies", "policy", "proc", "roles", "settings", "tables", "trigger", "type", "views"),
    )
)
