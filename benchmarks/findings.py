"""What each of several seeds finds, how soon, and whether all find the same.

Every seed is a whole run (`invariants run --seed N`) in a process of its own, with a server of its
own. Seconds count from the start of an invariant's search to the counterexample reduced, confirmed
on a fresh database and handed to the listener; examples are workloads drawn until then. A search
has a budget in seconds, so whatever else runs (`--jobs` above all) decides how far it comes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.figures import brief, machine, middle, most, over, table
from invariants import options
from invariants.errors import InvariantsError
from invariants.options import RunOptions
from invariants.search import explorer as engine
from invariants.search.events import (
    Event,
    Flaky,
    Found,
    InvariantFinished,
    InvariantStarted,
    Progress,
)
from invariants.search.run import run


@dataclass
class Cause:
    """One reduced counterexample, and what it took to find it."""

    signature: str
    seconds: float
    examples: int
    operations: int


@dataclass
class Searched:
    """What one run found out about one invariant."""

    name: str
    status: str = "held"
    examples: int = 0
    operations: int = 0
    seconds: float = 0.0
    reducing_seconds: float = 0.0
    causes: list[Cause] = field(default_factory=list)
    flaky: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """One run. `cpu_seconds` are of the fuzzer's own process, without the server."""

    seed: int
    seconds: float
    cpu_seconds: float
    server: str
    invariants: list[Searched]

    @property
    def signatures(self) -> set[str]:
        """Every signature the run found."""
        return {c.signature for i in self.invariants for c in i.causes}


