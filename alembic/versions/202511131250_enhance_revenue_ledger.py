"""Ledger: a row may name the allocation it posts, at most one row per allocation.

Source: 001 A-01 and F-02.
"""

from alembic import op

revision: str = "202511131250"
down_revision: str | None = "202511131240"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD COLUMN allocation_id uuid REFERENCES attribution_allocations(id) ON DELETE CASCADE
    """)
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD COLUMN posted_at timestamptz NOT NULL DEFAULT now()
    """)
    op.execute("""
        CREATE UNIQUE INDEX idx_revenue_ledger_tenant_allocation_id
            ON revenue_ledger (tenant_id, allocation_id)
            WHERE allocation_id IS NOT NULL
    """)
    op.execute("""
        COMMENT ON COLUMN revenue_ledger.allocation_id IS
            'Allocation this row posts. Purpose: Traceability to the event; one posting per '
            'allocation. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN revenue_ledger.posted_at IS
            'Timestamp when revenue was posted to the ledger. Data class: Non-PII.'
    """)


def downgrade() -> None:
    op.execute("DROP INDEX idx_revenue_ledger_tenant_allocation_id")
    op.execute("ALTER TABLE revenue_ledger DROP COLUMN posted_at")
    op.execute("ALTER TABLE revenue_ledger DROP COLUMN allocation_id")
