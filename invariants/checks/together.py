"""What it takes sessions side by side for: which violations do, and what only they can do wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from invariants.checks import guards
from invariants.checks.base import Case, Condition, Invariant, Violation
from invariants.execution.history import History, Step
from invariants.workload.operations import Call, Operation, Select, Workload


def one_by_one(history: History) -> Workload:
    """What came of the sessions, in the order in which it did, with nothing side by side.

    Of what was not committed only the reads are left.
    """
    ended = [s for s in history.steps if s.place is not None]
    left = [s.operation if s.committed else _reads(s.operation) for s in ended]
    operations = (*history.workload.operations, *(o for o in left if o.statements))
    return replace(history.workload, operations=operations, sessions=(), schedule=())


def _reads(operation: Operation) -> Operation:
    reads = tuple(s for s in operation.statements if isinstance(s, Select | Call))
    return replace(operation, statements=reads)


def marked(violation: Violation) -> Violation:
    """The violation, said to need sessions side by side."""
    return replace(violation, signature=replace(violation.signature, together=True))


def endless(invariant: Invariant, case: Case) -> Iterator[Violation]:
    """Transactions without an end: one that hangs, one that is to be sent again for ever.

    Deadlocks and serialization failures are answers like others, as long as the transaction comes
    through when it is sent once more with nobody in its way.
    """
    patience = {t.place for t in case.history.turns if t.ended_by == "patience"}
    for step in case.history.steps:
        if step.place in patience and step.gave_way:
            yield _violation(invariant, case, step, "has no end", "Every statement ends.")
        elif step.gave_way and step.place is not None and step.place.again:
            yield _violation(
                invariant,
                case,
                step,
                "is told to send its transaction again, and told so again with nobody in its way",
                "A transaction that gave way to others comes through when it is sent again alone.",
            )


def _violation(invariant: Invariant, case: Case, step: Step, what: str, promise: str) -> Violation:
    assert step.error is not None
    statement = step.failed_statement
    guard = step.error.function or guards.firing(statement.relation, statement.kind, case.catalog)
    return marked(
        Violation(
            signature=invariant.signature("endless", statement.relation, guard),
            operation=step.index,
            summary=f"{step.operation.actor.role or 'the operator'} writing "
            f"{statement.relation} {what}",
            promise=promise,
            proof=(Condition("refused", step.index),),
        )
    )
