"""Mutants of ownership and of privileges on relations, columns and functions."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, grantee, listed, quoted
from invariants.mutants.facts import PUBLIC, Facts, Relation

COLUMN_VERBS = ("SELECT", "INSERT", "UPDATE")


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Everything an application role, or everyone, does not own and may not do."""
    application = [
        r for r in contract.application_roles if r in facts.roles and not facts.roles[r].superuser
    ]
    for relation in facts.relations.values():
        for role in application:
            if role != relation.owner:
                yield Mutant(
                    "table-owner" if relation.kind == "table" else "view-owner",
                    relation.name,
                    (f"ALTER {relation.keyword} {relation.sql} OWNER TO {quoted(role)}",),
                    detail=role,
                )
        for role in (*application, PUBLIC):
            yield from _granted(relation, role)
            yield from _columns_granted(relation, role)
    for function in facts.functions:
        if function.security_definer:
            for role in application:
                if role != function.owner:
                    yield Mutant(
                        "function-owner",
                        function.name,
                        (f"ALTER ROUTINE {function.sql} OWNER TO {quoted(role)}",),
                        detail=role,
                    )
        for role in (*application, PUBLIC):
            if role not in function.may_execute:
                yield Mutant(
                    "execute-granted",
                    function.name,
                    (f"GRANT EXECUTE ON ROUTINE {function.sql} TO {grantee(role)}",),
                    detail=role,
                )


def _granted(relation: Relation, role: str) -> Iterator[Mutant]:
    for verb in relation.verbs:
        if (role, verb) not in relation.held:
            yield Mutant(
                "privilege-granted",
                relation.name,
                (f"GRANT {verb} ON {relation.sql} TO {grantee(role)}",),
                detail=f"{role}/{verb}",
            )


def _columns_granted(relation: Relation, role: str) -> Iterator[Mutant]:
    for verb in COLUMN_VERBS:
        if verb not in relation.verbs:
            continue
        seen = set()
        for column in relation.columns.values():
            if verb == "INSERT" and column.generated:
                continue
            # A row needs all required columns; with any one of them it is the same set.
            extra = column.name not in relation.required or verb != "INSERT"
            columns = (
                tuple(dict.fromkeys([*relation.required, column.name]))
                if verb == "INSERT"
                else (column.name,)
            )
            missing = any((role, verb, c) not in relation.held_columns for c in columns)
            if columns in seen or not missing:
                continue
            seen.add(columns)
            yield Mutant(
                "column-privilege-granted",
                relation.name,
                (f"GRANT {verb} ({listed(columns)}) ON {relation.sql} TO {grantee(role)}",),
                detail=f"{role}/{verb}({column.name if extra else 'required'})",
            )
