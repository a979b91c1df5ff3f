"""The guards that a catalog has, and which changes each of them looks at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from invariants.contract.contract import Contract
from invariants.contract.sections import VERBS
from invariants.execution.history import Change
from invariants.schema.catalog import Catalog, Relation, Trigger, UniqueIndex

PRIVILEGE, NO_PRIVILEGE = "privilege", "no privilege"
# Doors, by who goes through them (`coverage.doors`).
ROUTINE, SETTING, MEMBERSHIP = "routine", "setting", "membership"
DOORS = {ROUTINE: "called", SETTING: "made", MEMBERSHIP: "become"}


_NULLNESS = re.compile(r"\(?\(?(\w+) IS (NOT )?NULL\)?\)?")


class Guard(NamedTuple):
    """A catalog object that enforces something, by its kind, its relation and its name there."""

    kind: str
    relation: str
    name: str

    def __str__(self) -> str:
        if self.kind in (PRIVILEGE, NO_PRIVILEGE):
            return f"{self.kind} {self.name} on {self.relation}"
        if self.kind in DOORS:
            return f"{self.kind} {self.relation} {DOORS[self.kind]} by {self.name}"
        return f"{self.kind} {self.relation}.{self.name}"


def expected(contract: Contract, catalog: Catalog) -> Iterator[Guard]:
    """Every guard of the schema as migrated, and every promise of the contract about privileges."""
    for relation in catalog.tables.values():
        yield from structural(relation)
    for role in contract.roles:
        for relation in catalog.relations.values():
            verbs = VERBS if relation.kind == "table" else ("select",)
            promised = [v for v in verbs if may_do(contract, role, v, relation.name)]
            for verb in promised:
                yield Guard(PRIVILEGE, relation.name, f"{role} {verb}")
            if len(promised) < len(verbs):
                yield Guard(NO_PRIVILEGE, relation.name, role)


def structural(relation: Relation) -> Iterator[Guard]:
    """Policies, triggers and constraints of a relation."""
    if relation.row_security:
        yield from (Guard("policy", relation.name, p) for p in relation.policies)
    yield from (Guard("trigger", relation.name, t.name) for t in relation.triggers if t.enabled)
    for guard, _ in _constraints(relation):
        yield guard


Looks = Callable[[Change], bool]


def looking(relation: Relation) -> Iterator[tuple[Guard, Looks]]:
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


def may_do(contract: Contract, role: str, verb: str, relation: str) -> bool:
    """Whether a role may do this, by the contract or by what it must be able to do besides."""
    if role == contract.tenancy.erased_by and relation == contract.tenancy.root:
        # To find the tenant it has to read.
        return verb in ("delete", "select")
    return contract.may(role, verb, relation)
