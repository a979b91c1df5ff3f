"""A ledger row carries the amount of its allocation, by a foreign key that includes the amount.

The key holds in both directions and under concurrency, without a trigger: a posting of another
amount is refused, and so is a change to the amount of an allocation that is posted.

Ledger rows of another amount stop the upgrade with a message that names some; forced row level
security is lifted meanwhile, inside the transaction, for the search and for validation.
"""

from alembic import op

revision: str = "202511151080"
down_revision: str | None = "202511151070"
branch_labels: str | None = None
depends_on: str | None = None

TABLES = ("attribution_allocations", "revenue_ledger")


def upgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    refuse_other_amounts()
    op.execute("""
        ALTER TABLE attribution_allocations
            ADD CONSTRAINT uq_attribution_allocations_tenant_id_id_amount
            UNIQUE (tenant_id, id, allocated_revenue_cents)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT uq_attribution_allocations_tenant_id_id_amount
            ON attribution_allocations IS
            'Target of the foreign key by which a posting carries the amount of its allocation.'
    """)
    op.execute("ALTER TABLE revenue_ledger DROP CONSTRAINT fk_revenue_ledger_tenant_allocation_id")
    op.execute("""
        ALTER TABLE attribution_allocations
            DROP CONSTRAINT uq_attribution_allocations_tenant_id_id
    """)
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT fk_revenue_ledger_posted_allocation
            FOREIGN KEY (tenant_id, allocation_id, revenue_cents)
            REFERENCES attribution_allocations (tenant_id, id, allocated_revenue_cents)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT fk_revenue_ledger_posted_allocation ON revenue_ledger IS
            'Posts an allocation of the same tenant, for its amount. A posted allocation cannot '
            'be removed, nor its amount changed.'
    """)
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE revenue_ledger DROP CONSTRAINT fk_revenue_ledger_posted_allocation")
    op.execute("""
        ALTER TABLE attribution_allocations
            DROP CONSTRAINT uq_attribution_allocations_tenant_id_id_amount
    """)
    op.execute("""
        ALTER TABLE attribution_allocations
            ADD CONSTRAINT uq_attribution_allocations_tenant_id_id UNIQUE (tenant_id, id)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT uq_attribution_allocations_tenant_id_id ON attribution_allocations IS
            'Target of foreign keys that stay within the tenant.'
    """)
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT fk_revenue_ledger_tenant_allocation_id
            FOREIGN KEY (tenant_id, allocation_id)
            REFERENCES attribution_allocations (tenant_id, id)
            ON DELETE NO ACTION
    """)
    op.execute("""
        COMMENT ON CONSTRAINT fk_revenue_ledger_tenant_allocation_id ON revenue_ledger IS
            'Refers to an allocation of the same tenant, which cannot be removed while ledger '
            'rows refer to it.'
    """)
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def refuse_other_amounts() -> None:
    op.execute("""
        DO $$
        DECLARE
            mismatch_count bigint;
            examples text;
        BEGIN
            SELECT
                count(*),
                string_agg(
                    format(
                        '%s: %s instead of %s cents', id, revenue_cents, allocated_revenue_cents
                    ),
                    '; ' ORDER BY id
                ) FILTER (WHERE n <= 5)
            INTO mismatch_count, examples
            FROM (
                SELECT
                    l.id, l.revenue_cents, a.allocated_revenue_cents,
                    row_number() OVER (ORDER BY l.id) AS n
                FROM revenue_ledger l
                INNER JOIN attribution_allocations a
                    ON a.tenant_id = l.tenant_id AND a.id = l.allocation_id
                WHERE l.revenue_cents <> a.allocated_revenue_cents
            ) mismatches;

            IF mismatch_count > 0 THEN
                RAISE EXCEPTION 'revenue_ledger: % rows do not carry the amount of their '
                    'allocation, for example %',
                        mismatch_count, examples
                    USING ERRCODE = 'check_violation',
                          HINT = 'Upgrade to 202511151030 first, from where on repairs take '
                              'effect; repair them as migration_owner with '
                              'app.current_tenant_id set to their tenant_id; then upgrade to head.';
            END IF;
        END
        $$
    """)
