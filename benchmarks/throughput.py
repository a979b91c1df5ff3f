"""Fuzzing throughput over that of a plain psycopg loop which sends the same workloads.

Both sides run in this process, on one server, turn and turn about: the fuzzer searches an invariant
for some seconds, then the loop sends every workload that it executed, those of further worlds
included. Operations are counted alike; creating a workload's tenants is part of it on both sides,
and no operation.

Counted for the fuzzer: all of `Explorer.explore`, that is drawing by Hypothesis, sending, reading
the committed rows after every operation, the checks, and putting the database back. Findings are
dropped after the check: what it costs to reduce them depends on the schema. By default it only
draws, as a run does most of the time; with `--stage sweeps` it goes through what is enumerated.

Counted for the loop: one transaction for each operation and one round trip for each statement
(BEGIN, role and tenant setting, the statements, COMMIT or ROLLBACK), and fetching what they return.
Its workloads are ready made, nothing is checked, and the clock stands still while its database is
put back. psycopg prepares what comes again, as it does by default.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import RawCursor
from psycopg.rows import TupleRow

from benchmarks.figures import brief, machine, middle, over, spread, table
from invariants import options
from invariants.checks import Case, Invariant, Violation, chosen
from invariants.contract.contract import Contract
from invariants.errors import InvariantsError
from invariants.execution.executor import Executor
from invariants.options import SchemaOptions
from invariants.search.events import Event
from invariants.search.explorer import Explorer, Search, Stage
from invariants.search.judge import Judge
from invariants.search.run import schema
from invariants.servers.environment import Environment
from invariants.workload import sql
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Copy,
    Operation,
    Refresh,
    Workload,
)

_NO_LIMIT = 10**9

Connection = psycopg.Connection[TupleRow]


@dataclass
class Lap:
    """One side's turn: operations, and the seconds they took by the clock and in this process."""

    operations: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Operations per second."""
        return over(self.operations, self.seconds)

    @property
    def cpu_us(self) -> float:
        """Microseconds of this process for each operation."""
        return over(self.cpu_seconds, self.operations) * 1e6

    def __add__(self, other: Lap) -> Lap:
        return Lap(
            self.operations + other.operations,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
        )


class Recorder(Judge):
    """A judge that keeps every workload it executes, and drops the verdict after the check."""

    def __init__(self, environment: Environment, contract: Contract) -> None:
        super().__init__(environment, contract)
        self.executed: list[Workload] = []

    def _judged(self, invariant: Invariant, case: Case, executor: Executor) -> list[Violation]:
        super()._judged(invariant, case, executor)
        self.executed.append(case.history.workload)
        self.executed += [history.workload for history in case.worlds.values()]
        return []


@dataclass
class Plain:
    """The loop: psycopg as everybody uses it, on each database one connection for each role.

    Databases and their cleaning are lent by a judge of the loop's own.
    """

    judge: Judge
    contract: Contract
    _connections: dict[tuple[str, Actor], Connection] = field(default_factory=dict)

    def close(self) -> None:
        """End the connections."""
        for connection in self._connections.values():
            connection.close()

    def run(self, workloads: list[Workload]) -> Lap:
        """Send workloads, each on a clean database."""
        lap = Lap()
        for workload in workloads:
            # Connections last; making one is not what is measured.
            for actor in {Actor(OPERATOR), *(o.actor for o in workload.operations)}:
                self._connection(workload.premise, actor)
            started, cpu = time.perf_counter(), time.process_time()
            self._send(workload)
            lap.seconds += time.perf_counter() - started
            lap.cpu_seconds += time.process_time() - cpu
            lap.operations += len(workload.operations)
            self._clean(workload)
        return lap

    def _send(self, workload: Workload) -> None:
        connection = self._connection(workload.premise, Actor(OPERATOR))
        root = self.contract.tenancy.root
        for tenant in workload.tenants:
            if (insert := tenant.made(root)) is not None:
                connection.execute(*sql.parametrised(insert))
        connection.commit()
        for operation in workload.operations:
            self._transaction(self._connection(workload.premise, operation.actor), operation)

    def _transaction(self, connection: Connection, operation: Operation) -> str | None:
        try:
            with connection.cursor() as cursor:
                self._become(cursor, operation.actor)
                for statement in operation.statements:
                    query, values = sql.parametrised(statement)
                    if isinstance(statement, Copy):
                        with cursor.copy(query) as copy:
                            for row in statement.rows:
                                copy.write_row([sql.text(v) for v in row])
                    else:
                        cursor.execute(query, values)
                        if cursor.description:
                            cursor.fetchall()
            connection.commit()
        except psycopg.Error as error:
            connection.rollback()
            return error.sqlstate
        return None

    def _become(self, cursor: psycopg.Cursor[TupleRow], actor: Actor) -> None:
        role = actor.role or "none"
        values = self.contract.tenancy.session.values(actor)
        made = "".join(
            f", set_config(${i}, ${i + 1}, true)" for i in range(2, 2 * len(values) + 2, 2)
        )
        cursor.execute(
            f"SELECT set_config('role', $1, true){made}", (role, *(p for v in values for p in v))
        )

    def _clean(self, workload: Workload) -> None:
        """Put the database back; what was refreshed is refreshed once more when it is clean."""
        views = {
            s.relation for o in workload.operations for s in o.statements if isinstance(s, Refresh)
        }
        refresh = tuple(Operation(Actor(OPERATOR), (Refresh(v),)) for v in sorted(views))
        executor = self.judge.executor(workload.premise)
        # After a run without states all tables are reset, and the next run waits for it.
        executor.run(Workload((), ()), states=False)
        executor.run(Workload((), refresh))

    def _connection(self, premise: str, actor: Actor) -> Connection:
        """A connection of the login that the fuzzer acts through as well, the operator's its own.

        What has no tenant setting needs one on which none was ever made.
        """
        key = premise, Actor(actor.role, None if actor.lacks_setting else "")
        if key not in self._connections:
            executor = self.judge.executor(premise)
            if actor.role == OPERATOR:
                conninfo, more = executor.conninfo, " -c log_min_messages=fatal"
            else:
                conninfo, more = executor.login(actor.role).conninfo, ""
            self._connections[key] = psycopg.connect(
                conninfo,
                cursor_factory=RawCursor,
                # Neither side fills the server's log with refusals.
                options=f"-c client_min_messages=error{more}",
            )
        return self._connections[key]


@dataclass
class Sides:
    """One round of one invariant."""

    fuzzer: Lap
    plain: Lap

    @property
    def ratio(self) -> float:
        """Fuzzing throughput over the loop's."""
        return over(self.fuzzer.rate, self.plain.rate)


