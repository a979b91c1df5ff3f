"""The command `invariants`: run, baseline, replay, history, gate, mutants and the rest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from invariants import interrupts, options, unforeseen
from invariants.checks import INVARIANTS
from invariants.errors import (
    EXIT_HELD,
    EXIT_INFRASTRUCTURE,
    EXIT_USAGE,
    EXIT_VIOLATED,
    InvariantsError,
    UsageError,
)
from invariants.escaping import lines, shown
from invariants.front import drafting, known, live, migrating
from invariants.front.outlets import EXIT_INTERRUPTED, Outlets, ensure_json, tell
from invariants.options import RunOptions, SchemaOptions

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
  invariants run --profile ci --json out.json
  invariants run --baseline known.toml               fail for new causes alone"""

_REPLAY_EXAMPLES = """\
examples:
  invariants replay artifacts/*.json
  invariants replay --apply-sql fix.sql artifacts/NAME.json    does the patch mend it?"""

_HISTORY_EXAMPLES = """\
examples:
  invariants history tests/counterexamples/*.json
  invariants history --replay-only --since 202511151060 artifacts/*.json
  invariants history --seed 1 --update docs/findings.md tests/counterexamples/*.json"""

_MUTANTS = """\
Break the schema in every way its catalog allows, one guard at a time, and say which of them an
invariant notices. A green run is worth what would have been noticed: this is the number.

exit status: 0 every mutant is killed or justified in mutants.toml, 1 one survived, 2 the input is
wrong, 3 the server failed or a mutant could not be judged"""

_MUTANTS_EXAMPLES = """\
examples:
  invariants mutants --list                          what would be hunted
  invariants mutants --operator policy-using-true --operator trigger-dropped -v
  invariants mutants --json mutants.json --jobs 4
  invariants mutants --invariant liveness            what one invariant notices by itself"""

_GATE = """\
Decide whether a schema may be released: kept counterexamples hold, all invariants hold from fixed
seeds and a fresh one, every guard was met, and the mutation score is what pyproject.toml asks for
([tool.invariants] mutation_score, 1.0 unless set). What does not depend on luck is remembered in
.invariants/mutation until schema, contract or program change.

exit status: 0 it may, 1 something failed, 2 and 3 as for all commands"""

_GATE_EXAMPLES = """\
examples:
  invariants gate                                    writes report/gate.md, gate.json, gate.xml
  invariants gate --server container:15 --report out
  invariants gate --apply-sql fix.sql                may it be released with this patch?"""

