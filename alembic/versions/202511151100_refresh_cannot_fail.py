"""A refresh of a materialized view succeeds whatever the rows are, and reads every tenant's.

Three things broke it. Two runs of a tenant at one last_run_at were two rows where a unique index
allows one: the latest run is now the last by (last_run_at, created_at, id). The age of a ledger row
did not fit an integer once it was older than 68 years, and an infinite time has no age: it is now
between 0 and 2147483647 seconds. And where a plain role owns the views, forced row level security
hid the tenants' rows from the refresh, which runs as the owner: a policy lets such an owner read.
The views keep their owner, whoever migrates.

The downgrade stops, with a message that names some rows, at data of which the views before this
revision cannot be built.
"""

from alembic import op

revision: str = "202511151100"
down_revision: str | None = "202511151090"
branch_labels: str | None = None
depends_on: str | None = None

# Table, and the materialized view whose refresh reads it.
SOURCES = (
    ("attribution_events", "mv_allocation_summary"),
    ("attribution_allocations", "mv_allocation_summary"),
    ("revenue_ledger", "mv_realtime_revenue"),
    ("reconciliation_runs", "mv_reconciliation_status"),
)
REBUILT_FROM = ("revenue_ledger", "reconciliation_runs")


def upgrade() -> None:
    let_owner_read()
    rebuild(
        "mv_realtime_revenue",
        """
        SELECT
            rl.tenant_id,
            COALESCE(SUM(rl.revenue_cents), 0) / 100.0 AS total_revenue,
            BOOL_OR(rl.is_verified) AS verified,
            CASE
                WHEN MAX(rl.updated_at) > now() THEN 0
                WHEN MAX(rl.updated_at) < now() - interval '2147483647 seconds' THEN 2147483647
                ELSE EXTRACT(EPOCH FROM (now() - MAX(rl.updated_at)))::INTEGER
            END AS data_freshness_seconds
        FROM revenue_ledger rl
        GROUP BY rl.tenant_id
        """,
    )
    rebuild(
        "mv_reconciliation_status",
        """
        SELECT DISTINCT ON (rr.tenant_id)
            rr.tenant_id,
            rr.state,
            rr.last_run_at,
            rr.id AS reconciliation_run_id
        FROM reconciliation_runs rr
        ORDER BY rr.tenant_id, rr.last_run_at DESC, rr.created_at DESC, rr.id DESC
        """,
    )
    finish_views()


def downgrade() -> None:
    for table in REBUILT_FROM:
        # A migrating owner then sees the rows of every tenant, inside the transaction.
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    refuse_runs_at_one_time()
    refuse_ages_that_are_no_integer()
    for table, _ in reversed(SOURCES):
        op.execute(f"DROP POLICY IF EXISTS owner_reads_policy ON {table}")
    rebuild(
        "mv_realtime_revenue",
        """
        SELECT
            rl.tenant_id,
            COALESCE(SUM(rl.revenue_cents), 0) / 100.0 AS total_revenue,
            BOOL_OR(rl.is_verified) AS verified,
            EXTRACT(EPOCH FROM (now() - MAX(rl.updated_at)))::INTEGER AS data_freshness_seconds
        FROM revenue_ledger rl
        GROUP BY rl.tenant_id
        """,
    )
    rebuild(
        "mv_reconciliation_status",
        """
        SELECT
            rr.tenant_id,
            rr.state,
            rr.last_run_at,
            rr.id AS reconciliation_run_id
        FROM reconciliation_runs rr
        INNER JOIN (
            SELECT tenant_id, MAX(last_run_at) AS max_last_run_at
            FROM reconciliation_runs
            GROUP BY tenant_id
        ) latest ON rr.tenant_id = latest.tenant_id
            AND rr.last_run_at = latest.max_last_run_at
        """,
    )
    finish_views()
    for table in REBUILT_FROM:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def rebuild(view: str, query: str) -> None:
    """Put a view of another query in the place of this one, with the owner of this one."""
    op.execute(f"CREATE MATERIALIZED VIEW new_{view} AS {query}")
    op.execute(f"""
        DO $$
        BEGIN
            EXECUTE format(
                'ALTER MATERIALIZED VIEW new_{view} OWNER TO %I',
                (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = '{view}'::regclass)
            );
        END
        $$
    """)
    op.execute(f"DROP MATERIALIZED VIEW {view}")
    op.execute(f"ALTER MATERIALIZED VIEW new_{view} RENAME TO {view}")


