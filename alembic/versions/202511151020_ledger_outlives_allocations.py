"""An allocation that the ledger refers to stays: removing it no longer removes the ledger row.

app_rw may delete allocations, and the documented ON DELETE CASCADE takes ledger rows with them,
past revoked privileges and, where the guard trusts the table's owner, past the guard: cascades run
as the owner of the table.
"""

from alembic import op

revision: str = "202511151020"
down_revision: str | None = "202511151010"
branch_labels: str | None = None
depends_on: str | None = None

TABLES = ("attribution_allocations", "revenue_ledger")


def upgrade() -> None:
    refer("NO ACTION")
    op.execute("""
        COMMENT ON CONSTRAINT fk_revenue_ledger_tenant_allocation_id ON revenue_ledger IS
            'Refers to an allocation of the same tenant, which cannot be removed while ledger '
            'rows refer to it.'
    """)


def downgrade() -> None:
    refer("CASCADE")
    op.execute("""
        COMMENT ON CONSTRAINT fk_revenue_ledger_tenant_allocation_id ON revenue_ledger IS
            'Refers to a row of the same tenant.'
    """)


def refer(on_delete: str) -> None:
    """Make the key anew; unforced meanwhile, so that an owner validates every tenant's rows."""
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE revenue_ledger DROP CONSTRAINT fk_revenue_ledger_tenant_allocation_id")
    op.execute(f"""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT fk_revenue_ledger_tenant_allocation_id
            FOREIGN KEY (tenant_id, allocation_id)
            REFERENCES attribution_allocations (tenant_id, id)
            ON DELETE {on_delete}
    """)
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