_HISTORY = """\
Say which revision mends what: replay kept counterexamples at every revision, and search at every
revision. Writes two Markdown tables to standard output, and how far it is to standard error.

exit status: 0 nothing is left at the last revision, 1 something is, 2 and 3 as for all commands"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    with interrupts.once(for_good=arguments is None), Outlets() as outlets:
        try:
            given = _parser().parse_args(arguments)
        except SystemExit as done:
            # Told already: what is wrong, or all that --help says.
            raise SystemExit(outlets.settled(int(done.code or 0))) from None
        # A reader who has gone ends a run that writes nothing else.
        outlets.out.lost_reader = not any(
            getattr(given, name, None) for name in ("json", "update", "report")
        )
        return outlets.settled(_status(given, outlets))


def _status(given: argparse.Namespace, outlets: Outlets) -> int:
    try:
        status: int = given.command(given)
    except InvariantsError as error:
        tell(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        print(file=sys.stderr)
        tell("interrupted; everything started was stopped")
        return EXIT_INTERRUPTED
    except BaseException as error:  # noqa: BLE001
        if outlets.lost_reader and isinstance(error, BrokenPipeError | SystemExit):
            # Whoever read our output has gone (`| head`); rich turns that into SystemExit.
            return EXIT_INTERRUPTED
        # SystemExit too: a migration that says sys.exit(0) has not made anything hold.
        tell(unforeseen.told(error))
        return EXIT_INFRASTRUCTURE
    return status


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and where to read on."""

    def error(self, message: str) -> NoReturn:
        self._print_message(f"invariants: {shown(message)}; see `{self.prog} --help`\n", sys.stderr)
        raise SystemExit(EXIT_USAGE)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("invariants", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, what: str, description: str, examples: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=what, description=description, epilog=examples, formatter_class=raw
        )

    drafting.add_to(command("init", "draft a contract", drafting.DESCRIPTION, drafting.EXAMPLES))
    run = command("run", "search for violations", "Search for violations.", _RUN_EXAMPLES)
    options.add_invariant(run, "only this invariant (repeatable)", INVARIANTS)
    options.add_to(run, options.RUN)
    run.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    run.add_argument("-q", "--quiet", action="store_true", help="only the verdicts")
    run.set_defaults(command=_run)
    migrating.add_to(
        command("migrations", "try the chain itself", migrating.DESCRIPTION, migrating.EXAMPLES)
    )
    live.add_drift(command("drift", "compare a live database", live.DRIFT, live.DRIFT_EXAMPLES))
    live.add_snapshot(
        command("snapshot", "write the catalog as text", live.SNAPSHOT, live.SNAPSHOT_EXAMPLES)
    )
    live.add_audit(command("audit", "ask a live database", live.AUDIT, live.AUDIT_EXAMPLES))
    again = command(
        "replay",
        "say whether counterexamples still fail",
        "Execute kept counterexamples and say whether they still fail.",
        _REPLAY_EXAMPLES,
    )
    again.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a counterexample's .json"
    )
    options.add_to(again, options.SCHEMA)
    again.add_argument("-q", "--quiet", action="store_true", help="only the verdicts")
    again.set_defaults(command=_replay)
    history = command("history", "say which revision mends what", _HISTORY, _HISTORY_EXAMPLES)
    history.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="a counterexample's .json"
    )
    history.add_argument(
        "--since",
        metavar="REV",
        help="the revision to begin with (default: the oldest that the contract names)",
    )
    history.add_argument("--replay-only", action="store_true", help="do not search")
    history.add_argument(
        "--update",
        type=Path,
        metavar="FILE",
        help="put the tables into FILE, between two comments that it names if they are not there",
    )
    options.add_to(history, options.SEARCH)
    history.set_defaults(command=_history)
    known.add_to(command("baseline", "list known causes", known.DESCRIPTION, known.EXAMPLES))
    deciding = command("gate", "decide whether a schema may be released", _GATE, _GATE_EXAMPLES)
    options.add_to(deciding, options.GATE)
    deciding.add_argument("-q", "--quiet", action="store_true", help="only the verdict")
    deciding.set_defaults(command=_gate)
    _add_mutants(
        command(
            "mutants", "say which broken schemas the invariants notice", _MUTANTS, _MUTANTS_EXAMPLES
        )
    )
    of_contract = command(
        "contract", "describe the contract's format", "Describe the contract's format.", ""
    )
    of_contract.add_argument(
        "--json-schema",
        action="store_true",
        required=True,
        help="write the JSON Schema of invariants.toml, which editors read",
    )
    of_contract.set_defaults(command=_contract)
    return parser


def _contract(given: argparse.Namespace) -> int:
    from invariants.contract.file import json_schema

    del given
    print(json.dumps(json_schema(), indent=2))
    return EXIT_HELD


