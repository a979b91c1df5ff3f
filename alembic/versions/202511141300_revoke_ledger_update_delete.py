"""The ledger is write-once, by privilege: app_rw and app_admin may SELECT and INSERT.

The downgrade grants UPDATE and DELETE back to app_rw and takes everything from app_admin, which had
nothing before.

Source: 003 phases 2.5 and 2.7 (table comment).
"""

from alembic import op

revision: str = "202511141300"
down_revision: str | None = "202511141201"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("REVOKE UPDATE, DELETE ON TABLE revenue_ledger FROM app_rw")
    op.execute("GRANT SELECT, INSERT ON TABLE revenue_ledger TO app_admin")
    op.execute("REVOKE UPDATE, DELETE ON TABLE revenue_ledger FROM app_admin")
    op.execute("""
        COMMENT ON TABLE revenue_ledger IS
            'Write-once financial ledger. Application roles may only INSERT. No UPDATE/DELETE for '
            'app roles; corrections via new ledger entries. Purpose: Revenue verification and '
            'aggregation. Data class: Non-PII. Ownership: Reconciliation service. RLS enabled for '
            'tenant isolation.'
    """)


def downgrade() -> None:
    op.execute("""
        COMMENT ON TABLE revenue_ledger IS
            'Verified revenue aggregates for reconciliation. Purpose: Revenue verification and '
            'aggregation. Data class: Non-PII. Ownership: Reconciliation service. RLS enabled for '
            'tenant isolation.'
    """)
    op.execute("REVOKE SELECT, INSERT ON TABLE revenue_ledger FROM app_admin")
    op.execute("GRANT UPDATE, DELETE ON TABLE revenue_ledger TO app_rw")
