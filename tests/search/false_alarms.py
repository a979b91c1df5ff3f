"""Looks for false alarms: for what is called violated on a schema that keeps its promises.

    python -m tests.search.false_alarms mutants --each 2       # broken by every operator, mended
    python -m tests.search.false_alarms documented --seeds 1 2 # found on the documented schema
    python -m tests.search.false_alarms perturbed --count 50   # as another hand left them

Each prints what it tried, keeps what it found in a folder, and ends with status 1 if that is
anything.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from invariants import generation
from invariants.checks import INVARIANTS, Invariant
from invariants.contract.contract import Contract, load
from invariants.counterexamples.files import Counterexample, Kept, save_json
from invariants.counterexamples.files import load as load_kept
from invariants.errors import InvariantsError, UsageError
from invariants.mutants import derive
from invariants.mutants.base import Mutant
from invariants.schema.chain import Migrations
from invariants.search.explorer import Explorer, Search
from invariants.search.judge import Judge, by_signature
from invariants.servers import roles
from invariants.servers.environment import Environment, open_environment
from invariants.workload.operations import Workload
from tests.databases import ROOT
from tests.engine import DOCUMENTED, drawn
from tests.search.perturbations import Perturbations

KEPT = ROOT / "tests" / "counterexamples"
# What is enumerated is the same for every mutant and finds the most; some draws find other ways.
DRAWS = 40
_KEPT_OF_A_KIND = 3


@dataclass(frozen=True)
class Alarm:
    """Something that is called violated where every promise holds."""

    where: str
    invariant: str
    signature: str
    workload: Workload


def mutants_of(environment: Environment, contract: Contract, each: int) -> list[Mutant]:
    """Up to so many mutants of each operator, spread over what it changes."""
    scratch = environment.scratch()
    try:
        with psycopg.connect(scratch.conninfo, autocommit=True) as connection:
            found = derive(connection, contract)
    finally:
        scratch.drop()
    kinds: dict[str, list[Mutant]] = {}
    for mutant in found:
        kinds.setdefault(mutant.operator, []).append(mutant)
    return [
        mutants[i * len(mutants) // min(each, len(mutants))]
        for mutants in kinds.values()
        for i in range(min(each, len(mutants)))
    ]


def found_on(
    environment: Environment,
    contract: Contract,
    invariants: Iterable[Invariant],
    *searches: Search,
) -> Iterator[Counterexample]:
    """The counterexamples that searches find and reduce, one for each signature."""
    explorer = Explorer(environment, contract, lambda _: None)
    known: set[str] = set()
    try:
        for invariant in invariants:
            for search in searches:
                for found in explorer.explore(invariant, search).found:
                    if found.counterexample.signature not in known:
                        known.add(found.counterexample.signature)
                        yield found.counterexample
    finally:
        explorer.close()


def found_on_mutant(
    environment: Environment, contract: Contract, mutant: Mutant, *searches: Search
) -> list[Counterexample]:
    """What is found on the schema broken so; roles are as before afterwards."""
    handle = environment.handle()
    with psycopg.connect(handle["conninfo"], autocommit=True) as admin:
        before = roles.snapshot(admin)
        try:
            with Environment.attach(handle, mutant.statements) as broken:
                return list(found_on(broken, contract, INVARIANTS.values(), *searches))
        finally:
            roles.restore(admin, before)


def alarms(judge: Judge, where: str, found: Iterable[Counterexample]) -> Iterator[Alarm]:
    """Those counterexamples that do not hold on the schema of the judge."""
    for one in found:
        for signature in violated(judge, INVARIANTS[one.invariant], one.workload):
            yield Alarm(where, one.invariant, signature, one.workload)


def violated(judge: Judge, invariant: Invariant, workload: Workload) -> list[str]:
    """What a workload violates; nothing where it is none that the invariant judges."""
    if invariant.unjudged(workload):
        return []
    try:
        return list(by_signature(judge.violations(invariant, workload)[1]))
    except UsageError:
        return []


def in_all(judge: Judge, workload: Workload) -> Iterator[tuple[str, str]]:
    """What a workload violates of all invariants, which is executed once for all of them."""
    try:
        case = judge.case(INVARIANTS["cross-tenant"], workload)
    except UsageError:
        return
    for invariant in INVARIANTS.values():
        if invariant.unjudged(workload) is None:
            for violation in by_signature(list(invariant.check(case))).values():
                yield invariant.name, str(violation.signature)


def bases(judge: Judge, kept: Iterable[Kept], draws: int) -> Iterator[tuple[str, Workload]]:
    """Workloads to start from: kept counterexamples, and what is drawn for each invariant."""
    for one in kept:
        yield one.path.stem, one.workload
    for invariant in INVARIANTS.values():
        sessions = 2 if invariant.concurrent else 0
        strategy = generation.workloads(judge.contract, judge.catalog, invariant, sessions)
        for number, workload in enumerate(drawn(strategy, draws)):
            yield f"{invariant.name} {number}", workload


def perturbed(
    judge: Judge, workload: Workload, count: int, seed: int
) -> Iterator[tuple[Workload, list[tuple[str, str]]]]:
    """Workloads near this one, `count` of them or all one step away, and what is found in each."""
    near = Perturbations(judge.contract, tuple(judge.catalog.materialized_views))
    for changed in near.some(workload, count, seed) if count else near.of(workload):
        yield changed, list(in_all(judge, changed))


def _open(revision: str) -> Environment:
    return open_environment(
        "embedded", Migrations(ROOT / "alembic.ini", revision), say=lambda _: None
    )


class _Log:
    """Prints progress and keeps alarms as files that can be replayed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kinds = folder, Counter[str]()
        self.started = time.monotonic()

    def alarm(self, one: Alarm) -> None:
        self.kinds[one.signature] += 1
        if self.kinds[one.signature] <= _KEPT_OF_A_KIND:
            made = Counterexample(
                one.invariant, one.signature, one.where, one.workload, text="", script=""
            )
            path = save_json(made, self.folder / str(self.kinds[one.signature]))
            self.say(f"ALARM {path.relative_to(self.folder)} ({one.where})")

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", flush=True)


