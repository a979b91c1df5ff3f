"""What the hardening costs: head against the documented schema, and the plans of the read paths.

Both are databases of one server with the same rows. The rows are loaded into the documented schema
twice and one copy is upgraded, as a user's would be: the upgrade stops at rows that break the
contract, so what is measured is valid. Then both are vacuumed, analyzed and reindexed.

Throughput. A transaction is one of an application's, as app_rw: the tenant setting, one statement,
commit. They are prepared statements in a libpq pipeline (`execution.wire`): the server finds the
next transaction waiting and works without a pause. A plain psycopg loop spends most of its time
in Python and in waiting for the other process; that is the same on both sides and would bring
every ratio near 1. Nor do commits wait for the disk: our servers run with fsync off. `own cpu` is
what this process takes, on another core at the same time: as long as it is less than the
transaction takes, the server is what is measured. The sides take turns, A B B A in one round and
B A A B in the next, for each kind of transaction, so that a drift of the machine meets both. Every
answer is read: a refusal would be fast, and ends the benchmark.

Plans. The documented read paths at this size, before anything else is written, by EXPLAIN ANALYZE:
as app_rw with the tenant set, so that policies and views take part in them.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import psycopg

from benchmarks.figures import brief, machine, middle, over, spread, table
from invariants import options
from invariants.errors import InfrastructureError, InvariantsError
from invariants.execution.wire import Batch, Parameters, Wire
from invariants.options import SchemaOptions
from invariants.schema.chain import Migrations, lineage, upgrade
from invariants.search.run import schema
from invariants.servers.base import ServerInfo, database_message
from invariants.servers.patches import apply_patch
from strategies.payloads import pool

_WANTED_RATIO = 0.7
_EXPLAINED_TIMES = 5
_WARMING_ROUNDS = 2

_TABLES = (
    "attribution_events",
    "attribution_allocations",
    "revenue_ledger",
    "reconciliation_runs",
)
_MATERIALIZED = ("mv_realtime_revenue", "mv_reconciliation_status")
_CHANNELS = ("google_search_paid", "email")
_MODEL = "linear-1"

# Rows are numbered, and all that is in them follows from the number: tenant, amount, and ids as
# scattered as random ones. The older half of the events is split over two channels, and every
# allocation is posted.
_LOAD = (
    """
    INSERT INTO tenants (id, name)
    SELECT md5('tenant ' || n)::uuid, 'Tenant ' || n FROM generate_series(0, %(tenants)s - 1) n
    """,
    """
    INSERT INTO attribution_events (
        id, tenant_id, created_at, updated_at, occurred_at, external_event_id, correlation_id,
        session_id, revenue_cents, raw_payload
    )
    SELECT
        md5('event ' || n)::uuid, md5('tenant ' || n %% %(tenants)s)::uuid, at, at, at,
        'order-' || n, md5('request ' || n)::uuid, md5('session ' || n)::uuid, n %% 50000,
        payloads[1 + n %% cardinality(payloads)]
    FROM generate_series(0, %(rows)s - 1) n,
        (SELECT %(payloads)s::jsonb[] AS payloads) p,
        LATERAL (SELECT now() - interval '90 days' * (1 - n::float8 / %(rows)s) AS at) t
    """,
    """
    INSERT INTO attribution_allocations (
        id, tenant_id, event_id, channel_code, allocated_revenue_cents, allocation_ratio,
        model_version
    )
    SELECT
        md5('allocation ' || n)::uuid, e.tenant_id, e.id, (%(channels)s::text[])[1 + n %% 2],
        CASE n %% 2 WHEN 0 THEN first_cents ELSE e.revenue_cents - first_cents END,
        CASE n %% 2 WHEN 0 THEN 0.6 ELSE 0.4 END,
        %(model)s
    FROM generate_series(0, %(rows)s - 1) n
    INNER JOIN attribution_events e ON e.id = md5('event ' || n / 2)::uuid,
        LATERAL (SELECT e.revenue_cents * 6 / 10 AS first_cents) s
    """,
    """
    INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents)
    SELECT md5('posting ' || n)::uuid, a.tenant_id, a.id, a.allocated_revenue_cents
    FROM generate_series(0, %(rows)s - 1) n
    INNER JOIN attribution_allocations a ON a.id = md5('allocation ' || n)::uuid
    """,
    """
    INSERT INTO reconciliation_runs (id, tenant_id, last_run_at, state)
    SELECT
        md5('run ' || n)::uuid, md5('tenant ' || n %% %(tenants)s)::uuid,
        now() - interval '90 days' * (1 - n::float8 / %(rows)s), 'completed'
    FROM generate_series(0, %(rows)s - 1) n
    """,
)

_SET_TENANT = "SELECT set_config('app.current_tenant_id', $1, true)"


@dataclass(frozen=True)
class Size:
    """Rows of each table, shared evenly by the tenants."""

    tenants: int
    rows: int

    @classmethod
    def of(cls, tenants: int, rows: int) -> Size:
        """The nearest size at which every tenant has as many rows, and an even number of them."""
        tenants = min(tenants, max(1, rows // 2))
        return cls(tenants, max(1, rows // (2 * tenants)) * 2 * tenants)

    def tenant(self, number: int) -> str:
        """The tenant of the event `number`."""
        return ident("tenant", number % self.tenants)

    def __str__(self) -> str:
        each = self.rows // self.tenants
        return (
            f"{self.tenants:,} tenants with {each:,} rows each in {', '.join(_TABLES[:-1])} and "
            f"{_TABLES[-1]}: {self.rows:,} rows a table"
        )


@dataclass(frozen=True)
class Kind:
    """A kind of transaction: its statement, its values for an event of a tenant, rows written."""

    name: str
    statement: str
    values: Callable[[int, str], Parameters]
    rows: int

    def transaction(self, number: int, size: Size) -> Batch:
        """What the application sends about the event `number`."""
        tenant = size.tenant(number)
        values = self.values(number, tenant)
        return "app_rw", ((_SET_TENANT, (tenant,)), (self.statement, values))


@dataclass(frozen=True)
class Path:
    """A documented query, and what it reads. `{event}` stands for the id of an event."""

    name: str
    relation: str
    query: str


@dataclass(frozen=True)
class Side:
    """One of the two databases."""

    revision: str
    conninfo: str
    wire: Wire


@dataclass
class Lap:
    """One side's turns of a round, with the seconds by the clock and in this process."""

    transactions: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Transactions per second."""
        return over(self.transactions, self.seconds)

    @property
    def us(self) -> float:
        """Microseconds for each transaction."""
        return over(self.seconds, self.transactions) * 1e6

    @property
    def cpu_us(self) -> float:
        """Microseconds of this process for each transaction."""
        return over(self.cpu_seconds, self.transactions) * 1e6


@dataclass(frozen=True)
class Round:
    """One round of one kind."""

    documented: Lap
    hardened: Lap

    @property
    def ratio(self) -> float:
        """Throughput of the hardened schema over that of the documented one."""
        return over(self.hardened.rate, self.documented.rate)


@dataclass(frozen=True)
class Explained:
    """What EXPLAIN ANALYZE said of a path, time after time; nothing without its relation."""

    path: Path
    rows: str = "-"
    planning_ms: Sequence[float] = ()
    execution_ms: Sequence[float] = ()
    scans: Sequence[str] = ()

    @property
    def by_index(self) -> str:
        """Whether all of it is read by an index."""
        if not self.scans:
            return "-"
        return "no" if any(scan.startswith("Seq Scan") for scan in self.scans) else "yes"


def ident(kind: str, number: int) -> str:
    """The id that loading gives, and would give, to the row `number`."""
    return hashlib.md5(f"{kind} {number}".encode()).hexdigest()


@cache
def _payloads() -> Sequence[str]:
    return [payload.text for payload in chain.from_iterable(zip(*pool().values(), strict=True))]


def _split(number: int) -> tuple[int, int]:
    cents = number % 50_000
    return cents * 6 // 10, cents - cents * 6 // 10


def _ingest(number: int, tenant: str) -> Parameters:
    payloads = _payloads()
    return (
        ident("event", number),
        tenant,
        f"order-{number}",
        ident("request", number),
        ident("session", number),
        str(number % 50_000),
        payloads[number % len(payloads)],
    )


def _allocate(number: int, tenant: str) -> Parameters:
    first, second = _split(number)
    return (
        tenant,
        ident("event", number),
        _MODEL,
        ident("allocation", 2 * number),
        str(first),
        ident("allocation", 2 * number + 1),
        str(second),
    )


def _post(number: int, tenant: str) -> Parameters:
    posting, allocation = ident("posting", 2 * number), ident("allocation", 2 * number)
    return posting, tenant, allocation, str(_split(number)[0])


KINDS = (
    Kind(
        "ingest",
        "INSERT INTO attribution_events (id, tenant_id, occurred_at, external_event_id,"
        " correlation_id, session_id, revenue_cents, raw_payload)"
        " VALUES ($1, $2, now(), $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        _ingest,
        1,
    ),
    Kind(
        "allocation",
        "INSERT INTO attribution_allocations (tenant_id, event_id, model_version, id,"
        " channel_code, allocated_revenue_cents, allocation_ratio)"
        f" VALUES ($1, $2, $3, $4, '{_CHANNELS[0]}', $5, 0.6),"
        f" ($1, $2, $3, $6, '{_CHANNELS[1]}', $7, 0.4)",
        _allocate,
        2,
    ),
    Kind(
        "posting",
        "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents)"
        " VALUES ($1, $2, $3, $4)",
        _post,
        1,
    ),
)

PATHS = (
    Path(
        "realtime revenue by tenant",
        "v_realtime_revenue",
        "SELECT * FROM v_realtime_revenue",
    ),
    Path(
        "reconciliation status by tenant",
        "v_reconciliation_status",
        "SELECT * FROM v_reconciliation_status",
    ),
    Path(
        "events by tenant and time",
        "attribution_events",
        "SELECT * FROM attribution_events WHERE occurred_at >= now() - interval '30 days'"
        " ORDER BY occurred_at DESC LIMIT 100",
    ),
    Path(
        "allocations by (tenant, event, model)",
        "attribution_allocations",
        "SELECT * FROM attribution_allocations"
        f" WHERE event_id = '{{event}}' AND model_version = '{_MODEL}'",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Load both databases, explain the read paths, run the rounds, print the figures."""
    parser = argparse.ArgumentParser("python -m benchmarks.schema", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--rounds", type=options.positive, default=24, metavar="N", help="(default: 24)"
    )
    parser.add_argument(
        "--transactions",
        type=options.positive,
        default=200,
        metavar="N",
        help="in each turn (default: 200)",
    )
    parser.add_argument(
        "--rows",
        type=options.positive,
        default=100_000,
        metavar="N",
        help="in each table (default: 100000)",
    )
    parser.add_argument(
        "--tenants", type=options.positive, default=2000, metavar="N", help="(default: 2000)"
    )
    options.add_to(parser, options.SCHEMA)
    parser.set_defaults(server="embedded")
    brief(parser, rounds=1, transactions=5, rows=400, tenants=10)
    given = parser.parse_args(argv)
    size = Size.of(given.tenants, given.rows)
    try:
        values = options.values(options.SCHEMA, lambda o: getattr(given, o.key))
        with sides(SchemaOptions(**values), size) as (server, documented, hardened):
            print(
                f"revision {hardened.revision} against {documented.revision} on {server.kind} "
                f"PostgreSQL {server.version}; {machine()}\n{size}",
                flush=True,
            )
            print(f"\n{plans(explained(hardened, size))}", flush=True)
            rounds = measured(documented, hardened, size, given.rounds, given.transactions)
            print(f"\n{throughput(rounds)}")
    except InvariantsError as error:
        print(f"benchmarks.schema: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def throughput(rounds: dict[str, list[Round]]) -> str:
    """Transactions per second on both sides, the ratio with its range over the rounds."""
    head = (
        "transactions/s",
        "documented",
        "hardened",
        "ratio (min to max)",
        "wanted",
        "documented us",
        "hardened us",
        "own cpu us",
    )
    rows = [
        (
            name,
            middle((r.documented.rate for r in of), 0),
            middle((r.hardened.rate for r in of), 0),
            spread(r.ratio for r in of),
            f">= {_WANTED_RATIO}",
            middle((r.documented.us for r in of), 0),
            middle((r.hardened.us for r in of), 0),
            middle((lap.cpu_us for r in of for lap in (r.documented, r.hardened)), 0),
        )
        for name, of in rounds.items()
    ]
    return table(head, rows)


def plans(found: list[Explained]) -> str:
    """How each path is read and how long that takes."""
    head = ("read path", "rows", "planning ms", "execution ms (min to max)", "by index", "scans")
    rows = [
        (
            one.path.name,
            one.rows,
            middle(one.planning_ms, 2),
            spread(one.execution_ms, 3),
            one.by_index,
            ", ".join(one.scans) or f"no {one.path.relation}",
        )
        for one in found
    ]
    return table(head, rows)


@contextmanager
def sides(wanted: SchemaOptions, size: Size) -> Iterator[tuple[ServerInfo, Side, Side]]:
    """Two loaded databases on one server: the documented schema, and the one wanted."""
    documented = replace(wanted, revision="documented", apply_sql=())
    with schema(documented, lambda _: None) as (environment, contract):
        goal = Migrations(
            wanted.alembic_config,
            contract.revisions.get(wanted.revision, wanted.revision),
            wanted.migration_timeout,
        )
        try:
            before, after = environment.scratch().conninfo, environment.scratch().conninfo
            load(before, size)
            load(after, size)
            _say("both databases loaded")
            started = time.perf_counter()
            upgrade(after, goal)
            _say(f"one upgraded in {time.perf_counter() - started:.1f} s")
            for patch in wanted.apply_sql:
                apply_patch(after, patch)
            settle(before)
            settle(after)
            with (
                _side(environment.revision, before) as one,
                _side(lineage(goal).applied[-1], after) as other,
            ):
                yield environment.server, one, other
        except psycopg.Error as error:
            raise InfrastructureError(f"the server failed: {database_message(error)}") from error


def load(conninfo: str, size: Size) -> None:
    """Fill the documented schema, fast: past its triggers and foreign keys."""
    values = {
        "tenants": size.tenants,
        "rows": size.rows,
        "payloads": list(_payloads()),
        "channels": list(_CHANNELS),
        "model": _MODEL,
    }
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for statement in _LOAD:
            connection.execute(statement.encode(), values)
            # The next one reads what this one wrote.
            connection.execute("ANALYZE attribution_events, attribution_allocations")


def settle(conninfo: str) -> None:
    """Refresh, vacuum and reindex, and have the server leave it at that."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for relation in _TABLES:
            # In the middle of the rounds it would work against one side only.
            connection.execute(f"ALTER TABLE {relation} SET (autovacuum_enabled = false)".encode())
        for relation in _MATERIALIZED:
            connection.execute(f"REFRESH MATERIALIZED VIEW {relation}".encode())
        # Indexes that the upgrade built are packed more tightly than those that rows were added to.
        connection.execute("REINDEX SCHEMA public")
        connection.execute("VACUUM (ANALYZE)")


def explained(side: Side, size: Size) -> list[Explained]:
    """Each path by EXPLAIN ANALYZE as app_rw, for a tenant that has rows of all kinds."""
    event = size.rows // 4
    with psycopg.connect(side.conninfo) as connection:
        connection.execute(
            "SELECT set_config('role', 'app_rw', true),"
            " set_config('app.current_tenant_id', %s, true)",
            [size.tenant(event)],
        )
        return [_explain(connection, path, ident("event", event)) for path in PATHS]


def measured(
    documented: Side, hardened: Side, size: Size, rounds: int, transactions: int
) -> dict[str, list[Round]]:
    """All rounds of each kind: in each, events are ingested, then allocated, then posted."""
    found: dict[str, list[Round]] = {kind.name: [] for kind in KINDS}
    for number in range(_WARMING_ROUNDS + rounds):
        first = size.rows + 2 * number * transactions
        halves = [range(start, start + transactions) for start in (first, first + transactions)]
        for kind in KINDS:
            batches = [[kind.transaction(n, size) for n in half] for half in halves]
            made = Round(Lap(), Lap())
            turns = [(documented, made.documented), (hardened, made.hardened)]
            if number % 2:
                turns.reverse()
            for batch in batches:
                for side, lap in turns:
                    _turn(side, kind, batch, lap)
                turns.reverse()
            if number >= _WARMING_ROUNDS:
                found[kind.name].append(made)
    return found


@contextmanager
def _side(revision: str, conninfo: str) -> Iterator[Side]:
    wire = Wire(conninfo)
    try:
        # As a login of the application's: a role that changed in each transaction would be planned
        # for anew.
        become = "SELECT set_config('role', 'app_rw', false)"
        (reply,) = wire.transact([(None, [(become, ())])])
        if reply.error is not None:
            raise InfrastructureError(f"{revision}: {reply.error.message}")
        yield Side(revision, conninfo, wire)
    finally:
        wire.close()


def _turn(side: Side, kind: Kind, batch: list[Batch], lap: Lap) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    replies = side.wire.transact(batch)
    lap.seconds += time.perf_counter() - started
    lap.cpu_seconds += time.process_time() - cpu
    lap.transactions += len(batch)
    for reply in replies:
        if reply.error is not None:
            raise InfrastructureError(f"{side.revision}: {kind.name}: {reply.error.message}")
        written = reply.answers[-1].count
        if written != kind.rows:
            raise InfrastructureError(f"{side.revision}: {kind.name}: {written} rows written")


def _explain(connection: psycopg.Connection, path: Path, event: str) -> Explained:
    if connection.execute("SELECT to_regclass(%s)", [path.relation]).fetchone() == (None,):
        return Explained(path)
    query = f"EXPLAIN (ANALYZE, FORMAT JSON) {path.query.format(event=event)}".encode()
    found: list[dict[str, Any]] = []
    for _ in range(_EXPLAINED_TIMES):
        row = connection.execute(query).fetchone()
        assert row is not None
        found += row[0]
    return Explained(
        path,
        f"{found[0]['Plan']['Actual Rows']:,.0f}",
        [plan["Planning Time"] for plan in found],
        [plan["Execution Time"] for plan in found],
        # Once each, should the plan ever change in between.
        list(dict.fromkeys(scan for plan in found for scan in _scans(plan["Plan"]))),
    )


def _scans(node: dict[str, Any]) -> Iterator[str]:
    """Each node that reads a table or an index."""
    read = node.get("Index Name") or node.get("Relation Name")
    # A bitmap's heap scan reads what its index scan, further down, has found.
    if read and node["Node Type"] != "Bitmap Heap Scan":
        yield f"{node['Node Type']} on {read}"
    for child in node.get("Plans", ()):
        yield from _scans(child)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
