"""A refresh of a materialized view succeeds whatever the rows are, and reads every tenant's.

Three things broke it. Two runs of a tenant at one last_run_at were two rows where a unique index
allows one: the latest run is now the last by (last_run_at, created_at, id). The age of a ledger row
did not fit an integer once it was older than 68 years, and an infinite time has no age: it is now
between 0 and 2147483647 seconds. And where a plain role owns the views, forced row level security
hid the tenants' rows from the refresh, which runs as the owner: a policy lets such an owner read.
"""

from alembic import op

revision: str = "202511151100"
down_revision: str | None = "202511151090"
branch_labels: str | None = None
depends_on: str | None = None

SOURCES = (
    "attribution_events",
    "attribution_allocations",
    "revenue_ledger",
    "reconciliation_runs",
)


def upgrade() -> None:
    let_owner_read()
    drop_views()
    op.execute("""
        CREATE MATERIALIZED VIEW mv_realtime_revenue AS
        SELECT
            rl.tenant_id,
            COALESCE(SUM(rl.revenue_cents), 0) / 100.0 AS total_revenue,
            BOOL_OR(rl.is_verified) AS verified,
            CASE
                WHEN MAX(rl.updated_at) > now() THEN 0
                WHEN MAX(rl.updated_at) < now() - interval '2147483647 seconds' THEN 2147483647
                ELSE EXTRACT(EPOCH FROM (now() - MAX(rl.updated_at)))::INTEGER
            END AS data_freshness_seconds
        FROM revenue_ledger rl
        GROUP BY rl.tenant_id
    """)
    op.execute("""
        CREATE MATERIALIZED VIEW mv_reconciliation_status AS
        SELECT DISTINCT ON (rr.tenant_id)
            rr.tenant_id,
            rr.state,
            rr.last_run_at,
            rr.id AS reconciliation_run_id
        FROM reconciliation_runs rr
        ORDER BY rr.tenant_id, rr.last_run_at DESC, rr.created_at DESC, rr.id DESC
    """)
    finish_views()


def downgrade() -> None:
    drop_views()
    for table in reversed(SOURCES):
        op.execute(f"DROP POLICY IF EXISTS owner_reads_policy ON {table}")
        # As the owner, for the rows of every tenant.
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE MATERIALIZED VIEW mv_realtime_revenue AS
        SELECT
            rl.tenant_id,
            COALESCE(SUM(rl.revenue_cents), 0) / 100.0 AS total_revenue,
            BOOL_OR(rl.is_verified) AS verified,
            EXTRACT(EPOCH FROM (now() - MAX(rl.updated_at)))::INTEGER AS data_freshness_seconds
        FROM revenue_ledger rl
        GROUP BY rl.tenant_id
    """)
    op.execute("""
        CREATE MATERIALIZED VIEW mv_reconciliation_status AS
        SELECT
            rr.tenant_id,
            rr.state,
            rr.last_run_at,
            rr.id AS reconciliation_run_id
        FROM reconciliation_runs rr
        INNER JOIN (
            SELECT tenant_id, MAX(last_run_at) AS max_last_run_at
            FROM reconciliation_runs
            GROUP BY tenant_id
        ) latest ON rr.tenant_id = latest.tenant_id
            AND rr.last_run_at = latest.max_last_run_at
    """)
    finish_views()
    for table in SOURCES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def drop_views() -> None:
    op.execute("DROP MATERIALIZED VIEW mv_reconciliation_status")
    op.execute("DROP MATERIALIZED VIEW mv_realtime_revenue")


def finish_views() -> None:
    """Indexes, comments and privileges, which went with the views."""
    op.execute("""
        CREATE UNIQUE INDEX idx_mv_realtime_revenue_tenant_id
            ON mv_realtime_revenue (tenant_id)
    """)
    op.execute("""
        COMMENT ON MATERIALIZED VIEW mv_realtime_revenue IS
            'Aggregates revenue data for GET /api/attribution/revenue/realtime. Refresh policy: '
            'CONCURRENTLY, every 30 to 60 seconds.'
    """)
    op.execute("""
        CREATE UNIQUE INDEX idx_mv_reconciliation_status_tenant_id
            ON mv_reconciliation_status (tenant_id)
    """)
    op.execute("""
        COMMENT ON MATERIALIZED VIEW mv_reconciliation_status IS
            'Aggregates reconciliation status for GET /api/reconciliation/status. Refresh policy: '
            'CONCURRENTLY, every 30 to 60 seconds.'
    """)
    for view in ("mv_realtime_revenue", "mv_reconciliation_status"):
        op.execute(f"GRANT SELECT ON TABLE {view} TO app_rw, app_ro")
        op.execute(f"REVOKE ALL ON TABLE {view} FROM PUBLIC")


def let_owner_read() -> None:
    """A superuser reads past row level security and gets no policy that would do nothing."""
    for table in SOURCES:
        op.execute(f"""
            DO $$
            BEGIN
                IF (
                    SELECT NOT (rolsuper OR rolbypassrls) FROM pg_roles WHERE rolname = current_user
                ) THEN
                    CREATE POLICY owner_reads_policy ON {table}
                        FOR SELECT TO CURRENT_USER USING (true);
                    COMMENT ON POLICY owner_reads_policy ON {table} IS
                        'The owner, as whom materialized views are refreshed, reads the rows of '
                        'every tenant.';
                END IF;
            END
            $$
        """)