def _mutants(options: argparse.Namespace, contract: Contract, log: _Log) -> None:
    plain = Search(options.seeds[0], sys.maxsize, seconds=options.seconds)
    searches = (
        replace(plain, stages=("sweeps",)),
        replace(plain, stages=("draws",), examples=DRAWS),
    )
    with _open("head") as head, Judge(head, contract) as judge:
        tried: Counter[str] = Counter()
        chosen = mutants_of(head, contract, options.each)[options.skip :]
        operators: set[str] = set()
        for number, mutant in enumerate(chosen, 1):
            try:
                found = found_on_mutant(head, contract, mutant, *searches)
            except InvariantsError as wrong:
                log.say(f"{mutant.name}: not judged: {wrong}")
                continue
            tried.update(f.invariant for f in found)
            operators |= {mutant.operator} if found else set()
            for alarm in alarms(judge, mutant.name, found):
                log.alarm(alarm)
            log.say(f"{number}/{len(chosen)} {mutant.name}: {len(found)} counterexamples")
        log.say(
            f"{len(chosen)} mutants, {len(operators)} operators noticed, "
            f"{tried.total()} counterexamples {dict(tried)}"
        )


def _documented(options: argparse.Namespace, contract: Contract, log: _Log) -> None:
    tried = 0
    with _open("head") as head, Judge(head, contract) as judge, _open(DOCUMENTED) as documented:
        for seed in options.seeds:
            search = Search(seed, options.examples, seconds=options.seconds, sessions=2)
            found = list(found_on(documented, contract, INVARIANTS.values(), search))
            tried += len(found)
            for alarm in alarms(judge, f"documented, seed {seed}", found):
                log.alarm(alarm)
            log.say(f"seed {seed}: {len(found)} counterexamples")
    log.say(f"{tried} counterexamples")


def _perturbed(options: argparse.Namespace, contract: Contract, log: _Log) -> None:
    kept = [load_kept(path) for path in sorted(KEPT.glob("*.json"))]
    tried = 0
    with _open("head") as head, Judge(head, contract) as judge:
        for where, workload in bases(judge, kept, options.draws):
            for seed in options.seeds:
                near = perturbed(judge, workload, options.count, seed)
                for changed, found in near:
                    tried += 1
                    for invariant, signature in found:
                        log.alarm(Alarm(where, invariant, signature, changed))
            log.say(f"{where}: {tried} tried")


_COMMANDS = {"mutants": _mutants, "documented": _documented, "perturbed": _perturbed}


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; 1 when there was a false alarm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument("--each", type=int, default=1, help="mutants of an operator")
    parser.add_argument("--skip", type=int, default=0, help="mutants that were tried already")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=10, help="of a search of one invariant")
    parser.add_argument("--examples", type=int, default=400, help="of a search of one invariant")
    parser.add_argument("--draws", type=int, default=5, help="workloads of each invariant")
    parser.add_argument(
        "--count", type=int, default=50, help="changed ones for each workload; 0: all one step away"
    )
    parser.add_argument("--keep", type=Path, default=None, help="folder for what is found")
    options = parser.parse_args(arguments)
    log = _Log(options.keep or Path(tempfile.mkdtemp(prefix="false-alarms-")))
    _COMMANDS[options.command](options, load(ROOT / "invariants.toml"), log)
    for signature, count in log.kinds.most_common():
        print(f"{count:5} {signature}")
    print(f"{log.kinds.total()} false alarms" + (f", kept in {log.folder}" if log.kinds else ""))
    return 1 if log.kinds else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
