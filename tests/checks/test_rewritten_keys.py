"""A key that a trigger makes of a message, and that whoever repairs has written anew."""

from __future__ import annotations

from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.search.judge import Judge, by_signature
from invariants.servers.environment import Environment
from invariants.workload.operations import Update
from tests.engine import A, altered, event, of, workload
from tests.generation.flaws import DOORS

MADE = DOORS["idempotent-ingest", "elsewhere"][0].lawful


def test_it_is_another_key_then(head: Environment, contract: Contract) -> None:
    rewritten = Update("attribution_events", (("told_apart_by", "x"),))
    sent = [
        of(A, event(1, external_event_id="e-1")),
        of(A, rewritten, role="migration_owner"),
        of(A, event(2, external_event_id="e-1")),
    ]
    with altered(head, MADE) as schema, Judge(schema, contract) as judge:
        case, found = judge.violations(INVARIANTS["idempotent-ingest"], workload(*sent))
    assert all(step.committed for step in case.history.steps)
    assert not by_signature(found)
