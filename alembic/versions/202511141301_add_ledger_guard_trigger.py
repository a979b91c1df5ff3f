"""The ledger is write-once, by trigger: UPDATE and DELETE are refused whatever the privileges.

The function body is that of the document, including RETURN NULL for migration_owner.

Source: 003 phase 2.6.
"""

from alembic import op

revision: str = "202511141301"
down_revision: str | None = "202511141300"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION fn_ledger_prevent_mutation()
        RETURNS TRIGGER AS $$
        BEGIN
            -- Allow migration_owner for emergency repairs (optional)
            IF current_user = 'migration_owner' THEN
                RETURN NULL; -- Allow operation
            END IF;

            -- Block all other UPDATE/DELETE attempts
            RAISE EXCEPTION 'revenue_ledger is immutable; updates and deletes are not allowed. Use INSERT for corrections.';
        END;
        $$ LANGUAGE plpgsql
    """)  # noqa: E501
    op.execute("""
        CREATE TRIGGER trg_ledger_prevent_mutation
            BEFORE UPDATE OR DELETE ON revenue_ledger
            FOR EACH ROW
            EXECUTE FUNCTION fn_ledger_prevent_mutation()
    """)
    op.execute("""
        COMMENT ON FUNCTION fn_ledger_prevent_mutation() IS
            'Blocks UPDATE and DELETE on revenue_ledger, except for migration_owner (emergency '
            'repairs). Defense in depth beyond GRANTs.'
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_ledger_prevent_mutation ON revenue_ledger IS
            'Keeps revenue_ledger write-once; corrections are new entries.'
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER trg_ledger_prevent_mutation ON revenue_ledger")
    op.execute("DROP FUNCTION fn_ledger_prevent_mutation()")
