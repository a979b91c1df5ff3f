"""Mutants that open a door: a routine, a setting, a role, a privilege beside rows, a shared number.

The other families weaken what is there. These add what a careless change would add, and each opens
one way past guards that are all still in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, grantee, quoted
from invariants.mutants.facts import PUBLIC, Facts, Relation
from invariants.servers.roles import VERSION_WITH_MEMBERSHIP_OPTIONS

_PATH = "SET search_path = pg_catalog, pg_temp"
_MAINTAIN_SINCE = 170000
ATTRIBUTES = ("CREATEROLE", "CREATEDB", "REPLICATION")


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Doors into tables of tenants, and into what application roles may become and hold."""
    owned = [t for t in facts.tables if t.name in contract.tenancy.tables]
    for table in owned:
        yield from _routines(table, facts, contract)
        yield from _escapes(table)
        if "sequence" not in contract.accepted:
            number = "ADD COLUMN invariants_number bigint GENERATED ALWAYS AS IDENTITY"
            yield Mutant("number-shared", table.name, (f"ALTER TABLE {table.sql} {number}",))
    application = [
        r for r in contract.application_roles if r in facts.roles and not facts.roles[r].superuser
    ]
    if application:
        yield from _privileges(facts, (*application, PUBLIC))
    for role in application:
        yield from _become(role, facts, contract)


def _routines(table: Relation, facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Routines that run as their owner; EXECUTE is everybody's by default."""
    column = contract.tenancy.column
    if column in table.columns:
        kind = table.columns[column].base
        yield Mutant(
            "function-handing-out",
            table.name,
            (
                f"CREATE FUNCTION {table.schema}.invariants_rows_of(whose {kind}) RETURNS SETOF"
                f" {table.sql} LANGUAGE sql STABLE SECURITY DEFINER {_PATH} AS"
                f" $$ SELECT * FROM {table.sql} WHERE {quoted(column)} = whose $$",
            ),
        )
    needed = any(k.target == table.name for t in facts.tables for k in t.references)
    if not needed and not contract.appends_only(table.name):
        yield Mutant(
            "procedure-emptying",
            table.name,
            (
                f"CREATE PROCEDURE {table.schema}.invariants_purge() LANGUAGE sql SECURITY DEFINER"
                f" {_PATH} AS $$ DELETE FROM {table.sql} $$",
            ),
        )


def _escapes(table: Relation) -> Iterator[Mutant]:
    asked = "current_setting('invariants.escape', true) = 'on'"
    for policy in table.policies:
        if policy.using and policy.permissive and table.row_security:
            yield Mutant(
                "policy-escape-setting",
                f"{table.name}.{policy.name}",
                (
                    f"ALTER POLICY {quoted(policy.name)} ON {table.sql}"
                    f" USING (({policy.using}) OR {asked})",
                ),
            )


def _privileges(facts: Facts, grantees: tuple[str, ...]) -> Iterator[Mutant]:
    """One grantee each, told by the name: all of them are asked in the same way."""

    def granted(operator: str, target: str, privilege: str, on: str, more: str = "") -> Mutant:
        role = grantees[crc32(f"{target}/{privilege}".encode()) % len(grantees)]
        # PUBLIC takes no grant options.
        role = grantees[0] if more and role == PUBLIC else role
        statement = f"GRANT {privilege} ON {on} TO {grantee(role)}{more}"
        return Mutant(operator, target, (statement,), detail=f"{role}/{privilege}")

    deeds = ["TRIGGER", "REFERENCES"]
    if facts.server_version >= _MAINTAIN_SINCE:
        deeds.append("MAINTAIN")
    for table in facts.tables:
        for deed in deeds:
            yield granted("deed-granted", table.name, deed, table.sql)
        option = " WITH GRANT OPTION"
        yield granted("grant-option-granted", table.name, "SELECT", table.sql, option)
    for schema in dict.fromkeys(r.schema for r in facts.relations.values()):
        yield granted("create-granted", schema, "CREATE", f"SCHEMA {schema}")
    for name, sql in facts.sequences:
        for privilege in ("SELECT", "UPDATE"):
            yield granted("sequence-granted", name, privilege, f"SEQUENCE {sql}")
    for name, sql in facts.partitions:
        for privilege in ("SELECT", "DELETE"):
            yield granted("partition-granted", name, privilege, sql)


def _become(role: str, facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Roles that may do more than it, without inheriting that; and what none of them is for."""
    if facts.server_version >= VERSION_WITH_MEMBERSHIP_OPTIONS:
        more = (*facts.owners, *sorted(contract.repair_roles), contract.tenancy.erased_by)
        for other in dict.fromkeys(r for r in more if r):
            known = other in facts.roles and other != role
            if known and other not in facts.roles[role].member_of:
                yield Mutant(
                    "role-settable",
                    role,
                    (f"GRANT {quoted(other)} TO {quoted(role)} WITH INHERIT FALSE, SET TRUE",),
                    detail=other,
                    server_wide=True,
                )
    for attribute in ATTRIBUTES:
        alter = f"ALTER ROLE {quoted(role)} {attribute}"
        yield Mutant("role-attribute", role, (alter,), detail=attribute, server_wide=True)
