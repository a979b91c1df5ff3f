"""The promises of this schema, one test each: `pytest -m invariants`."""

from __future__ import annotations

import pytest

from invariants.checks import INVARIANTS
from invariants.pytest_plugin import Verdict

pytestmark = pytest.mark.invariants


@pytest.mark.parametrize("verdict", INVARIANTS, indirect=True)
def test_invariant(verdict: Verdict) -> None:
    verdict.assert_held()
