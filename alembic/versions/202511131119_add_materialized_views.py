"""mv_realtime_revenue and mv_reconciliation_status, one row per tenant by a unique index.

Both are meant to be refreshed with REFRESH MATERIALIZED VIEW CONCURRENTLY every 30 to 60 seconds.

Source: 001 A-02; refresh policy 002, Read Path.
"""

from alembic import op

revision: str = "202511131119"
down_revision: str | None = "202511131115"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
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
        CREATE UNIQUE INDEX idx_mv_realtime_revenue_tenant_id
            ON mv_realtime_revenue (tenant_id)
    """)
    op.execute("""
        COMMENT ON MATERIALIZED VIEW mv_realtime_revenue IS
            'Aggregates revenue data for GET /api/attribution/revenue/realtime. Refresh policy: '
            'CONCURRENTLY, every 30 to 60 seconds.'
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
    op.execute("""
        CREATE UNIQUE INDEX idx_mv_reconciliation_status_tenant_id
            ON mv_reconciliation_status (tenant_id)
    """)
    op.execute("""
        COMMENT ON MATERIALIZED VIEW mv_reconciliation_status IS
            'Aggregates reconciliation status for GET /api/reconciliation/status. Refresh policy: '
            'CONCURRENTLY, every 30 to 60 seconds.'
    """)


def downgrade() -> None:
    op.execute("DROP MATERIALIZED VIEW mv_reconciliation_status")
    op.execute("DROP MATERIALIZED VIEW mv_realtime_revenue")
