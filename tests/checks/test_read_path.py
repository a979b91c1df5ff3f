"""What tenants read through the API's views is recomputed, and every refresh must succeed.

Each flaw makes a view of the schema at head anew, with one thing changed in its definition.
"""

from __future__ import annotations

import pytest

from invariants.search.judge import Judge
from invariants.workload.operations import Delete, Operation, Select
from tests.engine import (
    UNKNOWN,
    A,
    B,
    Lab,
    allocation,
    correction,
    dead_event,
    erasure,
    event,
    of,
    posting,
    reconciliation,
    refresh,
    refused_without_violation,
    workload,
)

NAME = "read-path"
REVENUE, STATUS = "v_realtime_revenue", "v_reconciliation_status"
OLD = "2001-01-01 00:00:00+00"
OWN = "tenant_id = NULLIF(current_setting('app.current_tenant_id', true), '')::uuid"


def posted(number: int, tenant: str = A, cents: int = 100, **values: bool | str) -> Operation:
    """An event, its allocation and its posting."""
    return of(
        tenant,
        event(number, tenant, cents),
        allocation(number, tenant, of_event=number, cents=cents),
        posting(number, tenant, of_allocation=number, cents=cents, **values),
    )


def read(view: str, tenant: str | None = A, role: str = "app_rw") -> Operation:
    return of(tenant, Select(view), role=role)


def filled_with(view: str, *changes: tuple[str, str]) -> str:
    """The materialized view behind a view made anew, with some of its text replaced."""
    replaced = "pg_get_viewdef(source)"
    for old, new in changes:
        assert "$" not in old + new
        replaced = f"replace({replaced}, $q${old}$q$, $q${new}$q$)"
    source = view.replace("v_", "mv_", 1)
    return f"""
        DO $do$ DECLARE
            source regclass := '{source}'::regclass;
            filling text := {replaced};
            shown text := pg_get_viewdef('{view}'::regclass);
        BEGIN
            IF filling = pg_get_viewdef(source) THEN
                RAISE EXCEPTION 'nothing is replaced in %', filling;
            END IF;
            DROP MATERIALIZED VIEW {source} CASCADE;
            EXECUTE 'CREATE MATERIALIZED VIEW {source} AS ' || filling;
            CREATE UNIQUE INDEX one_a_tenant ON {source} (tenant_id);
            EXECUTE 'CREATE VIEW {view} AS ' || shown;
            GRANT SELECT ON {view} TO app_rw, app_ro;
        END $do$
    """


def showing(view: str, columns: str, where: str = OWN) -> str:
    """A view made anew, with these columns of its materialized view."""
    return f"""
        DROP VIEW {view};
        CREATE VIEW {view} AS
            SELECT {columns} FROM {view.replace("v_", "mv_", 1)} WHERE {where};
        GRANT SELECT ON {view} TO app_rw, app_ro
    """


ALL = {
    REVENUE: "tenant_id, total_revenue, verified, data_freshness_seconds",
    STATUS: "tenant_id, state, last_run_at, reconciliation_run_id",
}
LATER = "2024-03-02 00:00:00+00"
# In each of these a value is wrong; the second row is what makes the difference.
WRONG_VALUES = {
    "cents rounded away": (
        REVENUE,
        [posted(1, cents=101)],
        ("::numeric / 100.0", " / 100 * 1.0"),
        "total_revenue",
    ),
    "corrections left out": (
        REVENUE,
        [posted(1), of(A, correction(2, cents=-30))],
        ("sum(revenue_cents)", "sum(revenue_cents) FILTER (WHERE corrects_id IS NULL)"),
        "total_revenue",
    ),
    "each amount counted once": (
        REVENUE,
        [posted(1), posted(2)],
        ("sum(revenue_cents)", "sum(DISTINCT revenue_cents)"),
        "total_revenue",
    ),
    "verified only if all are": (
        REVENUE,
        [posted(1), posted(2, is_verified=True)],
        ("bool_or", "bool_and"),
        "verified",
    ),
    "the age of the oldest": (
        REVENUE,
        [posted(1, updated_at=OLD), posted(2)],
        ("max(", "min("),
        "data_freshness_seconds",
    ),
    "an age of what is to come": (
        REVENUE,
        [posted(1, updated_at="2091-01-01 00:00:00+00")],
        ("THEN 0", "THEN 1000"),
        "data_freshness_seconds",
    ),
    "the first run": (
        STATUS,
        [of(A, reconciliation(1)), of(A, reconciliation(2, last_run_at=LATER, state="failed"))],
        ("last_run_at DESC", "last_run_at"),
        "state",
    ),
    "any of two runs at once": (
        STATUS,
        [
            of(A, reconciliation(2, created_at=LATER)),
            of(A, reconciliation(1, created_at=OLD)),
        ],
        ("created_at DESC", "created_at"),
        "reconciliation_run_id",
    ),
    "the first id of two": (
        STATUS,
        [of(A, *(reconciliation(n, created_at=OLD) for n in (1, 2)))],
        ("id DESC", "id"),
        "reconciliation_run_id",
    ),
    "another time of the run": (
        STATUS,
        [of(A, reconciliation(1))],
        ("last_run_at,\n", "created_at AS last_run_at,\n"),
        "last_run_at",
    ),
}