def _gate(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import ensure_writable
    from invariants.gate.chain import asked_for, with_chain
    from invariants.gate.release import GateOptions, gate
    from invariants.mutants.score import MutantOptions
    from invariants.reports.gate import write_all
    from invariants.reports.terminal import Terminal

    values = options.values(options.GATE, lambda o: getattr(given, o.key))
    own = {o.key: values.pop(o.key) for o in options.OF_GATE}
    of_run = RunOptions(**values)
    of_mutants = MutantOptions(
        **{o.key: own.pop(o.key) for o in options.OF_MUTANTS},
        sessions=of_run.sessions,
        artifacts=of_run.artifacts,
    )
    ensure_writable(of_run.artifacts)
    ensure_writable(own["report"], "--report")
    chain_too = asked_for(Path("pyproject.toml"))
    with Terminal(quiet=given.quiet, aside=True, brief=True) as terminal:
        result = gate(
            GateOptions(of_run, of_mutants, **own), terminal, terminal.say, terminal.hunted
        )
        if chain_too and not result.fault:
            result = with_chain(result, of_run, terminal, terminal.say)
    write_all(result, own["report"])
    with Terminal(quiet=given.quiet) as terminal:
        terminal.gated(result, own["report"])
    if result.fault:
        tell(result.fault)
    return result.exit_status


def _add_mutants(mutants: argparse.ArgumentParser) -> None:
    mutants.add_argument(
        "--list", action="store_true", help="name the mutants with their SQL, and hunt none"
    )
    mutants.add_argument(
        "--operator",
        action="append",
        default=[],
        metavar="NAME",
        help="only the mutants of this operator (repeatable); --list names them all",
    )
    options.add_invariant(mutants, "only this invariant may notice (repeatable)", INVARIANTS)
    options.add_to(mutants, options.MUTANTS)
    mutants.add_argument("--json", type=Path, metavar="FILE", help="write the score as JSON")
    mutants.add_argument("-v", "--verbose", action="store_true", help="a line for every mutant")
    mutants.add_argument("-q", "--quiet", action="store_true", help="only the verdict")
    mutants.set_defaults(command=_mutants)


def _mutants(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import ensure_writable, write
    from invariants.mutants.score import MutantOptions, mutants_of, score, selected
    from invariants.mutants.summary import score_to_json
    from invariants.reports.mutants import markdown
    from invariants.reports.terminal import Terminal
    from invariants.search.run import schema

    values = options.values(options.MUTANTS, lambda o: getattr(given, o.key))
    of_schema = SchemaOptions(**{o.key: values.pop(o.key) for o in options.SCHEMA})
    wanted = MutantOptions(
        **values, operators=tuple(given.operator), invariants=tuple(given.invariant)
    )
    ensure_json(given.json)
    with Terminal(quiet=given.quiet) as terminal, schema(of_schema, terminal.say) as opened:
        if given.list:
            for mutant in selected(mutants_of(*opened), wanted.operators):
                print(shown(mutant.name), *(lines(f"  {s};") for s in mutant.statements), sep="\n")
            return EXIT_HELD
        ensure_writable(wanted.artifacts)
        result = score(
            *opened,
            wanted,
            lambda *told: terminal.hunted(*told, verbose=given.verbose),
        )
        terminal.scored(result, wanted.artifacts / "mutants.md")
    write(wanted.artifacts / "mutants.md", markdown(result))
    if given.json is not None:
        write(given.json, json.dumps(score_to_json(result), indent=2) + "\n")
    return result.exit_status


def _run(given: argparse.Namespace) -> int:
    # Imported late, so that --help and wrong options answer at once.
    from invariants.counterexamples.files import write
    from invariants.reports.json_report import report_to_json
    from invariants.reports.terminal import Terminal
    from invariants.search.run import known_causes, run

    values = options.values(options.RUN, lambda o: getattr(given, o.key))
    chosen = RunOptions(**values, invariants=tuple(given.invariant))
    ensure_json(given.json)
    schema_arguments = options.schema_arguments(chosen)
    known = known_causes(chosen)
    with Terminal(quiet=given.quiet, schema_arguments=schema_arguments, known=known) as terminal:
        report = run(chosen, terminal, terminal.say)
        try:
            if given.json is not None:
                write(given.json, json.dumps(report_to_json(report), indent=2) + "\n")
        finally:
            terminal.verdict(report)
    if report.fault:
        tell(report.fault)
    return report.exit_status


def _replay(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import load
    from invariants.migrations import replaying
    from invariants.reports.terminal import Terminal
    from invariants.search.run import replay, schema

    values = options.values(options.SCHEMA, lambda o: getattr(given, o.key))
    wanted = SchemaOptions(**values)
    every = [load(path) for path in given.files]
    of_chain = [k for k in every if replaying.is_of_chain(k)]
    kept = [k for k in every if not replaying.is_of_chain(k)]
    failing = 0
    with Terminal(quiet=given.quiet) as terminal:
        if kept:
            with schema(wanted, terminal.say) as (environment, contract):
                for outcome in replay(kept, environment, contract):
                    failing += outcome.fails
                    terminal.replayed(outcome)
        for outcome in replaying.replay(of_chain, wanted, terminal.say):
            failing += outcome.fails
            terminal.replayed(outcome)
    return EXIT_VIOLATED if failing else EXIT_HELD


def _history(given: argparse.Namespace) -> int:
    from invariants.counterexamples.files import load
    from invariants.gate.revisions import ensure_marked, markdown, stages, update
    from invariants.reports.terminal import Terminal
    from invariants.search.run import new_seed

    values = options.values(options.SEARCH, lambda o: getattr(given, o.key))
    if values["seed"] is None:
        values["seed"] = new_seed()
    kept = [load(path) for path in given.files]
    if given.update is not None:
        ensure_marked(given.update)
    if given.replay_only and not kept:
        raise UsageError("history --replay-only: name the counterexamples to replay")
    with Terminal(quiet=True, aside=True) as terminal:
        if not given.replay_only:
            terminal.out.print(f"seed {values['seed']}, profile {values['profile']}")
        found = list(
            stages(
                RunOptions(**values),
                given.since,
                kept,
                search=not given.replay_only,
                listener=terminal,
                say=lambda line: terminal.out.print(line),
            )
        )
    tables = markdown(found)
    if given.update is not None:
        update(given.update, tables)
    else:
        print(tables)
    if found[-1].causes or found[-1].failing:
        return EXIT_VIOLATED
    return EXIT_INFRASTRUCTURE if found[-1].unjudged else EXIT_HELD
