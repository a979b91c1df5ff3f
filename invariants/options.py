"""Options, declared once: the command line, pytest and `INVARIANTS_*` variables read this list."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from invariants.errors import UsageError


@dataclass(frozen=True)
class Profile:
    """A budget: examples for each invariant, and seconds for the whole run.

    `seeds` are searched besides the run's own: what they find does not depend on luck. `sessions`
    is how many go on side by side at most.
    """

    examples: int
    seconds: float
    what: str
    seeds: tuple[int, ...] = ()
    sessions: int = 2


PROFILES: Mapping[str, Profile] = {
    "dev": Profile(300, 60, "a look while you work"),
    "ci": Profile(900, 110, "every pull request"),
    "nightly": Profile(1_000_000, 1200, "as much as fits into twenty minutes", sessions=3),
    "release": Profile(10_000, 300, "before a release", (1, 2, 3), sessions=3),
}


@dataclass(frozen=True)
class Option:
    """One option. `flag` is its name without dashes; pytest puts `invariants-` before it."""

    flag: str
    help: str
    metavar: str
    parse: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] | None = None
    many: bool = False
    # It is given or not, without a value.
    switch: bool = False

    @property
    def key(self) -> str:
        """The attribute it is kept under."""
        return self.flag.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"INVARIANTS_{self.key.upper()}"


def yes_or_no(text: str) -> bool:
    """Yes or no."""
    word = text.strip().lower()
    if word in ("1", "yes", "true", "on"):
        return True
    if word in ("0", "no", "false", "off"):
        return False
    raise ValueError


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def sessions(text: str) -> int:
    """0 (none side by side), 2 or 3."""
    number = int(text)
    if number not in (0, 2, 3):
        raise ValueError
    return number


def seconds(text: str) -> float:
    """A duration of more than nothing, in seconds."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


SERVER = Option(
    "server",
    "where PostgreSQL comes from: auto, container[:TAG], embedded[:MAJOR], or the URL of a server "
    "on which databases may be created (default: auto)",
    "auto|container|embedded|URL",
    default="auto",
)
DISPOSABLE_SERVER = Option(
    "disposable-server",
    "nothing on the server of the URL is to be kept: migrations, patches and mutants may alter its "
    "roles, settings and other databases",
    "",
    yes_or_no,
    default=False,
    switch=True,
)
REVISION = Option(
    "revision",
    "the migration to test: head, a revision id, or a name from [revisions] in the contract "
    "(default: head)",
    "REV",
    default="head",
)
SCHEMA_SOURCE = Option(
    "schema",
    "where the schema comes from: alembic.ini (the default where it is there), a .sql file, a "
    "folder of .sql files in the order of their names, 'command:SHELL COMMAND' (any tool; it gets "
    "DATABASE_URL and PG*), or the URL of a database whose schema is copied, read only",
    "SOURCE",
)
BEFORE = Option(
    "before",
    "run this script first, as the superuser: roles, extensions, stubs of a platform (repeatable)",
    "FILE",
    Path,
    default=(),
    many=True,
)
WITH_DATA = Option(
    "with-data",
    "copy the rows of this table too, where --schema is a URL: tables of codes (repeatable)",
    "TABLE",
    default=(),
    many=True,
)
NO_CACHE = Option(
    "no-cache",
    "make the schema anew: neither take it from the cache nor keep it there",
    "",
    parse=lambda text: text.lower() in ("1", "true", "yes", "on"),
    default=False,
    switch=True,
)
APPLY_SQL = Option(
    "apply-sql",
    "run this script on the migrated schema first, as the superuser: what if we shipped this "
    "patch? (repeatable)",
    "FILE",
    Path,
    default=(),
    many=True,
)
ALEMBIC_CONFIG = Option(
    "alembic-config",
    "the Alembic configuration (default: alembic.ini)",
    "FILE",
    Path,
    Path("alembic.ini"),
)
MIGRATION_TIMEOUT = Option(
    "migration-timeout",
    "seconds that one migration, or one patch of --apply-sql, may take (default: 600)",
    "SECONDS",
    seconds,
    600.0,
)
CONTRACT = Option(
    "contract",
    "what the schema promises (default: invariants.toml)",
    "FILE",
    Path,
    Path("invariants.toml"),
)
ARTIFACTS = Option(
    "artifacts",
    "where counterexamples are kept (default: artifacts)",
    "DIR",
    Path,
    Path("artifacts"),
)
PROFILE = Option(
    "profile",
    "the budget: " + "; ".join(f"{n}: {p.what}" for n, p in PROFILES.items()) + " (default: dev)",
    "dev|ci|nightly|release",
    default="dev",
    choices=tuple(PROFILES),
)
SEED = Option(
    "seed", "repeat the run with this seed (default: a new one, which is printed)", "N", int
)
MAX_EXAMPLES = Option(
    "max-examples", "workloads for each invariant (default: the profile's)", "N", positive
)
TIME_BUDGET = Option(
    "time-budget", "seconds for the whole search (default: the profile's)", "SECONDS", seconds
)
SESSIONS = Option(
    "sessions",
    "sessions that go on side by side at most: 0 leaves concurrency out, else 2 or 3 "
    "(default: the profile's)",
    "N",
    sessions,
)

