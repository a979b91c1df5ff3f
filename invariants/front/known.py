"""The command `invariants baseline`: writes down the causes that are known, so that others fail."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from invariants import options
from invariants.checks import INVARIANTS
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, UsageError
from invariants.escaping import shown
from invariants.front.outlets import tell
from invariants.masking import masked
from invariants.options import RunOptions

DEFAULT = Path("invariants-baseline.toml")
DESCRIPTION = f"""\
Search as `invariants run` does, and write every cause that is found to a file: from then on
`invariants run --baseline FILE` (gate, pytest --invariants-baseline=FILE) lists these and fails
for others alone. The file is {DEFAULT} unless named; write into it why each may stay: a
reason is kept when the file is written anew. A cause that is found no more leaves the file.

exit status: 0 the file is written, 2 the input is wrong, 3 an invariant could not be judged"""

EXAMPLES = """\
examples:
  invariants baseline                                then: invariants run --baseline FILE
  invariants baseline known.toml --profile nightly   the longer it searches, the more is known"""


def add_to(parser: argparse.ArgumentParser) -> None:
    """Declare its options."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where it is written")
    options.add_invariant(parser, "only causes of this one (repeatable)", INVARIANTS)
    options.add_to(parser, options.RUN)
    parser.set_defaults(command=_baseline)


def _baseline(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import write
    from invariants.reports.terminal import Terminal
    from invariants.search import baseline
    from invariants.search.run import run

    values = options.values(options.RUN, lambda o: getattr(given, o.key))
    wanted = RunOptions(**values, invariants=tuple(given.invariant))
    path = given.file or wanted.baseline or DEFAULT
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file")
    before = baseline.read(path) if path.exists() else baseline.Baseline(path)
    with Terminal(quiet=True, aside=True) as terminal:
        report = run(replace(wanted, baseline=None), terminal, terminal.say)
    if report.fault:
        tell(report.fault)
        return EXIT_INFRASTRUCTURE
    found, judged = baseline.signatures(report.invariants), baseline.judged(report.invariants)
    compared = before.compared(found, judged)
    write(path, baseline.text(found, before, _schema(wanted), judged))
    for signature in compared.new:
        print(shown(f"new      {signature}"))
    for signature in compared.gone:
        print(shown(f"gone     {before.told(signature)}"))
    print(f"{path}: {len(found)} known causes, {len(compared.new)} of them new")
    print(f"\nnext:    invariants run{options.schema_arguments(wanted)} --baseline {path}")
    if unjudged := [i.name for i in report.invariants if i.status == "error"]:
        tell(f"not judged: {', '.join(unjudged)}; `invariants run` says why")
        return EXIT_INFRASTRUCTURE
    return EXIT_HELD


def _schema(wanted: RunOptions) -> str:
    """Where the schema comes from, in words that are the same every time."""
    return masked(f"{wanted.schema or wanted.alembic_config}, revision {wanted.revision}")
