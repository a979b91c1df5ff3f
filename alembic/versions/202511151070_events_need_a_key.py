"""An event has an external id or a correlation id: without either no second delivery is recognised.

Events without a key stop the upgrade with a message that names some. They are looked for, and the
constraint validated, across all tenants: CHECK constraints are not subject to row level security,
and for the search forced row level security is lifted meanwhile, inside the transaction.
"""

from alembic import op

revision: str = "202511151070"
down_revision: str | None = "202511151060"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE attribution_events NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        DO $$
        DECLARE
            keyless_count bigint;
            examples text;
        BEGIN
            SELECT count(*), string_agg(id::text, ', ' ORDER BY id) FILTER (WHERE n <= 5)
            INTO keyless_count, examples
            FROM (
                SELECT id, row_number() OVER (ORDER BY id) AS n
                FROM attribution_events
                WHERE external_event_id IS NULL AND correlation_id IS NULL
            ) keyless;

            IF keyless_count > 0 THEN
                RAISE EXCEPTION 'attribution_events: % rows have neither external_event_id nor '
                    'correlation_id, for example %',
                        keyless_count, examples
                    USING ERRCODE = 'check_violation',
                          HINT = 'Upgrade to 202511151030 first, from where on repairs take '
                              'effect; give them one as migration_owner with '
                              'app.current_tenant_id set to their tenant_id; then upgrade to head.';
            END IF;
        END
        $$
    """)
    op.execute("ALTER TABLE attribution_events FORCE ROW LEVEL SECURITY")
    op.execute("""
        ALTER TABLE attribution_events
            ADD CONSTRAINT ck_attribution_events_has_key
            CHECK (external_event_id IS NOT NULL OR correlation_id IS NOT NULL)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT ck_attribution_events_has_key ON attribution_events IS
            'Every event has a key of idempotent ingestion: external_event_id, or correlation_id '
            'where there is none.'
    """)


def downgrade() -> None:
    op.execute("ALTER TABLE attribution_events DROP CONSTRAINT ck_attribution_events_has_key")
