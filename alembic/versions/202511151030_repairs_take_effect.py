"""migration_owner repairs events and ledger rows, and the repair is there afterwards.

The documented guards return NULL for migration_owner: the statement reports success and changes
nothing. And where a superuser owns the tables, migration_owner has no privilege to begin with.
"""

from alembic import op

revision: str = "202511151030"
down_revision: str | None = "202511151020"
branch_labels: str | None = None
depends_on: str | None = None

GUARDS = (
    (
        "attribution_events",
        "fn_events_prevent_mutation",
        "attribution_events is append-only; updates and deletes are not allowed. Use INSERT with "
        "correlation_id for corrections.",
    ),
    (
        "revenue_ledger",
        "fn_ledger_prevent_mutation",
        "revenue_ledger is immutable; updates and deletes are not allowed. Use INSERT for "
        "corrections.",
    ),
)


def upgrade() -> None:
    for table, function, message in GUARDS:
        op.execute(f"""
            CREATE OR REPLACE FUNCTION {function}()
            RETURNS TRIGGER AS $$
            BEGIN
                IF current_user = 'migration_owner' THEN
                    IF TG_OP = 'DELETE' THEN
                        RETURN OLD;
                    END IF;
                    RETURN NEW;
                END IF;

                RAISE EXCEPTION '{message}';
            END;
            $$ LANGUAGE plpgsql SET search_path = pg_catalog
        """)
        op.execute(f"GRANT SELECT, UPDATE, DELETE ON TABLE {table} TO migration_owner")


def downgrade() -> None:
    for table, function, message in reversed(GUARDS):
        revoke_unless_owner(table)
        op.execute(f"""
            CREATE OR REPLACE FUNCTION {function}()
            RETURNS TRIGGER AS $$
        BEGIN
            -- Allow migration_owner for emergency repairs (optional)
            IF current_user = 'migration_owner' THEN
                RETURN NULL; -- Allow operation
            END IF;

            -- Block all other UPDATE/DELETE attempts
            RAISE EXCEPTION '{message}';
        END;
        $$ LANGUAGE plpgsql
        """)


def revoke_unless_owner(table: str) -> None:
    # What the owner holds it holds as owner; taking that away would be a change of its own.
    op.execute(f"""
        DO $$
        BEGIN
            IF (
                SELECT relowner <> 'migration_owner'::regrole
                FROM pg_class WHERE oid = '{table}'::regclass
            ) THEN
                REVOKE SELECT, UPDATE, DELETE ON TABLE {table} FROM migration_owner;
            END IF;
        END
        $$
    """)
