"""Runs Alembic: which revision is meant, what determines its result, up and down.

Nothing here starts a server; a caller passes the conninfo of a database that it owns.
"""

from __future__ import annotations

import hashlib
import io
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from invariants.errors import InfrastructureError, UsageError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

KNOWN_REVISIONS_SHOWN = 20


@dataclass(frozen=True)
class Migrations:
    """A chain of migrations and the revision wanted: an id, a prefix of one, `head` or `heads`."""

    config: Path
    revision: str = "head"


@dataclass(frozen=True)
class Lineage:
    """Where a revision stands: the revisions from base up to it, and all there are."""

    applied: tuple[str, ...]
    known: tuple[str, ...]


def lineage(migrations: Migrations) -> Lineage:
    """Return the revisions that lead to `migrations.revision`, oldest first, and the whole chain.

    Raises UsageError when the configuration file is missing or no such revision exists.
    """
    scripts = _scripts(_config(migrations))
    revision = _resolve(migrations, scripts)
    return Lineage(
        tuple(s.revision for s in scripts.iterate_revisions(revision, "base"))[::-1],
        tuple(s.revision for s in scripts.walk_revisions())[::-1],
    )


def titles(migrations: Migrations) -> Mapping[str, str]:
    """What each revision of the whole chain says it does: the first line of its docstring."""
    scripts = _scripts(_config(migrations))
    return {s.revision: _first_line(s.doc).removesuffix(".") for s in scripts.walk_revisions()}


def fingerprint(migrations: Migrations) -> str:
    """Return a hash over everything in the chain that determines the migrated database.

    Covers the configuration file, every file of the script directory (env.py, helpers, SQL) except
    revisions outside the chain, and the revision id. Not covered: files that a migration reads from
    elsewhere.
    """
    scripts = _scripts(_config(migrations))
    revision = _resolve(migrations, scripts)
    chain = {Path(script.path).resolve() for script in scripts.iterate_revisions(revision, "base")}
    every = {Path(script.path).resolve() for script in scripts.walk_revisions()}
    root = Path(scripts.dir).resolve()
    files = {
        path
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    digest = hashlib.sha256(revision.encode())
    for path in [migrations.config.resolve(), *sorted((files | chain) - (every - chain))]:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        for part in (name.encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()


def upgrade(conninfo: str, migrations: Migrations) -> None:
    """Migrate the database up to `migrations.revision`.

    Raises InfrastructureError naming the revision and file that failed.
    """
    from alembic import command

    config = _config(migrations)
    revision = _resolve(migrations, _scripts(config))
    _run(conninfo, config, lambda: command.upgrade(config, revision))


def downgrade(conninfo: str, migrations: Migrations, target: str) -> None:
    """Migrate the database down to `target`: a revision id or `base`.

    Raises InfrastructureError naming the revision and file that failed.
    """
    from alembic import command

    config = _config(migrations)
    _run(conninfo, config, lambda: command.downgrade(config, target))


def _config(migrations: Migrations) -> Config:
    from alembic.config import Config

    path = migrations.config
    if not path.is_file():
        raise UsageError(f"{path}: no such Alembic configuration; give it with --alembic-config")
    config = Config(path, stdout=io.StringIO())
    location = config.get_main_option("script_location")
    if not location:
        raise UsageError(f"{path}: script_location is not set; name the folder of env.py there")
    # Alembic takes a relative location from the working directory; ours may be any.
    beside = path.resolve().parent / location
    if not Path(location).is_absolute() and ":" not in location and beside.is_dir():
        config.set_main_option("script_location", str(beside).replace("%", "%%"))
    return config


def _scripts(config: Config) -> ScriptDirectory:
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    try:
        scripts = ScriptDirectory.from_config(config)
        scripts.get_heads()  # loads every revision, so that a broken file shows here
    except CommandError as error:
        raise UsageError(f"{config.config_file_name}: {_first_line(error)}") from error
    except Exception as error:
        raise InfrastructureError(
            f"{config.config_file_name}: cannot load the migrations: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    return scripts


def _resolve(migrations: Migrations, scripts: ScriptDirectory) -> str:
    from alembic.script.revision import RevisionError
    from alembic.util import CommandError

    known = [script.revision for script in scripts.walk_revisions()][::-1]
    if not known:
        raise UsageError(f"{migrations.config}: {scripts.versions} holds no revision")
    try:
        found = scripts.get_revisions(migrations.revision)
    except (CommandError, RevisionError):
        found = ()
    if len(found) > 1 or migrations.revision in ("head", "heads"):
        heads = scripts.get_heads()
        if len(heads) > 1:
            raise UsageError(
                f"--revision {migrations.revision}: the chain has several heads "
                f"({', '.join(sorted(heads))}); name one"
            )
    if len(found) != 1 or found[0] is None:
        shown = ", ".join(known[-KNOWN_REVISIONS_SHOWN:])
        more = "" if len(known) <= KNOWN_REVISIONS_SHOWN else ".., "
        raise UsageError(
            f"--revision {migrations.revision}: unknown; known are head, {more}{shown}"
        )
    return str(found[0].revision)


def _run(conninfo: str, config: Config, action: Callable[[], None]) -> None:
    with _connection(conninfo) as connection:
        config.attributes["connection"] = connection
        try:
            action()
            connection.commit()
        except Exception as error:
            raise InfrastructureError(_failure(config, error)) from error


@contextmanager
def _connection(conninfo: str) -> Iterator[Any]:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=NullPool
    )
    with engine.connect() as connection:
        yield connection


def _failure(config: Config, error: Exception) -> str:
    """Say which migration raised `error`: the one whose file is in the traceback."""
    original = getattr(error, "orig", None) or error
    message = _first_line(original)
    if not isinstance(original, psycopg.Error):
        message = f"{type(original).__name__}: {message}"
    frames = [Path(f.filename).resolve() for f in traceback.extract_tb(error.__traceback__)]
    for script in _scripts(config).walk_revisions():
        path = Path(script.path).resolve()
        if path in frames:
            return f"migration {script.revision} ({path.name}) failed: {message}"
    return f"{config.config_file_name}: running the migrations failed: {message}"


def _first_line(told: BaseException | str) -> str:
    return (str(told).strip().splitlines() or [type(told).__name__])[0]
