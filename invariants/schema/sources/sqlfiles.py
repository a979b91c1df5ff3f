"""A schema in SQL files: one script, or a folder of them as a chain, each a revision."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from invariants.errors import MigrationFailed, UsageError
from invariants.schema.chain import TIMEOUT_SECONDS, Chain, Lineage, Link, Outline, facts_of
from invariants.schema.runner import Say
from invariants.schema.sqlfile import (
    Statement,
    failure_at,
    files_read,
    read_statements,
    run_statement,
)

# What undoes a migration stands beside it, in the ways of the tools that have such files.
_UNDOES = re.compile(r"(\.down|\.undo|_down|\.rollback)\.sql$|^U[0-9][^_]*__", re.IGNORECASE)
# dbmate and goose keep both ways in one file.
_DOWN_MARK = re.compile(r"^--\s*(migrate:down|\+goose\s+Down)\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class SqlFiles:
    """A script, or a folder of scripts in the order of their names, up to `revision`."""

    path: Path
    revision: str = "head"
    timeout_seconds: float = TIMEOUT_SECONDS

    def at(self, revision: str) -> SqlFiles:
        """The same up to another script."""
        return replace(self, revision=revision)

    @property
    def files(self) -> tuple[Path, ...]:
        """The scripts of the whole chain, in order. Raises `UsageError` where there is none."""
        if self.path.is_file():
            return (self.path,)
        if not self.path.is_dir():
            raise UsageError(
                f"--schema {self.path}: no such file or folder; name a .sql file or a folder"
            )
        # Prisma and Supabase have a folder for each migration; sqitch keeps them in deploy/.
        folder = self.path / "deploy" if (self.path / "deploy").is_dir() else self.path
        found = [f for f in folder.rglob("*.sql") if not _UNDOES.search(f.name)]
        if not found:
            raise UsageError(f"--schema {self.path}: holds no .sql file; name the folder with them")
        return tuple(sorted(found, key=lambda f: _order(f.relative_to(folder))))

    def outline(self) -> Outline:
        """The scripts as a chain without a way back."""
        names = _names(self.files, self.path)
        return Outline(
            tuple(
                Link(name, tuple(names[max(0, i - 1) : i]), name.replace("_", " "))
                for i, name in enumerate(names)
            ),
            tuple(names[-1:]),
            undoes=False,
        )

    def step(self, conninfo: str, revision: str) -> None:
        """Run one script alone, on a database that has those before it."""
        files = self.files
        at = _names(files, self.path).index(revision)
        run_script(conninfo, files[at], self.timeout_seconds)

    def read(self) -> Chain:
        """The scripts as a chain: what each is called, and a hash of all that is run."""
        files = self.files
        names = _names(files, self.path)
        applied = self._applied(names)
        digest = hashlib.sha256()
        for file in files[: len(applied)]:
            for part in files_read(file):
                for piece in (part.name.encode(), part.read_bytes()):
                    digest.update(len(piece).to_bytes(8, "big"))
                    digest.update(piece)
        titles = {name: name.replace("_", " ") for name in names}
        return Chain(Lineage(tuple(applied), tuple(names)), titles, digest.hexdigest())

    def fill(self, conninfo: str, say: Say | None = None) -> None:
        """Run the scripts on an empty database, as the superuser.

        Raises `InfrastructureError` with file and line where the server refuses.
        """
        files = self.files
        applied = self._applied(_names(files, self.path))
        for number, file in enumerate(files[: len(applied)], 1):
            if say is not None and number % 50 == 0:
                say(f"schema: {number} of {len(applied)} scripts")
            run_script(conninfo, file, self.timeout_seconds)

    def _applied(self, names: Sequence[str]) -> Sequence[str]:
        if self.revision in ("head", "heads"):
            return names
        found = [n for n in names if n == self.revision] or [
            n for n in names if n.startswith(self.revision)
        ]
        if len(found) != 1:
            shown = ", ".join(names[-20:])
            what = "several scripts begin so" if found else "no such script"
            raise UsageError(f"--revision {self.revision}: {what}; known are head, {shown}")
        return names[: names.index(found[0]) + 1]


def run_script(conninfo: str, path: Path, limit_seconds: float) -> None:
    """Run one script as psql would. Raises `InfrastructureError` naming file and line."""
    statement: Statement | None = None
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"SET statement_timeout = {int(limit_seconds * 1000)}".encode())
        connection.execute("SET client_min_messages = warning")
        try:
            for statement in _up_only(path):
                run_statement(connection, statement)
        except psycopg.Error as error:
            assert statement is not None
            message = (error.diag.message_primary or str(error)).strip().splitlines()[0]
            raise MigrationFailed(
                f"{failure_at(statement, error)}: {message}", facts_of(error)
            ) from error


def _up_only(path: Path) -> list[Statement]:
    """The statements of a script, without the part that undoes them."""
    statements = list(read_statements(path))
    mark = _DOWN_MARK.search(path.read_text(encoding="utf-8-sig"))
    if mark is None:
        return statements
    line = path.read_text(encoding="utf-8-sig").count("\n", 0, mark.start()) + 1
    return [s for s in statements if s.path != path or s.line < line]


def _names(files: Sequence[Path], root: Path) -> list[str]:
    """What each script is called: its stem, with its folder where stems repeat."""
    stems = [f.stem for f in files]
    if len(set(stems)) == len(stems):
        return stems
    return [f.relative_to(root).with_suffix("").as_posix() for f in files]


def _order(path: Path) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Names in the order people mean: V2 before V10, dots and underscores dividing versions."""
    return tuple(
        tuple(
            (0, int(piece), "") if piece.isdigit() else (1, 0, piece.lower())
            for piece in re.split(r"(\d+)", part)
            if piece
        )
        for part in path.parts
    )
