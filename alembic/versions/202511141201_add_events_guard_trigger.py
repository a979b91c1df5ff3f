"""Events are append-only, by trigger: UPDATE and DELETE are refused whatever the privileges.

The function body is that of the document, including RETURN NULL for migration_owner.

Source: 003 phase 1.4.
"""

from alembic import op

revision: str = "202511141201"
down_revision: str | None = "202511141200"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION fn_events_prevent_mutation()
        RETURNS TRIGGER AS $$
        BEGIN
            -- Allow migration_owner for emergency repairs (optional)
            IF current_user = 'migration_owner' THEN
                RETURN NULL; -- Allow operation
            END IF;

            -- Block all other UPDATE/DELETE attempts
            RAISE EXCEPTION 'attribution_events is append-only; updates and deletes are not allowed. Use INSERT with correlation_id for corrections.';
        END;
        $$ LANGUAGE plpgsql
    """)  # noqa: E501
    op.execute("""
        CREATE TRIGGER trg_events_prevent_mutation
            BEFORE UPDATE OR DELETE ON attribution_events
            FOR EACH ROW
            EXECUTE FUNCTION fn_events_prevent_mutation()
    """)
    op.execute("""
        COMMENT ON FUNCTION fn_events_prevent_mutation() IS
            'Blocks UPDATE and DELETE on attribution_events, except for migration_owner '
            '(emergency repairs). Defense in depth beyond GRANTs.'
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_events_prevent_mutation ON attribution_events IS
            'Keeps attribution_events append-only; corrections are new events.'
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER trg_events_prevent_mutation ON attribution_events")
    op.execute("DROP FUNCTION fn_events_prevent_mutation()")
