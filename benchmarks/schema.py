"""What the hardening costs: a revision (head) against the documented one, and its query plans.

Both sides are databases of one server with the same rows: documented data is loaded twice, and one
copy is upgraded, as a user's would be. The upgrade stops at data that breaks the contract, so that
what is measured is valid. Both are then reindexed, vacuumed and analyzed.

Throughput. Each transaction is one of an application, as app_rw: the tenant setting, one statement,
commit. They are sent in a libpq pipeline as prepared statements, so the server finds the next
transaction waiting and works without a pause; a plain psycopg loop spends most of its time between
processes and in Python, which is equal on both sides and would bring every ratio close to 1. For
the same reason a commit does not wait for the disk. `own cpu` is this process's, on another core:
while it is less than the server takes, it is the server that is measured. A round takes its turns
in the order A B B A, kind by kind, the next one B A A B, so that drift of the machine meets both.
Every answer is checked: a refusal, which would be fast, ends the benchmark.

Plans. The documented query paths on the revision, before anything else is written: as app_rw with
the tenant set, so that policies and views take part, by EXPLAIN ANALYZE.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import psycopg

from benchmarks.figures import machine, middle, most, spread, table
from invariants import options
from invariants.environment import Environment
from invariants.errors import InfrastructureError, InvariantsError
from invariants.migrate import Migrations, resolve, upgrade
from invariants.options import SchemaOptions
from invariants.patches import apply_patch
from invariants.run import migrations, schema
from invariants.wire import Transaction, Wire
from strategies.payloads import VENDORS, pool

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

# Rows are numbered, and everything in them follows from the number: the tenant, the amount, and
# the ids, which are as random as a client's. The older half of the events is split over two
# channels, every allocation is posted.
_TENANTS = """
    INSERT INTO tenants (id, name)
    SELECT md5('tenant ' || n)::uuid, 'Tenant ' || n FROM generate_series(0, %(tenants)s - 1) n
"""
_EVENTS = """
    INSERT INTO attribution_events (
        id, tenant_id, created_at, updated_at, occurred_at, external_event_id, correlation_id,
        session_id, revenue_cents, raw_payload
    )
    SELECT
        md5('event ' || n)::uuid, md5('tenant ' || n %% %(tenants)s)::uuid, at, at, at,
        'order-' || n, md5('request ' || n)::uuid, md5('session ' || n)::uuid, n %% 50000,
        (%(payloads)s::jsonb[])[1 + n %% cardinality(%(payloads)s::jsonb[])]
    FROM generate_series(0, %(rows)s - 1) n,
        LATERAL (SELECT now() - interval '90 days' * (1 - n::float8 / %(rows)s) AS at) t
"""
_ALLOCATIONS = """
    INSERT INTO attribution_allocations (
        id, tenant_id, event_id, channel_code, allocated_revenue_cents, allocation_ratio,
        model_version
    )
    SELECT
        md5('allocation ' || n)::uuid, e.tenant_id, e.id, (%(channels)s::text[])[1 + n %% 2],
        CASE n %% 2 WHEN 0 THEN first_cents ELSE e.revenue_cents - first_cents END,
        CASE n %% 2 WHEN 0 THEN 0.6 ELSE 0.4 END, %(model)s
    FROM generate_series(0, %(rows)s - 1) n
    INNER JOIN attribution_events e ON e.id = md5('event ' || n / 2)::uuid,
        LATERAL (SELECT e.revenue_cents * 6 / 10 AS first_cents) s
"""
_POSTINGS = """
    INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents)
    SELECT md5('posting ' || n)::uuid, a.tenant_id, a.id, a.allocated_revenue_cents
    FROM generate_series(0, %(rows)s - 1) n
    INNER JOIN attribution_allocations a ON a.id = md5('allocation ' || n)::uuid
"""
_RUNS = """
    INSERT INTO reconciliation_runs (id, tenant_id, last_run_at, state)
    SELECT
        md5('run ' || n)::uuid, md5('tenant ' || n %% %(tenants)s)::uuid,
        now() - interval '90 days' * (1 - n::float8 / %(rows)s), 'completed'
    FROM generate_series(0, %(rows)s - 1) n
