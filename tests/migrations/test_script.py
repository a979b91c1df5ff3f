"""The script for psql: the rows, and the verdict where the command that migrates is given."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from tests.conftest import database_on, query
from tests.engine import psql_program
from tests.migrations.conftest import FIRST, Project

NARROWED = "ALTER TABLE tickets ALTER number TYPE varchar(150)"


@pytest.mark.parametrize(
    ("migrate", "status", "told"),
    [
        (None, 0, ""),
        # What the revision does, and what it does once it is mended.
        (NARROWED, 3, "violated: migrations/upgrade/r2/22001"),
        (f"{NARROWED} USING left(number, 150)", 0, "holds"),
    ],
    ids=["rows alone", "violated", "mended"],
)
def test_the_command_that_migrates_decides(
    project: Project, server_url: str, migrate: str | None, status: int, told: str
) -> None:
    project.sql(NARROWED, "ALTER TABLE tickets ALTER number TYPE text")
    assert project.signatures("upgrade") == ["migrations/upgrade/r2/22001"]
    (found,) = project.found
    assert found.saved is not None
    script = found.saved.sql
    assert "-v migrate='alembic upgrade r2'" in script.read_text()
    with database_on(server_url, "chain_script") as conninfo:
        query(conninfo, FIRST)
        given = ["-v", "ON_ERROR_STOP=1", "-c", migrate or ""]
        command = shlex.join([psql_program(), "-X", "-d", conninfo, *given])
        wanted = ["-v", f"migrate={command}"] if migrate else []
        done = subprocess.run(
            [psql_program(), "-X", "-q", "-d", conninfo, *wanted, "-f", str(script)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert told in done.stdout + done.stderr
        assert status or query(conninfo, "SELECT count(*) FROM tickets") != [(0,)]
