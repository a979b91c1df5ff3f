"""Mutants that refuse what the contract permits: for liveness."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, listed, quoted
from invariants.mutants.definitions import change_view
from invariants.mutants.facts import Facts, Relation

_WRITES = ("INSERT", "UPDATE", "DELETE")


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every promise taken back, and every table made stricter."""
    for relation in facts.relations.values():
        yield from _revoked(relation, contract)
        if relation.kind == "table":
            yield from _policies(relation)
            yield from _triggers(relation, contract)
            yield from _uniques(relation, contract)
            yield from _not_null(relation)
    for view in dict.fromkeys(path.view for path in contract.read_paths):
        there = facts.relations.get(view)
        if there is not None:
            empty = f"SELECT * FROM ({there.definition}) AS shown WHERE false"
            yield Mutant("view-empty", view, change_view(facts, there, empty), strict=True)


def promises(contract: Contract, role: str, verb: str, relation: str) -> bool:
    """Whether the contract promises a role a verb on a relation."""
    erases = (
        verb == "DELETE"
        and relation == contract.tenancy.root
        and role == contract.tenancy.erased_by
    )
    return erases or contract.may(role, verb.lower(), relation)


def _revoked(relation: Relation, contract: Contract) -> Iterator[Mutant]:
    for role in contract.roles:
        for verb in relation.verbs:
            granted = (role, verb) in relation.granted
            if granted and promises(contract, role, verb, relation.name):
                yield Mutant(
                    "privilege-revoked",
                    relation.name,
                    (f"REVOKE {verb} ON {relation.sql} FROM {quoted(role)}",),
                    detail=f"{role}/{verb}",
                    strict=True,
                )


def _policies(table: Relation) -> Iterator[Mutant]:
    if not table.policies:
        return
    create = f"CREATE POLICY invariants_restrictive ON {table.sql} AS RESTRICTIVE"
    for command, clause in (("ALL", "USING (false)"), ("INSERT", "WITH CHECK (false)")):
        yield Mutant(
            "policy-restrictive",
            table.name,
            (f"{create} FOR {command} {clause}",),
            detail=command,
            strict=True,
        )


def _triggers(table: Relation, contract: Contract) -> Iterator[Mutant]:
    function = f"{table.schema}.invariants_refuse"
    create = (
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RAISE EXCEPTION ''refused''; END'"
    )
    for verb in _WRITES:
        if any(promises(contract, role, verb, table.name) for role in contract.roles):
            fires = f"BEFORE {verb} ON {table.sql} FOR EACH ROW EXECUTE FUNCTION {function}()"
            yield Mutant(
                "trigger-refusing",
                table.name,
                (create, f"CREATE TRIGGER invariants_refuse {fires}"),
                detail=verb,
                strict=True,
            )


def _uniques(table: Relation, contract: Contract) -> Iterator[Mutant]:
    tenant = contract.tenancy.column
    if table.name not in contract.tenancy.tables and tenant not in table.columns:
        return
    others = [
        (tenant, c.name)
        for c in table.columns.values()
        if c.name != tenant and c.not_null and c.scalar
    ]
    for columns in ((tenant,), *others):
        implied = any(
            u.columns and set(u.columns) <= set(columns) and not u.predicate for u in table.uniques
        )
        if not implied:
            yield Mutant(
                "unique-added",
                table.name,
                (f"CREATE UNIQUE INDEX invariants_unique ON {table.sql} ({listed(columns)})",),
                detail=".".join(columns),
                strict=True,
            )


def _not_null(table: Relation) -> Iterator[Mutant]:
    for column in table.columns.values():
        if not column.not_null and not column.generated:
            yield Mutant(
                "not-null-added",
                f"{table.name}.{column.name}",
                (f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(column.name)} SET NOT NULL",),
                strict=True,
            )
