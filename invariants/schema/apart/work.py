"""What is done with Alembic, in a fork of the process apart: read the chain, go up, go down."""

from __future__ import annotations

import configparser
import hashlib
import io
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError

from invariants.schema.apart import KILLED, variables
from invariants.schema.apart.doors import Doors

Tell = Callable[[dict[str, Any]], None]

KNOWN_REVISIONS_SHOWN = 20
# Counts up whenever the same files may give another database.
FINGERPRINT_FORMAT = b"2"
PYPROJECT = "pyproject.toml"


class Wrong(Exception):
    """The input is wrong: the configuration, or the revision that was asked for."""


def carry_out(order: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Do what is ordered; never raises.

    `tell` is given what is running: `loading` a file, `env` for env.py, `step` a revision, None
    after the last. The answer has one of the keys `done`, `wrong` (the input is) and `failed`.
    """
    config = Path(order["config"])
    try:
        _settle(order, config)
        chain = _Chain(_config(config), tell)
        if order["do"] == "read":
            return {"done": chain.read(order["revision"])}
        if order["do"] == "outline":
            return {"done": chain.outline()}
        if order["do"] == "compare":
            return {"done": {"differences": chain.compare(order["parameters"])}}
        with _watched(order.get("kill_after"), order.get("before_commit")) as count:
            done = chain.migrate(order["do"], order["revision"], order["parameters"])
        return {"done": {**done, "statements": count()}}
    except Wrong as error:
        return {"wrong": str(error)}
    except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are failures too
        return {"failed": _failure(error), "facts": _facts(error)}


def _settle(order: Mapping[str, Any], config: Path) -> None:
    """Be where and what the caller is, but for where databases are."""
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv[:] = ["alembic"]
    folders = dict.fromkeys((Path.cwd(), config.resolve().parent))
    parameters = order["parameters"]
    nowhere = {"host": variables.NOWHERE}
    variables.lead(
        os.environ,
        nowhere if parameters is None else parameters,
        {"PGHOST": variables.NOWHERE} if parameters is None else order["variables"],
        folders,
    )
    Doors(parameters).install()


def _config(path: Path) -> Config:
    """Alembic's configuration, read as Alembic does, but for a `%` in the name of its folder."""
    toml = path if path.suffix == ".toml" else path.resolve().parent / PYPROJECT
    try:
        options = _options_in(toml)
        config = Config(
            None if path == toml else path,
            toml_file=toml if options else None,
            stdout=io.StringIO(),
        )
        here = path.absolute().parent.as_posix()
        config.config_args["here"] = here
        parser = configparser.ConfigParser({"here": here.replace("%", "%%")})
        if path == toml:
            parser.add_section(config.config_ini_section)
        else:
            parser.read_string(path.read_text(encoding="utf-8"), str(path))
        config.file_config = parser
        location = None
        if options or parser.has_section(config.config_ini_section):
            location = config.get_alembic_option("script_location")
    except (configparser.Error, UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
        raise Wrong(
            f"{path}: not a configuration that Alembic can read: {_first_line(error)}"
        ) from error
    except OSError as error:
        raise Wrong(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(location, str) or not location:
        raise Wrong(f"{path}: script_location is not set; name the folder of env.py there")
    # Alembic takes a relative location from the working directory; ours may be any.
    beside = path.resolve().parent / location
    if not Path(location).is_absolute() and ":" not in location and beside.is_dir():
        config.set_main_option("script_location", str(beside).replace("%", "%%"))
    return config


def _options_in(toml: Path) -> Any:
    if not toml.is_file():
        return {}
    return tomllib.loads(toml.read_text(encoding="utf-8")).get("tool", {}).get("alembic", {})


def _scripts(config: Config, name: str) -> ScriptDirectory:
    try:
        return ScriptDirectory.from_config(config)
    except (configparser.Error, ValueError) as error:
        raise Wrong(
            f"{name}: not a configuration that Alembic can read: {_first_line(error)}"
        ) from error


class _Chain:
    """The revisions of a configuration, loaded."""

    def __init__(self, config: Config, tell: Tell) -> None:
        self._config = config
        self._tell = tell
        self._name = config.config_file_name or config.toml_file_name
        try:
            self._scripts = _scripts(config, str(self._name))
            _tell_what_is_loaded(self._scripts, tell)
            self._scripts.get_heads()  # loads every revision, so that a broken file shows here
        except CommandError as error:
            raise Wrong(f"{self._name}: {_first_line(error)}") from error
        except KeyError as error:
            # Alembic names what it misses, and not who asks for it.
            if (gap := _gap(self._scripts)) is None:
                raise
            raise Wrong(f"{self._name}: {gap}") from error
        self._every = tuple(self._scripts.walk_revisions())[::-1]

    def read(self, revision: str) -> dict[str, Any]:
        """All that is asked about a chain: see `invariants.schema.chain.Chain`."""
        wanted = self._resolve(revision)
        applied = tuple(self._scripts.iterate_revisions(wanted, "base"))[::-1]
        return {
            "applied": [s.revision for s in applied],
            "known": [s.revision for s in self._every],
            "titles": {s.revision: _title(s.doc) for s in self._every},
            "fingerprint": self._fingerprint(wanted, applied),
        }

    def outline(self) -> dict[str, Any]:
        """All revisions and what comes before each: see `invariants.schema.chain.Outline`."""
        return {
            "links": [
                {
                    "revision": s.revision,
                    "after": sorted(s._all_down_revisions),
                    "title": _title(s.doc),
                    "idle": [way for way in ("upgrade", "downgrade") if _is_idle(s, way)],
                }
                for s in self._every
            ],
            "heads": sorted(self._scripts.get_heads()),
        }

    def migrate(
        self, direction: str, revision: str, parameters: Mapping[str, str]
    ) -> dict[str, Any]:
        """Run env.py; says at which revision the database then is and what holds that."""
        wanted = "base" if revision == "base" else self._resolve(revision)
        steps = {
            "upgrade": self._scripts._upgrade_revs,
            "downgrade": self._scripts._downgrade_revs,
        }[direction]

        def told(heads: Any, context: MigrationContext) -> Iterator[Any]:
            del context
            for step in steps(wanted, heads):
                script = step.revision
                self._tell({"step": script.revision, "file": Path(script.path).name})
                yield step
            self._tell({"step": None})

        tables = self._run_env(parameters, told, wanted)
        return {"at": None if wanted == "base" else wanted, "tables": tables}

    def compare(self, parameters: Mapping[str, str]) -> list[str] | None:
        """What `alembic revision --autogenerate` would write; None where there are no models."""
        found: list[list[str]] = []

        def told(heads: Any, context: MigrationContext) -> Iterator[Any]:
            del heads
            metadata: Any = context.opts.get("target_metadata")
            some = metadata if isinstance(metadata, list | tuple) else [metadata]
            # Of several databases, the first: here all of them are one.
            if not found and any(m is not None and m.tables for m in some):
                found.append([_spelled(d) for d in compare_metadata(context, metadata)])
            return iter(())

        self._run_env(parameters, told, None)
        return found[0] if found else None

    def _run_env(
        self, parameters: Mapping[str, str], told: Callable[..., Iterator[Any]], wanted: str | None
    ) -> list[tuple[str | None, str]]:
        """Run env.py; returns which tables hold the revision."""
        tables: list[tuple[str | None, str]] = []
        with _connection(parameters) as connection:
            self._config.attributes["connection"] = connection
            self._tell({"env": True})
            environment = EnvironmentContext(
                self._config, self._scripts, fn=told, as_sql=False, destination_rev=wanted
            )
            with _noting_version_tables(environment, tables):
                self._scripts.run_env()
            connection.commit()
        return tables

    def _resolve(self, revision: str) -> str:
        known = [script.revision for script in self._every]
        if not known:
            raise Wrong(f"{self._name}: {self._scripts.versions} holds no revision")
        found: tuple[Script | None, ...] = ()
        if revision.strip():
            try:
                found = self._scripts.get_revisions(revision)
            except (CommandError, RevisionError, AssertionError, ValueError):
                found = ()
        heads = self._scripts.get_heads()
        if len(heads) > 1 and (len(found) > 1 or revision in ("head", "heads")):
            raise Wrong(
                f"--revision {revision}: the chain has several heads "
                f"({', '.join(sorted(heads))}); name one"
            )
        if len(found) != 1 or found[0] is None:
            shown = ", ".join(known[-KNOWN_REVISIONS_SHOWN:])
            more = "" if len(known) <= KNOWN_REVISIONS_SHOWN else ".., "
            named = revision if revision.strip() and revision.isprintable() else repr(revision)
            raise Wrong(f"--revision {named}: unknown; known are head, {more}{shown}")
        return str(found[0].revision)

    def _fingerprint(self, wanted: str, applied: Iterable[Script]) -> str:
        chain = {Path(script.path).resolve() for script in applied}
        every = {Path(script.path).resolve() for script in self._every}
        root = Path(self._scripts.dir).resolve()
        files = {
            path
            for path in root.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
        }
        digest = hashlib.sha256(FINGERPRINT_FORMAT + wanted.encode())
        configured = [
            Path(name).resolve()
            for name in (self._config.config_file_name, self._config.toml_file_name)
            if name
        ]
        for path in [*configured, *sorted((files | chain) - (every - chain))]:
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
            for part in (name.encode(errors="surrogateescape"), path.read_bytes()):
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
        return digest.hexdigest()


def _spelled(difference: Any) -> str:
    """A difference that autogenerate found, in a line: what it would do, and to what."""
    if isinstance(difference, list):
        return "; ".join(_spelled(d) for d in difference)
    what, *parts = difference
    if what.startswith("modify_"):
        schema, table, column = parts[:3]
    else:
        thing = parts[-1]
        owner = parts[1] if len(parts) == 3 else getattr(getattr(thing, "table", None), "name", "")
        schema = parts[0] if len(parts) == 3 else getattr(thing, "schema", None)
        table, column = owner, getattr(thing, "name", None) or "unnamed"
    name = ".".join(str(part) for part in (schema, table, column) if part)
    return f"{what.replace('_', ' ')} {name}"


def _gap(scripts: ScriptDirectory) -> str | None:
    """A revision that comes after one that is not there, in words."""
    every = list(scripts._load_revisions())
    known = {s.revision for s in every}
    for script in every:
        for below in script._versioned_down_revisions:
            if below not in known:
                return (
                    f"{Path(script.path).name} comes after {below}, which is not there; restore "
                    "that revision, or mend down_revision"
                )
    return None


def _is_idle(script: Script, way: str) -> bool:
    """Whether a revision has nothing to do on one way: its function names nothing at all."""
    code = getattr(getattr(script.module, way, None), "__code__", None)
    return code is None or not (code.co_names or code.co_freevars)


def _noting_version_tables(
    environment: EnvironmentContext, tables: list[tuple[str | None, str]]
) -> EnvironmentContext:
    """Note which tables env.py keeps the revision in.

    An env.py of several databases migrates them one after the other, within open transactions.
    Here all of them are one database, so each but the first keeps its revision for itself.
    """
    urls: list[str] = []
    configure = environment.configure

    def configure_noting(connection: Any = None, *arguments: Any, **named: Any) -> None:
        url = str(connection.engine.url) if connection is not None else ""
        own = bool(urls) and url not in urls
        urls.append(url)
        if own:
            named["version_table_schema"] = "pg_temp"
        configure(connection, *arguments, **named)
        if not own:
            context = environment.get_context()
            tables.append((context.version_table_schema, context.version_table))

    # Not a subclass: the functions of `alembic.context` are made for this very class.
    environment.configure = configure_noting  # type: ignore[method-assign]
    return environment


@contextmanager
def _watched(kill_after: int | None, before_commit: str | None) -> Iterator[Callable[[], int]]:
    """Count the statements that any connection sends, and be gone right after so many.

    `before_commit` is sent on each connection that is to commit.
    """
    from sqlalchemy import Engine, event

    sent = 0

    def note(*_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == kill_after:
            os._exit(KILLED)

    def commits(connection: Any) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(before_commit)
        cursor.close()

    watched: list[tuple[str, Callable[..., None]]] = [("after_cursor_execute", note)]
    if before_commit:
        watched.append(("commit", commits))
    for name, listener in watched:
        event.listen(Engine, name, listener)
    try:
        yield lambda: sent
    finally:
        for name, listener in watched:
            event.remove(Engine, name, listener)


@contextmanager
def _connection(parameters: Mapping[str, str]) -> Iterator[Any]:
    """What env.py finds in `config.attributes["connection"]`."""
    import psycopg
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**parameters),  # type: ignore[arg-type]
        poolclass=NullPool,
    )
    with engine.connect() as connection:
        yield connection


def _tell_what_is_loaded(scripts: ScriptDirectory, tell: Tell) -> None:
    """Name each file of the chain as it is run: one that ends the process cannot be asked."""
    folders = [
        os.path.abspath(f) + os.sep  # noqa: PTH100
        for f in (scripts.dir, *(scripts.version_locations or ()))
    ]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "exec":
            name = os.path.abspath(getattr(arguments[0], "co_filename", "?"))  # noqa: PTH100
            if name.startswith(tuple(folders)):
                tell({"loading": Path(name).name})

    sys.addaudithook(audit)


def _failure(error: BaseException) -> str:
    """What went wrong, in one line: the server's own words where there are some."""
    import psycopg

    original = getattr(error, "orig", None) or error
    message = _first_line(original)
    if isinstance(original, psycopg.Error):
        return message
    name = type(original).__name__
    return name if message == name else f"{name}: {message}"


def _facts(error: BaseException) -> dict[str, str]:
    """What the server said of it."""
    import psycopg

    from invariants.schema.chain import facts_of

    original = getattr(error, "orig", None) or error
    if isinstance(original, psycopg.Error):
        return facts_of(original)
    sqlstate = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return {"sqlstate": str(sqlstate)} if sqlstate else {}


def _first_line(told: BaseException | str) -> str:
    return (str(told).strip().splitlines() or [type(told).__name__])[0]


def _title(doc: str | None) -> str:
    return _first_line(doc).removesuffix(".") if doc and doc.strip() else ""
