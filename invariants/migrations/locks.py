"""locks: tables that are rewritten or scanned while clients wait, and locks held for too long.

Event triggers on the scratch database note, at each DDL statement, which locks the migrating
session has and how often it has scanned each table; the session notes the same before it commits.
Another session watches how long it holds what stops readers or writers.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from invariants.errors import MigrationFailed
from invariants.migrations import rows
from invariants.migrations.finding import Finding
from invariants.migrations.stage import Stage, snapshot
from invariants.servers.base import connect
from invariants.servers.environment import Scratch

_POLL_SECONDS = 0.01
_RUNS = 3
# Whoever holds one of these keeps others from writing, the last one from reading too.
BLOCKING = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
_STOPS = {"AccessExclusiveLock": "readers and writers"}

# Tables that have rows, with the file that holds them: another file is a rewrite.
_TABLES = """
SELECT c.oid, CASE n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END,
       pg_relation_filenode(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""

_NOTING = """
CREATE SCHEMA {s};
CREATE TABLE {s}.noted (
    number bigint GENERATED ALWAYS AS IDENTITY, event text, tag text, relation oid,
    scans bigint, mode text, transaction bigint);
CREATE FUNCTION {s}.note(event text, tag text) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog AS $note$
    INSERT INTO {s}.noted (event, tag, relation, scans, mode, transaction)
    SELECT event, tag, t.relid, coalesce(t.seq_scan, 0),
           (SELECT l.mode FROM pg_locks l
            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND l.relation = t.relid AND l.mode = ANY ({modes})
            ORDER BY array_position({modes}, l.mode) DESC LIMIT 1),
           txid_current()
    FROM pg_stat_xact_user_tables t WHERE t.relid = ANY ({relations}::oid[])
$note$;
GRANT USAGE ON SCHEMA {s} TO PUBLIC;
CREATE FUNCTION {s}.on_ddl() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $on$
BEGIN PERFORM {s}.note(TG_EVENT, TG_TAG); END $on$;
CREATE EVENT TRIGGER {s}_start ON ddl_command_start EXECUTE FUNCTION {s}.on_ddl();
CREATE EVENT TRIGGER {s}_end ON ddl_command_end EXECUTE FUNCTION {s}.on_ddl();
"""

_HELD = """
SELECT l.relation, l.mode FROM pg_locks l
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid() AND l.mode = ANY (%s)
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True)
class Measured:
    """What a step did: tables rewritten, and scanned, with the statement and what that stopped."""

    rewritten: tuple[str, ...]
    scanned: Mapping[str, tuple[str, str]]
    # The longest that a lock was held, in seconds, with its mode.
    held: Mapping[str, tuple[float, str]]


def blocking(stage: Stage) -> Iterator[Finding]:
    """Take the step on a database with rows, and measure."""
    if stage.before is None:
        return
    try:
        first = measured(stage)
    except MigrationFailed:
        return  # told by another kind
    revision = stage.step.revision
    for table in first.rewritten:
        yield Finding(
            "locks",
            revision,
            f"{table}/rewritten",
            f"all rows of {table} are written anew while nobody can read or write them",
            "expand and contract: a new column, filled in batches, then the old one dropped",
        )
    for table, (tag, mode) in first.scanned.items():
        if table in first.rewritten:
            continue
        yield Finding(
            "locks",
            revision,
            f"{table}/scanned",
            f"{tag} goes through all rows of {table} while {_stopped(mode)} wait ({mode})",
            "constraints: ADD .. NOT VALID, then VALIDATE CONSTRAINT in a transaction of its own; "
            "indexes: CREATE INDEX CONCURRENTLY; rows: in batches, each committed",
        )
    budget = stage.contract.migrations.blocks_at_most_ms / 1000
    long = {t for t, (seconds, _) in first.held.items() if seconds > budget}
    runs = [first]
    while long and len(runs) < _RUNS:
        runs.append(measured(stage))
        long = {t for t in long if runs[-1].held.get(t, (0.0, ""))[0] > budget}
    for table in sorted(long):
        seconds, mode = min((r.held[table] for r in runs), key=lambda held: held[0])
        yield Finding(
            "locks",
            revision,
            f"{table}/held",
            f"{_stopped(mode)} of {table} wait for {seconds * 1000:.0f} ms ({mode}), in each of "
            f"{_RUNS} runs; the contract allows {budget * 1000:.0f} ms",
            "do less in one transaction: batches, CONCURRENTLY, NOT VALID and VALIDATE apart",
        )


def _stopped(mode: str) -> str:
    return _STOPS.get(mode, "writers")


def measured(stage: Stage) -> Measured:
    """Take the step once. Raises `MigrationFailed`."""
    with stage.loaded() as scratch:
        schema = f"invariants_{secrets.token_hex(6)}"
        with connect(scratch.conninfo) as connection:
            tables = _with_rows(connection)
            modes = "ARRAY[" + ", ".join(f"'{m}'" for m in BLOCKING) + "]"
            relations = "'{" + ",".join(str(oid) for oid in tables) + "}'"
            connection.execute(_NOTING.format(s=schema, modes=modes, relations=relations).encode())
        with _watching(scratch) as held:
            stage.course.up(
                stage.shelf.migrator(scratch),
                stage.step,
                before_commit=f"SELECT {schema}.note('commit', 'a statement of the revision')",
            )
        with connect(scratch.conninfo) as connection:
            noted = connection.execute(
                f"SELECT event, tag, relation, scans, mode, transaction FROM {schema}.noted"
                " ORDER BY number".encode()
            ).fetchall()
            now = {row[0]: row[2] for row in connection.execute(_TABLES.encode())}
        there = stage.noted.there
        if there is not None:
            names = rows.Names.after(stage.declared.renames, there)
            stage.noted.once_more = snapshot(scratch, there, names)
    return Measured(
        tuple(name for oid, (name, node) in tables.items() if oid in now and now[oid] != node),
        _scanned({oid: name for oid, (name, _) in tables.items()}, noted),
        {tables[oid][0]: longest for oid, longest in held.longest.items() if oid in tables},
    )


def _with_rows(connection: psycopg.Connection) -> Mapping[int, tuple[str, int]]:
    """Tables with rows: their names and files."""
    found = {}
    for oid, name, node in connection.execute(_TABLES.encode()).fetchall():
        (there,) = connection.execute(
            f"SELECT EXISTS (SELECT FROM {_regclass(connection, oid)})".encode()
        ).fetchone() or (False,)
        if there:
            found[oid] = (name, node)
    return found


def _regclass(connection: psycopg.Connection, oid: int) -> str:
    (name,) = connection.execute("SELECT %s::oid::regclass::text", [oid]).fetchone() or ("",)
    return str(name)


def _scanned(
    tables: Mapping[int, str], noted: list[tuple[str, str, int, int, str | None, int]]
) -> Mapping[str, tuple[str, str]]:
    """Tables that were scanned under a lock: by a statement of DDL that has it at its end, or by
    another after it was taken."""
    found: dict[str, tuple[str, str]] = {}
    before: dict[tuple[int, int], tuple[int, str | None]] = {}
    for event, tag, oid, scans, mode, transaction in noted:
        # Scans are counted, and locks held, by transaction.
        last, had = before.get((oid, transaction), (0, None))
        under = mode if event == "ddl_command_end" else had
        if scans > last and under is not None and oid in tables:
            found.setdefault(tables[oid], (tag, under))
        before[oid, transaction] = (scans, mode)
    return found


@dataclass
class _Held:
    """The longest that a lock on each table was held."""

    longest: dict[int, tuple[float, str]] = field(default_factory=dict)


@contextmanager
def _watching(scratch: Scratch) -> Iterator[_Held]:
    """Look at the locks of others every few milliseconds, for a `with` statement."""
    seen, over = _Held(), threading.Event()
    first: dict[int, tuple[float, str]] = {}

    def watch() -> None:
        with psycopg.connect(scratch.conninfo, autocommit=True) as connection:
            while not over.is_set():
                now = time.monotonic()
                held = {r[0]: r[1] for r in connection.execute(_HELD, [list(BLOCKING)])}
                for oid in [o for o in first if o not in held]:
                    del first[oid]
                for oid, mode in held.items():
                    since, strongest = first.setdefault(oid, (now, mode))
                    if BLOCKING.index(mode) > BLOCKING.index(strongest):
                        strongest = mode
                        first[oid] = (since, mode)
                    if now - since >= seen.longest.get(oid, (0.0, ""))[0]:
                        seen.longest[oid] = (now - since, strongest)
                over.wait(_POLL_SECONDS)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
