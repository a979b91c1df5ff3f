"""migration_owner erases a tenant and everything of it; nobody else removes a tenant.

Erasure reaches events and ledger rows as a cascade from tenants, and a cascade runs as the owner of
the table it removes rows from. The guards therefore let the owner's deletions pass inside another
trigger; what may start such a cascade is guarded at its root, by a trigger on tenants. No other
cascade starts where an application role may delete.
"""

from alembic import op

revision: str = "202511151040"
down_revision: str | None = "202511151030"
branch_labels: str | None = None
depends_on: str | None = None

GUARDS = (
    (
        "fn_events_prevent_mutation",
        "attribution_events is append-only; updates and deletes are not allowed. Use INSERT with "
        "correlation_id for corrections.",
    ),
    (
        "fn_ledger_prevent_mutation",
        "revenue_ledger is immutable; updates and deletes are not allowed. Use INSERT for "
        "corrections.",
    ),
)
LET_CASCADES_PASS = """
                IF TG_OP = 'DELETE' AND pg_trigger_depth() > 1 AND current_user = (
                    SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID
                ) THEN
                    RETURN OLD;
                END IF;
"""


def upgrade() -> None:
    define_guards(LET_CASCADES_PASS)
    op.execute("""
        CREATE FUNCTION fn_tenants_prevent_removal()
        RETURNS TRIGGER AS $$
        BEGIN
            IF current_user = 'migration_owner' THEN
                RETURN OLD;
            END IF;

            RAISE EXCEPTION 'tenants are removed by migration_owner alone, with all they own';
        END;
        $$ LANGUAGE plpgsql SET search_path = pg_catalog
    """)
    op.execute("""
        CREATE TRIGGER trg_tenants_prevent_removal
            BEFORE DELETE ON tenants
            FOR EACH ROW
            EXECUTE FUNCTION fn_tenants_prevent_removal()
    """)
    op.execute("""
        COMMENT ON FUNCTION fn_tenants_prevent_removal() IS
            'Blocks DELETE on tenants, except for migration_owner (erasure of a tenant).'
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_tenants_prevent_removal ON tenants IS
            'Keeps the root of the cascades that remove events and ledger rows to '
            'migration_owner.'
    """)
    op.execute("GRANT SELECT, DELETE ON TABLE tenants TO migration_owner")


def downgrade() -> None:
    # What the owner holds it holds as owner; taking that away would be a change of its own.
    op.execute("""
        DO $$
        BEGIN
            IF (
                SELECT relowner <> 'migration_owner'::regrole
                FROM pg_class WHERE oid = 'tenants'::regclass
            ) THEN
                REVOKE SELECT, DELETE ON TABLE tenants FROM migration_owner;
            END IF;
        END
        $$
    """)
    op.execute("DROP TRIGGER trg_tenants_prevent_removal ON tenants")
    op.execute("DROP FUNCTION fn_tenants_prevent_removal()")
    define_guards("")


def define_guards(let_cascades_pass: str) -> None:
    for function, message in GUARDS:
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
{let_cascades_pass}
                RAISE EXCEPTION '{message}';
            END;
            $$ LANGUAGE plpgsql SET search_path = pg_catalog
        """)