class Watch:
    """A listener that keeps when what was found."""

    def __init__(self) -> None:
        self.invariants: list[Searched] = []
        self._started = self._last = time.monotonic()
        self._reducing = False
        self._examples = 0

    def __call__(self, event: Event) -> None:
        """Note one event."""
        now = time.monotonic()
        if self._reducing:
            self.invariants[-1].reducing_seconds += now - self._last
        self._last, self._reducing = now, False
        match event:
            case InvariantStarted(name):
                self._started, self._examples = now, 0
                self.invariants.append(Searched(name))
            case Progress():
                self._examples = event.examples
                self._reducing = event.doing == "reducing"
            case Found():
                made = event.counterexample
                self.invariants[-1].causes.append(
                    Cause(
                        str(made.signature),
                        now - self._started,
                        self._examples,
                        len(made.workload.operations),
                    )
                )
            case Flaky():
                self.invariants[-1].flaky.append(event.signature)
            case InvariantFinished():
                searched = self.invariants[-1]
                searched.status = event.status
                searched.examples = event.examples
                searched.operations = event.operations
                searched.seconds = event.seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the seeds and print what they found."""
    parser = argparse.ArgumentParser("python -m benchmarks.findings", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--seeds", type=options.positive, default=10, metavar="N", help="runs (default: 10)"
    )
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="(default: 1)")
    parser.add_argument(
        "--jobs", type=options.positive, default=1, help="runs at once (default: 1)"
    )
    parser.add_argument("--invariant", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it as JSON")
    options.add_to(parser, [o for o in options.RUN if o not in (options.SEED, options.ARTIFACTS)])
    parser.set_defaults(profile="ci", revision="documented", server="embedded")
    brief(parser, seeds=1, max_examples="20", time_budget="5")
    given = parser.parse_args(argv)
    chosen = [o for o in options.RUN if o not in (options.SEED, options.ARTIFACTS)]
    try:
        values = options.values(chosen, lambda o: getattr(given, o.key))
        outcomes = list(
            _outcomes(
                [
                    RunOptions(**values, seed=seed, invariants=tuple(given.invariant))
                    for seed in range(given.first, given.first + given.seeds)
                ],
                given.jobs,
            )
        )
    except InvariantsError as error:
        print(f"benchmarks.findings: {error}", file=sys.stderr)
        return error.exit_status
    outcomes.sort(key=lambda o: o.seed)
    print(f"{outcomes[0].server}; {machine()}, {given.jobs} at once, profile {given.profile}\n")
    print(report(outcomes))
    if given.json:
        given.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    return 0


def report(outcomes: list[Outcome]) -> str:
    """All the tables."""
    parts = [
        _by_invariant(outcomes),
        _by_signature(outcomes),
        _by_seed(outcomes),
    ]
    return "\n\n".join(parts)


def _outcomes(runs: list[RunOptions], jobs: int) -> Iterator[Outcome]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(_run, one) for one in runs]):
            outcome = done.result()
            print(
                f"seed {outcome.seed}: {len(outcome.signatures)} signatures, "
                f"{outcome.seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            yield outcome


def _run(chosen: RunOptions) -> Outcome:
    """One whole run, in this process."""
    # Every example is told, so that the count at a finding is exact.
    engine._TICK_SECONDS = 0.0
    watch = Watch()
    remarks: list[str] = []
    with tempfile.TemporaryDirectory(prefix="findings-") as folder:
        os.environ["INVARIANTS_FAILED"] = f"{folder}/examples"
        kept = RunOptions(**{**vars(chosen), "artifacts": Path(folder) / "artifacts"})
        started, cpu = time.monotonic(), time.process_time()
        made = run(kept, watch, remarks.append)
        return Outcome(
            made.seed,
            time.monotonic() - started,
            time.process_time() - cpu,
            f"revision {made.revision} on {made.server.kind} PostgreSQL {made.server.version}",
            watch.invariants,
        )


def _by_invariant(outcomes: list[Outcome]) -> str:
    head = (
        "invariant",
        "first, s",
        "(max)",
        "last new, s",
        "(max)",
        "causes",
        "search, s",
        "reducing",
        "examples",
        "op/s",
        "flaky",
        "same set",
    )
    rows = []
    for name in [i.name for i in outcomes[0].invariants]:
        of = [i for o in outcomes for i in o.invariants if i.name == name]
        sets = {frozenset(c.signature for c in i.causes) for i in of}
        first = [i.causes[0].seconds for i in of if i.causes]
        last = [i.causes[-1].seconds for i in of if i.causes]
        counts = [len(i.causes) for i in of]
        rows.append(
            (
                name,
                middle(first),
                most(first),
                middle(last),
                most(last),
                f"{min(counts)}..{max(counts)}" if min(counts) != max(counts) else f"{counts[0]}",
                middle(i.seconds for i in of),
                middle((over(100 * i.reducing_seconds, i.seconds) for i in of), 0) + " %",
                middle((i.examples for i in of), 0),
                middle((over(i.operations, i.seconds) for i in of), 0),
                f"{sum(len(i.flaky) for i in of)}",
                "yes" if len(sets) == 1 else f"no: {len(sets)}",
            )
        )
    return table(head, rows)


def _by_signature(outcomes: list[Outcome]) -> str:
    head = ("signature", "seeds", "examples", "(max)", "seconds", "(max)", "ops", "missed by")
    found: dict[str, dict[int, Cause]] = {}
    for outcome in outcomes:
        for searched in outcome.invariants:
            for cause in searched.causes:
                found.setdefault(cause.signature, {})[outcome.seed] = cause
    names = [i.name for i in outcomes[0].invariants]

    def rarest_last(signature: str) -> tuple[int, int, float]:
        by_seed = found[signature]
        return (
            names.index(signature.split("/")[0]),
            -len(by_seed),
            max(c.examples for c in by_seed.values()),
        )

    rows = []
    for signature in sorted(found, key=rarest_last):
        causes = found[signature]
        lengths = sorted({c.operations for c in causes.values()})
        rows.append(
            (
                signature,
                f"{len(causes)}/{len(outcomes)}",
                middle((c.examples for c in causes.values()), 0),
                most((c.examples for c in causes.values()), 0),
                middle(c.seconds for c in causes.values()),
                most(c.seconds for c in causes.values()),
                f"{lengths[0]}..{lengths[-1]}" if len(lengths) > 1 else f"{lengths[0]}",
                " ".join(str(o.seed) for o in outcomes if o.seed not in causes) or "-",
            )
        )
    return table(head, rows)


def _by_seed(outcomes: list[Outcome]) -> str:
    everything = set().union(*(o.signatures for o in outcomes))
    rows = [
        (
            f"{o.seed}",
            f"{o.seconds:.1f}",
            f"{o.cpu_seconds:.1f}",
            f"{len(o.signatures)}",
            f"{len(everything - o.signatures)}",
        )
        for o in outcomes
    ]
    sets = {frozenset(o.signatures) for o in outcomes}
    same = (
        f"all {len(outcomes)} seeds found the same {len(everything)} signatures"
        if len(sets) == 1
        else f"{len(sets)} different sets over {len(outcomes)} seeds; {len(everything)} signatures "
        f"in all, {len(set.intersection(*map(set, sets)))} in every one"
    )
    missed = [
        f"  seed {o.seed} missed:\n    " + "\n    ".join(sorted(everything - o.signatures))
        for o in outcomes
        if everything - o.signatures
    ]
    head = ("seed", "wall, s", "own cpu, s", "signatures", "missed")
    return "\n\n".join([table(head, rows), "\n".join([same, *missed])])


if __name__ == "__main__":
    sys.exit(main())
