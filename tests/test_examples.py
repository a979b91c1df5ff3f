"""What the pages show is what happens."""

from __future__ import annotations

import re

import pytest

from examples import walk_through
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("cache")

# What is enumerated, and on which server, changes more often than what a page is read for.
EXAMPLES_OF_MANY = ("servers", "generation", "execution")


def test_the_walk_through_shows_what_its_page_says() -> None:
    passed: dict[str, str] = {}
    walk_through.walk(passed.__setitem__)
    page = (ROOT / "docs/architecture.md").read_text()
    shown = dict(re.findall(r"^```door=(\w+)\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL))
    assert list(shown) == list(passed)
    for door in passed.keys() - set(EXAMPLES_OF_MANY):
        assert shown[door] == passed[door].strip("\n"), door
