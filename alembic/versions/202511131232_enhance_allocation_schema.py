"""Allocations: ratio, model version, the list of legal channels, and one row per channel and model.

Source: 001 A-01 (columns, ratio check), B2 and D (indexes); 003 phase 3.1 (channel check).
"""

from alembic import op

revision: str = "202511131232"
down_revision: str | None = "202511131121"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE attribution_allocations
            ADD COLUMN allocation_ratio numeric(6,5) NOT NULL DEFAULT 0.0
    """)
    op.execute("""
        ALTER TABLE attribution_allocations
            ADD CONSTRAINT ck_attribution_allocations_allocation_ratio_bounds
            CHECK (allocation_ratio >= 0 AND allocation_ratio <= 1)
    """)
    op.execute("""
        ALTER TABLE attribution_allocations
            ADD COLUMN model_version text NOT NULL DEFAULT 'unknown'
    """)
    op.execute("""
        ALTER TABLE attribution_allocations
            ADD CONSTRAINT ck_attribution_allocations_channel_code_valid
            CHECK (channel IN (
                'google_search', 'facebook_ads', 'direct', 'email', 'organic',
                'referral', 'social', 'paid_search', 'display'
            ))
    """)
    op.execute("""
        CREATE UNIQUE INDEX idx_attribution_allocations_tenant_event_model_channel
            ON attribution_allocations (tenant_id, event_id, model_version, channel)
            WHERE model_version IS NOT NULL
    """)
    op.execute("""
        CREATE INDEX idx_attribution_allocations_tenant_model_version
            ON attribution_allocations (tenant_id, model_version)
    """)
    op.execute("""
        COMMENT ON TABLE attribution_allocations IS
            'Attribution model allocations (channel credit) with revenue accounting determinism. '
            'Purpose: Credit of event revenue to channels. Data class: Non-PII. Ownership: '
            'Attribution service. RLS enabled for tenant isolation.'
    """)
    op.execute("""
        COMMENT ON COLUMN attribution_allocations.allocation_ratio IS
            'Proportion of the event revenue credited to the channel, from 0 to 1. Data class: '
            'Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN attribution_allocations.model_version IS
            'Version of the attribution model that made the allocation. Data class: Non-PII.'
    """)


def downgrade() -> None:
    op.execute("DROP INDEX idx_attribution_allocations_tenant_model_version")
    op.execute("DROP INDEX idx_attribution_allocations_tenant_event_model_channel")
    op.execute("""
        ALTER TABLE attribution_allocations
            DROP CONSTRAINT ck_attribution_allocations_channel_code_valid
    """)
    op.execute("ALTER TABLE attribution_allocations DROP COLUMN model_version")
    op.execute("ALTER TABLE attribution_allocations DROP COLUMN allocation_ratio")
    op.execute("""
        COMMENT ON TABLE attribution_allocations IS
            'Attribution model allocations (channel credit). Purpose: Credit of event revenue to '
            'channels. Data class: Non-PII. Ownership: Attribution service. RLS enabled for '
            'tenant isolation.'
    """)
