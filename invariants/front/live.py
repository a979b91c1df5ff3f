"""The commands that look at a database in use: `invariants drift`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from invariants import options
from invariants.errors import EXIT_HELD, EXIT_VIOLATED
from invariants.front.outlets import ensure_json
from invariants.options import SchemaOptions

DRIFT = """\
Compare a database that is in use with what its revision (its alembic_version) makes of an empty
one, and name every difference: a grant, a policy, a trigger that is switched off, an owner, a
default, an index that is invalid, what a function says, what the contract's roles are.

The database is read in one read-only transaction, with no lock above ACCESS SHARE and none waited
for longer than a second; nothing is written to it. Whoever ran the migrations there, the owner of
alembic_version, stands for whoever runs them here. Who may connect is not compared.

exit status: 0 as the chain makes it, 1 there are differences, 2 the input is wrong, 3 the server or
a migration failed"""

DRIFT_EXAMPLES = """\
examples:
  invariants drift postgresql://reader@host/shop
  invariants drift URL --json drift.json
  invariants drift URL --schema db/migrate           a folder of .sql files
  invariants drift URL --revision head               against the newest"""

_AT = replace(
    options.REVISION,
    help="the revision to compare with (default: what alembic_version says; of SQL files the last)",
    default=None,
)
_OF_DRIFT = (
    options.SERVER,
    options.DISPOSABLE_SERVER,
    _AT,
    options.SCHEMA_SOURCE,
    options.BEFORE,
    options.ALEMBIC_CONFIG,
    options.MIGRATION_TIMEOUT,
    options.NO_CACHE,
    options.CONTRACT,
)


def add_drift(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `drift`."""
    parser.add_argument("url", metavar="URL", help="the database: postgresql://USER@HOST/DATABASE")
    options.add_to(parser, _OF_DRIFT)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the differences as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="names and verdict only")
    parser.set_defaults(command=_drift)


def _drift(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import write
    from invariants.live.drift import drift
    from invariants.reports.live import drift_to_json, told_drift
    from invariants.reports.terminal import Terminal

    values = options.values(_OF_DRIFT, lambda o: getattr(given, o.key))
    revision = values.pop("revision")
    ensure_json(given.json)
    with Terminal(quiet=given.quiet) as terminal:
        result = drift(given.url, SchemaOptions(**values), revision, terminal.say)
        if given.json is not None:
            write(given.json, json.dumps(drift_to_json(result), indent=2) + "\n")
        told_drift(terminal, result)
    return EXIT_VIOLATED if result.differences else EXIT_HELD
