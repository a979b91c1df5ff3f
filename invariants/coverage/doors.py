"""Doors that a search has to have tried: routines, settings of the schema's own, other roles.

Each by each role that would try it. Whether the server let it pass or refused is counted as for
guards; one that nobody tried is as untested as a guard that nothing met.
"""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.coverage.guards import MEMBERSHIP, ROUTINE, SETTING, Guard
from invariants.execution.history import Step
from invariants.generation.routines import callable_routines, callers
from invariants.generation.sayings import asked_for
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Become, Call, Set


def expected_doors(contract: Contract, catalog: Catalog) -> Iterator[Guard]:
    """Every door that the sweeps go to."""
    for routine, _ in callable_routines(contract, catalog):
        yield from (Guard(ROUTINE, routine.called, r) for r in callers(contract, routine))
    for role in contract.application_roles:
        yield from (Guard(SETTING, name, role) for name in asked_for(contract, catalog))
        for other in catalog.standing.member_of.get(role, ()):
            yield Guard(MEMBERSHIP, other, role)


def tried(step: Step) -> Iterator[Guard]:
    """The doors that a step went to."""
    for statement in step.operation.statements:
        role = step.operation.actor.role
        match statement:
            case Call(relation) if "(" in relation:
                yield Guard(ROUTINE, relation, role)
            case Set(relation):
                yield Guard(SETTING, relation, role)
            case Become(relation):
                yield Guard(MEMBERSHIP, relation, role)
