"""The net of a posting holds between transactions of every isolation level.

As with the sum of allocations: a lock alone lets two transactions at REPEATABLE READ and above take
a posting below zero together, each in its own snapshot. The check now writes the posting, with the
values that it has, and the guard lets the owner pass with that inside another trigger.

The check of repairs is for the columns that a net is of, so that it is not called for the posting
that a check writes.
"""

from alembic import op

revision: str = "202511151150"
down_revision: str | None = "202511151140"
branch_labels: str | None = None
depends_on: str | None = None

LOCK_POSTING = """
                SELECT corrects_id, revenue_cents INTO posting
                FROM public.revenue_ledger
                WHERE tenant_id = touched.tenant_id AND id = touched.id
                FOR NO KEY UPDATE;
"""
# As for events: once a transaction, in a column that is in no key and that no trigger is for.
WRITE_POSTING = """
                -- Changes nothing, but cannot be done in a snapshot that is older than the row.
                UPDATE public.revenue_ledger SET updated_at = updated_at
                WHERE tenant_id = touched.tenant_id AND id = touched.id
                  AND xmin <> pg_current_xact_id()::xid;

                SELECT corrects_id, revenue_cents INTO posting
                FROM public.revenue_ledger
                WHERE tenant_id = touched.tenant_id AND id = touched.id;
"""
# PL/pgSQL sets NEW.posted_cents, which PostgreSQL computes after the guard, to NULL.
UNCHANGED = "to_jsonb(coalesce(NEW, OLD)) - 'posted_cents' = to_jsonb(OLD) - 'posted_cents'"


def upgrade() -> None:
    define_guard(UNCHANGED)
    check_repairs("UPDATE OF tenant_id, id, corrects_id, revenue_cents OR DELETE")
    define_check(WRITE_POSTING)


def downgrade() -> None:
    define_check(LOCK_POSTING)
    check_repairs("UPDATE OR DELETE")
    define_guard("TG_OP = 'DELETE'")


def define_guard(passing: str) -> None:
    op.execute(f"""
            CREATE OR REPLACE FUNCTION fn_ledger_prevent_mutation()
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

                RAISE EXCEPTION 'revenue_ledger is immutable; updates and deletes are not \
allowed. Use INSERT for corrections.';
            END;
            $$ LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
        """)


def check_repairs(events: str) -> None:
    op.execute("DROP TRIGGER trg_check_ledger_net_of_repair ON revenue_ledger")
    op.execute(f"""
        CREATE CONSTRAINT TRIGGER trg_check_ledger_net_of_repair
            AFTER {events} ON revenue_ledger
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW
            EXECUTE FUNCTION check_ledger_net()
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_check_ledger_net_of_repair ON revenue_ledger IS
            'Keeps repairs from taking a posting below zero.'
    """)


def define_check(take_posting: str) -> None:
    # A SET clause would put the setting back too, but only superusers may write one for it.
    op.execute(f"""
        CREATE OR REPLACE FUNCTION check_ledger_net()
        RETURNS TRIGGER AS $$
        DECLARE
            session_tenant text := current_setting('app.current_tenant_id', true);
            touched record;
            posting record;
            net bigint;
        BEGIN
            FOR touched IN
                SELECT OLD.tenant_id, coalesce(OLD.corrects_id, OLD.id) AS id
                WHERE TG_OP <> 'INSERT'
                UNION
                SELECT NEW.tenant_id, coalesce(NEW.corrects_id, NEW.id) WHERE TG_OP <> 'DELETE'
            LOOP
                PERFORM set_config('app.current_tenant_id', touched.tenant_id::text, true);
{take_posting}
                IF posting.corrects_id IS NOT NULL THEN
                    RAISE EXCEPTION 'Ledger row % is a correction and cannot be corrected; name '
                        'the posting', touched.id;
                END IF;

                SELECT posting.revenue_cents + sum(revenue_cents) INTO net
                FROM public.revenue_ledger
                WHERE tenant_id = touched.tenant_id AND corrects_id = touched.id;

                -- NULL when there are no corrections.
                IF net < 0 THEN
                    RAISE EXCEPTION 'Corrections take posting % below zero, to % cents',
                        touched.id, net;
                END IF;
            END LOOP;

            PERFORM set_config('app.current_tenant_id', session_tenant, true);
            RETURN NULL;
        END;
        $$ LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    """)
