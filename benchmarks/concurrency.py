"""Sessions side by side: how fast they are run, and how surely and how soon a race is found.

How fast: workloads of two sessions are made beforehand, all duets of all invariants that ask for
sessions and as many drawn ones. Each round takes some of them, other ones every time, and sends
them three times over, on databases of one server: through the judge, by the scheduler alone, and by
threads. All three put the database back after each workload and send what comes before the sessions
in the same way, in one pipeline.

The judge is what a search costs (`Judge.violations`): the scheduler, the checks, and where there is
a violation the same transactions one after the other.

The scheduler sends one turn at a time. It asks the server who waits for whom, calls off what would
leave the order to chance, sends once more what had to give way, and reads all committed rows after
every transaction. That is where a violation is seen, so its clock includes it.

The threads are what anybody would write who wants the same transactions to meet: for each session a
thread with a psycopg connection (the same login's, autocommit), all let go at once. BEGIN and
the SET LOCALs of role and tenant are one round trip, then comes one for each statement, for SET
CONSTRAINTS ALL IMMEDIATE where the scheduler sends it, and for COMMIT, or ROLLBACK after a refusal.
Nobody controls the order, looks at the rows, or sends again what was refused. Like the scheduler's,
their sessions look for deadlocks after 1 ms. psycopg prepares what comes again, as it does by
default.

Turns are counted alike: each statement, each check of constraints and each end that was sent, BEGIN
with the first. The ratio is the scheduler's turns per second over the threads', from the moment at
which sessions begin to the one at which all have ended; the clock stands still for the rest.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from hypothesis import given, seed
from psycopg import RawCursor
from psycopg.rows import TupleRow

from benchmarks.figures import brief, machine, middle, most, over, spread, table
from invariants import generation, options
from invariants.checks import INVARIANTS, Invariant
from invariants.contract.contract import Contract
from invariants.counterexamples.files import Counterexample, Kept, load
from invariants.errors import InvariantsError
from invariants.execution.executor import Executor
from invariants.execution.history import History
from invariants.options import SchemaOptions
from invariants.search.events import Event, Found
from invariants.search.explorer import Explorer, Search, Stage
from invariants.search.judge import Judge
from invariants.search.run import schema
from invariants.servers.environment import Environment, Scratch
from invariants.workload import sql
from invariants.workload.operations import OPERATOR, Actor, Session, Transaction, Workload
from invariants.workload.templates import Templates

_NO_LIMIT = 10**9
_RACE = "allocation-sum"
_DRAWN = 50
_WARM = 10

Connection = psycopg.Connection[TupleRow]
Sample = list[tuple[Invariant, Workload]]


class _Enough(BaseException):
    """What was looked for is found; not an Exception, so that nobody takes it for a failure."""


@dataclass(frozen=True)
class Lap:
    """Workloads, the turns of their sessions, and seconds: of the sessions, and of everything."""

    workloads: int = 0
    turns: int = 0
    seconds: float = 0.0
    in_all: float = 0.0

    @property
    def rate(self) -> float:
        """Turns per second while sessions went on."""
        return over(self.turns, self.seconds)


class Timed(Executor):
    """An executor with a clock that goes while sessions do."""

    turns = 0
    seconds = 0.0

    def _interleaved(self, history: History) -> History:
        before = self._interleaver.turns_sent if self._interleaver else 0
        started = time.perf_counter()
        made = super()._interleaved(history)
        self.seconds += time.perf_counter() - started
        assert self._interleaver is not None
        self.turns += self._interleaver.turns_sent - before
        return made

    def lap(self, workloads: Sequence[Workload], *, states: bool) -> Lap:
        """Run workloads, one after the other."""
        turns, seconds, started = self.turns, self.seconds, time.perf_counter()
        for workload in workloads:
            self.run(workload, states=states)
        return Lap(
            len(workloads),
            self.turns - turns,
            self.seconds - seconds,
            time.perf_counter() - started,
        )


class Threaded(Timed):
    """An executor whose sessions are threads that nobody controls."""

    def __init__(self, scratch: Scratch, judge: Judge) -> None:
        super().__init__(scratch.conninfo, judge.contract, judge.catalog, scratch.login)
        self._threads = Threads(self, judge.contract.tenancy.session)

    def close(self) -> None:
        """End the threads and all connections."""
        self._threads.close()
        super().close()

    def _interleaved(self, history: History) -> History:
        turns, seconds = self._threads.run(history.workload.sessions)
        self.turns += turns
        self.seconds += seconds
        return history


class Threads:
    """A thread for each session, with psycopg as everybody uses it."""

    def __init__(self, executor: Executor, templates: Templates) -> None:
        self._executor, self._templates = executor, templates
        self._pool = ThreadPoolExecutor()
        self._connections: dict[tuple[int, str, bool], Connection] = {}

    def close(self) -> None:
        """End threads and connections."""
        self._pool.shutdown()
        for connection in self._connections.values():
            connection.close()

    def run(self, sessions: tuple[Session, ...]) -> tuple[int, float]:
        """Let all of them go at once; turns and seconds until the last has ended."""
        # Connections first; making one is not what is measured.
        lines = [
            [(t, self._connection(i, t.operation.actor)) for t in session]
            for i, session in enumerate(sessions)
        ]
        begin = threading.Barrier(len(sessions) + 1)
        running = [self._pool.submit(self._session, line, begin) for line in lines]
        begin.wait()
        started = time.perf_counter()
        turns = sum(one.result() for one in running)
        return turns, time.perf_counter() - started

    def _session(
        self, line: Sequence[tuple[Transaction, Connection]], begin: threading.Barrier
    ) -> int:
        begin.wait()
        return sum(self._send(*one) for one in line)

    def _send(self, transaction: Transaction, connection: Connection) -> int:
        """Send one transaction; how many turns it came to."""
        statements = transaction.operation.statements
        turns = 1
        try:
            with connection.cursor() as cursor:
                opening = "; ".join(sql.opening(transaction, self._templates, login=True))
                cursor.execute(opening.encode(), prepare=False)
                for part in range(transaction.turns):
                    turns = part + 1
                    if part < len(statements):
                        cursor.execute(*sql.parametrised(statements[part]))
                        if cursor.description:
                            cursor.fetchall()
                    else:
                        cursor.execute(sql.ending(transaction, part).encode())
        except psycopg.Error:
            connection.execute("ROLLBACK")
        return turns

    def _connection(self, position: int, actor: Actor) -> Connection:
        """A session's connection for a role; without tenant setting one that never had any."""
        key = position, actor.role, actor.lacks_setting
        if key not in self._connections:
            conninfo, more = self._executor.conninfo, ""
            if actor.role == OPERATOR:
                more = " -c deadlock_timeout=1ms -c log_min_messages=fatal"
            else:
                conninfo = self._executor.login(actor.role).conninfo
            self._connections[key] = psycopg.connect(
                conninfo,
                autocommit=True,
                cursor_factory=RawCursor,
                options="-c statement_timeout=20s -c timezone=UTC -c client_min_messages=error"
                + more,
            )
        return self._connections[key]


