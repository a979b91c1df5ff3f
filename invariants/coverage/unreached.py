"""What a search did not reach although it covers it: an error beside any verdict.

What is demanded follows from the contract, the catalog and the sweeps that were gone through to
their end: these are enumerated, so that nothing here depends on luck or on the budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from invariants.checks.base import Case
from invariants.contract.contract import Contract
from invariants.contract.placing import parent_column
from invariants.execution.history import Step
from invariants.schema.catalog import Catalog, Relation
from invariants.schema.privileges import Reached
from invariants.schema.reach import Reach
from invariants.workload.operations import Copy, Insert, Merge, Refresh, Select

Kind = Literal["table", "role", "relation", "setting", "place"]

# The sweeps that bring rows into every table, let every role act, and read every relation.
WRITING = frozenset({"permitted", "leaks"})
TRIGGERING = frozenset({"permitted"})
ACTING = frozenset({"permitted", "leaks"})
READING = frozenset({"leaks"})
_WRITES = ("insert", "update", "delete")
_REASON_LENGTH_MAX = 200
_REFUSALS_MIN = 40


@dataclass(frozen=True, order=True)
class Unreached:
    """One thing that was not reached: what it is, what is wrong, what to write where."""

    kind: Kind
    name: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {"kind": self.kind, "name": self.name, "what": self.what, "remedy": self.remedy}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What another process wrote with `to_json`."""
        return cls(data["kind"], data["name"], data["what"], data["remedy"])


def in_short(unreached: Collection[Unreached]) -> str | None:
    """All of it in a line; None where all was reached."""
    if not unreached:
        return None
    first = next(iter(unreached))
    more = f" (and {len(unreached) - 1} more)" if len(unreached) > 1 else ""
    return f"not reached: {first}{more}"


def unreached_lines(unreached: Collection[Unreached]) -> Iterator[str]:
    """All of it for people: what it is, and what to write where."""
    if unreached:
        yield f"NOT REACHED, {len(unreached)} of what these invariants cover:"
    for one in unreached:
        yield f"  {one.what}"
        yield f"    {one.remedy}"


def asked(contract: Contract, catalog: Catalog) -> Iterator[Unreached]:
    """Settings that policies read and no session makes."""
    reach = Reach(catalog, catalog.definitions)
    made = {name.lower() for name in contract.tenancy.settings}
    asking: dict[str, list[str]] = {}
    for policy in catalog.definitions.policies:
        for setting in sorted(s.name for s in reach.of_effects(policy.effects).settings):
            # Those without a point are the server's own.
            if "." in setting and setting.lower() not in made:
                asking.setdefault(setting.lower(), []).append(f"{policy.name} of {policy.table}")
    for setting, policies in asking.items():
        more = f" and {len(policies) - 1} more" if len(policies) > 1 else ""
        yield Unreached(
            "setting",
            setting,
            f"policy {policies[0]}{more} reads the setting {setting}, and no session makes it",
            f"say in [tenancy] what it is: {_session(contract, setting)}",
        )


def _session(contract: Contract, setting: str) -> str:
    made = [*contract.tenancy.session.settings, (setting, "..")]
    return "session = { " + ", ".join(f'"{name}" = "{value}"' for name, value in made) + " }"


def astray(contract: Contract, catalog: Catalog, reached: Reached) -> Iterator[Unreached]:
    """Relations that an application role may reach and that the contract does not place."""
    for name in sorted(contract.unplaced or ()):
        relation = catalog.relations[name]
        roles = [r for r in contract.application_roles if r in reached.get(name, {})]
        parts = [r.name for r in catalog.relations.values() if r.part_of == name]
        roles = roles or sorted({r for p in parts for r in reached.get(p, {})})
        yield Unreached(
            "place",
            name,
            f"{_word(relation)} {name}: {', '.join(roles)} may reach it, and the contract does not "
            "say whose rows it has",
            _place(contract, relation, roles),
        )


def _word(relation: Relation) -> str:
    return {"matview": "materialized view"}.get(relation.kind, relation.kind)


