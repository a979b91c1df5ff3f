"""The workflows in .github are valid, and every command in them is one that exists."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from invariants import options
from invariants.front.cli import _parser
from tests.databases import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

GH = """#!/bin/sh
case "$2" in
list) echo "$LAST_RUN" ;;
download)
  [ "$ARTIFACTS" ] || { echo 'no artifact matches' >&2; exit 1; }
  for name in $ARTIFACTS; do mkdir -p "$7/$name" && echo '{}' >"$7/$name/a.json"; done ;;
esac
"""


def commands(workflow: Path) -> Iterator[list[str]]:
    """Every simple command of a workflow's `run:` lines, once for each row of its matrix."""
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        matrix: dict[str, list[Any]] = dict(job.get("strategy", {}).get("matrix", {}))
        further: list[dict[str, Any]] = matrix.pop("include", [])
        rows = (dict(zip(matrix, r, strict=True)) for r in itertools.product(*matrix.values()))
        for values in (*rows, *further):
            for step in job["steps"]:
                for line in filled(step.get("run", ""), values).splitlines():
                    yield from simple(line)


def filled(text: str, values: dict[str, Any]) -> str:
    """The text with the values of a matrix in their places."""
    return re.sub(r"\$\{\{ matrix\.(\w+) }}", lambda place: str(values[place[1]]), text)


def simple(line: str) -> Iterator[list[str]]:
    """A line of shell, cut where one command ends and another begins."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    for ends, part in itertools.groupby(words, lambda w: re.fullmatch(r"[|&;()<>]+", w)):
        if not ends:
            yield list(part)


def of(program: str) -> list[list[str]]:
    """What the workflows give to a program, each call once."""
    found = (c[1:] for w in WORKFLOWS for c in commands(w) if c[0] == program)
    return [list(call) for call in dict.fromkeys(map(tuple, found))]


def accepted(arguments: list[str]) -> None:
    """The command line takes these arguments, and their values can be read."""
    given = _parser().parse_args(arguments)
    options.values(options.RUN, lambda o: getattr(given, o.key, None))


def check(*files: Path) -> int:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    return subprocess.run([*command, "vendor.github-workflows", *files]).returncode


def test_the_workflows_are_valid() -> None:
    assert [w.stem for w in WORKFLOWS] == ["nightly", "pull-request", "release"]
    assert check(*WORKFLOWS) == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("runs-on:", "run-on:"), ("contents: read", "contents: reads"), ("steps:", "step:")],
)
def test_a_typo_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    broken = tmp_path / "nightly.yml"
    text = (ROOT / ".github/workflows/nightly.yml").read_text()
    assert right in text
    broken.write_text(text.replace(right, wrong))
    assert check(broken) == 1


def test_no_workflow_writes_to_the_repository_or_needs_a_secret() -> None:
    for workflow in WORKFLOWS:
        text = workflow.read_text()
        document = yaml.safe_load(text)
        assert document["permissions"] == {"contents": "read"}
        assert not any("permissions" in job for job in document["jobs"].values())
        assert all("timeout-minutes" in job for job in document["jobs"].values())
        assert "secrets." not in text
        # YAML 1.1 reads the key `on` as true.
        assert "pull_request_target" not in document[True]


@pytest.mark.parametrize("arguments", of("make"), ids=" ".join)
def test_a_make_target_exists_and_takes_its_arguments(arguments: list[str]) -> None:
    subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    if arguments[0] == "invariants":
        given = dict(word.split("=", 1) for word in arguments[1:])
        accepted(["run", *given.get("ARGS", "").split()])


@pytest.mark.parametrize(
    "arguments",
    of(".venv/bin/invariants"),
    ids=" ".join,
)
def test_a_command_of_ours_is_accepted(arguments: list[str]) -> None:
    accepted(arguments)


@pytest.mark.parametrize("arguments", of(".venv/bin/pytest"), ids=" ".join)
def test_pytest_takes_its_arguments(arguments: list[str], tmp_path: Path) -> None:
    only_asked = ["--collect-only", "-p", "no:cacheprovider", "invariants.toml"]
    elsewhere = ["--junitxml", str(tmp_path / "junit.xml")]
    command = [sys.executable, "-m", "pytest", *arguments, *only_asked, *elsewhere]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


class LastNight:
    """`make last-night` with a gh and an interpreter that only say what they were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.program("gh", GH)
        self.program("python", '#!/bin/sh\necho "$@"\n')

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def make(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        settings = [f"BIN={self.bin}", f"NIGHT={self.folder / 'night'}", "READY="]
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        return subprocess.run(
            ["make", "--no-print-directory", "last-night", *settings, *words],
            cwd=ROOT,
            env={**os.environ, "LAST_RUN": "", "ARTIFACTS": "", "PATH": path, **variables},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def last_night(tmp_path: Path) -> LastNight:
    return LastNight(tmp_path)


def test_last_night_replays_what_every_version_kept(last_night: LastNight) -> None:
    said = last_night.make("ARGS=-q", LAST_RUN="7", ARTIFACTS="failed-15 failed-18")
    files = " ".join(str(last_night.folder / f"night/failed-{v}/a.json") for v in (15, 18))
    assert said.returncode == 0
    assert "nightly run 7" in said.stdout
    assert said.stdout.endswith(f"-m invariants replay -q {files}\n")


def test_last_night_takes_the_run_it_is_told(last_night: LastNight) -> None:
    assert "nightly run 8" in last_night.make("RUN=8", ARTIFACTS="failed-18").stdout


@pytest.mark.parametrize(
    ("run", "words"),
    [("", "no run of nightly.yml has finished yet"), ("7", "nothing to replay from nightly run 7")],
)
def test_last_night_says_why_there_is_nothing(run: str, words: str, last_night: LastNight) -> None:
    said = last_night.make(LAST_RUN=run)
    assert said.returncode != 0
    assert words in said.stderr


def test_last_night_without_gh(last_night: LastNight) -> None:
    (last_night.bin / "gh").unlink()
    for tool in ("make", "sh"):
        (last_night.bin / tool).symlink_to(shutil.which(tool) or tool)
    said = last_night.make(PATH=str(last_night.bin))
    assert said.returncode != 0
    assert "gh, the GitHub CLI, is not installed" in said.stderr