@dataclass(frozen=True)
class Round:
    """The same workloads through the judge, by the scheduler, and by threads."""

    judge: Lap
    scheduler: Lap
    threads: Lap

    @property
    def ratio(self) -> float:
        """Turns per second of the scheduler over those of the threads."""
        return over(self.scheduler.rate, self.threads.rate)


class Contest:
    """All three on databases of one environment."""

    def __init__(self, environment: Environment, contract: Contract) -> None:
        self.judge = Judge(environment, contract)
        lent = [environment.scratch() for _ in range(2)]
        self.scheduler = Timed(
            lent[0].conninfo, self.judge.contract, self.judge.catalog, lent[0].login
        )
        self.threads = Threaded(lent[1], self.judge)

    def close(self) -> None:
        """End all connections; the databases go with the environment."""
        self.threads.close()
        self.scheduler.close()
        self.judge.close()

    def round(self, sample: Sample) -> Round:
        """One turn each."""
        workloads = [w for _, w in sample]
        scheduler = self.scheduler.lap(workloads, states=True)
        # What is not looked at need not be read.
        threads = self.threads.lap(workloads, states=False)
        started = time.perf_counter()
        for invariant, workload in sample:
            self.judge.violations(invariant, workload)
        judge = Lap(len(sample), scheduler.turns, in_all=time.perf_counter() - started)
        return Round(judge, scheduler, threads)


def duets(judge: Judge) -> Sample:
    """All duets of all invariants that ask for sessions."""
    return [
        (i, w)
        for i in INVARIANTS.values()
        if i.concurrent
        for w in generation.duets(judge.contract, judge.catalog, i)
    ]


def drawn(judge: Judge, count: int, number: int) -> Sample:
    """So many workloads with sessions for each of these invariants, as a search draws them."""
    return [
        (invariant, workload)
        for invariant in INVARIANTS.values()
        if invariant.concurrent
        for workload in _some(judge, invariant, count, number)
    ]


def _some(judge: Judge, invariant: Invariant, count: int, number: int) -> list[Workload]:
    made: list[Workload] = []

    # Most of what a search draws has no sessions.
    @generation.exploring(20 * count)
    @seed(number)
    @given(generation.workloads(judge.contract, judge.catalog, invariant, 2))
    def draw(workload: Workload) -> None:
        if workload.sessions and not workload.premise:
            made.append(workload)
        if len(made) == count:
            raise _Enough

    with suppress(_Enough):
        draw()
    return made


