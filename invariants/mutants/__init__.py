"""Schema mutants, derived from the live catalog: each weakens one guard, or makes it too strict.

Nothing is listed by hand: a new table brings mutants of its own. One module per family of guards;
a new operator is described in `base.OPERATORS` and yielded by its family. The room may know of the
search, which hunts them; of no gate, and of no report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg

from invariants.contract.contract import Contract
from invariants.mutants import (
    doors,
    functions,
    privileges,
    reference_data,
    references,
    roles,
    row_security,
    strictness,
    triggers,
    uniques,
    values,
    views,
)
from invariants.mutants.base import OPERATORS, Mutant
from invariants.mutants.facts import Facts
from invariants.mutants.reading import read_facts

__all__ = ["OPERATORS", "Mutant", "applied", "derive"]

Family = Callable[[Facts, Contract], Iterator[Mutant]]

FAMILIES: tuple[Family, ...] = (
    row_security.mutants,
    roles.mutants,
    privileges.mutants,
    triggers.mutants,
    functions.mutants,
    references.mutants,
    uniques.mutants,
    values.mutants,
    views.mutants,
    reference_data.mutants,
    strictness.mutants,
    doors.mutants,
)
# Operators that edit text of which only the server knows what it means: what it refuses to compile
# or to store is no mutant.
TEXTUAL = frozenset(
    {
        "function-comparison",
        "function-constant",
        "function-branch",
        "function-clause-dropped",
        "function-result",
        "function-swallowing",
        "function-permitting",
        "function-lock-dropped",
        "function-lock-weakened",
        "function-write-dropped",
    }
)


def derive(connection: psycopg.Connection[Any], contract: Contract) -> tuple[Mutant, ...]:
    """All mutants of the schema `connection` is connected to, by family and object.

    The connection is a superuser's, to a clone of the template: what is tried out there is undone.
    Names are the same every time.
    """
    facts = read_facts(connection, contract)
    found = _distinct(m for family in FAMILIES for m in family(facts, contract))
    with connection.transaction(force_rollback=True):
        return tuple(m for m in found if m.operator not in TEXTUAL or _accepted(connection, m))


@contextmanager
def applied(connection: psycopg.Connection[Any], mutant: Mutant) -> Iterator[None]:
    """The mutant for the length of a `with` statement, in a transaction that is undone."""
    with connection.transaction(force_rollback=True):
        for statement in mutant.statements:
            connection.execute(statement.encode())
        yield


def _accepted(connection: psycopg.Connection[Any], mutant: Mutant) -> bool:
    try:
        with applied(connection, mutant):
            return True
    except psycopg.Error:
        return False


def _distinct(found: Iterable[Mutant]) -> list[Mutant]:
    """Mutants whose names differ, where names of objects do not tell them apart."""
    seen: Counter[str] = Counter()
    result = []
    for mutant in found:
        seen[mutant.name] += 1
        if seen[mutant.name] > 1:
            mutant = replace(mutant, detail=f"{mutant.detail}.{seen[mutant.name]}".lstrip("."))
        result.append(mutant)
    return result