"""

_BECOME = (
    "SELECT set_config('role', 'app_rw', false), set_config('synchronous_commit', 'off', false)"
)
_TENANT_SETTING = "SELECT set_config('app.current_tenant_id', $1, true)"
_INGEST = (
    "INSERT INTO attribution_events (id, tenant_id, occurred_at, external_event_id,"
    " correlation_id, session_id, revenue_cents, raw_payload)"
    " VALUES ($1, $2, now(), $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
)
_ALLOCATE = (
    "INSERT INTO attribution_allocations (id, tenant_id, event_id, channel_code,"
    " allocated_revenue_cents, allocation_ratio, model_version)"
    f" VALUES ($1, $2, $3, '{_CHANNELS[0]}', $4, 0.6, $7),"
    f" ($5, $2, $3, '{_CHANNELS[1]}', $6, 0.4, $7)"
)
_POST = (
    "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents)"
    " VALUES ($1, $2, $3, $4)"
)


@dataclass(frozen=True)
class Size:
    """Rows of each table, shared evenly by the tenants."""

    tenants: int
    rows: int

    @classmethod
    def of(cls, tenants: int, rows: int) -> Size:
        """The nearest at which every tenant has as much, and an even number of it."""
        tenants = min(tenants, max(1, rows // 2))
        return cls(tenants, max(1, rows // (2 * tenants)) * 2 * tenants)

    def tenant(self, number: int) -> str:
        """The tenant of the event `number`."""
        return _id("tenant", number % self.tenants)

    def __str__(self) -> str:
        each = self.rows // self.tenants
        return f"{self.tenants:,} tenants x {each} = {self.rows:,} rows in each of {_AND}"


@dataclass(frozen=True)
class Side:
    """One of the two databases."""

    revision: str
    conninfo: str
    wire: Wire


@dataclass(frozen=True)
class Kind:
    """A kind of transaction: its statement, the values for the event `number`, rows written."""

    name: str
    statement: str
    values: Callable[[int, str], Parameters]
    rows: int

    def transaction(self, number: int, size: Size) -> Transaction:
        """What the application sends about an event."""
        tenant = size.tenant(number)
        return "app_rw", (
            (_TENANT_SETTING, (tenant,)),
            (self.statement, self.values(number, tenant)),
        )


@dataclass
class Lap:
    """One side's turns of a round: seconds by the clock and in this process."""

    transactions: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Transactions per second."""
        return self.transactions / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of this process for each transaction."""
        return self.cpu_seconds / self.transactions * 1e6


@dataclass(frozen=True)
class Round:
    """One round of one kind."""

    documented: Lap
    revised: Lap

    @property
    def ratio(self) -> float:
        """Throughput of the revision over that of the documented schema."""
        return self.revised.rate / self.documented.rate


@dataclass(frozen=True)
class Path:
    """A documented query, and the relation it reads. `{event}` is the id of an event."""

    name: str
    relation: str
    query: str


@dataclass(frozen=True)
class Explained:
    """What EXPLAIN ANALYZE said of a path, run after run; nothing where the relation is missing."""

    path: Path
    rows: str = "-"
    planning_ms: Sequence[float] = ()
    execution_ms: Sequence[float] = ()
    scans: Sequence[str] = ()

    @property
    def by_index(self) -> str:
        """Whether indexes are all that is read."""
        if not self.scans:
            return "-"
        return "no" if any(scan.startswith("Seq") for scan in self.scans) else "yes"


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


