"""What docs/tutorial.md has people type does what it shows."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from invariants.front.cli import main
from tests.databases import ROOT, database_maker
from tests.engine import psql_program

PAGE = (ROOT / "docs/tutorial.md").read_text()
HELPDESK = ROOT / "examples/helpdesk"


def typed() -> Iterator[tuple[list[str], str]]:
    """Each command of the consoles, and what is shown below it."""
    for console in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield shlex.split(command), shown.strip("\n")


def test_what_is_typed_does_what_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    server_url: str,
    cache: Path,
) -> None:
    del cache
    for file in HELPDESK.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    status, statuses = 0, []
    with database_maker(server_url) as make:
        databases: dict[str, str] = {}
        for (program, *arguments), shown in typed():
            if program == "createdb":
                with make().connect() as connection:
                    databases[arguments[0]] = f"{server_url} dbname={connection.info.dbname}"
            elif program == "psql":
                told = [databases.get(a, a) for a in arguments]
                done = subprocess.run(
                    [psql_program(), *told], check=False, capture_output=True, timeout=60
                )
                status = done.returncode
            elif program == "echo":
                assert str(status) == shown
                statuses.append(status)
            else:
                assert program == "invariants"
                status = main(arguments)
                assert shown in capsys.readouterr().out
                assert status == ("VIOLATED" in shown)
    assert statuses == [3, 0]


def test_the_contract_shown_is_the_one_drafted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    del cache
    shutil.copy(HELPDESK / "schema.sql", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--schema", "schema.sql", "--server", "embedded"]) == 0
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert shown in Path("invariants.toml").read_text()


def test_the_fix_shown_is_the_one_beside_the_schema() -> None:
    (shown,) = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert shown in (HELPDESK / "fix.sql").read_text()
