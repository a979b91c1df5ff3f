"""Row level security, forced, with tenant_isolation_policy on the five tenant-scoped tables.

Source: 001 C-01 and C-02.
"""

from alembic import op

revision: str = "202511131120"
down_revision: str | None = "202511131119"
branch_labels: str | None = None
depends_on: str | None = None

TENANT_SCOPED_TABLES = (
    "attribution_events",
    "dead_events",
    "attribution_allocations",
    "revenue_ledger",
    "reconciliation_runs",
)


def upgrade() -> None:
    for table in TENANT_SCOPED_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"""
            CREATE POLICY tenant_isolation_policy ON {table}
                USING (tenant_id = current_setting('app.current_tenant_id')::uuid)
                WITH CHECK (tenant_id = current_setting('app.current_tenant_id')::uuid)
        """)


def downgrade() -> None:
    for table in reversed(TENANT_SCOPED_TABLES):
        op.execute(f"DROP POLICY tenant_isolation_policy ON {table}")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
