"""Without a tenant a session sees nothing: an unset or empty setting is no tenant, and no error.

The documented predicate asks for a setting that may not be there, and casts '' (what RESET and the
end of a SET LOCAL leave behind) to uuid: both are errors. NULLIF(.., '') is NULL for both, and no
row's tenant equals NULL. A malformed setting is still an error, and so never shows a row.
"""

from alembic import op

revision: str = "202511151000"
down_revision: str | None = "202511141311"
branch_labels: str | None = None
depends_on: str | None = None

TENANT_SCOPED_TABLES = (
    "attribution_events",
    "dead_events",
    "attribution_allocations",
    "revenue_ledger",
    "reconciliation_runs",
)
DOCUMENTED = "tenant_id = current_setting('app.current_tenant_id')::uuid"
TOLERANT = "tenant_id = NULLIF(current_setting('app.current_tenant_id', true), '')::uuid"


def upgrade() -> None:
    isolate_by(TOLERANT)
    for table in TENANT_SCOPED_TABLES:
        op.execute(f"""
            COMMENT ON POLICY tenant_isolation_policy ON {table} IS
                'Rows of the tenant named by app.current_tenant_id, for reading and for writing. '
                'Unset or empty: no rows.'
        """)


def downgrade() -> None:
    for table in reversed(TENANT_SCOPED_TABLES):
        op.execute(f"COMMENT ON POLICY tenant_isolation_policy ON {table} IS NULL")
    isolate_by(DOCUMENTED)


def isolate_by(predicate: str) -> None:
    for table in TENANT_SCOPED_TABLES:
        op.execute(f"""
            ALTER POLICY tenant_isolation_policy ON {table}
                USING ({predicate})
                WITH CHECK ({predicate})
        """)
