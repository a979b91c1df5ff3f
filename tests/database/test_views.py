"""Materialized views at the head of the chain."""

import pytest

from tests.database.hardened import FRESH, MATERIALIZED_VIEWS, A, B, acting, unchecked
from tests.databases import Database, some_id

AGE_MAX = 2147483647


@pytest.mark.parametrize("how", ["", "CONCURRENTLY"])
@pytest.mark.parametrize(
    ("updated_at", "age"),
    [("1901-01-01", AGE_MAX), ("-infinity", AGE_MAX), ("infinity", 0), ("2999-01-01", 0)],
)
def test_a_refresh_succeeds_whatever_the_rows_are_and_reads_every_tenants(
    hardened: Database, how: str, updated_at: str, age: int
) -> None:
    latest = {A: some_id(203), B: some_id(303)}
    with unchecked(hardened) as session:
        session.run("UPDATE revenue_ledger SET updated_at = %s", updated_at)
        for base, tenant in ((200, A), (300, B)):
            for number, day in ((1, 2), (3, 2), (4, 1)):
                session.insert(
                    "reconciliation_runs",
                    id=some_id(base + number),
                    tenant_id=tenant,
                    last_run_at="2025-06-01 00:00:00+00",
                    created_at=f"2025-01-0{day} 00:00:00+00",
                )
        for tenant in (A, B):
            session.insert("attribution_allocations", event_id=FRESH[tenant], tenant_id=tenant)
    with acting(hardened, hardened.migrator, None) as session:
        for view in MATERIALIZED_VIEWS:
            session.run(f"REFRESH MATERIALIZED VIEW {how} {view}")
    ages = hardened.execute(
        "SELECT tenant_id::text, data_freshness_seconds FROM mv_realtime_revenue"
    )
    assert dict(ages) == {A: age, B: age}
    runs = hardened.execute(
        "SELECT tenant_id::text, reconciliation_run_id::text FROM mv_reconciliation_status"
    )
    assert dict(runs) == latest
    groups = hardened.execute(
        "SELECT tenant_id::text, count(*), bool_and(is_balanced)"
        " FROM mv_allocation_summary GROUP BY 1 ORDER BY 1"
    )
    assert groups == [(A, 4, True), (B, 4, True)]
