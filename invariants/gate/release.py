"""The release gate: everything that speaks for or against a schema, and one verdict.

Kept counterexamples are replayed, all invariants searched from fixed seeds and a fresh one, the
guards met are counted, and the mutation score is taken. What does not depend on luck is remembered
for the schema, the contract and this program as they are: the next gate need not do it again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import invariants
from invariants.checks import chosen
from invariants.contract.contract import Contract
from invariants.counterexamples.files import load, write
from invariants.coverage.met import Coverage
from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_VIOLATED, UsageError
from invariants.generation.loading import files_of
from invariants.migrations.replaying import is_of_chain
from invariants.migrations.replaying import replay as replay_chain
from invariants.mutants.score import MutantOptions, Progress, score
from invariants.mutants.summary import score_to_json, verdict
from invariants.options import COUNTEREXAMPLES, RunOptions
from invariants.reading import read_toml
from invariants.search.baseline import Baseline
from invariants.search.events import InvariantFinished, Listener
from invariants.search.run import (
    Replayed,
    Report,
    known_causes,
    new_seed,
    replay,
    schema,
    search_all,
    source,
)
from invariants.servers.environment import Environment

Status = Literal["passed", "failed", "error", "skipped"]

REMEMBERED = Path(".invariants/mutation")
_REMEMBERED_MAX = 20
# Enough to meet every guard; the fixed seeds, once they hold for a schema, hold for good.
_FRESH_SECONDS = 45.0
_PYPROJECT = Path("pyproject.toml")
_FORMAT = 1


@dataclass(frozen=True)
class GateOptions:
    """What the gate looks at, and where it writes."""

    run: RunOptions
    mutants: MutantOptions
    report: Path = Path("report")
    counterexamples: Path = COUNTEREXAMPLES.default


@dataclass(frozen=True)
class Check:
    """One thing the gate looked at: what came of it, in a line and in full."""

    group: str
    name: str
    status: Status
    line: str
    seconds: float = 0.0
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mutation:
    """The score as taken now, or as remembered; `document` is its JSON."""

    document: dict[str, Any]
    threshold: float
    remembered: bool

    @property
    def value(self) -> float:
        """The share of mutants killed, from 0 to 1."""
        return float(self.document["score"])

    @property
    def survivors(self) -> list[str]:
        """The mutants that no invariant noticed."""
        return [m["name"] for m in self.document["mutants"] if m["status"] == "survived"]

    def check(self) -> Check:
        """Whether the score is what `pyproject.toml` asks for."""
        wrong = [m for m in self.document["mutants"] if m["status"] == "error"]
        passed = self.value >= self.threshold and not wrong
        told = f"{self.document['verdict']}, at least {self.threshold:.1%} are wanted"
        return Check(
            "mutants",
            "mutation score",
            "passed" if passed else "error" if wrong else "failed",
            told + (" (as remembered for this schema)" if self.remembered else ""),
            0.0 if self.remembered else float(self.document["seconds"]),
            (
                *(f"survived: {n}" for n in self.survivors),
                *(f"not judged: {m['name']}: {m['error']}" for m in wrong),
            ),
        )


@dataclass(frozen=True)
class Gate:
    """What came of it all."""

    search: Report
    replayed: tuple[Replayed, ...]
    checks: tuple[Check, ...]
    mutation: Mutation | None
    seconds: float
    fixed_remembered: bool = False
    fault: str | None = field(default=None)

    @property
    def exit_status(self) -> int:
        """1 when something failed, 3 when something could not be judged, else 0."""
        statuses = {c.status for c in self.checks}
        if self.fault:
            return EXIT_INFRASTRUCTURE
        if "failed" in statuses:
            return EXIT_VIOLATED
        return EXIT_INFRASTRUCTURE if "error" in statuses else EXIT_HELD


def gate(
    options: GateOptions, listener: Listener, say: Callable[[str], None], tell: Progress
) -> Gate:
    """Look at everything. Raises `UsageError` and `InfrastructureError`.

    `listener` is told of the search, `tell` of each mutant, `say` gets a line for each part.
    Mutants are not hunted once something else has failed: their score would say nothing.
    """
    started = time.monotonic()
    wanted = threshold(_PYPROJECT)
    # None were ever kept where the usual folder is missing.
    if options.counterexamples != COUNTEREXAMPLES.default and not options.counterexamples.is_dir():
        raise UsageError(
            f"--counterexamples {options.counterexamples}: no such folder; name the one where "
            "counterexamples are kept"
        )
    baseline = known_causes(options.run)
    seed = new_seed() if options.run.seed is None else options.run.seed
    with schema(options.run, say) as (environment, contract):
        key = memory_key(options, environment, contract)
        memory = recall(key)
        replayed = replay_kept(options, environment, contract, say)
        checks = [replay_check(r, baseline) for r in replayed]
        known = known_to_hold(options.run, memory)
        run = within_budget(options.run, memory, failed=_failed(checks))
        say(f"searching: seeds {', '.join(map(str, (*run.fixed_seeds, seed)))}")
        finished = tuple(
            search_all(chosen(()), run, seed, environment, contract, listener),
        )
        search = Report(
            environment.server,
            environment.revision,
            seed,
            run.profile,
            time.monotonic() - started,
            finished,
            baseline,
        )
        checks += [invariant_check(i, baseline) for i in finished]
        told_apart = bool(search.causes.known) or any(r.fails for r in replayed)
        checks.append(coverage_check(search.coverage, failed=_failed(checks) or told_apart))
        held = not _failed(checks) and not told_apart
        as_the_profile_says = options.run.max_examples is None and options.run.time_budget is None
        if held and run.fixed_seeds and as_the_profile_says:
            memory = {**memory, "seeds": list(run.fixed_seeds)}
        mutation = None
        if held:
            mutation = measured_once(options, environment, contract, key, memory, wanted, say, tell)
            checks.append(mutation.check())
        else:
            remember(key, memory)
            checks.append(_SKIPPED)
        checks += unreached_checks(search)
        checks += baseline_checks(search)
    return Gate(
        search,
        replayed,
        tuple(checks),
        mutation,
        time.monotonic() - started,
        run.fresh_only and known,
        search.fault,
    )


_SKIPPED = Check(
    "mutants", "mutation score", "skipped", "not taken: it says nothing where invariants fail"
)


def unreached_checks(search: Report) -> list[Check]:
    """What no verdict speaks of, beside any of them."""
    if not search.unreached:
        return []
    line = f"{len(search.unreached)} not reached, first: {search.unreached[0].what}"
    return [Check("coverage", "not reached", "error", line, details=(*map(str, search.unreached),))]


def baseline_checks(search: Report) -> list[Check]:
    """The known causes, told and not judged."""
    if search.known is None:
        return []
    causes, file = search.causes, search.known.path
    line = f"{len(causes.known)} found of {len(search.known.reasons)} in {file}"
    if causes.gone:
        line += f"; {len(causes.gone)} not found: `invariants baseline` takes them out"
    told = (*map(search.known.told, causes.known), *map(search.known.told_gone, causes.gone))
    return [Check("baseline", "known causes", "passed", line, details=told)]


def known_to_hold(run: RunOptions, memory: dict[str, Any]) -> bool:
    """Whether the fixed seeds held before, for all as it is."""
    return set(run.fixed_seeds) <= set(memory.get("seeds", ()))


def within_budget(run: RunOptions, memory: dict[str, Any], *, failed: bool = False) -> RunOptions:
    """The search that is left to do: without fixed seeds where they are known to hold.

    Where something failed already a short search names the causes.
    """
    if run.time_budget is not None:
        return run
    if failed or known_to_hold(run, memory):
        return replace(run, fresh_only=True, time_budget=min(run.seconds, _FRESH_SECONDS))
    return run


def replay_kept(
    options: GateOptions, environment: Environment, contract: Contract, say: Callable[[str], None]
) -> tuple[Replayed, ...]:
    """What the kept counterexamples come to now. Raises `UsageError` for one that is none."""
    kept = sorted(options.counterexamples.glob("*.json"))
    say(f"replaying {len(kept)} kept counterexamples of {options.counterexamples}")
    every = [load(p) for p in kept]
    of_chain = [k for k in every if is_of_chain(k)]
    replayed = replay([k for k in every if not is_of_chain(k)], environment, contract)
    return (*replayed, *replay_chain(of_chain, options.run, say))


def measured_once(
    options: GateOptions,
    environment: Environment,
    contract: Contract,
    key: str,
    memory: dict[str, Any],
    wanted: float,
    say: Callable[[str], None],
    tell: Progress,
) -> Mutation:
    """The mutation score, kept under the key with what is in memory: next time it is not taken."""
    mutation = measured(options, environment, contract, memory, wanted, say, tell)
    remember(key, {**memory, "score": mutation.document})
    return mutation


def measured(
    options: GateOptions,
    environment: Environment,
    contract: Contract,
    memory: dict[str, Any],
    wanted: float,
    say: Callable[[str], None],
    tell: Progress,
) -> Mutation:
    """The mutation score, as remembered or as taken now."""
    if "score" in memory:
        return Mutation(memory["score"], wanted, remembered=True)
    say("hunting mutants: takes a while, once for each change of schema, contract or program")
    taken = score(environment, contract, options.mutants, tell)
    return Mutation({**score_to_json(taken), "verdict": verdict(taken)}, wanted, remembered=False)


def replay_check(outcome: Replayed, baseline: Baseline | None = None) -> Check:
    """A kept counterexample must hold, unless its cause is known."""
    known = baseline is not None and outcome.kept.signature in baseline.reasons
    word = "fails, which is known" if known else "fails again"
    return Check(
        "counterexamples",
        outcome.kept.path.stem,
        "failed" if outcome.fails and not known else "passed",
        f"{outcome.kept.signature} {word if outcome.fails else 'holds'}",
        details=(outcome.text,) if outcome.fails else (),
    )


def invariant_check(finished: InvariantFinished, baseline: Baseline | None = None) -> Check:
    """An invariant must hold, but for causes that are known."""
    status: Status = {"held": "passed", "violated": "failed", "error": "error"}[  # type: ignore[assignment]
        finished.status
    ]
    if finished.note:
        status = "skipped"
    causes = len(finished.found)
    known = [
        f for f in finished.found if baseline and f.counterexample.signature in baseline.reasons
    ]
    line = finished.error or finished.note or ""
    if causes:
        line = f"{causes} {'cause' if causes == 1 else 'causes'}"
        if known:
            line += f", {len(known)} known"
        if len(known) == causes:
            status = "passed"
    elif not line:
        line = f"held, {finished.examples:,} examples, {finished.operations:,} operations"
    return Check(
        "invariants",
        finished.name,
        status,
        line,
        finished.seconds,
        tuple(
            f"{f.counterexample.signature}: {f.counterexample.summary}"
            for f in finished.found
            if f not in known
        ),
    )


def coverage_check(coverage: Coverage, *, failed: bool = False) -> Check:
    """Every guard must have been met. Where something failed that is told, and not judged."""
    met = len(coverage.guards) - len(coverage.never_met)
    return Check(
        "coverage",
        "guard coverage",
        "passed" if coverage.complete else "skipped" if failed else "failed",
        f"{met} of {len(coverage.guards)} guards met",
        details=coverage.gaps,
    )


def _failed(checks: Sequence[Check]) -> bool:
    return any(c.status in ("failed", "error") for c in checks)


def threshold(pyproject: Path) -> float:
    """The mutation score that `[tool.invariants]` asks for; all mutants where it says nothing.

    Raises `UsageError`.
    """
    if not pyproject.exists():
        return 1.0
    document = read_toml(pyproject, "mend it")
    value: Any = document
    for key in ("tool", "invariants", "mutation_score"):
        value = value.get(key, {}) if isinstance(value, dict) else {}
    if value == {}:
        return 1.0
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise UsageError(
            f"{pyproject}: tool.invariants.mutation_score: {value!r} is not a number from 0 to 1"
        )
    return float(value)


def memory_key(options: GateOptions, environment: Environment, contract: Contract) -> str:
    """A hash of all that the remembered results depend on: schema, contract, server and program."""
    # Where nobody knows what made the schema, nothing is remembered of it.
    made = source(options.run, contract).at(environment.revision).read().fingerprint
    digest = hashlib.sha256((made or secrets.token_hex(16)).encode())
    program = Path(invariants.__file__).parent
    files = [
        contract.path,
        *(t.mapping for t in contract.taxonomies if t.mapping),
        *options.run.apply_sql,
        options.mutants.equivalents,
        *sorted(program.rglob("*.py")),
        *files_of(contract),
    ]
    told = (
        environment.server.version,
        str(options.mutants.mutant_budget),
        options.run.profile,
        f"{options.run.at_once} and {options.mutants.at_once} sessions",
    )
    for part in (*(f.read_bytes() for f in files if f.is_file()), *(t.encode() for t in told)):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:32]


def recall(key: str) -> dict[str, Any]:
    """What is remembered under the key; nothing when there is no such file."""
    try:
        memory = json.loads((REMEMBERED / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    right = isinstance(memory, dict) and memory.get("format") == _FORMAT
    return memory if right else {}


def remember(key: str, memory: dict[str, Any]) -> None:
    """Keep it, and forget the oldest of many. Raises `InfrastructureError`."""
    if not memory:
        return
    write(REMEMBERED / f"{key}.json", json.dumps({**memory, "format": _FORMAT}) + "\n")
    files = sorted(REMEMBERED.glob("*.json"), key=lambda p: p.stat().st_mtime)
    for old in files[:-_REMEMBERED_MAX]:
        old.unlink(missing_ok=True)
