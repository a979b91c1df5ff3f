"""channel_taxonomy, the canonical list of channels, with its nine codes.

No role is granted anything on it.

Source: 003 phase 3.2 for table and comments, 001 F-03 for the codes.
"""

from alembic import op

revision: str = "202511141310"
down_revision: str | None = "202511141302"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE channel_taxonomy (
            code          text PRIMARY KEY,
            family        text NOT NULL,
            is_paid       boolean NOT NULL,
            display_name  text NOT NULL,
            is_active     boolean NOT NULL DEFAULT true,
            created_at    timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("""
        COMMENT ON TABLE channel_taxonomy IS
            'Canonical channel taxonomy for attribution allocations and reporting. Purpose: '
            'Provide single source of truth for channel codes, ensuring consistency across '
            'ingestion, allocation models, and UI. Data class: Non-PII. Ownership: Attribution '
            'service.'
    """)
    op.execute("""
        COMMENT ON COLUMN channel_taxonomy.code IS
            'Canonical channel identifier used throughout system. Primary key. Must match values '
            'referenced by attribution_allocations.channel_code FK. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN channel_taxonomy.family IS
            'Normalized family grouping for higher-level reporting (e.g., "paid_social", '
            '"paid_search", "organic", "referral"). Purpose: Enable family-level aggregation and '
            'analysis. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN channel_taxonomy.is_paid IS
            'Indicates whether spend is expected for this channel. Purpose: Enable paid vs '
            'organic channel segmentation. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN channel_taxonomy.display_name IS
            'Human-friendly label for UI display. Purpose: Provide user-facing channel name. Data '
            'class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN channel_taxonomy.is_active IS
            'Used to soft-deprecate channels without breaking existing rows. Purpose: Allow '
            'channel retirement while preserving historical data. Data class: Non-PII.'
    """)
    op.execute("""
        COMMENT ON COLUMN channel_taxonomy.created_at IS
            'Timestamp when channel was added to taxonomy. Purpose: Audit trail for channel '
            'lifecycle. Data class: Non-PII.'
    """)
    op.execute("""
        INSERT INTO channel_taxonomy (code, family, is_paid, display_name) VALUES
            ('facebook_paid', 'paid_social', true, 'Facebook Paid'),
            ('facebook_brand', 'paid_social', true, 'Facebook Brand'),
            ('google_search_paid', 'paid_search', true, 'Google Search Paid'),
            ('google_display_paid', 'paid_display', true, 'Google Display Paid'),
            ('tiktok_paid', 'paid_social', true, 'TikTok Paid'),
            ('direct', 'direct', false, 'Direct'),
            ('organic', 'organic', false, 'Organic'),
            ('referral', 'referral', false, 'Referral'),
            ('email', 'email', false, 'Email')
    """)


def downgrade() -> None:
    op.execute("DROP TABLE channel_taxonomy")
