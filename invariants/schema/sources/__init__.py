"""Where a schema comes from: an Alembic chain, SQL files, a command, a database that is there.

Each kind is a `Source`. May know of the chain's data and of SQL files, of no server: a source is
given the conninfo of a database that is ours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from invariants.errors import UsageError
from invariants.schema.chain import Chain, Migrations
from invariants.schema.runner import Say
from invariants.schema.sources.command import Command
from invariants.schema.sources.database import Database
from invariants.schema.sources.sqlfiles import SqlFiles, run_script
from invariants.schema.sqlfile import files_read

FORMS = "alembic.ini, a .sql file, a folder of them, command:SHELL COMMAND, or a postgresql:// URL"


class Source(Protocol):
    """Something that makes a schema in an empty database."""

    @property
    def timeout_seconds(self) -> float:
        """The most that one step of it may take."""

    def at(self, revision: str) -> Source:
        """The same up to another revision."""

    def read(self) -> Chain:
        """Its revisions, and a hash of all that determines the result: empty where nobody knows."""

    def fill(self, conninfo: str, say: Say | None = None) -> None:
        """Make the schema. Raises `InfrastructureError` naming what failed."""


@dataclass(frozen=True)
class Prepared:
    """A source with scripts that are run before it, as the superuser."""

    source: Source
    before: tuple[Path, ...]

    @property
    def timeout_seconds(self) -> float:
        """The most that one step of it may take."""
        return self.source.timeout_seconds

    def at(self, revision: str) -> Prepared:
        """The same up to another revision."""
        return replace(self, source=self.source.at(revision))

    def read(self) -> Chain:
        """The chain of the source; the hash covers the scripts."""
        chain = self.source.read()
        if not chain.fingerprint:
            return chain
        digest = hashlib.sha256(chain.fingerprint.encode())
        for script in self.before:
            for part in files_read(script):
                content = part.read_bytes()
                digest.update(len(content).to_bytes(8, "big"))
                digest.update(content)
        return replace(chain, fingerprint=digest.hexdigest())

    def fill(self, conninfo: str, say: Say | None = None) -> None:
        """Run the scripts, then the source."""
        for script in self.before:
            run_script(conninfo, script, self.timeout_seconds)
        self.source.fill(conninfo, say)


def source_of(
    schema: str | None,
    alembic_config: Path,
    revision: str,
    timeout_seconds: float,
    before: tuple[Path, ...] = (),
    with_data: tuple[str, ...] = (),
    pg_dump: Callable[[int], Path] | None = None,
) -> Source:
    """The source that the options name. Raises `UsageError` when it is none of the forms."""
    for script in before:
        if not script.is_file():
            raise UsageError(f"--before {script}: no such file; name an SQL script")
    made: Source
    if schema is None:
        if not alembic_config.exists():
            raise UsageError(
                f"{alembic_config}: no such Alembic configuration; give it with --alembic-config, "
                "or the schema with --schema: a .sql file, a folder of them, a command or a URL"
            )
        made = Migrations(alembic_config, revision, timeout_seconds)
    elif schema.startswith("command:"):
        made = Command(schema.removeprefix("command:").strip(), timeout_seconds)
    elif re.match(r"postgres(ql)?://", schema):
        assert pg_dump is not None
        made = Database(schema, pg_dump, with_data, timeout_seconds)
    elif schema.endswith((".ini", ".toml")):
        made = Migrations(Path(schema), revision, timeout_seconds)
    elif "://" in schema or not schema.strip():
        raise UsageError(f"--schema: unknown; it is {FORMS}")
    else:
        made = SqlFiles(Path(schema), revision, timeout_seconds)
    return Prepared(made, before) if before else made
