"""The commands about databases in use: `invariants drift`, `snapshot` and `audit`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from invariants import options
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_VIOLATED, UsageError
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

SNAPSHOT = """\
Write the catalog that the migrations make as a text file, one block an object, which belongs into
the repository: its difference in a pull request shows what a revision really changes. The text is
the same whichever server, major version and role made it.

exit status: 0 it is written, or with --check up to date, 1 with --check it is not, 2 the input is
wrong, 3 the server or a migration failed"""

SNAPSHOT_EXAMPLES = """\
examples:
  invariants snapshot                                writes schema.snapshot.txt beside the contract
  invariants snapshot --check                        in CI: is it up to date?
  invariants snapshot --schema db/migrate --output db/catalog.txt"""

AUDIT = """\
Ask the rows of a database that is in use whether it has leaked or gone wrong already: references
across tenants and to rows that are not there, sums, unknown codes, keys that stand twice, nets
below zero, keys that name personal data, each with the number of rows and the keys of some.

The database is read in one read-only transaction, tables in batches; nothing is written to it. The
role must see all rows: what row security hides from it is not judged, and said.

exit status: 0 nothing is amiss, 1 something is, 2 the input is wrong, 3 something was not judged"""

AUDIT_EXAMPLES = """\
examples:
  invariants audit postgresql://auditor@host/shop
  invariants audit URL --json audit.json"""

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


def add_audit(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `audit`."""
    parser.add_argument("url", metavar="URL", help="the database: postgresql://USER@HOST/DATABASE")
    options.add_to(parser, (options.CONTRACT,))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the answers as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="what is amiss and verdict only")
    parser.set_defaults(command=_audit)


def add_snapshot(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `snapshot`."""
    options.add_to(parser, options.INIT)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the snapshot (default: schema.snapshot.txt beside the contract)",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; say whether it is up to date"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="only the verdict")
    parser.set_defaults(command=_snapshot)


def _snapshot(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import write
    from invariants.live.snapshot import NAME, read, take
    from invariants.reports.terminal import Terminal

    wanted = SchemaOptions(**options.values(options.INIT, lambda o: getattr(given, o.key)))
    path = given.output or wanted.contract.parent / NAME
    if given.check:
        read(path)
    elif path.is_dir():
        raise UsageError(f"--output {path}: is a folder; name a file")
    with Terminal(quiet=given.quiet) as terminal:
        taken = take(wanted, terminal.say)
        if not given.check:
            write(path, taken.text)
            terminal.out.print(f"{path}: revision {taken.revision}")
            return EXIT_HELD
        difference = taken.difference(path)
        if not given.quiet:
            for line in difference:
                terminal.out.print(line)
        if difference:
            terminal.out.print(
                f"{path}: is not up to date; run `invariants snapshot` and review the difference",
                style="bold red",
            )
            return EXIT_VIOLATED
        terminal.out.print(f"{path}: up to date, revision {taken.revision}", style="bold green")
    return EXIT_HELD


def _audit(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import write
    from invariants.live.audit import audit
    from invariants.reports.live import audit_to_json, told_audit
    from invariants.reports.terminal import Terminal

    values = options.values((options.CONTRACT,), lambda o: getattr(given, o.key))
    ensure_json(given.json)
    with Terminal(quiet=given.quiet) as terminal:
        result = audit(given.url, SchemaOptions(**values), terminal.say)
        if given.json is not None:
            write(given.json, json.dumps(audit_to_json(result), indent=2) + "\n")
        told_audit(terminal, result)
    if result.amiss:
        return EXIT_VIOLATED
    return EXIT_INFRASTRUCTURE if result.unjudged else EXIT_HELD


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
