"""Projects as their users have them: an env.py, what it needs, and a revision or two."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

from invariants.schema.chain import Migrations, upgrade
from invariants.servers.binaries import find_binaries
from tests.conftest import database_on, query


@dataclass(frozen=True)
class Databases:
    """The template, and the database of the developer, which nobody may touch."""

    template: str
    developers: str

    def url(self, scheme: str = "postgresql") -> str:
        """The developer's own, as it stands in his files."""
        options = self.parameters()
        return f"{scheme}:///{options.pop('dbname')}?{urlencode(options)}"

    def parameters(self) -> dict[str, str]:
        """The same, as libpq takes them: what every driver knows."""
        given = conninfo_to_dict(self.developers)
        return {k: str(given[k]) for k in ("host", "port", "user", "dbname") if k in given}

    def dump(self) -> str:
        """All that is in the developer's database, of the template nothing."""
        program = find_binaries(18).bin / "pg_dump"
        done = subprocess.run(
            [program, "--restrict-key=same", "-d", self.developers],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def tables(self) -> list[str]:
        """What the template holds in public."""
        rows = query(
            self.template,
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1",
        )
        return [name for (name,) in rows]


@pytest.fixture
def databases(server_url: str) -> Iterator[Databases]:
    with (
        database_on(server_url, "template_of_a_run") as template,
        database_on(server_url, "developers_own") as developers,
    ):
        query(developers, "CREATE TABLE precious AS SELECT 1 AS id")
        yield Databases(template, developers)


@dataclass(frozen=True)
class Project:
    """A folder with alembic.ini, env.py and the revisions a1 and b2, which make a table each."""

    folder: Path
    databases: Databases

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def revision(self, number: int, code: str) -> Path:
        """Write the revision that comes after so many."""
        names = ["a1", "b2", "c3", "d4"]
        parent = names[number - 1] if number else None
        body = "\n".join(f"    {line}" for line in code.splitlines())
        return self.write(
            f"scripts/versions/{names[number]}_x.py",
            f"from alembic import op\nrevision = {names[number]!r}\ndown_revision = {parent!r}\n"
            f"def upgrade(engine_name=None):\n{body}\ndef downgrade(engine_name=None):\n    pass\n",
        )

    def migrations(self, timeout_seconds: float = 60.0) -> Migrations:
        return Migrations(self.folder / "alembic.ini", "head", timeout_seconds)

    def upgrade(self, timeout_seconds: float = 60.0) -> list[str]:
        """Migrate the template, and see that the developer's database is what it was."""
        before = self.databases.dump()
        said: list[str] = []
        try:
            upgrade(self.databases.template, self.migrations(timeout_seconds), said.append)
        finally:
            assert self.databases.dump() == before
        return said


ENV = """
from alembic import context
connection = context.config.attributes["connection"]
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
"""


@pytest.fixture
def project(tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Project:
    """One whose env.py takes the connection that it is given, until it is written anew."""
    made = Project(tmp_path / "project", databases)
    made.write("alembic.ini", "[alembic]\nscript_location = %(here)s/scripts\n")
    made.write("scripts/env.py", ENV)
    made.revision(0, 'op.execute("CREATE TABLE first (id integer)")')
    made.revision(1, 'op.execute("CREATE TABLE second (id integer)")')
    monkeypatch.chdir(made.folder)
    return made