@pytest.mark.parametrize("what", WRONG_VALUES)
def test_a_value_that_is_not_what_the_rows_say(head_lab: Lab, what: str) -> None:
    view, rows, change, column = WRONG_VALUES[what]
    found = head_lab.tells_apart(
        NAME,
        workload(*rows, refresh(), read(view)),
        broken=filled_with(view, change),
    )
    assert f"select/{view}/{column}" in found
    # A row that is wholly another's or another run's is wrong in further columns.
    assert all(s.startswith(f"select/{view}/") for s in found)
    finding = found[f"select/{view}/{column}"]
    assert finding.violation.operation == len(rows) + 1
    assert finding.rows[0]["tenant_id"] == A


@pytest.mark.parametrize("view", [REVENUE, STATUS])
@pytest.mark.parametrize("tenant", [A, None, "", UNKNOWN])
def test_a_view_that_shows_other_tenants(head_lab: Lab, view: str, tenant: str | None) -> None:
    operations = posted(1, B), of(B, reconciliation(1, B)), refresh()
    found = head_lab.tells_apart(
        NAME,
        workload(*operations, read(view, tenant, "app_ro")),
        broken=showing(view, ALL[view], "true"),
    )
    assert set(found) == {f"select/{view}/rows"}
    assert [r["tenant_id"] for r in found.popitem()[1].rows] == [B]


@pytest.mark.parametrize("view", [REVENUE, STATUS])
def test_a_view_that_shows_everyones_beside_ones_own(head_lab: Lab, view: str) -> None:
    operations = [
        o for n, t in ((1, A), (2, B)) for o in (posted(n, t), of(t, reconciliation(n, t)))
    ]
    found = head_lab.tells_apart(
        NAME,
        workload(*operations, refresh(), read(view)),
        broken=showing(view, ALL[view], "true"),
    )
    assert set(found) == {f"select/{view}/rows"}
    assert "2 rows instead of one" in found.popitem()[1].violation.summary


def test_a_view_that_shows_another_tenants_instead(head_lab: Lab) -> None:
    found = head_lab.tells_apart(
        NAME,
        workload(posted(1), posted(2, B), refresh(), read(REVENUE)),
        broken=showing(REVENUE, ALL[REVENUE], OWN.replace("=", "<>", 1)),
    )
    # The amounts are the same, and only the row's owner is wrong.
    assert set(found) == {f"select/{REVENUE}/tenant_id"}


def test_a_view_without_ones_own_row(head_lab: Lab) -> None:
    found = head_lab.tells_apart(
        NAME,
        workload(posted(1, cents=0), refresh(), read(REVENUE)),
        broken=showing(REVENUE, ALL[REVENUE], f"{OWN} AND total_revenue > 0"),
    )
    assert set(found) == {f"select/{REVENUE}/rows"}
    assert "0 rows instead of one" in found.popitem()[1].violation.summary


LIVE = f"""
    DROP VIEW {REVENUE};
    CREATE VIEW {REVENUE} AS
        SELECT tenant_id, sum(revenue_cents) / 100.0 AS total_revenue,
            bool_or(is_verified) AS verified, 0 AS data_freshness_seconds
        FROM revenue_ledger WHERE {OWN} GROUP BY tenant_id;
    GRANT SELECT ON {REVENUE} TO app_rw
"""


def test_a_view_that_is_ahead_of_the_last_refresh(head_lab: Lab) -> None:
    shown = workload(posted(1), read(REVENUE), refresh(), posted(2), read(REVENUE))
    found = head_lab.tells_apart(NAME, shown, broken=LIVE)
    assert {s: f.violation.operation for s, f in found.items()} == {
        f"select/{REVENUE}/rows": 1,
        f"select/{REVENUE}/total_revenue": 4,
    }


def test_a_refresh_of_the_other_view_refreshes_nothing_here(head_lab: Lab) -> None:
    shown = workload(posted(1), refresh("mv_reconciliation_status"), read(REVENUE))
    assert set(head_lab.tells_apart(NAME, shown, broken=LIVE)) == {f"select/{REVENUE}/rows"}


SHAPES = {
    "a type": (REVENUE, ALL[REVENUE].replace("total_revenue", "total_revenue::float8")),
    "a length": (STATUS, ALL[STATUS].replace("state", "state::text")),
    "a name": (STATUS, f"{ALL[STATUS]} AS id"),
    "one more": (REVENUE, f"{ALL[REVENUE]}, now() AS read_at"),
    "one less": (STATUS, ALL[STATUS].removesuffix(", reconciliation_run_id")),
    "another order": (REVENUE, "total_revenue, tenant_id, verified, data_freshness_seconds"),
}


