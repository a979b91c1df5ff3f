"""Two sessions at once at the head of the chain."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import Queue
from typing import NamedTuple

import pytest
from psycopg import IsolationLevel, errors

from tests.database.hardened import (
    FRESH,
    NEW,
    SPLIT,
    SPLIT_PART,
    A,
    Session,
    Templates,
    acting,
    repair,
)
from tests.databases import Database, MakeDatabase


class Race(NamedTuple):
    """What two transactions do at once, and why the second is refused."""

    first: Callable[[Session], object]
    second: Callable[[Session], object]
    complaint: str
    first_role: str = "app_rw"
    second_role: str = "app_rw"


RACES = {
    "both allocate one event": Race(
        lambda session: session.allocate(FRESH[A], ("direct", 100)),
        lambda session: session.allocate(FRESH[A], ("email", 100)),
        f"event {FRESH[A]} under model version m1 sum to 200 cents",
    ),
    "both correct one posting": Race(
        lambda session: session.correct(A, -60),
        lambda session: session.correct(A, -60),
        f"posting {A} below zero, to -20 cents",
    ),
    "one repairs the event that the other allocates": Race(
        repair,
        lambda session: session.allocate(FRESH[A], ("direct", 100)),
        "sum to 100 cents, its revenue is 50 cents",
        first_role="migration_owner",
    ),
    "one allocates the event that the other repairs": Race(
        lambda session: session.allocate(FRESH[A], ("direct", 100)),
        repair,
        "sum to 100 cents, its revenue would be 50 cents",
        second_role="migration_owner",
    ),
}


LEVELS = (
    IsolationLevel.READ_COMMITTED,
    IsolationLevel.REPEATABLE_READ,
    IsolationLevel.SERIALIZABLE,
)


PAIRS = [
    pytest.param(first, second, id=f"{first.name.lower()}, {second.name.lower()}")
    for first in LEVELS
    for second in LEVELS
]


# What holds of committed rows, whoever wrote them and how: a query of the rows that break it.
KEPT = {
    "the sum of allocations": """
        SELECT a.event_id, a.model_version FROM attribution_allocations a
        INNER JOIN attribution_events e ON e.id = a.event_id
        GROUP BY a.event_id, a.model_version, e.revenue_cents
        HAVING abs(sum(a.allocated_revenue_cents) - e.revenue_cents) > 1
    """,
    "the net of postings": """
        SELECT coalesce(corrects_id, id) FROM revenue_ledger
        GROUP BY 1 HAVING sum(revenue_cents) < 0
    """,
    "the amount of postings": """
        SELECT l.id FROM revenue_ledger l
        INNER JOIN attribution_allocations a ON a.id = l.allocation_id
        WHERE l.corrects_id IS NULL AND l.revenue_cents <> a.allocated_revenue_cents
    """,
    "references": """
        SELECT 'event', id FROM attribution_events e
        WHERE NOT EXISTS (SELECT FROM tenants t WHERE t.id = e.tenant_id)
        UNION ALL
        SELECT 'allocation', id FROM attribution_allocations a
        WHERE NOT EXISTS (SELECT FROM attribution_events e
                          WHERE e.id = a.event_id AND e.tenant_id = a.tenant_id)
           OR NOT EXISTS (SELECT FROM channel_taxonomy t WHERE t.code = a.channel_code)
        UNION ALL
        SELECT 'ledger row', id FROM revenue_ledger l
        WHERE NOT EXISTS (SELECT FROM attribution_allocations a
                          WHERE a.id = l.allocation_id AND a.tenant_id = l.tenant_id)
           OR corrects_id IS NOT NULL AND NOT EXISTS (SELECT FROM revenue_ledger p
                          WHERE p.id = l.corrects_id AND p.allocation_id = l.allocation_id)
    """,
}


def broken(database: Database) -> set[str]:
    return {name for name, query in KEPT.items() if database.execute(query)}


@pytest.mark.parametrize(("first_level", "second_level"), PAIRS)
@pytest.mark.parametrize("race", RACES.values(), ids=RACES)
def test_of_two_transactions_that_break_a_sum_together_the_second_waits_and_is_refused(
    hardened: Database, race: Race, first_level: IsolationLevel, second_level: IsolationLevel
) -> None:
    pids: Queue[int] = Queue()

    def second() -> None:
        with acting(hardened, race.second_role, level=second_level) as session:
            pids.put(session.conn.info.backend_pid)
            race.second(session)

    with ThreadPoolExecutor(1) as pool:
        with acting(hardened, race.first_role, level=first_level) as session:
            race.first(session)
            session.check()
            outcome = pool.submit(second)
            waits_for(hardened, outcome, pids.get(timeout=30), session.conn.info.backend_pid)
        with refused_by_the_first(race, second_level):
            outcome.result(timeout=30)
    assert broken(hardened) == set()
    is_told_why_on_its_own(hardened, race, second_level)


@pytest.mark.parametrize(("first_level", "second_level"), PAIRS)
@pytest.mark.parametrize("race", RACES.values(), ids=RACES)
def test_of_two_transactions_that_break_a_sum_together_the_one_that_began_before_is_refused(
    hardened: Database, race: Race, first_level: IsolationLevel, second_level: IsolationLevel
) -> None:
    """The first ends before the second does anything but look."""
    with (
        refused_by_the_first(race, second_level),
        acting(hardened, race.second_role, level=second_level) as second,
    ):
        with acting(hardened, race.first_role, level=first_level) as first:
            race.first(first)
        race.second(second)
    assert broken(hardened) == set()
    is_told_why_on_its_own(hardened, race, second_level)


@contextmanager
def refused_by_the_first(race: Race, level: IsolationLevel) -> Iterator[None]:
    """At READ COMMITTED it sees what the first has done; else it cannot, and must not go on."""
    if level is IsolationLevel.READ_COMMITTED:
        with pytest.raises(errors.RaiseException, match=race.complaint):
            yield
    else:
        with pytest.raises(errors.SerializationFailure):
            yield


def is_told_why_on_its_own(database: Database, race: Race, level: IsolationLevel) -> None:
    with (
        pytest.raises(errors.RaiseException, match=race.complaint),
        acting(database, race.second_role, level=level) as session,
    ):
        race.second(session)


@pytest.mark.parametrize(("first_level", "second_level"), PAIRS)
@pytest.mark.parametrize("race", RACES.values(), ids=RACES)
def test_before_a_snapshot_could_break_a_sum(
    hardened: Database, race: Race, first_level: IsolationLevel, second_level: IsolationLevel
) -> None:
    """The same at the revision at which checks only lock."""
    hardened.downgrade("202511151130")
    could = second_level is not IsolationLevel.READ_COMMITTED and (
        IsolationLevel.SERIALIZABLE not in (first_level, second_level)
        or first_level is not second_level
    )
    # The second writes the event itself and not in its snapshot, which locking it did not change.
    with ExitStack() as stack:
        if not could:
            stack.enter_context(refused_by_the_first(race, second_level))
        elif race.first is repair:
            stack.enter_context(pytest.raises(errors.SerializationFailure))
            could = False
        second = stack.enter_context(acting(hardened, race.second_role, level=second_level))
        with acting(hardened, race.first_role, level=first_level) as first:
            race.first(first)
        race.second(second)
    assert bool(broken(hardened)) == could


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name.lower())
def test_who_cannot_be_serialized_succeeds_when_it_tries_again(
    hardened: Database, level: IsolationLevel
) -> None:
    """There is room for both."""

    def work(session: Session, channel: str) -> None:
        session.correct(A, -50)
        session.allocate(FRESH[A], (channel, 100), model=channel)

    with ExitStack() as stack:
        if level is not IsolationLevel.READ_COMMITTED:
            stack.enter_context(pytest.raises(errors.SerializationFailure))
        second = stack.enter_context(acting(hardened, level=level))
        with acting(hardened, level=level) as first:
            work(first, "direct")
        work(second, "email")
    if level is not IsolationLevel.READ_COMMITTED:
        with acting(hardened, level=level) as second:
            work(second, "email")
    assert broken(hardened) == set()
    assert hardened.execute(
        "SELECT sum(revenue_cents) FROM revenue_ledger WHERE allocation_id = %s", A
    ) == [(0,)]
    assert hardened.execute(
        "SELECT count(*) FROM attribution_allocations WHERE event_id = %s", FRESH[A]
    ) == [(2,)]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name.lower())
def test_a_check_writes_again_what_was_written_in_a_savepoint(
    hardened: Database, level: IsolationLevel
) -> None:
    """Whatever became of the savepoint, others cannot be serialized with the transaction."""

    def allocate(session: Session) -> None:
        session.allocate(FRESH[A], ("email", 100))
        session.check()

    def correct(session: Session) -> None:
        session.correct(A, -30)
        session.check()

    with ExitStack() as stack:
        late = [stack.enter_context(acting(hardened, level=LEVELS[1])) for _ in range(2)]
        with acting(hardened, level=level) as session:
            for model in ("m5", "m6", "m7"):
                with session.conn.transaction(force_rollback=model == "m6"):
                    session.allocate(FRESH[A], ("direct", 100), model=model)
                    session.correct(A, -30)
                    session.check()
            session.allocate(FRESH[A], ("direct", 100))
            session.correct(A, -30)
        for other, work in zip(late, (allocate, correct), strict=True):
            with pytest.raises(errors.SerializationFailure), other.conn.transaction():
                work(other)
    assert broken(hardened) == set()


@pytest.mark.parametrize("table", ["attribution_events", "revenue_ledger"])
def test_what_a_check_writes_is_as_it_was(hardened: Database, table: str) -> None:
    """Also at the end of the transaction that made it."""
    image = f"SELECT id, md5({table}::text) FROM {table} ORDER BY 1"
    before = dict(hardened.execute(image))
    with acting(hardened) as session:
        session.allocate(FRESH[A], ("direct", 100))
        session.correct(A, -30, id=NEW[A])
    after = dict(hardened.execute(image))
    assert {key: after[key] for key in before} == before
    written = "SELECT xmin FROM attribution_allocations WHERE event_id = %s"
    event = "SELECT xmin FROM attribution_events WHERE id = %s"
    posting = "SELECT xmin FROM revenue_ledger WHERE id = %s"
    assert hardened.execute(written, FRESH[A]) == hardened.execute(event, FRESH[A])
    assert hardened.execute(written, FRESH[A]) == hardened.execute(posting, A)


def move_revenue(session: Session) -> None:
    """A repair of what is not posted: a cent goes from one part to the other."""
    session.run(
        "UPDATE attribution_allocations SET allocated_revenue_cents = 99 -"
        " CASE WHEN id = %s THEN 48 ELSE 51 END WHERE event_id = %s AND model_version = 'm1'",
        SPLIT_PART[A],
        SPLIT[A],
    )


# What two transactions do at once that no check of a sum is for, with the role of each.
OTHERS: dict[str, tuple[str | None, Callable[[Session], object]]] = {
    "erase": ("migration_owner", lambda s: s.run("DELETE FROM tenants WHERE id = %s", A)),
    "ingest": ("app_rw", lambda s: s.insert("attribution_events")),
    "allocate": ("app_rw", lambda s: s.allocate(FRESH[A], ("referral", 100))),
    "reallocate": ("app_rw", move_revenue),
    "remove": (
        "app_rw",
        lambda s: s.run("DELETE FROM attribution_allocations WHERE event_id = %s", SPLIT[A]),
    ),
    "post": (
        "app_rw",
        lambda s: s.insert("revenue_ledger", allocation_id=SPLIT_PART[A], revenue_cents=49),
    ),
    "correct": ("app_rw", lambda s: s.correct(A, -60)),
    "remove the event": (
        "migration_owner",
        lambda s: s.run("DELETE FROM attribution_events WHERE id = %s", FRESH[A]),
    ),
    "remove the posting": (
        "migration_owner",
        lambda s: s.run("DELETE FROM revenue_ledger WHERE id = %s", A),
    ),
    "retire the code": (
        None,
        lambda s: s.run("DELETE FROM channel_taxonomy WHERE code = 'referral'"),
    ),
}


CONFLICTS = [
    ("erase", other) for other in ("ingest", "allocate", "reallocate", "post", "correct")
] + [
    ("post", "reallocate"),
    ("post", "remove"),
    ("allocate", "remove the event"),
    ("correct", "remove the posting"),
    ("allocate", "retire the code"),
]


@pytest.mark.parametrize(
    ("one", "other"),
    [pair for conflict in CONFLICTS for pair in (conflict, conflict[::-1])],
    ids=lambda name: str(name),
)
def test_at_every_level_nothing_is_left_of_what_another_transaction_removes_or_changes(
    make_database: MakeDatabase, templates: Templates, one: str, other: str
) -> None:
    for first_level in LEVELS:
        for second_level in LEVELS:
            template = templates.hardened
            database = make_database(template.migrator, template=template.name)
            (first_role, first), (second_role, second) = OTHERS[one], OTHERS[other]
            committed = False
            with (
                suppress(errors.SerializationFailure, errors.ForeignKeyViolation),
                acting(database, second_role, level=second_level) as late,
            ):
                with acting(database, first_role, level=first_level) as early:
                    first(early)
                committed = True
                second(late)
            assert committed
            assert broken(database) == set(), (first_level, second_level)


def waits_for(database: Database, outcome: Future[None], waiting: int, holder: int) -> None:
    """Return when one backend waits for another; fail when it goes on instead."""
    deadline = time.monotonic() + 30
    with database.connect() as conn:
        while conn.execute("SELECT pg_blocking_pids(%s)", [waiting]).fetchone() != ([holder],):
            assert not outcome.done(), f"it did not wait: {outcome.exception() or 'accepted'}"
            assert time.monotonic() < deadline, "it neither waits nor ends"
