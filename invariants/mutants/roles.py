"""Mutants of roles: attributes and memberships, which belong to the whole server."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, quoted
from invariants.mutants.facts import Facts
from invariants.servers.roles import VERSION_WITH_MEMBERSHIP_OPTIONS

PREDEFINED = ("pg_read_all_data", "pg_write_all_data")


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every role that acts for tenants, and those that repair and erase."""
    application = [r for r in contract.application_roles if r in facts.roles]
    for name in contract.roles:
        role = facts.roles.get(name)
        if role is None or role.superuser:
            continue
        alter = f"ALTER ROLE {quoted(name)}"
        if not role.bypassrls:
            yield Mutant("role-bypassrls", name, (f"{alter} BYPASSRLS",), server_wide=True)
        if name in application:
            yield Mutant("role-superuser", name, (f"{alter} SUPERUSER",), server_wide=True)
    inherit = " WITH INHERIT TRUE" if _has_options(facts) else ""
    for name in application:
        others = dict.fromkeys([*contract.roles, *facts.owners, *PREDEFINED])
        for other in others:
            # What is, and what would make two roles members of each other.
            there = other in facts.roles[name].member_of
            reverse = other in facts.roles and name in facts.roles[other].member_of
            missing = other not in facts.roles and other not in PREDEFINED
            if other == name or there or reverse or missing:
                continue
            yield Mutant(
                "role-member",
                name,
                (f"GRANT {quoted(other)} TO {quoted(name)}{inherit}",),
                detail=other,
                server_wide=True,
            )


def _has_options(facts: Facts) -> bool:
    return facts.server_version >= VERSION_WITH_MEMBERSHIP_OPTIONS
