"""The command `invariants init`: drafts a contract from the database that a source makes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import psycopg

from invariants import options
from invariants.errors import EXIT_HELD, UsageError
from invariants.options import SchemaOptions

DESCRIPTION = """\
Migrate a scratch database, read what it says of itself, and draft invariants.toml: who the tenants
are, how a session says so, what each role is granted, which tables only grow, which keys make a
second delivery known. Every entry has its evidence in a comment, proposals are commented out, and
what only a person can know is asked at the end. Nothing of yours is written but that file."""

EXAMPLES = """\
examples:
  invariants init                                    from alembic.ini
  invariants init --schema db/migrations             from a folder of .sql files
  invariants init --schema schema.sql --before roles.sql
  invariants init --schema postgresql://reader@host/shop    from a database, read only
  invariants init --update                           add what a newer revision brought"""


def add_to(parser: argparse.ArgumentParser) -> None:
    """Declare its options."""
    options.add_to(parser, options.INIT)
    parser.add_argument("--force", action="store_true", help="write over a contract that is there")
    parser.add_argument(
        "--update", action="store_true", help="add what is new to the contract, and keep the rest"
    )
    parser.set_defaults(command=_init)


def _init(given: argparse.Namespace) -> int:
    from invariants.contract.drafting.draft import draft, toml
    from invariants.contract.drafting.update import updated
    from invariants.counterexamples.files import write
    from invariants.reports.terminal import Terminal
    from invariants.search.run import opened

    wanted = SchemaOptions(**options.values(options.INIT, lambda o: getattr(given, o.key)))
    path = wanted.contract
    if path.is_dir():
        raise UsageError(f"--contract {path}: is a folder; name a file")
    if path.exists() and not (given.force or given.update):
        raise UsageError(
            f"{path}: is there already; --update adds what is new to it, --force writes it anew"
        )
    if given.update and not path.exists():
        raise UsageError(f"{path}: there is nothing to update; leave --update out")
    with (
        Terminal(quiet=False, aside=True) as terminal,
        opened(wanted, None, terminal.say) as environment,
        psycopg.connect(environment.scratch().conninfo, autocommit=True) as connection,
    ):
        made = draft(connection)
    if given.update:
        text, added = updated(path, made)
        for line in added:
            print(f"added  {line}")
        if not added:
            print(f"{path}: nothing is new")
            return EXIT_HELD
    else:
        text = toml(made, path.absolute().parent.name)
    write(path, text)
    proposed = sum(r.proposed for r in made.rules)
    print(
        f"{path}: {len(made.tenancy.tables) + len(made.tenancy.scoped_by)} tables of tenants, "
        f"{len(made.roles)} roles, {len(made.rules) - proposed} rules, {proposed} proposed"
    )
    for question in made.questions:
        print(f"open   {question}")
    arguments = options.schema_arguments(replace(wanted, contract=path))
    print(f"\nnext:  invariants run{arguments}", file=sys.stdout)
    return EXIT_HELD
