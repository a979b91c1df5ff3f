"""Mutants of unique indexes and constraints: gone, over fewer columns, for other rows."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, quoted
from invariants.mutants.facts import Facts, Relation, Unique
from invariants.mutants.tokens import enclosed, parts, replaced, terms, tokens


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every unique index of tables and materialized views."""
    for relation in facts.relations.values():
        for unique in relation.uniques:
            cascade = " CASCADE" if unique.needed else ""
            yield Mutant(
                "unique-dropped",
                f"{relation.name}.{unique.name}",
                (_drop(relation, unique) + cascade,),
            )
            # Others depend on it being what it is.
            if not unique.primary and not unique.needed:
                yield from _columns(relation, unique, contract.tenancy.column)
                if unique.predicate:
                    yield from _rows(relation, unique, unique.predicate)


def _drop(relation: Relation, unique: Unique) -> str:
    if unique.constraint:
        return f"ALTER TABLE {relation.sql} DROP CONSTRAINT {quoted(unique.name)}"
    return f"DROP INDEX {relation.schema}.{quoted(unique.name)}"


def _columns(relation: Relation, unique: Unique, tenant: str) -> Iterator[Mutant]:
    definition = unique.constraint or unique.definition
    place = enclosed(definition)
    assert place is not None
    keys = parts(definition[slice(*place)], ",")
    if len(keys) < 2:
        return
    for number, key in enumerate(keys):
        column = tokens(key)[0].text.strip('"')
        left = ", ".join(k for k in keys if k is not key)
        changed = replaced(definition, *place, left)
        if unique.constraint:
            alter = f"ALTER TABLE {relation.sql} ADD CONSTRAINT"
            changed = f"{alter} {quoted(unique.name)} {changed}"
        yield Mutant(
            "unique-without-tenant" if column == tenant else "unique-fewer-columns",
            f"{relation.name}.{unique.name}",
            (_drop(relation, unique), changed),
            # An expression has no name.
            detail=""
            if column == tenant
            else f"without-{column if column in relation.columns else number + 1}",
            strict=True,
        )


def _rows(relation: Relation, unique: Unique, predicate: str) -> Iterator[Mutant]:
    target = f"{relation.name}.{unique.name}"
    drop = _drop(relation, unique)
    everywhere = unique.definition.removesuffix(f" WHERE {predicate}")
    assert everywhere != unique.definition, unique.definition
    yield Mutant("unique-without-where", target, (drop, everywhere), strict=True)
    yield Mutant(
        "unique-other-where",
        target,
        (drop, f"{everywhere} WHERE (NOT {predicate})"),
        detail="negated",
    )
    conditions = terms(predicate, "AND")
    if len(conditions) > 1:
        for number in range(len(conditions)):
            left = " AND ".join(c for i, c in enumerate(conditions) if i != number)
            yield Mutant(
                "unique-other-where",
                target,
                (drop, f"{everywhere} WHERE ({left})"),
                detail=f"without-{number + 1}",
                strict=True,
            )
