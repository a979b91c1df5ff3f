"""Every ledger row names its allocation. Stops, naming the rows, when some do not.

Forced row level security would hide other tenants' rows from a migrating owner; it is lifted while
they are counted, inside the transaction.

Source: 003 phase 2.4, option A.
"""

from alembic import op

revision: str = "202511141302"
down_revision: str | None = "202511141301"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE revenue_ledger NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        DO $$
        DECLARE
            orphan_count bigint;
            example_ids text;
        BEGIN
            SELECT count(*) INTO orphan_count
            FROM revenue_ledger
            WHERE allocation_id IS NULL;

            IF orphan_count > 0 THEN
                SELECT string_agg(id::text, ', ' ORDER BY id) INTO example_ids
                FROM (
                    SELECT id FROM revenue_ledger WHERE allocation_id IS NULL ORDER BY id LIMIT 5
                ) examples;

                RAISE EXCEPTION 'revenue_ledger: % rows without allocation_id, among them %',
                        orphan_count, example_ids
                    USING ERRCODE = 'not_null_violation',
                          HINT = 'Give each its allocation, with trg_ledger_prevent_mutation '
                              'disabled meanwhile, and upgrade again.';
            END IF;
        END
        $$
    """)
    op.execute("ALTER TABLE revenue_ledger FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE revenue_ledger ALTER COLUMN allocation_id SET NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE revenue_ledger ALTER COLUMN allocation_id DROP NOT NULL")
