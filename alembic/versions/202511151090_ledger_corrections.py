"""A correction is a further ledger row that names the posting it corrects.

The documents want corrections as negative entries, and their schema refuses them: amounts are not
negative, and an allocation has one row. Now corrects_id names the posting, of the same tenant and
allocation. A posting is a row without it: one per allocation, never negative, of the allocation's
amount. A correction may be negative; when the transaction ends the posting and its corrections
together are not. That is checked with the posting locked, so that it holds for two corrections at
once at READ COMMITTED.

The downgrade stops at existing corrections with a message that names some.
"""

from alembic import op

revision: str = "202511151090"
down_revision: str | None = "202511151080"
branch_labels: str | None = None
depends_on: str | None = None

TABLES = ("attribution_allocations", "revenue_ledger")


def upgrade() -> None:
    lift_force()
    op.execute("ALTER TABLE revenue_ledger ADD COLUMN corrects_id uuid")
    op.execute("""
        COMMENT ON COLUMN revenue_ledger.corrects_id IS
            'Posting this row corrects; NULL in a posting. Purpose: Additive corrections. Data '
            'class: Non-PII.'
    """)
    post_amounts()
    correct_postings()
    check_nets()
    op.execute("""
        COMMENT ON COLUMN revenue_ledger.revenue_cents IS
            'Revenue in integer cents. Not negative in a posting; a correction may be. Data class: '
            'Non-PII.'
    """)
    force()


