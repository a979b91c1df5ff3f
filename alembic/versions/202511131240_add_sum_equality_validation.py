"""Allocations of an event must sum to its revenue, within one cent, per model version.

The trigger checks after every row, not at commit, and runs with the rights of whoever writes.
mv_allocation_summary shows the sums. Building it reads every tenant's rows, which forced row level
security keeps even from the owner; it is lifted for that moment, inside the transaction.

Source: 002, Sum-Equality Invariant; 001 D (indexes of the view).
"""

from alembic import op

revision: str = "202511131240"
down_revision: str | None = "202511131232"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION check_allocation_sum()
        RETURNS TRIGGER AS $$
        DECLARE
            checked_event_id uuid;
            checked_model_version text;
            event_revenue INTEGER;
            allocated_sum INTEGER;
        BEGIN
            IF TG_OP = 'DELETE' THEN
                checked_event_id := OLD.event_id;
                checked_model_version := OLD.model_version;
            ELSE
                checked_event_id := NEW.event_id;
                checked_model_version := NEW.model_version;
            END IF;

            SELECT revenue_cents INTO event_revenue
            FROM attribution_events
            WHERE id = checked_event_id;

            SELECT COALESCE(SUM(allocated_revenue_cents), 0) INTO allocated_sum
            FROM attribution_allocations
            WHERE event_id = checked_event_id
              AND model_version = checked_model_version;

            IF ABS(allocated_sum - event_revenue) > 1 THEN
                RAISE EXCEPTION 'Allocations of event % under model version % sum to % '
                    'cents, its revenue is % cents',
                    checked_event_id, checked_model_version, allocated_sum, event_revenue;
            END IF;

            RETURN NULL;
        END;
        $$ LANGUAGE plpgsql
    """)
    op.execute("""
        COMMENT ON FUNCTION check_allocation_sum() IS
            'Validates that allocations sum to event revenue per (event_id, model_version) with a '
            'tolerance of 1 cent.'
    """)
    op.execute("""
        CREATE TRIGGER trg_check_allocation_sum
            AFTER INSERT OR UPDATE OR DELETE ON attribution_allocations
            FOR EACH ROW
            EXECUTE FUNCTION check_allocation_sum()
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_check_allocation_sum ON attribution_allocations IS
            'Enforces the sum-equality invariant: allocations must sum to event revenue.'
    """)
    op.execute("ALTER TABLE attribution_events NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE attribution_allocations NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE MATERIALIZED VIEW mv_allocation_summary AS
        SELECT
            aa.tenant_id,
            aa.event_id,
            aa.model_version,
            SUM(aa.allocated_revenue_cents) AS total_allocated_cents,
            e.revenue_cents AS event_revenue_cents,
            ABS(SUM(aa.allocated_revenue_cents) - e.revenue_cents) <= 1 AS is_balanced,
            ABS(SUM(aa.allocated_revenue_cents) - e.revenue_cents) AS drift_cents
        FROM attribution_allocations aa
        INNER JOIN attribution_events e ON e.id = aa.event_id
        GROUP BY aa.tenant_id, aa.event_id, aa.model_version, e.revenue_cents
    """)
    op.execute("ALTER TABLE attribution_allocations FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE attribution_events FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE UNIQUE INDEX idx_mv_allocation_summary_key
            ON mv_allocation_summary (tenant_id, event_id, model_version)
    """)
    op.execute("""
        CREATE INDEX idx_mv_allocation_summary_drift
            ON mv_allocation_summary (drift_cents)
            WHERE drift_cents > 1
    """)
    op.execute("""
        COMMENT ON MATERIALIZED VIEW mv_allocation_summary IS
            'Aggregates allocation sums per (tenant_id, event_id, model_version) for sum-equality '
            'validation.'
    """)


def downgrade() -> None:
    op.execute("DROP MATERIALIZED VIEW mv_allocation_summary")
    op.execute("DROP TRIGGER trg_check_allocation_sum ON attribution_allocations")
    op.execute("DROP FUNCTION check_allocation_sum()")