JOBS = Option("jobs", "mutants hunted at once (default: one a core)", "N", positive, 0)
MUTANT_BUDGET = Option(
    "mutant-budget", "seconds for one mutant at most (default: 15)", "SECONDS", seconds, 15.0
)
EQUIVALENTS = Option(
    "equivalents",
    "the mutants that no invariant can notice, with reasons (default: mutants.toml)",
    "FILE",
    Path,
    Path("mutants.toml"),
)

SOURCE = (SCHEMA_SOURCE, BEFORE, WITH_DATA, ALEMBIC_CONFIG, MIGRATION_TIMEOUT, NO_CACHE)
SCHEMA = (SERVER, DISPOSABLE_SERVER, REVISION, APPLY_SQL, *SOURCE, CONTRACT)
INIT = (SERVER, DISPOSABLE_SERVER, REVISION, *SOURCE, CONTRACT)
REPORT = Option(
    "report",
    "where gate.json, gate.xml (JUnit) and gate.md are written (default: report)",
    "DIR",
    Path,
    Path("report"),
)
COUNTEREXAMPLES = Option(
    "counterexamples",
    "the kept counterexamples, which must hold (default: tests/counterexamples)",
    "DIR",
    Path,
    Path("tests/counterexamples"),
)
GATE_PROFILE = replace(
    PROFILE, default="release", help=PROFILE.help.replace("default: dev", "default: release")
)

BASELINE = Option(
    "baseline",
    "known causes, which are listed and do not fail: a file that `invariants baseline` writes",
    "FILE",
    Path,
)
SEARCH = (PROFILE, SEED, MAX_EXAMPLES, TIME_BUDGET, SESSIONS, *SCHEMA, ARTIFACTS)
RUN = (*SEARCH, BASELINE)
OF_MUTANTS = (JOBS, MUTANT_BUDGET, EQUIVALENTS)
MUTANTS = (
    *OF_MUTANTS,
    SEED,
    replace(SESSIONS, help=SESSIONS.help.replace("the profile's", "2")),
    *SCHEMA,
    ARTIFACTS,
)
OF_GATE = (REPORT, COUNTEREXAMPLES, *OF_MUTANTS)
GATE = (REPORT, COUNTEREXAMPLES, GATE_PROFILE, *RUN[1:], *OF_MUTANTS)


@dataclass(frozen=True)
class SchemaOptions:
    """Which schema, on which server."""

    server: str = "auto"
    disposable_server: bool = False
    revision: str = "head"
    apply_sql: tuple[Path, ...] = ()
    schema: str | None = None
    before: tuple[Path, ...] = ()
    with_data: tuple[str, ...] = ()
    alembic_config: Path = Path("alembic.ini")
    migration_timeout: float = 600.0
    no_cache: bool = False
    contract: Path = Path("invariants.toml")


