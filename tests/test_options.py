"""Options: one list for the command line, pytest and variables; a wrong value is said at once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from invariants import options
from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.errors import UsageError
from invariants.front.cli import main
from invariants.options import RunOptions
from invariants.search.explorer import Explorer
from invariants.search.run import search_for
from invariants.servers.environment import Environment


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in options.RUN:
        monkeypatch.delenv(option.variable, raising=False)


def parsed(**given: str | list[str]) -> RunOptions:
    return RunOptions(**options.values(options.RUN, lambda o: given.get(o.key)))


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on the way to exit status 2: one line, on standard error."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert isinstance(line, str)
    return line


def test_nothing_given_is_the_default_of_the_dataclass() -> None:
    assert parsed() == RunOptions()


def test_a_profile_sets_the_budget_and_options_override_it() -> None:
    assert parsed(profile="ci").seconds == options.PROFILES["ci"].seconds
    assert parsed(profile="ci", time_budget="2.5").seconds == 2.5
    assert parsed(profile="ci", max_examples="7").examples == 7


def test_a_variable_stands_for_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_SERVER", "embedded:16")
    monkeypatch.setenv("INVARIANTS_SEED", "7")
    assert parsed().server == "embedded:16"
    assert parsed().seed == 7


def test_what_is_given_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_SEED", "7")
    assert parsed(seed="8").seed == 8


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_SERVER", "")
    assert parsed().server == "auto"


def test_a_repeatable_option_in_a_variable_is_a_path_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_APPLY_SQL", os.pathsep.join(["a.sql", "b.sql"]))
    assert parsed().apply_sql == (Path("a.sql"), Path("b.sql"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", "one", "--seed: 'one' is not a whole number"),
        ("max_examples", "0", "--max-examples: '0' is not a whole number of at least 1"),
        ("time_budget", "-1", "--time-budget: '-1' is not a duration"),
        ("time_budget", "nan", "--time-budget: 'nan' is not a duration"),
        ("profile", "fast", "--profile: 'fast' is not known; use one of: dev, ci, nightly"),
        ("sessions", "1", "--sessions: '1' is not 0 (none side by side), 2 or 3"),
        ("sessions", "4", "--sessions: '4' is not 0 (none side by side), 2 or 3"),
        ("sessions", "two", "--sessions: 'two' is not 0 (none side by side), 2 or 3"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(key: str, value: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parsed(**{key: value})
    assert str(error.value).startswith(said)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_PROFILE", "fast")
    with pytest.raises(UsageError, match=r"^INVARIANTS_PROFILE: 'fast' is not known"):
        parsed()


def test_one_session_beside_none_is_said_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "'1' is not 0 (none side by side), 2 or 3"
    assert complaint(capsys, "run", "--sessions", "1") == f"invariants: --sessions: {said}"
    monkeypatch.setenv("INVARIANTS_SESSIONS", "1")
    assert complaint(capsys, "run") == f"invariants: INVARIANTS_SESSIONS: {said}"


def test_sessions_are_the_profiles_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {p: parsed(profile=p).at_once for p in options.PROFILES} == {
        "dev": 2, "ci": 2, "nightly": 3, "release": 3
    }  # fmt: skip
    assert parsed(profile="nightly", sessions="0").at_once == 0
    monkeypatch.setenv("INVARIANTS_SESSIONS", "0")
    assert parsed(profile="release").at_once == 0
    assert parsed(profile="release", sessions="2").at_once == 2


@pytest.mark.parametrize("given", ["0", "2", "3"])
def test_so_many_sessions_go_on_side_by_side(
    head: Environment, contract: Contract, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("INVARIANTS_SESSIONS", given)
    search = search_for(parsed(max_examples="60", seed="4"), 4, None)
    explorer = Explorer(head, contract, lambda _: None)
    try:
        # Its draws alone: what is enumerated has two, or none.
        explorer.explore(INVARIANTS["append-only"], replace(search, stages=("draws",)))
        drawn = lines_of(explorer)
        explorer.explore(INVARIANTS["append-only"], replace(search, stages=("duets",)))
        every = lines_of(explorer)
    finally:
        explorer.close()
    assert (drawn, every) == {"0": (0, 0), "2": (2, 2), "3": (3, 3)}[given]


def lines_of(explorer: Explorer) -> int:
    """How many sessions its executors have had side by side, at most."""
    opened = (e._interleaver for _, e in explorer.judge._executors.values())
    return max((len({p for p, *_ in i._wires}) for i in opened if i is not None), default=0)


def test_messages_are_told_in_pytests_words() -> None:
    told = options.with_prefix("x.toml: name it with --contract FILE, not --contracts", "my-")
    assert told == "x.toml: name it with --my-contract FILE, not --contracts"


def test_schema_arguments_are_those_that_change_the_schema() -> None:
    chosen = parsed(server="embedded", revision="documented", apply_sql=["a b.sql"], seed="1")
    assert options.schema_arguments(chosen) == " --revision documented --apply-sql 'a b.sql'"
    assert options.schema_arguments(RunOptions()) == ""


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["run", "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for option in options.RUN:
        assert f"--{option.flag} {option.metavar}" in said
    for name in INVARIANTS:
        assert name in said
    assert "examples:" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "COMMAND"),
        (("walk",), "walk"),
        (("run", "--sed", "1", "--quickly"), "--quickly"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "--help" in line


def test_an_unknown_invariant(capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "run", "--invariant", "cross-tenants")
    assert "--invariant: 'cross-tenants' is not known" in line
    assert all(name in line for name in INVARIANTS)


def test_an_unknown_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = complaint(capsys, "run", "--server", "mainframe", "--artifacts", str(tmp_path))
    assert "--server mainframe: unknown; it is auto, container" in line


def test_a_patch_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = complaint(capsys, "run", "--apply-sql", "no.sql", "--artifacts", str(tmp_path))
    assert "--apply-sql no.sql: no such file" in line


def test_a_report_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "run", "--json", "/nowhere/out.json")
    assert "--json /nowhere/out.json" in line
    assert "name another" in line


def test_artifacts_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "run", "--artifacts", "/proc/nowhere")
    assert "--artifacts /proc/nowhere: cannot be written" in line


def test_a_contract_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = complaint(capsys, "run", "--contract", "no.toml", "--artifacts", str(tmp_path))
    assert "no.toml" in line
    assert "--contract" in line
