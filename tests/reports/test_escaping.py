"""Names that others chose, in what is written for people and for programs."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from rich.console import Console

from invariants import escaping
from invariants.gate.release import Check
from invariants.reports import gate, mutants
from invariants.reports.terminal import _Console

HOSTILE = "a\x00\n\x1b[2J\u202e\ud800\ufffe ]]> <script>x</script> | `t` [l](http://x) & \r"


def test_shown_is_one_printable_line_that_can_be_encoded() -> None:
    told = escaping.shown(HOSTILE)
    assert told.isprintable()
    assert told.encode()
    assert told.startswith(r"a\x00\n\x1b[2J\u202e\ud800\ufffe ]]> ")
    assert escaping.shown("naïve 表 😀") == "naïve 表 😀"


def test_a_row_has_as_many_cells_whatever_is_in_them() -> None:
    row = escaping.row([escaping.code(HOSTILE), escaping.markdown(HOSTILE), "a|b"])
    assert row.replace("\\|", "").count("|") == 4
    assert "\n" not in row
    assert "|" not in mutants.table(["x"], [["a|b"]]).splitlines()[2][2:-2].replace("\\|", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("``", "``` `` ```"), ("a\nb", r"`a\nb`")],
)
def test_code_ends_where_it_should(text: str, told: str) -> None:
    assert escaping.code(text) == told


def test_markdown_shows_markup() -> None:
    assert escaping.markdown("<b>[x](y)`z`") == r"\<b\>\[x\](y)\`z\`"


def test_junit_is_well_formed_whatever_the_names_are() -> None:
    root = ElementTree.Element("testsuite")
    gate._case(root, Check("invariants", HOSTILE, "failed", HOSTILE, 0.0, (HOSTILE, HOSTILE)))
    text = ElementTree.tostring(root, encoding="unicode")
    (case,) = ElementTree.fromstring(text.encode())
    assert case.get("name") == escaping.shown(HOSTILE)
    assert case[0].text == "\n".join([escaping.shown(HOSTILE)] * 2)


def test_the_terminal_takes_text_as_text() -> None:
    console: Console = _Console(False)
    with console.capture() as captured:
        console.print("[red]:smile:\x1b[31m\u202e\nnext")
    assert captured.get() == "[red]:smile:\\x1b[31m\\u202e\nnext\n"