def main() -> int:
    """Load both databases, explain the query paths, run the rounds, print the figures."""
    parser = argparse.ArgumentParser("python -m benchmarks.schema", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="(default: 20)")
    parser.add_argument(
        "--transactions", type=int, default=200, metavar="N", help="in a turn (default: 200)"
    )
    parser.add_argument(
        "--rows", type=int, default=100_000, metavar="N", help="of each table (default: 100000)"
    )
    parser.add_argument("--tenants", type=int, default=2000, metavar="N", help="(default: 2000)")
    options.add_to(parser, options.SCHEMA)
    parser.set_defaults(server="embedded")
    given = parser.parse_args()
    size = Size.of(given.tenants, given.rows)
    try:
        values = options.values(options.SCHEMA, lambda o: getattr(given, o.key))
        with _sides(SchemaOptions(**values), size) as (environment, documented, revised):
            server = environment.server
            print(
                f"revision {revised.revision} against {documented.revision} on {server.kind} "
                f"PostgreSQL {server.version}; {machine()}\n{size}",
                flush=True,
            )
            print(f"\n{_plans(explained(revised, size))}", flush=True)
            rounds = measured(documented, revised, size, given.rounds, given.transactions)
            print(f"\n{_throughput(rounds)}")
    except InvariantsError as error:
        print(f"benchmarks.schema: {error}", file=sys.stderr)
        return error.exit_status
    return 0


@contextmanager
def _sides(wanted: SchemaOptions, size: Size) -> Iterator[tuple[Environment, Side, Side]]:
    """Two loaded databases on one server: the documented schema, and the one wanted."""
    documented = replace(wanted, revision="documented", apply_sql=())
    with schema(documented, _ignore) as (environment, contract), ExitStack() as open_wires:
        chain = migrations(wanted, contract)
        conninfos = []
        for revision in (environment.revision, resolve(chain)):
            _say(f"loading {revision}")
            conninfo = environment.scratch().conninfo
            load(conninfo, size)
            if conninfos:
                _revise(conninfo, chain, wanted)
            settle(conninfo)
            conninfos.append((revision, conninfo))
        sides = [Side(revision, conninfo, Wire(conninfo)) for revision, conninfo in conninfos]
        for side in sides:
            open_wires.callback(side.wire.close)
            side.wire.transact([(None, [(_BECOME, ())])])
        yield environment, sides[0], sides[1]


def _revise(conninfo: str, chain: Migrations, wanted: SchemaOptions) -> None:
    started = time.perf_counter()
    upgrade(conninfo, chain)
    _say(f"upgrading it took {time.perf_counter() - started:.1f} s")
    for patch in wanted.apply_sql:
        apply_patch(conninfo, patch)


def load(conninfo: str, size: Size) -> None:
    """Fill the documented schema, triggers and foreign keys aside: the data is known to be valid."""
    values = {
        "tenants": size.tenants,
        "rows": size.rows,
        "payloads": _payloads(),
        "channels": list(_CHANNELS),
        "model": _MODEL,
    }
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for statement in (_TENANTS, _EVENTS, _ALLOCATIONS, _POSTINGS, _RUNS):
            connection.execute(statement, values)
            # The next one joins what this one wrote.
            connection.execute("ANALYZE attribution_events, attribution_allocations")


