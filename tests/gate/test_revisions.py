"""`invariants history`: which revision mends what, told as Markdown."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from invariants.counterexamples.files import Kept, load
from invariants.errors import UsageError
from invariants.front.cli import main
from invariants.gate.revisions import BEGIN, END, Stage, markdown, mended_by, stages, update
from invariants.options import RunOptions
from invariants.search.events import InvariantFinished
from tests.databases import ROOT

COUNTEREXAMPLES = ROOT / "tests" / "counterexamples"
TAXONOMY = COUNTEREXAMPLES / "liveness-select-channel_taxonomy-privilege.json"
PII = COUNTEREXAMPLES / "pii-insert-dead_events-raw_payload.json"
OPTIONS = RunOptions(
    server="embedded",
    alembic_config=ROOT / "alembic.ini",
    contract=ROOT / "invariants.toml",
    seed=1,
)


def found(options: RunOptions, since: str | None, kept: Sequence[Kept]) -> list[Stage]:
    said: list[str] = []
    searched = stages(options, since, kept, search=True, listener=lambda _: None, say=said.append)
    done = list(searched)
    assert [line.split()[1] for line in said] == [stage.revision for stage in done]
    return done


@pytest.mark.usefixtures("cache")
@pytest.mark.slow
def test_each_revision_is_replayed_and_searched(tmp_path: Path) -> None:
    taxonomy, pii = load(TAXONOMY), load(PII)
    options = replace(
        OPTIONS,
        revision="202511151130",
        invariants=("pii",),
        max_examples=60,
        artifacts=tmp_path / "artifacts",
    )
    before, granted, head = found(options, "202511151110", [taxonomy, pii])
    assert [s.failing for s in (before, granted, head)] == [(taxonomy, pii), (pii,), ()]
    assert before.causes
    assert granted.causes
    assert head.causes == 0
    assert mended_by([before, granted, head]) == {taxonomy: granted.revision, pii: head.revision}
    # What is found at one revision does not take the place of what is found at another.
    assert {p.parent.name for p in (tmp_path / "artifacts").rglob("*.json")} == {
        before.revision,
        granted.revision,
    }


def test_what_fails_again_later_is_mended_by_the_last() -> None:
    one = load(PII)
    chain = [
        Stage(r, "", (), failing)
        for r, failing in zip("abcd", ((one,), (), (one,), ()), strict=True)
    ]
    assert mended_by(chain) == {one: "d"}
    assert mended_by(chain[:3]) == {one: None}
    assert "| nothing yet |" in markdown(chain[:3])


def test_what_could_not_be_judged_is_not_nothing() -> None:
    unjudged = InvariantFinished("pii", "error", 1, 1, 1.0, (), error="flaky")
    assert "| `a` | It | 0? | ? | 0 |  |" in markdown([Stage("a", "It", (unjudged,), ())])


def test_tables_take_the_place_of_those_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update(page, "new")
    update(page, "newer")
    assert page.read_text() == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"


def test_the_first_must_come_before_the_last() -> None:
    options = replace(OPTIONS, revision="202511151000")
    with pytest.raises(UsageError, match="--since head: does not come before --revision 20251115"):
        found(options, "head", [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replay-only"], "history --replay-only: name the counterexamples to replay"),
        (["--update", "none.md"], "--update none.md: cannot be read: No such file or directory"),
        (["--update", "page.md"], f"--update page.md: put the lines {BEGIN} and {END} where"),
        (["--since", "nowhere"], "--since nowhere: unknown; known are head, "),
    ],
)
def test_wrong_input_is_said_before_a_server_starts(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("page.md").write_text("no comments")
    schema = [
        "--alembic-config",
        str(ROOT / "alembic.ini"),
        "--contract",
        str(ROOT / "invariants.toml"),
    ]
    assert main(["history", *schema, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"invariants: {said}")
