"""The release gate: what speaks against a schema stops it, and the verdict comes first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.coverage.met import Coverage
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_VIOLATED, UsageError
from invariants.front import cli
from invariants.gate import release as gates
from invariants.gate.release import Check, Gate, GateOptions, Mutation, gate, within_budget
from invariants.mutants.hunt import Outcome
from invariants.mutants.score import MutantOptions
from invariants.options import RunOptions
from invariants.reports.gate import headline, junit, markdown, screen, to_json, write_all
from invariants.search.run import Report
from invariants.servers.base import ServerInfo
from invariants.servers.environment import Environment
from tests.conftest import ROOT
from tests.engine import DOCUMENTED

pytestmark = pytest.mark.usefixtures("cache")

KEPT = ("pii-insert-dead_events-raw_payload", "append-only-truncate-revenue_ledger-no-trigger")


NOTHING_DONE = Gate(
    Report(ServerInfo("embedded", "18.4", "for a test"), "r", 1, "release", 0.0, ()),
    (),
    (),
    None,
    0.0,
)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GateOptions:
    """A gate over few counterexamples, workloads and mutants, in a folder of its own."""
    counterexamples = tmp_path / "kept"
    counterexamples.mkdir()
    for name in KEPT:
        shutil.copy(ROOT / "tests/counterexamples" / f"{name}.json", counterexamples)
    shutil.copytree(ROOT / "strategies", tmp_path / "strategies")
    for name in ("alembic", "db"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("alembic.ini", "invariants.toml", "mutants.toml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return GateOptions(
        RunOptions(server="embedded", profile="release", seed=1, max_examples=200),
        MutantOptions(operators=("reference-row-missing",), jobs=2),
        counterexamples=counterexamples,
    )


def told(outcome: Outcome, done: int, total: int) -> None:
    del outcome, done, total


def passing(options: GateOptions, said: list[str] | None = None) -> Gate:
    return gate(options, lambda _: None, (said if said is not None else []).append, told)


def of(result: Gate, group: str) -> list[Check]:
    return [c for c in result.checks if c.group == group]


class TestOnHead:
    @pytest.mark.slow
    def test_it_passes_and_the_next_one_remembers(self, options: GateOptions) -> None:
        said: list[str] = []
        first = passing(options, said)
        assert headline(first) == "gate passed: all 9 invariants held"
        assert first.exit_status == EXIT_HELD
        assert {c.status for c in first.checks} == {"passed"}
        assert [c.name for c in of(first, "counterexamples")] == sorted(KEPT)
        assert [c.name for c in of(first, "invariants")] == list(INVARIANTS)
        assert first.mutation is not None
        assert (first.mutation.value, first.mutation.remembered) == (1.0, False)
        assert any("hunting mutants" in line for line in said)
        said.clear()
        second = passing(options, said)
        assert second.mutation is not None
        assert (second.mutation.value, second.mutation.remembered) == (1.0, True)
        assert not any("hunting mutants" in line for line in said)
        assert "(as remembered for this schema)" in second.mutation.check().line
        assert second.exit_status == EXIT_HELD

    def test_none_need_be_kept(
        self, options: GateOptions, head: Environment, contract: Contract
    ) -> None:
        new = replace(options, counterexamples=GateOptions.counterexamples)
        assert not new.counterexamples.exists()
        assert gates.replay_kept(new, head, contract, lambda _: None) == ()

    def test_fixed_seeds_that_held_are_not_searched_again(self, options: GateOptions) -> None:
        quick = replace(options, run=replace(options.run, max_examples=None))
        memory = {"seeds": [1, 2, 3]}
        assert within_budget(quick.run, memory).fixed_seeds == ()
        assert within_budget(quick.run, memory).seconds == 45
        assert within_budget(quick.run, {}).fixed_seeds == (1, 2, 3)
        assert within_budget(quick.run, {}).seconds == 300
        # Where something failed already, the causes are all that is wanted.
        assert within_budget(quick.run, {}, failed=True).seconds == 45
        assert within_budget(replace(quick.run, time_budget=7), memory).seconds == 7

    @pytest.fixture
    def blind(self, head: Environment, contract: Contract, options: GateOptions) -> Mutation:
        """The score of an invariant that does not look at codes."""
        mutants = replace(options.mutants, invariants=("pii",), mutant_budget=0.5)
        asked = replace(options, mutants=mutants)
        return gates.measured(asked, head, contract, {}, 1.0, lambda _: None, told)

    def test_a_score_below_the_threshold_fails(self, blind: Mutation) -> None:
        check = blind.check()
        assert check.status == "failed"
        assert check.line.startswith("0 of 9 mutants killed (0.0%), 9 survived, at least 100.0%")
        assert "survived: reference-row-missing/channel_taxonomy/email" in check.details
        assert replace(blind, threshold=0.0).check().status == "passed"
        result = replace(NOTHING_DONE, checks=(check,), mutation=blind)
        assert result.exit_status == EXIT_VIOLATED
        assert headline(result).startswith("gate failed: mutation score: 0 of 9 mutants killed")
        missing = "mutant reference-row-missing/channel_taxonomy/email is not noticed"
        assert missing in markdown(result)

    def test_a_guard_that_was_not_met_fails(self, options: GateOptions) -> None:
        result = passing(replace(options, run=replace(options.run, max_examples=1)))
        assert result.exit_status == EXIT_VIOLATED
        (check,) = of(result, "coverage")
        assert check.status == "failed"
        assert any(line.endswith(" was never met") for line in check.details)
        assert of(result, "mutants")[0].status == "skipped"


class TestOnTheDocumentedSchema:
    def test_it_fails(self, options: GateOptions, tmp_path: Path) -> None:
        run = replace(options.run, revision="documented", max_examples=60)
        failed = passing(replace(options, run=run))
        self.verdict_and_causes_fit_on_one_screen(failed)
        self.mutants_are_not_hunted(failed)
        self.the_files_say_the_same(failed, tmp_path)

    def verdict_and_causes_fit_on_one_screen(self, failed: Gate) -> None:
        assert failed.exit_status == EXIT_VIOLATED
        assert failed.search.revision == DOCUMENTED
        lines = list(screen(failed))
        assert lines[0].startswith("gate failed: 8 of 9 invariants violated; ") or (
            "invariants violated, " in lines[0]
        )
        assert "2 of 2 kept counterexamples fail again" in lines[0]
        assert "  pii/insert/dead_events/raw_payload" in lines
        assert len(lines) < 60
        assert not any("known to hold" in line for line in lines)
        assert lines[1] == ""

    def mutants_are_not_hunted(self, failed: Gate) -> None:
        (check,) = of(failed, "mutants")
        assert check.status == "skipped"
        assert failed.mutation is None
        assert f"mutation score: {check.line}" in list(screen(failed))

    def the_files_say_the_same(self, failed: Gate, tmp_path: Path) -> None:
        write_all(failed, tmp_path / "report")
        document = json.loads((tmp_path / "report/gate.json").read_text())
        assert (document["verdict"], document["exit_status"]) == ("failed", 1)
        assert document["search"]["revision"] == DOCUMENTED
        assert all(c["fails"] for c in document["counterexamples"])
        assert document["mutation"] is None
        root = ElementTree.fromstring((tmp_path / "report/gate.xml").read_text())
        suites = {s.get("name"): s for s in root}
        assert list(suites) == ["counterexamples", "invariants", "coverage", "mutants"]
        assert suites["counterexamples"].get("failures") == "2"
        failures = suites["invariants"].findall(".//failure")
        assert any("pii/insert/dead_events/raw_payload" in (f.text or "") for f in failures)
        text = (tmp_path / "report/gate.md").read_text()
        assert text.startswith("# Gate failed: ")
        assert (
            text.index("## Causes")
            < text.index("## What was tried")
            < text.index("## What is not covered")
        )
        assert "- `pii/insert/dead_events/raw_payload`: " in text


class TestMemory:
    @pytest.fixture
    def key(self, head: Environment, contract: Contract, options: GateOptions) -> Callable[[], str]:
        def taken() -> str:
            own = replace(contract, path=Path("invariants.toml"))
            return gates.memory_key(options, head, own)

        return taken

    @pytest.mark.parametrize(
        "name",
        ["invariants.toml", "mutants.toml", "strategies/__init__.py", "strategies/ledger.py"],
    )
    def test_it_is_for_the_files_as_they_are(self, key: Callable[[], str], name: str) -> None:
        before = key()
        assert key() == before
        Path(name).write_text(Path(name).read_text() + "\n# changed\n")
        assert key() != before

    def test_a_patch_is_another_schema(
        self, head: Environment, contract: Contract, options: GateOptions
    ) -> None:
        Path("fix.sql").write_text("SELECT 1;")
        patched = replace(options, run=replace(options.run, apply_sql=(Path("fix.sql"),)))
        one, two = (gates.memory_key(o, head, contract) for o in (options, patched))
        assert one != two

    def test_what_was_kept_comes_back(self, options: GateOptions) -> None:
        del options
        gates.remember("a", {"seeds": [1]})
        assert gates.recall("a")["seeds"] == [1]
        assert gates.recall("b") == {}

    @pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', "\x00"])
    def test_what_makes_no_sense_is_forgotten(self, options: GateOptions, text: str) -> None:
        del options
        gates.REMEMBERED.mkdir(parents=True)
        (gates.REMEMBERED / "a.json").write_text(text)
        assert gates.recall("a") == {}

    def test_it_does_not_grow(self, options: GateOptions) -> None:
        del options
        for number in range(25):
            gates.remember(f"k{number}", {"seeds": [number]})
        assert len(list(gates.REMEMBERED.glob("*.json"))) == 20


class TestThreshold:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("", 1.0), ("[tool.invariants]\nmutation_score = 0.95", 0.95)],
    )
    def test_it_is_read(self, tmp_path: Path, text: str, value: float) -> None:
        file = tmp_path / "pyproject.toml"
        file.write_text(text)
        assert gates.threshold(file) == value
        assert gates.threshold(tmp_path / "none.toml") == 1.0

    @pytest.mark.parametrize("value", ["2", "-1", "'high'", "true"])
    def test_one_that_is_no_share_is_told(self, tmp_path: Path, value: str) -> None:
        file = tmp_path / "pyproject.toml"
        file.write_text(f"[tool.invariants]\nmutation_score = {value}")
        with pytest.raises(UsageError, match=r"mutation_score: .* is not a number from 0 to 1"):
            gates.threshold(file)


class TestCommand:
    def test_bad_folders_are_told(
        self, options: GateOptions, capsys: pytest.CaptureFixture[str]
    ) -> None:
        del options
        base = ["gate", "--server", "embedded", "--counterexamples"]
        assert cli.main([*base, "nowhere"]) == 2
        assert "--counterexamples nowhere: no such folder" in capsys.readouterr().err
        Path("file").touch()
        assert cli.main([*base, "kept", "--report", "file/x"]) == 2
        assert "--report file/x: cannot be written" in capsys.readouterr().err

    def test_a_server_that_is_not_there_decides_nothing(
        self, options: GateOptions, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["gate", "--counterexamples", str(options.counterexamples)]
        assert cli.main([*arguments, "--server", "postgresql://127.0.0.1:9/x"]) == 3
        assert capsys.readouterr().out == ""

    def test_what_cannot_be_judged_is_no_pass(self) -> None:
        wrong = replace(
            NOTHING_DONE, checks=(Check("invariants", "pii", "error", "nothing was examined"),)
        )
        assert wrong.exit_status == EXIT_INFRASTRUCTURE
        assert headline(wrong) == "gate not decided: pii: nothing was examined"
        assert to_json(wrong)["verdict"] == "not decided"
        assert 'errors="1"' in junit(wrong)
        assert gates.coverage_check(Coverage()).status == "failed"