def settle(conninfo: str) -> None:
    """Bring a loaded database into the state that a long life gives it, and keep it there."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for relation in _TABLES:
            # In the middle of a round it would be one side's only.
            connection.execute(f"ALTER TABLE {relation} SET (autovacuum_enabled = false)".encode())
        for relation in _MATERIALIZED:
            connection.execute(f"REFRESH MATERIALIZED VIEW {relation}".encode())
        # What the upgrade built anew is packed more tightly than what rows were added to.
        connection.execute("REINDEX SCHEMA public")
        connection.execute("VACUUM (ANALYZE)")


def measured(
    documented: Side, revised: Side, size: Size, rounds: int, transactions: int
) -> dict[str, list[Round]]:
    """The rounds of each kind. Events are ingested, then allocated, then posted, on both sides."""
    found: dict[str, list[Round]] = {kind.name: [] for kind in KINDS}
    for number in range(_WARMING_ROUNDS + rounds):
        first = size.rows + 2 * number * transactions
        for kind in KINDS:
            made = _round(
                kind, documented, revised, number, _batches(...)
            if number >= _WARMING_ROUNDS:
                found[kind.name].append(laps)
    return found


def _round(
    kind: Kind, documented: Side, revised: Side, number: int, first: int, transactions: int
) -> Round:
    """Two batches of events, and both sides get both of them, in the order A B B A."""
    made = Round(Lap(), Lap())
    one, other = (documented, made.documented), (revised, made.revised)
    if number % 2:
        one, other = other, one
    for start, turns in ((first, (one, other)), (first + transactions, (other, one))):
        batch = [kind.transaction(n, size) for n in range(start, start + transactions)]
        for side, lap in turns:
            _turn(side, kind, batch, lap)
    return made


def _turn(side: Side, kind: Kind, batch: list[Transaction], lap: Lap) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    replies = side.wire.transact(batch)
    lap.seconds += time.perf_counter() - started
    lap.cpu_seconds += time.process_time() - cpu
    lap.transactions += len(batch)
    for reply in replies:
        if reply.error is not None:
            raise InfrastructureError(f"{side.revision} refused {kind.name}: {reply.error.message}")
        if reply.answers[-1].count != kind.rows:
            raise InfrastructureError(
                f"{side.revision}: {kind.name} wrote {reply.answers[-1].count} rows, "
                f"not {kind.rows}"
            )


def explained(side: Side, size: Size) -> list[Explained]:
    """Each path by EXPLAIN ANALYZE as app_rw, for a tenant that has all kinds of rows."""
    event = size.rows // 4
    with psycopg.connect(side.conninfo) as connection:
        _settings(connection, size.tenant(event))
        return [_explain(connection, path, event) for path in PATHS]


def _settings(connection: psycopg.Connection, tenant: str) -> None:
    connection.execute(
        "SELECT set_config('role', 'app_rw', true), set_config('app.current_tenant_id', %s, true)",
        [tenant],
    )


def _explain(connection: psycopg.Connection, path: Path, event: int) -> Explained:
    found = connection.execute("SELECT to_regclass(%s)", [path.relation]).fetchone()
    if found == (None,):
        return Explained(path)
    query = path.query.format(event=ident("event", event))
    plans: list[dict[str, Any]] = []
    for _ in range(_EXPLAINED_TIMES):
        row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}".encode()).fetchone()
        assert row is not None
        plans += row[0]
    return Explained(
        path,
        f"{plans[0]['Plan']['Actual Rows']:,.0f}",
        [p["Execution Time"] for p in plans],
        [p["Planning Time"] for p in plans],
        list(dict.fromkeys(scan for p in plans for scan in _scans(p["Plan"]))),
    )


def _scans(node: dict[str, Any]) -> Iterator[str]:
    """Every node that reads a table or an index, with what it reads."""
    kind = node["Node Type"]
    if "Index Name" in node:
        yield f"{kind} on {node['Index Name']}"
    elif kind == "Seq Scan":
        yield f"{kind} on {node['Relation Name']}"
    for child in node.get("Plans", ()):
        yield from _scans(child)


def _throughput(rounds: dict[str, list[Round]]) -> str:
    head = (
        "transactions/s",
        "documented",
        "own cpu us",
        "revision",
        "own cpu us",
        "ratio (min to max)",
        "wanted",
    )
    rows = [
        (
            name,
            middle((r.documented.rate for r in of), 0),
            middle((r.documented.cpu_us for r in of), 0),
            middle((r.revised.rate for r in of), 0),
            middle((r.revised.cpu_us for r in of), 0),
            spread(r.ratio for r in of),
            f">= {_WANTED_RATIO}",
        )
        for name, of in rounds.items()
    ]
    return table(head, rows)


def _plans(found: list[Explained]) -> str:
    head = ("query path", "rows", "planning ms", "execution ms (min to max)", "by index", "reads")
    rows = [
        (
            one.path.name,
            one.rows,
            middle(one.planning_ms, 2),
            spread(one.execution_ms),
            one.by_index,
            ", ".join(one.scans) or f"no {one.path.relation}",
        )
        for one in found
    ]
    return table(head, rows)


def _payloads() -> list[str]:
    """All payloads of the pool, one vendor after the other."""
    return [payload.text for some in zip(*map(pool().__getitem__, VENDORS)) for payload in some]


def _ignore(line: str) -> None:
    del line


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