def how_fast(
    environment: Environment,
    contract: Contract,
    rounds: int,
    enumerated: int | None,
    count: int,
    number: int,
) -> str:
    """Workloads and turns per second of all three, and the ratio."""
    contest = Contest(environment, contract)
    try:
        samples = {
            "duets": duets(contest.judge)[:enumerated],
            "drawn": drawn(contest.judge, count, number),
        }
        # The first turn fills caches on all sides: connections, plans, rows known by their text.
        for sample in samples.values():
            contest.round(sample[:: max(1, len(sample) // _WARM)])
        measured = {
            what: [contest.round(sample[n::rounds]) for n in range(rounds)]
            for what, sample in samples.items()
        }
    finally:
        contest.close()
    head = (
        "sessions",
        "workloads",
        "judged/s",
        "turns/s",
        "scheduler/s",
        "turns/s",
        "threads/s",
        "turns/s",
        "ratio (min to max)",
    )
    return table(
        head,
        [
            (
                what,
                f"{sum(r.judge.workloads for r in of):,}",
                middle((over(r.judge.workloads, r.judge.in_all) for r in of), 0),
                middle((over(r.judge.turns, r.judge.in_all) for r in of), 0),
                middle((over(r.scheduler.workloads, r.scheduler.seconds) for r in of), 0),
                middle((r.scheduler.rate for r in of), 0),
                middle((over(r.threads.workloads, r.threads.seconds) for r in of), 0),
                middle((r.threads.rate for r in of), 0),
                spread(r.ratio for r in of),
            )
            for what, of in measured.items()
        ],
    )


def histories(kept: Kept, environment: Environment, contract: Contract, times: int) -> Counter[str]:
    """What came of a kept counterexample, as text, and how often."""
    found: Counter[str] = Counter()
    with Judge(environment, contract) as judge:
        invariant = INVARIANTS[kept.invariant]
        for _ in range(times):
            case, violations = judge.violations(invariant, kept.workload)
            shown = sorted(str(v.signature) for v in violations)
            found[f"{told(case.history)}\n{shown}"] += 1
    return found


def told(history: History) -> str:
    """All of a history but what the clock decides: every turn, and every step with its changes."""
    turns = [
        (
            t.place.session,
            t.place.number,
            t.place.again,
            t.part,
            t.waits_for,
            t.resumed,
            t.count,
            t.error and t.error.sqlstate,
            t.ended_by,
        )
        for t in history.turns
    ]
    steps = [
        (
            s.index,
            s.place and (s.place.session, s.place.number, s.place.again),
            s.committed,
            s.error and (s.error.sqlstate, s.error.constraint, s.error.function),
            [a.count for a in s.answers],
            [(c.table, c.effect, str(c.record.key)) for c in s.changes],
        )
        for s in history.steps
    ]
    return "\n".join(map(str, [*turns, *steps]))


def how_surely(chosen: SchemaOptions, folder: Path, times: int) -> bool:
    """Replay what is kept, a line for each; whether each went the same way every time."""
    kept = [k for k in map(load, sorted(folder.glob("*.json"))) if k.workload.sessions]
    same = True
    for revision in sorted({k.revision for k in kept}):
        # One that does not say where it was found is replayed on the schema asked for.
        at = replace(chosen, revision=revision or chosen.revision)
        with schema(at, lambda _: None) as (environment, contract):
            for one in (k for k in kept if k.revision == revision):
                found = histories(one, environment, contract, times)
                same = same and len(found) == 1
                print(
                    f"{one.path.stem}: {times:,} replays at {environment.revision}, "
                    f"{len(found)} {'history' if len(found) == 1 else 'histories'}",
                    flush=True,
                )
    if not kept:
        print(f"{folder}: no counterexample with sessions is kept")
    return same


@dataclass(frozen=True)
class Hit:
    """The race reduced, and after how many seconds of search."""

    seconds: float
    counterexample: Counterexample

    @property
    def size(self) -> tuple[int, int, int]:
        """Sessions, transactions and statements, those before the sessions included."""
        workload = self.counterexample.workload
        everything = workload.all_operations
        return (
            self.counterexample.sessions,
            len(everything),
            sum(len(o.statements) for o in everything),
        )


def hunt(
    environment: Environment,
    contract: Contract,
    number: int,
    stages: tuple[Stage, ...],
    seconds: float,
) -> Hit | None:
    """Search with a seed until the concurrent over-allocation is found and reduced, or missed."""
    made: list[Counterexample] = []

    def listen(event: Event) -> None:
        if isinstance(event, Found) and event.counterexample.signature.endswith(
            "sessions together"
        ):
            made.append(event.counterexample)
            raise _Enough

    explorer = Explorer(environment, contract, listen)
    try:
        explorer.prepare()
        started = time.monotonic()
        search = Search(number, _NO_LIMIT, seconds, sessions=2, stages=stages)
        try:
            explorer.explore(INVARIANTS[_RACE], search)
        except _Enough:
            return Hit(time.monotonic() - started, made[0])
        return None
    finally:
        explorer.close()


_VARIANTS: tuple[tuple[str, tuple[Stage, ...]], ...] = (
    ("a search", ("sweeps", "duets", "draws")),
    ("draws only", ("draws",)),
)


def how_soon(
    environment: Environment, contract: Contract, seeds: Sequence[int], seconds: float
) -> str:
    """A row for each way to search."""
    head = ("until reduced", "found", "s", "(max)", "sessions", "transactions", "statements")
    return table(head, _hunted(environment, contract, seeds, seconds))


def _hunted(
    environment: Environment, contract: Contract, seeds: Sequence[int], seconds: float
) -> Iterator[tuple[str, ...]]:
    for what, stages in _VARIANTS:
        hits = []
        for number in seeds:
            hit = hunt(environment, contract, number, stages, seconds)
            said = f"{hit.seconds:.1f} s, {hit.size}" if hit else "not found"
            print(f"{what}, seed {number}: {said}", file=sys.stderr, flush=True)
            hits += [hit] if hit else []
        sizes = [
            " to ".join(str(n) for n in sorted({min(of), max(of)}))
            for of in zip(*(h.size for h in hits), strict=True)
        ]
        yield (
            what,
            f"{len(hits)}/{len(seeds)}",
            middle(h.seconds for h in hits),
            most(h.seconds for h in hits),
            *(sizes or ("-", "-", "-")),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was asked for."""
    parser = argparse.ArgumentParser("python -m benchmarks.concurrency", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    fast = parser.add_argument_group(
        "how fast", "Workloads and turns per second of all three, and the ratio; about a minute"
    )
    fast.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="0 leaves it out (default: 5)"
    )
    fast.add_argument("--duets", type=int, metavar="N", help="as many of the duets (default: all)")
    fast.add_argument(
        "--drawn",
        type=options.positive,
        default=_DRAWN,
        metavar="N",
        help=f"drawn workloads for each invariant, besides the duets (default: {_DRAWN})",
    )
    surely = parser.add_argument_group(
        "how surely",
        "Replay every kept counterexample with sessions, on the schema it was found on, and count "
        "different histories: every turn, every wait, every row changed. Exits with status 1 where "
        "there is more than one.",
    )
    surely.add_argument(
        "--replays", type=int, default=0, metavar="N", help="of each (1000 takes some minutes)"
    )
    surely.add_argument(
        "--counterexamples",
        type=Path,
        default=options.COUNTEREXAMPLES.default,
        metavar="DIR",
        help="(default: tests/counterexamples)",
    )
    soon = parser.add_argument_group(
        "how soon",
        f"Search {_RACE} until the first counterexample that takes sessions is reduced and "
        "confirmed: once as every run does, which tries all duets before it draws, and once with "
        "random draws only, so that the figure does not rest on what is enumerated. Everything "
        "else that is found on the way is reduced as well, and its time counts.",
    )
    soon.add_argument(
        "--seeds",
        type=int,
        nargs="?",
        const=10,
        default=0,
        metavar="N",
        help="searches of either kind (10 when no number is given)",
    )
    soon.add_argument(
        "--search-seconds",
        type=options.seconds,
        default=300.0,
        metavar="SECONDS",
        help="a search that has found nothing by then has missed it (default: 300)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="the first seed (default: 1)"
    )
    options.declare(parser.add_argument_group("schema and server").add_argument, options.SCHEMA)
    parser.set_defaults(revision="documented", server="embedded")
    brief(parser, rounds=1, drawn=1, duets=20, replays=1, seeds=1, search_seconds=1.0)
    given_ = parser.parse_args(argv)
    same = True
    try:
        chosen = SchemaOptions(**options.values(options.SCHEMA, lambda o: getattr(given_, o.key)))
        with schema(chosen, lambda _: None) as (environment, contract):
            server = environment.server
            print(
                f"revision {environment.revision} on {server.kind} PostgreSQL {server.version}; "
                f"{machine()}",
                flush=True,
            )
            if given_.rounds:
                print(
                    how_fast(
                        environment,
                        contract,
                        given_.rounds,
                        given_.duets,
                        given_.drawn,
                        given_.seed,
                    ),
                    flush=True,
                )
            if given_.seeds:
                seeds = range(given_.seed, given_.seed + given_.seeds)
                print(how_soon(environment, contract, seeds, given_.search_seconds), flush=True)
        if given_.replays:
            same = how_surely(chosen, given_.counterexamples, given_.replays)
    except InvariantsError as error:
        print(f"benchmarks.concurrency: {error}", file=sys.stderr)
        return error.exit_status
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
