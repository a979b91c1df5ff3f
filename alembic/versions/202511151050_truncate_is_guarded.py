"""TRUNCATE of tenants, events and the ledger is refused for everyone but migration_owner.

Row triggers do not fire for TRUNCATE, and a TRUNCATE .. CASCADE of a table they refer to reaches
append-only tables as well; statement triggers fire for both.

migration_owner may truncate allocations too: TRUNCATE attribution_events CASCADE empties them, and
needs the privilege on each table it empties.
"""

from alembic import op

revision: str = "202511151050"
down_revision: str | None = "202511151040"
branch_labels: str | None = None
depends_on: str | None = None

TABLES = ("tenants", "attribution_events", "revenue_ledger")
TRUNCATED_BY_MIGRATION_OWNER = ("attribution_events", "attribution_allocations", "revenue_ledger")


def upgrade() -> None:
    op.execute("""
        CREATE FUNCTION fn_prevent_truncate()
        RETURNS TRIGGER AS $$
        BEGIN
            IF current_user = 'migration_owner' THEN
                RETURN NULL;
            END IF;

            RAISE EXCEPTION '% is not to be truncated; rows are removed by migration_owner alone',
                TG_TABLE_NAME;
        END;
        $$ LANGUAGE plpgsql SET search_path = pg_catalog
    """)
    op.execute("""
        COMMENT ON FUNCTION fn_prevent_truncate() IS
            'Blocks TRUNCATE, except for migration_owner. Defense in depth beyond GRANTs.'
    """)
    for table in TABLES:
        op.execute(f"""
            CREATE TRIGGER trg_{table}_prevent_truncate
                BEFORE TRUNCATE ON {table}
                FOR EACH STATEMENT
                EXECUTE FUNCTION fn_prevent_truncate()
        """)
        op.execute(f"""
            COMMENT ON TRIGGER trg_{table}_prevent_truncate ON {table} IS
                'Keeps {table} from being emptied, which no row trigger notices.'
        """)
    for table in TRUNCATED_BY_MIGRATION_OWNER:
        op.execute(f"GRANT TRUNCATE ON TABLE {table} TO migration_owner")


def downgrade() -> None:
    for table in TRUNCATED_BY_MIGRATION_OWNER:
        # What the owner holds it holds as owner; taking that away would be a change of its own.
        op.execute(f"""
            DO $$
            BEGIN
                IF (
                    SELECT relowner <> 'migration_owner'::regrole
                    FROM pg_class WHERE oid = '{table}'::regclass
                ) THEN
                    REVOKE TRUNCATE ON TABLE {table} FROM migration_owner;
                END IF;
            END
            $$
        """)
    for table in reversed(TABLES):
        op.execute(f"DROP TRIGGER trg_{table}_prevent_truncate ON {table}")
    op.execute("DROP FUNCTION fn_prevent_truncate()")
