"""Application roles read through views that show their own tenant only.

Materialized views have no row level security, and the documented grants show every tenant's
revenue to every tenant. The views have the columns of the API responses, which are those of the
materialized views; a security barrier keeps a reader's functions away from other tenants' rows.
"""

from alembic import op

revision: str = "202511151110"
down_revision: str | None = "202511151100"
branch_labels: str | None = None
depends_on: str | None = None

# View, what it reads, its columns, the response it serves.
READ_PATHS = (
    (
        "v_realtime_revenue",
        "mv_realtime_revenue",
        "tenant_id, total_revenue, verified, data_freshness_seconds",
        "GET /api/attribution/revenue/realtime",
    ),
    (
        "v_reconciliation_status",
        "mv_reconciliation_status",
        "tenant_id, state, last_run_at, reconciliation_run_id",
        "GET /api/reconciliation/status",
    ),
)


def upgrade() -> None:
    for view, source, columns, response in READ_PATHS:
        op.execute(f"""
            CREATE VIEW {view} WITH (security_barrier = true) AS
            SELECT {columns}
            FROM {source}
            WHERE tenant_id = NULLIF(current_setting('app.current_tenant_id', true), '')::uuid
        """)
        op.execute(f"""
            COMMENT ON VIEW {view} IS
                'The row of the tenant named by app.current_tenant_id, as of the last refresh of '
                '{source}. Purpose: {response}. Data class: Non-PII.'
        """)
        op.execute(f"GRANT SELECT ON TABLE {view} TO app_rw, app_ro")
        op.execute(f"REVOKE SELECT ON TABLE {source} FROM app_rw, app_ro")


def downgrade() -> None:
    for view, source, _, _ in reversed(READ_PATHS):
        op.execute(f"GRANT SELECT ON TABLE {source} TO app_rw, app_ro")
        op.execute(f"DROP VIEW {view}")
