"""The promises of this schema, one test each: `pytest -m invariants`."""

from __future__ import annotations

import pytest

from invariants.checks import INVARIANTS
from invariants.front.pytest_plugin import GATE_CHECKS, GateVerdict, Verdict

pytestmark = pytest.mark.invariants


@pytest.mark.parametrize("verdict", INVARIANTS, indirect=True)
def test_invariant(verdict: Verdict) -> None:
    verdict.assert_held()


@pytest.mark.parametrize("gate_check", GATE_CHECKS, indirect=True)
def test_release(gate_check: GateVerdict) -> None:
    """Only with --invariants-profile release: what the gate looks at besides."""
    gate_check.assert_passed()
