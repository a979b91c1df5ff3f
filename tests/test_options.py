"""Options: one list for the command line, pytest and variables; a wrong value is said at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from invariants import options
from invariants.checks import INVARIANTS
from invariants.cli import main
from invariants.errors import UsageError
from invariants.options import RunOptions


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
