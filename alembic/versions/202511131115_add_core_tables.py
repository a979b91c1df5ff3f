"""The six core tables with their constraints, indexes and comments.

Source: 001 A-01 (DDL), 002 (purposes), 004 phases 2.1 to 2.4 (what carries a comment).
"""

from alembic import op

revision: str = "202511131115"
down_revision: str | None = "baseline"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    create_tenants()
    create_attribution_events()
    create_dead_events()
    create_attribution_allocations()
    create_revenue_ledger()
    create_reconciliation_runs()


def downgrade() -> None:
    op.execute("DROP TABLE IF EXISTS reconciliation_runs CASCADE")
    op.execute("DROP TABLE IF EXISTS revenue_ledger CASCADE")
    op.execute("DROP TABLE IF EXISTS attribution_allocations CASCADE")
    op.execute("DROP TABLE IF EXISTS dead_events CASCADE")
    op.execute("DROP TABLE IF EXISTS attribution_events CASCADE")
    op.execute("DROP TABLE IF EXISTS tenants CASCADE")


def create_tenants() -> None:
    op.execute("""
        CREATE TABLE tenants (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            name VARCHAR(255) NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("""
        ALTER TABLE tenants
            ADD CONSTRAINT ck_tenants_name_not_empty
            CHECK (LENGTH(TRIM(name)) > 0)
    """)
    op.execute("CREATE INDEX idx_tenants_name ON tenants (name)")
    op.execute("""
        COMMENT ON TABLE tenants IS
            'Tenant identity and management. Purpose: Root of the tenant hierarchy. Data class: '
            'Non-PII. Ownership: Tenancy foundation.'
    """)


def create_attribution_events() -> None:
    op.execute("""
        CREATE TABLE attribution_events (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants(id) ON DELETE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            occurred_at timestamptz NOT NULL,
            external_event_id text,
            correlation_id uuid,
            session_id uuid,
            revenue_cents INTEGER NOT NULL DEFAULT 0 CHECK (revenue_cents >= 0),
            raw_payload jsonb NOT NULL
        )
    """)
    op.execute("""
        CREATE UNIQUE INDEX idx_attribution_events_tenant_external_event_id
            ON attribution_events (tenant_id, external_event_id)
            WHERE external_event_id IS NOT NULL
    """)
    op.execute("""
        CREATE UNIQUE INDEX idx_attribution_events_tenant_correlation_id
            ON attribution_events (tenant_id, correlation_id)
            WHERE correlation_id IS NOT NULL AND external_event_id IS NULL
    """)
    op.execute("""
        CREATE INDEX idx_attribution_events_tenant_occurred_at
            ON attribution_events (tenant_id, occurred_at DESC)
    """)
    op.execute("""
        CREATE INDEX idx_attribution_events_session_id
            ON attribution_events (session_id)
            WHERE session_id IS NOT NULL
    """)
    op.execute("""
        COMMENT ON TABLE attribution_events IS
            'Canonical append-only event log for attribution; idempotent ingest anchor. Purpose: '
            'Event ingestion and attribution calculations. Data class: Non-PII. Ownership: '
            'Ingestion service. RLS enabled for tenant isolation.'
    """)
    op.execute("""
        COMMENT ON COLUMN attribution_events.external_event_id IS
            'Event identifier given by the vendor. Purpose: Idempotency key of ingestion, per '
            'tenant. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN attribution_events.correlation_id IS
            'Correlates one ingest request across attribution_events, dead_events and '
            'attribution_allocations. Purpose: Distributed tracing; idempotency key where '
            'external_event_id is NULL. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN attribution_events.revenue_cents IS
            'Revenue of the event in integer cents, not negative. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN attribution_events.raw_payload IS
            'Webhook payload as received. PII is stripped by the ingestion service before it is '
            'stored.'
    """)


def create_dead_events() -> None:
    op.execute("""
        CREATE TABLE dead_events (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants(id) ON DELETE CASCADE,
            ingested_at timestamptz NOT NULL DEFAULT now(),
            source text NOT NULL,
            error_code text NOT NULL,
            error_detail jsonb NOT NULL,
            raw_payload jsonb NOT NULL,
            correlation_id uuid,
            external_event_id text
        )
    """)
    op.execute("""
        CREATE INDEX idx_dead_events_tenant_ingested_at
            ON dead_events (tenant_id, ingested_at DESC)
    """)
    op.execute("CREATE INDEX idx_dead_events_source ON dead_events (source)")
    op.execute("CREATE INDEX idx_dead_events_error_code ON dead_events (error_code)")
    op.execute("""
        COMMENT ON TABLE dead_events IS
            'Dead-letter queue for failed ingestion attempts. Purpose: Diagnosis and operator '
            'triage. Data class: Non-PII. Ownership: Ingestion service. RLS enabled for tenant '
            'isolation.'
    """)
    op.execute("""
        COMMENT ON COLUMN dead_events.correlation_id IS
            'Correlates a failed ingest request with attribution_events and '
            'attribution_allocations. Purpose: Distributed tracing. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN dead_events.raw_payload IS
            'Webhook payload as received. PII is stripped by the ingestion service before it is '
            'stored.'
    """)


def create_attribution_allocations() -> None:
    op.execute("""
        CREATE TABLE attribution_allocations (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants(id) ON DELETE CASCADE,
            event_id uuid NOT NULL REFERENCES attribution_events(id) ON DELETE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            channel text NOT NULL,
            allocated_revenue_cents INTEGER NOT NULL DEFAULT 0
                CHECK (allocated_revenue_cents >= 0),
            model_metadata jsonb,
            correlation_id uuid
        )
    """)
    op.execute("""
        CREATE INDEX idx_attribution_allocations_tenant_created_at
            ON attribution_allocations (tenant_id, created_at DESC)
    """)
    op.execute("""
        CREATE INDEX idx_attribution_allocations_event_id
            ON attribution_allocations (event_id)
    """)
    op.execute("""
        CREATE INDEX idx_attribution_allocations_channel
            ON attribution_allocations (channel)
    """)
    op.execute("""
        COMMENT ON TABLE attribution_allocations IS
            'Attribution model allocations (channel credit). Purpose: Credit of event revenue to '
            'channels. Data class: Non-PII. Ownership: Attribution service. RLS enabled for '
            'tenant isolation.'
    """)
    op.execute("""
        COMMENT ON COLUMN attribution_allocations.allocated_revenue_cents IS
            'Revenue credited to the channel in integer cents, not negative. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN attribution_allocations.correlation_id IS
            'Correlates an allocation with the ingest request of its event. Purpose: Distributed '
            'tracing. Data class: Non-PII.'
    """)


def create_revenue_ledger() -> None:
    op.execute("""
        CREATE TABLE revenue_ledger (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants(id) ON DELETE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            revenue_cents INTEGER NOT NULL DEFAULT 0 CHECK (revenue_cents >= 0),
            is_verified boolean NOT NULL DEFAULT false,
            verified_at timestamptz,
            reconciliation_run_id uuid
        )
    """)
    op.execute("""
        CREATE INDEX idx_revenue_ledger_tenant_updated_at
            ON revenue_ledger (tenant_id, updated_at DESC)
    """)
    op.execute("""
        CREATE INDEX idx_revenue_ledger_is_verified
            ON revenue_ledger (is_verified)
            WHERE is_verified = true
    """)
    op.execute("""
        COMMENT ON TABLE revenue_ledger IS
            'Verified revenue aggregates for reconciliation. Purpose: Revenue verification and '
            'aggregation. Data class: Non-PII. Ownership: Reconciliation service. RLS enabled for '
            'tenant isolation.'
    """)
    op.execute("""
        COMMENT ON COLUMN revenue_ledger.revenue_cents IS
            'Posted revenue in integer cents, not negative. Data class: Non-PII.'
    """)


def create_reconciliation_runs() -> None:
    op.execute("""
        CREATE TABLE reconciliation_runs (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            tenant_id uuid NOT NULL REFERENCES tenants(id) ON DELETE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            last_run_at timestamptz NOT NULL,
            state VARCHAR(20) NOT NULL DEFAULT 'idle'
                CHECK (state IN ('idle', 'running', 'failed', 'completed')),
            error_message text,
            run_metadata jsonb
        )
    """)
    op.execute("""
        CREATE INDEX idx_reconciliation_runs_tenant_last_run_at
            ON reconciliation_runs (tenant_id, last_run_at DESC)
    """)
    op.execute("CREATE INDEX idx_reconciliation_runs_state ON reconciliation_runs (state)")
    op.execute("""
        COMMENT ON TABLE reconciliation_runs IS
            'Reconciliation pipeline run status. Purpose: Status reported by GET '
            '/api/reconciliation/status. Data class: Non-PII. Ownership: Reconciliation service. '
            'RLS enabled for tenant isolation.'
    """)