def finish_views() -> None:
    """Indexes, comments and privileges, which went with the views."""
    op.execute("""
        CREATE UNIQUE INDEX idx_mv_realtime_revenue_tenant_id
            ON mv_realtime_revenue (tenant_id)
    """)
    op.execute("""
        COMMENT ON MATERIALIZED VIEW mv_realtime_revenue IS
            'Aggregates revenue data for GET /api/attribution/revenue/realtime. Refresh policy: '
            'CONCURRENTLY, every 30 to 60 seconds.'
    """)
    op.execute("""
        CREATE UNIQUE INDEX idx_mv_reconciliation_status_tenant_id
            ON mv_reconciliation_status (tenant_id)
    """)
    op.execute("""
        COMMENT ON MATERIALIZED VIEW mv_reconciliation_status IS
            'Aggregates reconciliation status for GET /api/reconciliation/status. Refresh policy: '
            'CONCURRENTLY, every 30 to 60 seconds.'
    """)
    for view in ("mv_realtime_revenue", "mv_reconciliation_status"):
        op.execute(f"GRANT SELECT ON TABLE {view} TO app_rw, app_ro")
        op.execute(f"REVOKE ALL ON TABLE {view} FROM PUBLIC")


def let_owner_read() -> None:
    """A superuser reads past row level security and gets no policy that would do nothing."""
    for table, view in SOURCES:
        op.execute(f"""
            DO $$
            DECLARE
                reader name;
            BEGIN
                SELECT r.rolname INTO reader
                FROM pg_class c
                INNER JOIN pg_roles r ON r.oid = c.relowner
                WHERE c.oid = '{view}'::regclass AND NOT (r.rolsuper OR r.rolbypassrls);

                IF FOUND THEN
                    EXECUTE format(
                        'CREATE POLICY owner_reads_policy ON {table} FOR SELECT TO %I USING (true)',
                        reader
                    );
                    COMMENT ON POLICY owner_reads_policy ON {table} IS
                        'The owner, as whom materialized views are refreshed, reads the rows of '
                        'every tenant.';
                END IF;
            END
            $$
        """)


def refuse_runs_at_one_time() -> None:
    """Only the latest runs of a tenant are rows of the view."""
    refuse(
        """
        SELECT id
        FROM (
            SELECT
                id,
                rank() OVER (PARTITION BY tenant_id ORDER BY last_run_at DESC) AS place,
                count(*) OVER (PARTITION BY tenant_id, last_run_at) AS at_one_time
            FROM reconciliation_runs
        ) runs
        WHERE place = 1 AND at_one_time > 1
        """,
        message="reconciliation_runs: % rows are the latest of their tenant together with others, "
        "at the same last_run_at, for example %",
        errcode="unique_violation",
        hint="Keep one of each tenant at that time, as app_rw with app.current_tenant_id set to "
        "their tenant_id; then downgrade again.",
    )


def refuse_ages_that_are_no_integer() -> None:
    """The view shows the age of a tenant's latest row, so only that has to fit."""
    refuse(
        """
        SELECT id
        FROM (
            SELECT id, updated_at, max(updated_at) OVER (PARTITION BY tenant_id) AS latest
            FROM revenue_ledger
        ) ledger_rows
        WHERE latest < now() - interval '2147483647 seconds'
           OR updated_at > now() + interval '2147483647 seconds'
        """,
        message="revenue_ledger: % rows make the age of their tenant''s latest row, by "
        "updated_at, no integer of seconds, for example %",
        errcode="numeric_value_out_of_range",
        hint="Give them an updated_at within 68 years from now, as migration_owner with "
        "app.current_tenant_id set to their tenant_id; then downgrade again.",
    )


def refuse(rows: str, *, message: str, errcode: str, hint: str) -> None:
    """Stop at rows, found by a query of their ids, with their number and some of them."""
    op.execute(f"""
        DO $$
        DECLARE
            row_count bigint;
            examples text;
        BEGIN
            SELECT count(*), string_agg(id::text, ', ' ORDER BY id) FILTER (WHERE n <= 5)
            INTO row_count, examples
            FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM ({rows}) found) numbered;

            IF row_count > 0 THEN
                RAISE EXCEPTION '{message}', row_count, examples
                    USING ERRCODE = '{errcode}', HINT = '{hint}';
            END IF;
        END
        $$
    """)