def _place(contract: Contract, relation: Relation, roles: Collection[str]) -> str:
    name = _quoted(relation.name)
    if relation.kind in ("view", "matview"):
        return f'add to [roles.{next(iter(roles))}]: {name} = ["select"], or revoke it'
    column = contract.tenancy.column
    placed = {*contract.tenancy.owned} - (contract.unplaced or frozenset())
    if column in relation.columns:
        return f"add to [tenancy]: tables = [.., {name}]"
    if parent := parent_column(relation, placed):
        return f'add to [tenancy]: scoped_by = {{ {name} = "{parent}" }}, or shared = [.., {name}]'
    return f"add to [tenancy]: shared = [.., {name}], where it is nobody's"


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Outstanding:
    """What a search has yet to reach: struck off as cases come by."""

    def __init__(self, contract: Contract, catalog: Catalog) -> None:
        self.contract, self.catalog = contract, catalog
        self._roles = {r for r in contract.application_roles if contract.roles[r]}
        self._tables = set(_written(contract, catalog))
        self._reads = {
            (role, name)
            for name in catalog.relations
            for role in contract.application_roles
            if contract.may(role, "select", name)
        }
        # Why a role, or a row of a table, was refused: the first time, which is the plainest.
        self._denied: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._refusals: Counter[str] = Counter()
        reach = Reach(catalog, catalog.definitions)
        self._below = {name: _below(reach, catalog, name) for _, name in self._reads}
        # What triggers lead to, and what all share, only some lists try.
        self._triggered = set(_triggered(contract, catalog, reach)) - self._tables
        self._tables |= self._triggered
        self._seldom = self._triggered | {*contract.tenancy.shared}

    def observe(self, case: Case) -> None:
        """Strike off what one executed workload reached."""
        if not (self._roles or self._tables or self._reads) or case.history.workload.premise:
            return
        refreshed: set[str] = set()
        for step in case.history.steps:
            role = step.operation.actor.role
            if not step.committed:
                self._note(step)
                continue
            self._roles.discard(role)
            if self._tables and step.changes:
                self._tables -= {c.table for c in step.changes if c.after is not None}
            for statement in step.operation.statements:
                if isinstance(statement, Refresh):
                    refreshed.add(statement.relation)
                elif (
                    isinstance(statement, Select)
                    and (role, statement.relation) in self._reads
                    and self._counts(case, step, statement.relation, refreshed)
                ):
                    self._reads.discard((role, statement.relation))

    def _note(self, step: Step) -> None:
        assert step.error is not None or step.place is not None
        if step.error is None:
            return
        reason = " ".join(step.error.message.split())[:_REASON_LENGTH_MAX]
        self._denied.setdefault(step.operation.actor.role, reason)
        for statement in step.operation.statements:
            if isinstance(statement, Insert | Copy | Merge) and statement.relation in self._tables:
                self._refused.setdefault(statement.relation, reason)
                self._refusals[statement.relation] += 1

    def _counts(self, case: Case, step: Step, relation: str, refreshed: set[str]) -> bool:
        """Whether another tenant's rows were there to be read."""
        below = self._below[relation]
        views = {n for n in below if self.catalog.relations[n].kind == "matview"}
        tables = {n for n in below - views if case.is_tenant_table(n)}
        if not views <= refreshed:
            return False
        acting = case.tenants_of(step)
        if acting == {None}:
            return False
        return not tables or any(
            r.table in tables and case.tenant_of(r) not in acting for r in step.before.records
        )

    def left(self, swept: Collection[str]) -> Iterator[Unreached]:
        """What was not reached, of what the sweeps gone through to their end always try."""
        names = set(swept)
        silent = set(self._roles) if names & ACTING else set()
        for role in sorted(silent):
            why = f": {self._denied[role]}" if role in self._denied else ""
            yield Unreached(
                "role",
                role,
                f"role {role} never acted, no operation of it was accepted{why}",
                f"promise in [roles.{role}] what it may do, or remove it",
            )
        # A search cut short may have drawn a few rows that are refused for good reasons.
        refused = {t for t in self._tables if self._refusals[t] >= _REFUSALS_MIN}
        empty = self._tables - self._seldom if names & WRITING else refused
        empty |= self._tables & self._seldom if names & TRIGGERING else set()
        for table in sorted(empty):
            yield self._never_written(table)
        if not names & READING:
            return
        unread: dict[str, list[str]] = {}
        for role, relation in sorted(self._reads):
            # Where nobody wrote, or the role did nothing at all, that is told already.
            if role not in silent and not self._below[relation] & empty:
                unread.setdefault(relation, []).append(role)
        for relation, roles in unread.items():
            yield self._never_read(relation, roles)

    def _never_written(self, table: str) -> Unreached:
        said = table in self.contract.written_by_triggers.tables
        if table in self._refused:
            what = f"table {table}: every INSERT was refused, so no row ever came: "
            what += self._refused[table]
            remedy = (
                "write a row strategy (docs/extending.md), or say in [domains] which values its "
                "columns take"
            )
        else:
            what = f"table {table}: no row ever came"
            remedy = "write an operation strategy that brings one (docs/extending.md)"
            if said or table in self._triggered:
                what += f", though triggers {'are said to' if said else 'may'} write it"
            if said:
                remedy += ", or take it out of tables in [written_by_triggers]"
        return Unreached("table", table, what, remedy)

    def _never_read(self, relation: str, roles: list[str]) -> Unreached:
        word = _word(self.catalog.relations[relation])
        line = f'[roles.{roles[0]}] {_quoted(relation)} = ["select"]'
        return Unreached(
            "relation",
            relation,
            f"{word} {relation}: {', '.join(roles)} never read it while another tenant had rows "
            "there",
            f"take {line} out of the contract if it is not so, or write strategies that bring rows "
            "(docs/extending.md)",
        )


def _written(contract: Contract, catalog: Catalog) -> Iterator[str]:
    """The tables that an application role or a trigger may write."""
    for name in catalog.tables:
        roles = contract.application_roles
        if name in contract.written_by_triggers.tables or any(
            contract.may(role, verb, name) for role in roles for verb in _WRITES
        ):
            yield name


def _triggered(contract: Contract, catalog: Catalog, reach: Reach) -> Iterator[str]:
    """The tables that a write of an application role brings rows into, by triggers and rules."""
    placed = {*contract.tenancy.owned, *contract.tenancy.shared}
    may = {
        (name, verb)
        for name in catalog.tables
        for verb in _WRITES
        for role in contract.application_roles
        if contract.may(role, verb, name)
    }
    for name, verb in sorted(may):
        for written, how in sorted(reach.of_write(name, verb).writes):
            if how == "insert" and written in placed and written in catalog.tables:
                yield written


def _below(reach: Reach, catalog: Catalog, name: str) -> frozenset[str]:
    """The tables and materialized views that have the rows of a relation."""
    relation = catalog.relations[name]
    if relation.kind in ("table", "partition"):
        return frozenset({relation.part_of or name})
    read = reach.of_read(name).reads
    return frozenset(
        catalog.relations[n].part_of or n for n in read if catalog.relations[n].kind != "view"
    )
