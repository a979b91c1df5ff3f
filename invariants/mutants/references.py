"""Mutants of foreign keys: gone, without the tenant, with another action, not validated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, listed, quoted
from invariants.mutants.facts import Facts, Reference, Relation
from invariants.mutants.tokens import closing, replaced, tokens

ACTIONS = ("NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT")

_ACTION = re.compile(r" ON DELETE (?:CASCADE|RESTRICT|SET NULL|SET DEFAULT)(?: \([^)]*\))?")
# What comes before the action in a definition, behind the columns.
_BEFORE = re.compile(
    r"(?: MATCH \w+)?(?: ON UPDATE (?:CASCADE|RESTRICT|SET NULL|SET DEFAULT|NO ACTION))?"
)


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every foreign key."""
    for table in facts.tables:
        for reference in table.references:
            yield from _of(facts, table, reference, contract)


def _of(
    facts: Facts, table: Relation, reference: Reference, contract: Contract
) -> Iterator[Mutant]:
    target = f"{table.name}.{reference.name}"
    drop = f"ALTER TABLE {table.sql} DROP CONSTRAINT {quoted(reference.name)}"
    add = f"ALTER TABLE {table.sql} ADD CONSTRAINT {quoted(reference.name)} "
    yield Mutant("reference-dropped", target, (drop,))
    if reference.validated:
        unvalidated = f"{add}{reference.definition} NOT VALID"
        yield Mutant("reference-not-valid", target, (drop, unvalidated))
    # PostgreSQL refuses to set anything where a column of the key is computed, even the others.
    computed = any(table.columns[c].generated for c in reference.columns)
    for action in ACTIONS:
        if action != reference.on_delete and not (computed and action.startswith("SET")):
            yield Mutant(
                "reference-other-action",
                target,
                (drop, add + _with_action(reference, action)),
                detail=action.replace(" ", "-"),
            )
    tenant = contract.tenancy.column
    pairs = list(zip(reference.columns, reference.target_columns, strict=True))
    if (tenant, tenant) in pairs and len(pairs) > 1:
        pairs.remove((tenant, tenant))
        columns, others = (tuple(side) for side in zip(*pairs, strict=True))
        yield Mutant(
            "reference-without-tenant",
            target,
            (
                drop,
                *_unique(facts.relations[reference.target], others),
                add + _with_columns(reference.definition, columns, others),
            ),
        )


def _with_action(reference: Reference, action: str) -> str:
    definition = _ACTION.sub("", reference.definition)
    if action == "NO ACTION":
        return definition
    _, end = _lists(definition)[1]
    match = _BEFORE.match(definition, end)
    assert match is not None
    return replaced(definition, match.end(), match.end(), f" ON DELETE {action}")


def _with_columns(definition: str, columns: tuple[str, ...], others: tuple[str, ...]) -> str:
    own, target = _lists(definition)[:2]
    definition = replaced(definition, *target, f"({listed(others)})")
    return replaced(definition, *own, f"({listed(columns)})")


def _lists(definition: str) -> list[tuple[int, int]]:
    """Where the lists of columns begin and end, parentheses included."""
    found = tokens(definition)
    return [(t.start, found[closing(found, i)].end) for i, t in enumerate(found) if t.text == "("]


def _unique(target: Relation, columns: tuple[str, ...]) -> list[str]:
    """The unique index that a reference to these columns needs, unless there is one."""
    if any(set(u.columns) == set(columns) and not u.predicate for u in target.uniques):
        return []
    return [f"CREATE UNIQUE INDEX invariants_referenced ON {target.sql} ({listed(columns)})"]
