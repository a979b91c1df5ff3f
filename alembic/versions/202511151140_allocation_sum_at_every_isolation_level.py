"""The sum of allocations holds between transactions of every isolation level.

The check locked the event. A lock makes a transaction wait; at REPEATABLE READ and above it then
adds up in its old snapshot all the same, so that two transactions could break a sum together. Now
the check writes the event, with the values that it has: a transaction with an older snapshot is
refused, because it cannot be serialized (40001), and gets an answer when it tries again. READ
COMMITTED waits for the same lock in the same mode as before, and adds up what is there then.

The check writes as the owner of the table, who may be a superuser. So the guard lets the owner pass
inside another trigger not only with the deletions of a cascade, but with a write that changes
nothing.
"""

from alembic import op

revision: str = "202511151140"
down_revision: str | None = "202511151135"
branch_labels: str | None = None
depends_on: str | None = None

LOCK_EVENT = """
                SELECT revenue_cents INTO event_revenue
                FROM public.attribution_events
                WHERE tenant_id = touched.tenant_id AND id = touched.event_id
                FOR NO KEY UPDATE;
"""
# The column is in no key, which would be a stronger lock, and no trigger is for it. What this
# transaction wrote nobody else writes until it ends, so that once is enough. What a subtransaction
# wrote has an xmin of its own, and is written again.
WRITE_EVENT = """
                -- Changes nothing, but cannot be done in a snapshot that is older than the row.
                UPDATE public.attribution_events SET updated_at = updated_at
                WHERE tenant_id = touched.tenant_id AND id = touched.event_id
                  AND xmin <> pg_current_xact_id()::xid;

                SELECT revenue_cents INTO event_revenue
                FROM public.attribution_events
                WHERE tenant_id = touched.tenant_id AND id = touched.event_id;
"""


def upgrade() -> None:
    define_guard("coalesce(NEW, OLD) *= OLD")
    define_check(WRITE_EVENT)


def downgrade() -> None:
    define_check(LOCK_EVENT)
    define_guard("TG_OP = 'DELETE'")


def define_guard(passing: str) -> None:
    op.execute(f"""
            CREATE OR REPLACE FUNCTION fn_events_prevent_mutation()
            RETURNS TRIGGER AS $$
            BEGIN
                IF current_user = 'migration_owner' THEN
                    IF TG_OP = 'DELETE' THEN
                        RETURN OLD;
                    END IF;
                    RETURN NEW;
                END IF;

                IF {passing} AND pg_trigger_depth() > 1 AND current_user = (
                    SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID
                ) THEN
                    RETURN OLD;
                END IF;

                RAISE EXCEPTION 'attribution_events is append-only; updates and deletes are not \
allowed. Use INSERT with correlation_id for corrections.';
            END;
            $$ LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
        """)


def define_check(take_event: str) -> None:
    # A SET clause would put the setting back too, but only superusers may write one for it.
    op.execute(f"""
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
{take_event}
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
        $$ LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    """)
