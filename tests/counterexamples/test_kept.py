"""Counterexamples found once stay found: each one fails where it was found, not on head."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.counterexamples.files import Kept, load
from invariants.gate.revisions import BEGIN, END
from invariants.schema.chain import Migrations, lineage
from invariants.search.judge import Judge, by_signature
from invariants.servers.environment import Environment
from tests.databases import DOCUMENTED_HEAD, ROOT

KEPT = sorted(Path(__file__).parent.glob("*.json"))
# The same forbidden thing twice, and a forbidden thing on top of another: no step of it is lawful.
ALL_OF_IT_FORBIDDEN = {
    "idempotent-ingest-insert-attribution_events-no-key",
    "ledger-insert-revenue_ledger-attribution_allocations-event_id-traced",
}
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_it_fails_on_the_schema_it_was_found_on_and_holds_on_head(
    path: Path, schema_at: Callable[[str], Environment], head: Environment, contract: Contract
) -> None:
    kept = load(path)
    # The documented one; a later one for what could not be done before.
    before, violated = judged(kept, schema_at(kept.revision), contract)
    assert kept.signature in violated
    after, found = judged(kept, head, contract)
    assert found == {}
    # It holds there because of its last step, and not because an earlier one is refused.
    if path.stem not in ALL_OF_IT_FORBIDDEN:
        led_up = violated[kept.signature]
        assert after[:led_up] == before[:led_up]


def judged(
    kept: Kept, environment: Environment, contract: Contract
) -> tuple[list[str], dict[str, int]]:
    """What each operation was refused with, and how many lead up to each violation."""
    with Judge(environment, contract) as judge:
        case, violations = judge.violations(INVARIANTS[kept.invariant], kept.workload)
    errors = [s.error.sqlstate if s.error else "" for s in case.history.steps]
    return errors, {k: v.operation for k, v in by_signature(violations).items()}


def test_there_is_one_for_every_invariant_the_documented_schema_breaks() -> None:
    assert {load(path).invariant for path in KEPT} == set(INVARIANTS) - {"taxonomy"}


def test_findings_say_of_each_which_revision_mends_it() -> None:
    hardening = lineage(Migrations(ROOT / "alembic.ini")).applied
    hardening = hardening[hardening.index(DOCUMENTED_HEAD) + 1 :]
    tables = FINDINGS[FINDINGS.index(BEGIN) : FINDINGS.index(END)]
    mended = dict(re.findall(r"^\| `([a-z][^`]+)` \| `(\d+)` \|$", tables, re.MULTILINE))
    assert set(mended) == {path.stem for path in KEPT}
    assert set(mended.values()) <= set(hardening)


def test_findings_tell_of_every_hardening_revision() -> None:
    chain = lineage(Migrations(ROOT / "alembic.ini")).applied
    for revision in chain[chain.index(DOCUMENTED_HEAD) + 1 :]:
        assert f"`{revision}`" in FINDINGS[: FINDINGS.index(BEGIN)]