@pytest.mark.parametrize("what", SHAPES)
def test_columns_that_are_not_the_responses(head_lab: Lab, what: str) -> None:
    view, columns = SHAPES[what]
    # No row is needed for that.
    shown = workload(read(view), read(view, B))
    found = head_lab.tells_apart(NAME, shown, broken=showing(view, columns))
    assert list(found) == [f"select/{view}/columns"]


def test_a_domain_over_the_type_is_that_type(head_lab: Lab) -> None:
    flaw = "CREATE DOMAIN money_amount AS numeric;" + showing(
        REVENUE, ALL[REVENUE].replace("total_revenue", "total_revenue::money_amount total_revenue")
    )
    shown = workload(posted(1), refresh(), read(REVENUE))
    assert head_lab.findings(NAME, shown, flaw) == {}


@pytest.mark.parametrize("concurrently", [False, True], ids=["plain", "concurrently"])
@pytest.mark.parametrize(
    ("rows", "view", "change", "guard"),
    [
        (
            [posted(1, updated_at="1901-01-01 00:00:00+00")],
            REVENUE,
            ("WHEN (max(updated_at) < (now() - '596523:14:07'::interval)) THEN 2147483647", ""),
            "22003",
        ),
        (
            [of(A, reconciliation(1)), of(A, reconciliation(2))],
            STATUS,
            ("DISTINCT ON (tenant_id)", ""),
            "one_a_tenant",
        ),
    ],
    ids=["an age out of range", "two runs at once"],
)
def test_a_refresh_that_fails_on_data(
    head_lab: Lab,
    rows: list[Operation],
    view: str,
    change: tuple[str, str],
    guard: str,
    concurrently: bool,
) -> None:
    source = view.replace("v_", "mv_", 1)
    shown = workload(*rows, refresh(source, concurrently=concurrently))
    found = head_lab.tells_apart(NAME, shown, broken=filled_with(view, change))
    assert set(found) == {f"refresh/{source}/{guard}"}


def test_a_refresh_that_fails_concurrently_alone(head_lab: Lab) -> None:
    view = "mv_realtime_revenue"
    shown = workload(posted(1), refresh(view), refresh(view, concurrently=True))
    found = head_lab.tells_apart(NAME, shown, broken="DROP INDEX idx_mv_realtime_revenue_tenant_id")
    assert {s: f.violation.operation for s, f in found.items()} == {f"refresh/{view}/55000": 2}


def test_a_refresh_that_fails_leaves_what_was_there(head_lab: Lab) -> None:
    """What is read afterwards is compared with the refresh before."""
    flaw = filled_with(STATUS, ("DISTINCT ON (tenant_id)", ""))
    first, second = (of(A, reconciliation(n)) for n in (1, 2))
    shown = workload(first, refresh(), second, refresh(), read(STATUS))
    found = head_lab.findings(NAME, shown, flaw)
    assert set(found) == {"refresh/mv_reconciliation_status/one_a_tenant"}


def test_what_is_read_after_a_refresh_is_no_violation(head_judge: Judge) -> None:
    def reads() -> list[Operation]:
        return [
            read(view, tenant, role)
            for view in (REVENUE, STATUS)
            for tenant in (A, B, None, "", UNKNOWN)
            for role in ("app_rw", "app_ro")
        ]

    shown = workload(
        *reads(),
        refresh(),
        *reads(),
        posted(1, cents=12345),
        of(A, correction(2, cents=-12346 + 13), correction(3, cents=-12)),
        posted(4, B, cents=2**31 - 1, is_verified=True, updated_at=OLD),
        posted(5, B, cents=2**31 - 1, updated_at="1901-01-01 00:00:00+00"),
        of(A, *(reconciliation(n, created_at=OLD) for n in (1, 2))),
        of(B, reconciliation(3, B, last_run_at="-infinity", state="idle")),
        *reads(),
        refresh(concurrently=True),
        *reads(),
        posted(6, A, updated_at="infinity"),
        of(B, reconciliation(4, B, last_run_at="2024-03-01 00:00:00.25+00", state="running")),
        of(A, Delete("reconciliation_runs")),
        refresh(),
        *reads(),
        posted(7, B, updated_at="-infinity"),
        erasure(),
        refresh("mv_realtime_revenue"),
        *reads(),
    )
    assert refused_without_violation(head_judge, NAME, shown) == []


def test_a_malformed_setting_may_be_an_error(head_judge: Judge) -> None:
    shown = workload(posted(1), refresh(), read(REVENUE, "not-a-uuid"), of(A, dead_event(1)))
    assert refused_without_violation(head_judge, NAME, shown) == [2]


def test_before_there_are_views_only_refreshes_are_judged(lab: Lab) -> None:
    view = "mv_reconciliation_status"
    runs = [of(A, reconciliation(n)) for n in (1, 2)]
    # The documented grants let everyone read everything; that is another invariant's matter.
    shown = workload(*runs[:1], refresh(), read(view, B))
    assert lab.findings(NAME, shown) == {}
    found = lab.findings(NAME, workload(*runs, refresh(view)))
    assert set(found) == {f"refresh/{view}/idx_mv_reconciliation_status_tenant_id"}
