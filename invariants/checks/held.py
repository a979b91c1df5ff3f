"""What a role holds beside what the contract promises it: privileges that it asks the server about.

TRIGGER, REFERENCES and their like do harm by what can be made with them, at any later time; so that
they are held is reported, not what somebody might do.
"""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.contract.deeds import spellings
from invariants.execution.history import Step
from invariants.schema.catalog import Catalog
from invariants.workload.inquiries import GRANTABLE
from invariants.workload.operations import Inquire


def promised(contract: Contract, catalog: Catalog, role: str, asked: Inquire) -> bool:
    """Whether the contract promises a role what it asked for."""
    if asked.privilege.endswith(GRANTABLE) or asked.target == "attribute":
        return False
    verb = asked.privilege.lower()
    if asked.target == "routine":
        return executes(contract, catalog, role, asked.relation)
    if asked.target in ("relation", "sequence"):
        implied = _implied(contract, catalog, role, asked)
        return implied or contract.may(role, verb, asked.relation)
    name = "database" if asked.target == "database" else f"{asked.target} {asked.relation}"
    return contract.may(role, verb, name)


def _implied(contract: Contract, catalog: Catalog, role: str, asked: Inquire) -> bool:
    """Whether it is to number rows that the role may insert, which need not be said."""
    return (
        asked.target == "sequence"
        and asked.privilege == "USAGE"
        and not contract.may(role, "usage", asked.relation)
        and any(
            contract.may(role, "insert", table)
            for table in catalog.standing.numbers.get(asked.relation, ())
        )
    )


def executes(contract: Contract, catalog: Catalog, role: str, called: str) -> bool:
    """Whether the contract promises a role to execute a routine, however it is written there."""
    return any(
        contract.may(role, "execute", spelled)
        for routine in catalog.routines
        if routine.called == called
        for spelled in spellings(routine)
    )


def amiss(contract: Contract, catalog: Catalog, role: str, asked: Inquire, has: bool) -> bool:
    """Whether the answer is not what the contract promises.

    That everybody may execute routines is PostgreSQL's default: it is reported by its harm alone.
    """
    told = promised(contract, catalog, role, asked)
    if has:
        return not told and asked.target != "routine"
    # What is implied may be held, and need not be: the server numbers identity columns itself.
    return told and not _implied(contract, catalog, role, asked)


def answers(step: Step) -> Iterator[tuple[Inquire, bool]]:
    """What was asked in a step, with the answer; nothing where the actor is the owner."""
    for statement, answer in step.queries:
        if isinstance(statement, Inquire) and answer.rows:
            yield statement, answer.rows[0][0] == b"t"


def told(asked: Inquire) -> str:
    """The privilege in words."""
    if asked.target == "attribute":
        return f"the attribute {asked.relation.upper()}"
    if asked.target == "role":
        return f"what {asked.relation} may, as its member"
    of = "this database" if asked.target == "database" else asked.relation
    return f"{asked.privilege} on {of}"
