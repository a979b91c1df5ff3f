"""The command `invariants`: run and replay."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from invariants import options
from invariants.checks import INVARIANTS
from invariants.counterexample import load, write
from invariants.errors import EXIT_HELD, EXIT_USAGE, EXIT_VIOLATED, InvariantsError, UsageError
from invariants.options import RunOptions, SchemaOptions

_EXIT_INTERRUPTED = 130

_DESCRIPTION = """\
Finds workloads that break the promises of a multi-tenant PostgreSQL schema.

It migrates a scratch database, runs generated workloads as the real database roles, and checks what
the contract (invariants.toml) promises. Each violation is reduced to the smallest workload that
still shows it, and kept as JSON and as a script for psql."""

_EPILOG = """\
exit status: 0 everything held, 1 an invariant was violated, 2 the input is wrong,
3 the server or a migration failed (which says nothing about the invariants)

Every option can be set by a variable as well: INVARIANTS_SERVER=embedded:16 stands for --server."""

_RUN_EXAMPLES = """\
examples:
  invariants run                                     a look at the newest revision
  invariants run --revision documented --seed 7      the documented head, repeatably
  invariants run --invariant append-only --server embedded:16
  invariants run --apply-sql fix.sql                 what if we shipped this patch?
  invariants run --profile ci --json out.json"""

_REPLAY_EXAMPLES = """\
examples:
  invariants replay artifacts/*.json
  invariants replay --apply-sql fix.sql artifacts/NAME.json    does the patch mend it?"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status: int = given.command(given)
    except InvariantsError as error:
        print(f"invariants: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("\ninvariants: interrupted; everything started was stopped", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_INTERRUPTED
    return status


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and where to read on."""

    def error(self, message: str) -> NoReturn:
        print(f"invariants: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("invariants", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="search for violations",
        description="Search for violations.",
        epilog=_RUN_EXAMPLES,
        formatter_class=raw,
    )
    run.add_argument(
        "--invariant",
        action="append",
        default=[],
        metavar="NAME",
        help="only this invariant (repeatable): " + ", ".join(INVARIANTS),
    )
    options.add_to(run, options.RUN)
    run.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    run.add_argument("-q", "--quiet", action="store_true", help="only the verdicts")
    run.set_defaults(command=_run)
    again = commands.add_parser(
        "replay",
        help="say whether counterexamples still fail",
        description="Execute kept counterexamples and say whether they still fail.",
        epilog=_REPLAY_EXAMPLES,
        formatter_class=raw,
    )
    again.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a counterexample's .json"
    )
    options.add_to(again, options.SCHEMA)
    again.add_argument("-q", "--quiet", action="store_true", help="only the verdicts")
    again.set_defaults(command=_replay)
    return parser


def _run(given: argparse.Namespace) -> int:
    # Imported late, so that --help and wrong options answer at once.
    from invariants.report import report_to_json
    from invariants.run import run
    from invariants.terminal import Terminal

    values = options.values(options.RUN, lambda o: getattr(given, o.key))
    chosen = RunOptions(**values, invariants=tuple(given.invariant))
    if given.json is not None and not os.access(given.json.absolute().parent, os.W_OK):
        raise UsageError(f"--json {given.json}: the folder cannot be written; name another file")
    schema_arguments = options.schema_arguments(chosen)
    with Terminal(quiet=given.quiet, schema_arguments=schema_arguments) as terminal:
        report = run(chosen, terminal, terminal.say)
        terminal.verdict(report)
    if given.json is not None:
        write(given.json, json.dumps(report_to_json(report), indent=2) + "\n")
    if report.fault:
        print(f"invariants: {report.fault}", file=sys.stderr)
    return report.exit_status


def _replay(given: argparse.Namespace) -> int:
    from invariants.run import replay, schema
    from invariants.terminal import Terminal

    values = options.values(options.SCHEMA, lambda o: getattr(given, o.key))
    kept = [load(path) for path in given.files]
    failing = 0
    with (
        Terminal(quiet=given.quiet) as terminal,
        schema(SchemaOptions(**values), terminal.say) as (
            environment,
            contract,
        ),
    ):
        for outcome in replay(kept, environment, contract):
            failing += outcome.fails
            terminal.replayed(outcome)
    return EXIT_VIOLATED if failing else EXIT_HELD