def post_amounts() -> None:
    """What was true of every row is true of postings."""
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD COLUMN posted_cents integer
            GENERATED ALWAYS AS (CASE WHEN corrects_id IS NULL THEN revenue_cents END) STORED
    """)
    op.execute("""
        COMMENT ON COLUMN revenue_ledger.posted_cents IS
            'Amount of a posting, NULL in a correction: the part of the foreign key to the '
            'allocation that corrections are exempt from. Data class: Non-PII.'
    """)
    op.execute("ALTER TABLE revenue_ledger DROP CONSTRAINT fk_revenue_ledger_posted_allocation")
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT fk_revenue_ledger_posted_allocation
            FOREIGN KEY (tenant_id, allocation_id, posted_cents)
            REFERENCES attribution_allocations (tenant_id, id, allocated_revenue_cents)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT fk_revenue_ledger_posted_allocation ON revenue_ledger IS
            'Posts an allocation of the same tenant, for its amount. A posted allocation cannot '
            'be removed, nor its amount changed.'
    """)
    op.execute("ALTER TABLE revenue_ledger DROP CONSTRAINT revenue_ledger_revenue_cents_check")
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT ck_revenue_ledger_posted_cents_not_negative CHECK (posted_cents >= 0)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT ck_revenue_ledger_posted_cents_not_negative ON revenue_ledger IS
            'A posting is not negative; a correction may be.'
    """)
    op.execute("DROP INDEX idx_revenue_ledger_tenant_allocation_id")
    op.execute("""
        CREATE UNIQUE INDEX idx_revenue_ledger_tenant_allocation_id
            ON revenue_ledger (tenant_id, allocation_id)
            WHERE corrects_id IS NULL
    """)


def correct_postings() -> None:
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT uq_revenue_ledger_tenant_id_id_allocation_id
            UNIQUE (tenant_id, id, allocation_id)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT uq_revenue_ledger_tenant_id_id_allocation_id ON revenue_ledger IS
            'Target of the foreign key by which a correction names its posting.'
    """)
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT fk_revenue_ledger_corrected_posting
            FOREIGN KEY (tenant_id, corrects_id, allocation_id)
            REFERENCES revenue_ledger (tenant_id, id, allocation_id)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT fk_revenue_ledger_corrected_posting ON revenue_ledger IS
            'Corrects a row of the same tenant and allocation.'
    """)
    op.execute("""
        CREATE INDEX idx_revenue_ledger_tenant_corrects_id
            ON revenue_ledger (tenant_id, corrects_id)
            WHERE corrects_id IS NOT NULL
    """)


def check_nets() -> None:
    # A SET clause would put the setting back too, but only superusers may write one for it.
    op.execute("""
        CREATE FUNCTION check_ledger_net()
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

                SELECT corrects_id, revenue_cents INTO posting
                FROM public.revenue_ledger
                WHERE tenant_id = touched.tenant_id AND id = touched.id
                FOR NO KEY UPDATE;

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
        $$ LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    """)
    # Else a trigger on a table of one's own would run it as the owner.
    op.execute("REVOKE EXECUTE ON FUNCTION check_ledger_net() FROM PUBLIC")
    op.execute("""
        COMMENT ON FUNCTION check_ledger_net() IS
            'Validates that a correction names a posting, and that a posting and its corrections '
            'together are not negative.'
    """)
    # A posting without corrections, which most rows are, has nothing to check.
    op.execute("""
        CREATE CONSTRAINT TRIGGER trg_check_ledger_net_of_correction
            AFTER INSERT ON revenue_ledger
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW
            WHEN (NEW.corrects_id IS NOT NULL)
            EXECUTE FUNCTION check_ledger_net()
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_check_ledger_net_of_correction ON revenue_ledger IS
            'Keeps corrections from taking a posting below zero.'
    """)
    op.execute("""
        CREATE CONSTRAINT TRIGGER trg_check_ledger_net_of_repair
            AFTER UPDATE OR DELETE ON revenue_ledger
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW
            EXECUTE FUNCTION check_ledger_net()
    """)
    op.execute("""
        COMMENT ON TRIGGER trg_check_ledger_net_of_repair ON revenue_ledger IS
            'Keeps repairs from taking a posting below zero.'
    """)


def downgrade() -> None:
    lift_force()
    refuse_corrections()
    op.execute("DROP TRIGGER trg_check_ledger_net_of_repair ON revenue_ledger")
    op.execute("DROP TRIGGER trg_check_ledger_net_of_correction ON revenue_ledger")
    op.execute("DROP FUNCTION check_ledger_net()")
    op.execute("ALTER TABLE revenue_ledger DROP CONSTRAINT fk_revenue_ledger_corrected_posting")
    op.execute("""
        ALTER TABLE revenue_ledger
            DROP CONSTRAINT uq_revenue_ledger_tenant_id_id_allocation_id
    """)
    op.execute("ALTER TABLE revenue_ledger DROP CONSTRAINT fk_revenue_ledger_posted_allocation")
    op.execute("DROP INDEX idx_revenue_ledger_tenant_allocation_id")
    op.execute("ALTER TABLE revenue_ledger DROP COLUMN posted_cents")
    op.execute("ALTER TABLE revenue_ledger DROP COLUMN corrects_id")
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT revenue_ledger_revenue_cents_check CHECK (revenue_cents >= 0)
    """)
    op.execute("""
        CREATE UNIQUE INDEX idx_revenue_ledger_tenant_allocation_id
            ON revenue_ledger (tenant_id, allocation_id)
            WHERE allocation_id IS NOT NULL
    """)
    op.execute("""
        ALTER TABLE revenue_ledger
            ADD CONSTRAINT fk_revenue_ledger_posted_allocation
            FOREIGN KEY (tenant_id, allocation_id, revenue_cents)
            REFERENCES attribution_allocations (tenant_id, id, allocated_revenue_cents)
    """)
    op.execute("""
        COMMENT ON CONSTRAINT fk_revenue_ledger_posted_allocation ON revenue_ledger IS
            'Posts an allocation of the same tenant, for its amount. A posted allocation cannot '
            'be removed, nor its amount changed.'
    """)
    op.execute("""
        COMMENT ON COLUMN revenue_ledger.revenue_cents IS
            'Posted revenue in integer cents, not negative. Data class: Non-PII.'
    """)
    force()


def refuse_corrections() -> None:
    op.execute("""
        DO $$
        DECLARE
            correction_count bigint;
            examples text;
        BEGIN
            SELECT count(*), string_agg(id::text, ', ' ORDER BY id) FILTER (WHERE n <= 5)
            INTO correction_count, examples
            FROM (
                SELECT id, row_number() OVER (ORDER BY id) AS n
                FROM revenue_ledger
                WHERE corrects_id IS NOT NULL
            ) corrections;

            IF correction_count > 0 THEN
                RAISE EXCEPTION 'revenue_ledger: % rows are corrections, which the schema before '
                    'this revision has no place for, for example %',
                        correction_count, examples
                    USING ERRCODE = 'check_violation',
                          HINT = 'Keep a copy and remove them as migration_owner with '
                              'app.current_tenant_id set to their tenant_id; then downgrade again.';
            END IF;
        END
        $$
    """)


def lift_force() -> None:
    """A migrating owner sees and validates the rows of every tenant, inside the transaction."""
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")


def force() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