@dataclass(frozen=True)
class RunOptions(SchemaOptions):
    """A whole run. `seed` None draws a new one."""

    profile: str = "dev"
    seed: int | None = None
    max_examples: int | None = None
    time_budget: float | None = None
    sessions: int | None = None
    artifacts: Path = Path("artifacts")
    baseline: Path | None = None
    invariants: tuple[str, ...] = field(default=())
    # Leaves the profile's fixed seeds out: they are known to hold.
    fresh_only: bool = False

    @property
    def fixed_seeds(self) -> tuple[int, ...]:
        """Seeds that are searched besides the run's own."""
        return () if self.fresh_only else PROFILES[self.profile].seeds

    @property
    def examples(self) -> int:
        """Workloads for each invariant."""
        return self.max_examples or PROFILES[self.profile].examples

    @property
    def at_once(self) -> int:
        """Sessions that go on side by side at most; 0 when none do."""
        return PROFILES[self.profile].sessions if self.sessions is None else self.sessions

    @property
    def seconds(self) -> float:
        """Seconds for the whole search."""
        return self.time_budget or PROFILES[self.profile].seconds


def values(
    options: Sequence[Option], given: Callable[[Option], Any], *, prefix: str = ""
) -> dict[str, Any]:
    """Parsed values: what was given, else the environment variable, else the default.

    Raises `UsageError` naming the option or the variable.
    """
    return {o.key: _value(o, given(o), prefix) for o in options}


def schema_arguments(options: SchemaOptions) -> str:
    """What to add to a command so that it meets the same schema: nothing, or a space and options.

    The server is left out: its URL may hold a password, and any server shows a counterexample.
    """
    words = []
    for option in SCHEMA:
        value = getattr(options, option.key)
        if option.switch or option is SERVER or value == option.default:
            continue
        if option is SCHEMA_SOURCE and "://" in value:
            # It may hold a password.
            words += ["--schema", "URL"]
        else:
            for one in value if option.many else (value,):
                words += [f"--{option.flag}", str(one)]
    return "".join(f" {shlex.quote(word)}" for word in words)


def with_prefix(text: str, prefix: str) -> str:
    """A message about options of the command line, told in pytest's words."""
    flags = "|".join(o.flag for o in RUN)
    return re.sub(rf"(?<![\w-])--({flags})(?![\w-])", rf"--{prefix}\1", text)


def _value(option: Option, given: Any, prefix: str) -> Any:
    source = f"--{prefix}{option.flag}"
    if given is None or given == []:
        text = os.environ.get(option.variable)
        if not text:
            return option.default
        given, source = (text.split(os.pathsep) if option.many else text), option.variable
    if option.many:
        return tuple(_parsed(option, source, g) for g in given)
    return _parsed(option, source, given)


def _parsed(option: Option, source: str, text: Any) -> Any:
    if not isinstance(text, str):
        return text
    if option.choices and text not in option.choices:
        raise UsageError(
            f"{source}: {text!r} is not known; use one of: {', '.join(option.choices)}"
        )
    try:
        return option.parse(text)
    except ValueError:
        what = re.sub(r"\.$", "", (option.parse.__doc__ or "a whole number").split("\n")[0]).lower()
        if option.parse is int:
            what = "a whole number"
        raise UsageError(f"{source}: {text!r} is not {what}") from None


def add_to(parser: argparse.ArgumentParser, options: Sequence[Option]) -> None:
    """Declare options on a command; values stay text, `values` parses them."""
    declare(parser.add_argument, options)


def add_invariant(parser: argparse.ArgumentParser, what: str, names: Iterable[str]) -> None:
    """Declare `--invariant`, of these names."""
    parser.add_argument(
        "--invariant",
        action="append",
        default=[],
        metavar="NAME",
        help=f"{what}: {', '.join(names)}",
    )


def declare(add: Callable[..., object], options: Sequence[Option], *, prefix: str = "") -> None:
    """Declare options with argparse's or pytest's way to add one."""
    for option in options:
        how: dict[str, Any] = {"metavar": option.metavar}
        if option.switch:
            how = {"action": "store_true"}
        elif option.many:
            how["action"] = "append"
        add(
            f"--{prefix}{option.flag}",
            dest=f"{prefix}{option.flag}".replace("-", "_"),
            help=option.help.replace("%", "%%"),
            default=None,
            **how,
        )
