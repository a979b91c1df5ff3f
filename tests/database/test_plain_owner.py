"""Every invariant holds at head where migrations ran as a plain role that owns all they made."""

import pytest

from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.search.explorer import Explorer, Search
from invariants.servers.environment import Environment

EXAMPLES = 80


@pytest.mark.parametrize("name", INVARIANTS)
def test_it_holds(owned: Environment, contract: Contract, name: str) -> None:
    explorer = Explorer(owned, contract, lambda _: None)
    try:
        finished = explorer.explore(INVARIANTS[name], Search(seed=1, examples=EXAMPLES))
    finally:
        explorer.close()
    assert [f.counterexample.text for f in finished.found] == []
    assert (finished.status, finished.error, finished.examples) == ("held", None, EXAMPLES)
