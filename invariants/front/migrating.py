"""The command `invariants migrations`: is the chain itself safe, on data and on the way?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from invariants import options
from invariants.front.outlets import ensure_json, tell

DESCRIPTION = """\
Take the chain of migrations step by step, up and down, on rows that the contract permits, and say
what is lost, refused, blocked or broken on the way.

  upgrade    fails on lawful rows: a key that becomes narrower, a value that has no place any more
  data       rows or values are not what they were, and [migrations.revisions.REV] does not say so
  downgrade  fails on what clients have written since, or loses what the contract does not say
  owner      the plain owner of the database ([migrations] owner) comes to another result than a
             superuser: under forced policies a backfill sees no rows
  chain      several heads; a downgrade that does not undo its upgrade
  locks      a table is rewritten or scanned while clients wait, or a lock is held for too long
  clients    what clients of the revision before were permitted is refused after it
  killed     killed between two statements, the migration cannot be run again

Each revision is tried on a database of its own, on a server of our own; nothing else is touched.
A folder of SQL files (--schema FOLDER) is a chain without a way back.

exit status: 0 nothing was found that the contract does not accept, 1 something was, 2 the input is
wrong, 3 the server or a migration failed by itself"""

EXAMPLES = """\
examples:
  invariants migrations                              the whole chain
  invariants migrations --since 202511141311         what comes after the base branch's head
  invariants migrations --from REV --to REV          some of it, both included
  invariants migrations --invariant upgrade --invariant data
  invariants migrations --schema db/migrate --json out.json"""

FIRST = options.Option("from", "the first revision to try (default: the oldest)", "REV")
LAST = options.Option("to", "the last revision to try (default: head)", "REV", default="head")
SINCE = options.Option("since", "try the revisions that come after this one", "REV")
OPTIONS = (
    FIRST,
    LAST,
    SINCE,
    options.PROFILE,
    options.SEED,
    options.TIME_BUDGET,
    options.SERVER,
    options.DISPOSABLE_SERVER,
    options.SCHEMA_SOURCE,
    options.BEFORE,
    options.ALEMBIC_CONFIG,
    options.MIGRATION_TIMEOUT,
    options.NO_CACHE,
    options.CONTRACT,
    options.ARTIFACTS,
    options.BASELINE,
)


def add_to(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    from invariants.migrations.finding import KINDS

    options.add_invariant(parser, "only this kind (repeatable)", KINDS)
    options.add_to(parser, OPTIONS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the verdicts")
    parser.set_defaults(command=_migrations)


def _migrations(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import write
    from invariants.migrations.run import MigrationsOptions, migrations
    from invariants.reports.migrations import result_to_json, verdict
    from invariants.reports.terminal import Terminal

    values = options.values(OPTIONS, lambda o: getattr(given, o.key))
    chosen = MigrationsOptions(
        first=values.pop("from"),
        last=values.pop("to"),
        since=values.pop("since"),
        **values,
        invariants=tuple(given.invariant),
    )
    ensure_json(given.json)
    with Terminal(quiet=given.quiet) as terminal:
        result = migrations(chosen, terminal, terminal.say)
        try:
            if given.json is not None:
                write(given.json, json.dumps(result_to_json(result), indent=2) + "\n")
        finally:
            verdict(terminal, result)
    if result.report.fault:
        tell(result.report.fault)
    return result.exit_status
