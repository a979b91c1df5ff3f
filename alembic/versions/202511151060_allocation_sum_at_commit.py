"""The sum of allocations is checked when the transaction ends, for every group it touched.

The documented trigger checks after each statement, so that a split over several is refused; looks
at the new group of a row alone, so that the one it left may be out of balance; refuses the removal
of a whole group; adds up in integers, which overflow; sees nothing of an event once the tenant
setting has changed; and lets two transactions pass that are balanced only without one another.

It becomes a deferred constraint trigger that runs as the owner and acts for the tenant of the row.
It locks the event first: of two transactions that allocate one event at READ COMMITTED the second
adds up when the first has committed. At REPEATABLE READ two transactions may still break the sum
together, because each sees only its own snapshot; a later issue decides on it. A change to an
event's revenue, a repair, is checked as well.

Groups that are out of balance already stop the upgrade with a message that names some.
"""

from alembic import op

revision: str = "202511151060"
down_revision: str | None = "202511151050"
branch_labels: str | None = None
depends_on: str | None = None

TABLES = ("attribution_events", "attribution_allocations")


def upgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    refuse_groups_out_of_balance()
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    check_allocations()
    check_events()


def check_allocations() -> None:
    op.execute("DROP TRIGGER trg_check_allocation_sum ON attribution_allocations")
    # A SET clause would put the setting back too, but only superusers may write one for it.
    op.execute("""
        CREATE OR REPLACE FUNCTION check_allocation_sum()
        RETURNS TRIGGER AS $$
        DECLARE
            session_tenant text := current_setting('app.current_tenant_id', true);
            touched record;
            event_revenue bigint;
            allocated_sum bigint;
        BEGIN
            FOR touched IN
                SELECT OLD.tenant_id, OLD.event_id, OLD.model_version WHERE TG_OP <> 'INSERT'
                UNION
                SELECT NEW.tenant_id, NEW.event_id, NEW.model_version WHERE TG_OP <> 'DELETE'
            LOOP
                PERFORM set_config('app.current_tenant_id', touched.tenant_id::text, true);

                SELECT revenue_cents INTO event_revenue
                FROM public.attribution_events
                WHERE tenant_id = touched.tenant_id AND id = touched.event_id
                FOR NO KEY UPDATE;

                SELECT sum(allocated_revenue_cents) INTO allocated_sum
                FROM public.attribution_allocations
                WHERE tenant_id = touched.tenant_id
                  AND event_id = touched.event_id
                  AND model_version = touched.model_version;

                -- NULL when the group has no rows: it owes nothing.
                IF abs(allocated_sum - event_revenue) > 1 THEN
                    RAISE EXCEPTION 'Allocations of event % under model version % sum to % '
                        'cents, its revenue is % cents',
                        touched.event_id, touched.model_version, allocated_sum, event_revenue;
                END IF;
            END LOOP;

            PERFORM set_config('app.current_tenant_id', session_tenant, true);
            RETURN NULL;
        END;
        $$ LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    """)
    op.execute("""
        CREATE CONSTRAINT TRIGGER trg_check_allocation_sum
            AFTER INSERT OR UPDATE OR DELETE ON attribution_allocations
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW
            EXECUTE FUNCTION check_allocation_sum()
    """)
    # Else a trigger on a table of one's own would run it as the owner.
    op.execute("REVOKE EXECUTE ON FUNCTION check_allocation_sum() FROM PUBLIC")
    op.execute("""
        COMMENT ON FUNCTION check_allocation_sum() IS
            'Validates that allocations sum to event revenue per (event_id, model_version) with a '
            'tolerance of 1 cent, for the group a row is in and the one it was in.'
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_check_allocation_sum ON attribution_allocations IS
            'Enforces the sum-equality invariant at the end of the transaction: allocations must '
            'sum to event revenue.'
    """)


def check_events() -> None:
    op.execute("""
        CREATE FUNCTION check_event_revenue()
        RETURNS TRIGGER AS $$
        DECLARE
            session_tenant text := current_setting('app.current_tenant_id', true);
            event_revenue bigint;
            unbalanced record;
        BEGIN
            PERFORM set_config('app.current_tenant_id', NEW.tenant_id::text, true);

            SELECT revenue_cents INTO event_revenue
            FROM public.attribution_events
            WHERE tenant_id = NEW.tenant_id AND id = NEW.id;

            SELECT model_version, sum(allocated_revenue_cents) AS allocated INTO unbalanced
            FROM public.attribution_allocations
            WHERE tenant_id = NEW.tenant_id AND event_id = NEW.id
            GROUP BY model_version
            HAVING abs(sum(allocated_revenue_cents) - event_revenue) > 1
            LIMIT 1;

            IF FOUND THEN
                RAISE EXCEPTION 'Allocations of event % under model version % sum to % '
                    'cents, its revenue would be % cents',
                    NEW.id, unbalanced.model_version, unbalanced.allocated, event_revenue;
            END IF;

            PERFORM set_config('app.current_tenant_id', session_tenant, true);
            RETURN NULL;
        END;
        $$ LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    """)
    op.execute("""
        CREATE CONSTRAINT TRIGGER trg_check_event_revenue
            AFTER UPDATE OF revenue_cents ON attribution_events
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW
            EXECUTE FUNCTION check_event_revenue()
    """)
    op.execute("REVOKE EXECUTE ON FUNCTION check_event_revenue() FROM PUBLIC")
    op.execute("""
        COMMENT ON FUNCTION check_event_revenue() IS
            'Validates that a repaired event still has the revenue that its allocations sum to, '
            'per model version, with a tolerance of 1 cent.'
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_check_event_revenue ON attribution_events IS
            'Enforces the sum-equality invariant at the end of a transaction that repairs an '
            'event.'
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER trg_check_event_revenue ON attribution_events")
    op.execute("DROP FUNCTION check_event_revenue()")
    op.execute("DROP TRIGGER trg_check_allocation_sum ON attribution_allocations")
    # Replaced and not made anew, so that it stays with its owner, whoever migrates.
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
    op.execute("GRANT EXECUTE ON FUNCTION check_allocation_sum() TO PUBLIC")
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


def refuse_groups_out_of_balance() -> None:
    op.execute("""
        DO $$
        DECLARE
            unbalanced_count bigint;
            examples text;
        BEGIN
            SELECT
                count(*),
                string_agg(
                    format(
                        'event %s, model version %s: %s instead of %s cents',
                        event_id, model_version, allocated, revenue_cents
                    ),
                    '; ' ORDER BY event_id, model_version
                ) FILTER (WHERE n <= 5)
            INTO unbalanced_count, examples
            FROM (
                SELECT
                    a.event_id, a.model_version, e.revenue_cents,
                    sum(a.allocated_revenue_cents) AS allocated,
                    row_number() OVER (ORDER BY a.event_id, a.model_version) AS n
                FROM attribution_allocations a
                INNER JOIN attribution_events e ON e.id = a.event_id
                GROUP BY a.tenant_id, a.event_id, a.model_version, e.revenue_cents
                HAVING abs(sum(a.allocated_revenue_cents) - e.revenue_cents) > 1
            ) unbalanced;

            IF unbalanced_count > 0 THEN
                RAISE EXCEPTION 'attribution_allocations: % groups do not sum to the revenue of '
                    'their event, for example %',
                        unbalanced_count, examples
                    USING ERRCODE = 'check_violation',
                          HINT = 'Correct the allocations of each group in one statement, as '
                              'app_rw with app.current_tenant_id set to their tenant_id; then '
                              'upgrade again.';
            END IF;
        END
        $$
    """)
