"""Counterexamples found once stay found: each kept one still fails on the documented schema."""

from pathlib import Path

import pytest

from invariants.contract import Contract
from invariants.counterexample import load
from invariants.environment import Environment
from invariants.run import replay

KEPT = sorted((Path(__file__).parent / "counterexamples").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_it_still_fails(path: Path, documented: Environment, contract: Contract) -> None:
    (outcome,) = replay([load(path)], documented, contract)
    assert outcome.fails
    assert "Promised" in outcome.text


def test_there_is_one_for_every_invariant_the_documented_schema_breaks() -> None:
    broken = {load(path).invariant for path in KEPT}
    assert broken == {
        "cross-tenant",
        "append-only",
        "allocation-sum",
        "idempotent-ingest",
        "liveness",
    }
