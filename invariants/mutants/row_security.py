"""Mutants of row level security: the switches of a table and its policies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, quoted
from invariants.mutants.definitions import create_policy, drop_policy
from invariants.mutants.facts import Facts, Policy, Relation
from invariants.mutants.tokens import with_column

COMMANDS = ("SELECT", "INSERT", "UPDATE", "DELETE")


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every table that row level security is on for, or that has policies."""
    for table in facts.tables:
        alter = f"ALTER TABLE {table.sql}"
        if table.row_security:
            yield Mutant(
                "row-security-disabled", table.name, (f"{alter} DISABLE ROW LEVEL SECURITY",)
            )
        if table.row_security_forced:
            yield Mutant(
                "row-security-not-forced", table.name, (f"{alter} NO FORCE ROW LEVEL SECURITY",)
            )
        if table.row_security or table.policies:
            added = f"CREATE POLICY invariants_permissive ON {table.sql}"
            yield Mutant(
                "policy-permissive-added", table.name, (f"{added} USING (true) WITH CHECK (true)",)
            )
        for policy in table.policies:
            yield from _of(table, policy, contract.tenancy.column)


def _of(table: Relation, policy: Policy, tenant: str) -> Iterator[Mutant]:
    target = f"{table.name}.{policy.name}"
    alter = f"ALTER POLICY {quoted(policy.name)} ON {table.sql}"
    # Without a clause of its own what may be written is what may be seen.
    check = policy.check or policy.using
    yield Mutant("policy-dropped", target, (drop_policy(table, policy),))
    if policy.command != "INSERT" and policy.using != "true":
        kept = f" WITH CHECK ({check})" if policy.command in ("ALL", "UPDATE") else ""
        yield Mutant("policy-using-true", target, (f"{alter} USING (true){kept}",))
    if policy.command not in ("SELECT", "DELETE") and check != "true":
        yield Mutant("policy-check-true", target, (f"{alter} WITH CHECK (true)",))
    if policy.command == "ALL":
        for command in COMMANDS:
            one = replace(
                policy,
                command=command,
                using=None if command == "INSERT" else policy.using,
                check=check if command in ("INSERT", "UPDATE") else None,
            )
            yield Mutant(
                "policy-one-command",
                target,
                (drop_policy(table, policy), create_policy(table, one)),
                detail=command,
                strict=policy.permissive,
            )
    yield from _other_columns(table, policy, alter, tenant)


def _other_columns(table: Relation, policy: Policy, alter: str, tenant: str) -> Iterator[Mutant]:
    if tenant not in table.columns:
        return
    for other in table.columns.values():
        if other.name == tenant or other.type != table.columns[tenant].type:
            continue
        clauses = [
            f" {word} ({with_column(expression, tenant, quoted(other.name))})"
            for word, expression in (("USING", policy.using), ("WITH CHECK", policy.check))
            if expression
        ]
        before = [policy.using or "", policy.check or ""]
        if any(with_column(e, tenant, "") != e for e in before):
            yield Mutant(
                "policy-other-column",
                f"{table.name}.{policy.name}",
                (alter + "".join(clauses),),
                detail=other.name,
            )
