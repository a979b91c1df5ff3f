"""Chains of two revisions, and what is found in them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from invariants.migrations.run import MigrationsOptions, Result, migrations
from invariants.search.events import Event, Found
from tests.conftest import ENV

# A table of tickets that belong to shops, as an application writes them.
FIRST = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'desk') THEN CREATE ROLE desk NOLOGIN; END IF;
END $$;
CREATE TABLE shops (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL DEFAULT 's');
CREATE TABLE tickets (
  id bigint PRIMARY KEY,
  shop_id uuid NOT NULL REFERENCES shops(id) ON DELETE CASCADE,
  state text NOT NULL CHECK (state IN ('new', 'open', 'waiting', 'done')),
  number text NOT NULL,
  price numeric(10,2) NOT NULL,
  remark text,
  UNIQUE (shop_id, number, state));
ALTER TABLE tickets ENABLE ROW LEVEL SECURITY;
ALTER TABLE tickets FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON tickets
  USING (shop_id = nullif(current_setting('app.shop', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON tickets TO desk;
"""
CONTRACT = """
format = 1
[tenancy]
root = "shops"
column = "shop_id"
setting = "app.shop"
tables = ["tickets"]
[roles.desk]
tickets = ["select", "insert", "update", "delete"]
"""
REVISION = """
from alembic import op
revision, down_revision = {revision!r}, {below!r}
def run(text):
    op.get_bind().exec_driver_sql(text)
def upgrade():
{up}
def downgrade():
{down}
"""


@dataclass
class Project:
    """A chain of a user's with its contract; the first revision is there."""

    folder: Path
    revisions: list[str] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)

    def contract(self, more: str = "") -> None:
        """Write the contract, with more in it."""
        text = CONTRACT + textwrap.dedent(more)
        (self.folder / "invariants.toml").write_text(text)

    def code(self, up: str, down: str = "pass") -> str:
        """Append a revision of Python; returns its id."""
        revision = f"r{len(self.revisions) + 1}"
        below = self.revisions[-1] if self.revisions else None
        body = REVISION.format(
            revision=revision,
            below=below,
            up=textwrap.indent(textwrap.dedent(up), "    "),
            down=textwrap.indent(textwrap.dedent(down), "    "),
        )
        (self.folder / f"scripts/versions/{revision}.py").write_text(body)
        self.revisions.append(revision)
        return revision

    def sql(self, up: str, down: str = "") -> str:
        """Append a revision of SQL; returns its id."""
        return self.code(f"run({up!r})", f"run({down!r})" if down else "pass")

    def tried(self, *kinds: str, **options: object) -> Result:
        """Try the chain from the second revision on."""
        wanted = {"first": "r2", "seed": 1, "time_budget": 120.0, **options}

        def listen(event: Event) -> None:
            if isinstance(event, Found):
                self.found.append(event)

        chosen = MigrationsOptions(
            server="embedded",
            alembic_config=self.folder / "alembic.ini",
            contract=self.folder / "invariants.toml",
            artifacts=self.folder / "artifacts",
            invariants=kinds,
            **wanted,  # type: ignore[arg-type]
        )
        return migrations(chosen, listen, lambda _: None)

    def signatures(self, *kinds: str, **options: object) -> Sequence[str]:
        """The signatures of what is found."""
        self.tried(*kinds, **options)
        return [f.counterexample.signature for f in self.found]


@pytest.fixture
def project(tmp_path: Path, cache: Path) -> Project:
    """A chain with one revision: shops and their tickets."""
    del cache
    folder = tmp_path / "app"
    (folder / "scripts/versions").mkdir(parents=True)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/scripts\n")
    (folder / "scripts/env.py").write_text(ENV)
    made = Project(folder)
    made.contract()
    made.sql(FIRST, "DROP TABLE tickets; DROP TABLE shops")
    return made


MakeProject = Callable[[], Project]
