"""What a session says in the middle of an operation: settings of the schema's own, another role.

Such an operation still is the actor's, and the way by which it got further than it may.
"""

from __future__ import annotations

from invariants.contract.contract import Contract
from invariants.execution.history import Step
from invariants.workload.operations import Become, Set


def own_tenancy(setting: str, contract: Contract) -> bool:
    """Whether a setting says for whom a session acts, or is made together with one that does.

    Names of three parts and more are one gateway's where all before the last is: it makes them.
    """
    for known, _ in contract.tenancy.session.settings:
        if setting.lower() == known.lower():
            return True
        space, _, _ = known.lower().rpartition(".")
        if "." in space and setting.lower().startswith(space):
            return True
    return False


def way(step: Step) -> str:
    """The setting that an operation made, or the role that it became; empty without either."""
    said = (s.relation for s in step.operation.statements if isinstance(s, Set | Become))
    return next(said, "")