class Contest:
    """Both sides on one environment."""

    def __init__(self, environment: Environment, contract: Contract, stage: Stage) -> None:
        self.stage = stage
        self.explorer = Explorer(environment, contract, _silent)
        self.explorer.judge.close()
        self.recorder = self.explorer.judge = Recorder(environment, contract)
        self.lender = Judge(environment, contract)
        self.plain = Plain(self.lender, contract)

    def close(self) -> None:
        """Drop all databases."""
        self.plain.close()
        self.lender.close()
        self.explorer.close()

    def round(self, invariant: Invariant, seed: int, seconds: float) -> Sides:
        """One turn each."""
        for premise in ("", *invariant.premises):
            self.recorder.executor(premise, lane=0)
            self.recorder.executor(premise, lane=1)
            self.lender.executor(premise)
        self.recorder.executed.clear()
        before = self.recorder.operations
        started, cpu = time.perf_counter(), time.process_time()
        self.explorer.explore(invariant, Search(seed, _NO_LIMIT, seconds, stages=(self.stage,)))
        fuzzer = Lap(
            self.recorder.operations - before,
            time.perf_counter() - started,
            time.process_time() - cpu,
        )
        return Sides(fuzzer, self.plain.run(self.recorder.executed))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rounds and print operations per second of both sides."""
    parser = argparse.ArgumentParser("python -m benchmarks.throughput", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--rounds", type=options.positive, default=4, metavar="N", help="(default: 4)"
    )
    parser.add_argument(
        "--seconds",
        type=options.seconds,
        default=1.0,
        help="of fuzzing, by invariant and round (default: 1)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="(default: 1)")
    parser.add_argument(
        "--stage", choices=["draws", "sweeps"], default="draws", help="(default: draws)"
    )
    parser.add_argument("--invariant", action="append", default=[], metavar="NAME")
    options.add_to(parser, options.SCHEMA)
    parser.set_defaults(revision="documented", server="embedded")
    brief(parser, rounds=1, seconds=0.1)
    given = parser.parse_args(argv)
    try:
        values = options.values(options.SCHEMA, lambda o: getattr(given, o.key))
        with schema(SchemaOptions(**values), lambda _: None) as (environment, contract):
            server = environment.server
            print(
                f"revision {environment.revision} on {server.kind} PostgreSQL {server.version}; "
                f"{machine()}"
            )
            contest = Contest(environment, contract, given.stage)
            try:
                rounds = list(
                    _rounds(
                        contest, chosen(given.invariant), given.rounds, given.seed, given.seconds
                    )
                )
            finally:
                contest.close()
    except InvariantsError as error:
        print(f"benchmarks.throughput: {error}", file=sys.stderr)
        return error.exit_status
    print(report(rounds))
    return 0


def _rounds(
    contest: Contest, invariants: tuple[Invariant, ...], rounds: int, seed: int, seconds: float
) -> Iterator[dict[str, Sides]]:
    for invariant in invariants:
        # The first turn fills caches on both sides: plans, ids, Hypothesis's own.
        contest.round(invariant, seed, min(seconds, 0.3))
    for number in range(1, rounds + 1):
        yield {i.name: contest.round(i, seed + number, seconds) for i in invariants}


def report(rounds: list[dict[str, Sides]]) -> str:
    """Operations per second by invariant and overall, the ratio with its range over the rounds."""
    head = (
        "operations/s",
        "operations",
        "fuzzer",
        "plain loop",
        "ratio (min to max)",
        "own cpu us/op",
        "plain",
    )
    overall = [
        Sides(
            sum((s.fuzzer for s in one.values()), Lap()),
            sum((s.plain for s in one.values()), Lap()),
        )
        for one in rounds
    ]
    named = {name: [one[name] for one in rounds] for name in rounds[0]}
    rows = [
        (
            name,
            middle((s.fuzzer.operations for s in sides), 0),
            middle((s.fuzzer.rate for s in sides), 0),
            middle((s.plain.rate for s in sides), 0),
            spread(s.ratio for s in sides),
            middle((s.fuzzer.cpu_us for s in sides), 0),
            middle((s.plain.cpu_us for s in sides), 0),
        )
        for name, sides in [*named.items(), ("overall", overall)]
    ]
    return table(head, rows)


def _silent(event: Event) -> None:
    del event


if __name__ == "__main__":
    sys.exit(main())
