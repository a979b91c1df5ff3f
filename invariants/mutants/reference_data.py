"""Mutants of reference data: the rows of taxonomies that migrations bring along."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, quoted
from invariants.mutants.facts import Facts
from invariants.workload.sql import quote


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every row of every taxonomy."""
    for taxonomy in contract.taxonomies:
        table = facts.relations.get(taxonomy.table)
        if table is None:
            continue
        for code, active in facts.codes.get(taxonomy.table, ()):
            where = f"WHERE {quoted(taxonomy.code)} = {quote(code)}"
            yield Mutant(
                "reference-row-missing",
                table.name,
                _unguarded(f"DELETE FROM {table.sql} {where}"),
                detail=code,
            )
            if taxonomy.active in table.columns:
                assert taxonomy.active is not None
                setting = f"{quoted(taxonomy.active)} = {str(not active).lower()}"
                yield Mutant(
                    "reference-row-retired",
                    table.name,
                    _unguarded(f"UPDATE {table.sql} SET {setting} {where}"),
                    detail=code,
                )


def _unguarded(statement: str) -> tuple[str, ...]:
    """A statement that no trigger and no foreign key stops."""
    return (
        "SET session_replication_role = replica",
        statement,
        "RESET session_replication_role",
    )
