"""Allocations: channel becomes channel_code, a foreign key to channel_taxonomy; values are mapped.

Up: google_search and paid_search become google_search_paid, facebook_ads and social become
facebook_paid, display becomes google_display_paid; direct, email, organic and referral stay.

Down: the CHECK on the legacy values comes back, so every code needs a legal legacy value:
google_search_paid becomes google_search, google_display_paid display, facebook_paid facebook_ads,
and facebook_brand and tiktok_paid, which the legacy list lacks, social. Codes added to the taxonomy
since have no legacy value and stop the downgrade.

Both ways are lossy and neither adds rows up: two rows of an event and model version that would meet
in one channel stop the migration with a message that names them, since ledger rows may refer to
either. The sum trigger is off while values change, because no amount does and rows older than the
trigger may be out of balance. Forced row level security is lifted meanwhile, inside the
transaction, for a migrating owner to see the rows of every tenant; the validation of the foreign
key needs that as well.

Source: 003 phase 3.3, 001 F-03.
"""

from alembic import op

revision: str = "202511141311"
down_revision: str | None = "202511141310"
branch_labels: str | None = None
depends_on: str | None = None

TO_CANONICAL = {
    "google_search": "google_search_paid",
    "paid_search": "google_search_paid",
    "facebook_ads": "facebook_paid",
    "social": "facebook_paid",
    "display": "google_display_paid",
}
TO_LEGACY = {
    "google_search_paid": "google_search",
    "google_display_paid": "display",
    "facebook_paid": "facebook_ads",
    "facebook_brand": "social",
    "tiktok_paid": "social",
}


def upgrade() -> None:
    op.execute("""
        ALTER TABLE attribution_allocations
            DROP CONSTRAINT ck_attribution_allocations_channel_code_valid
    """)
    op.execute("ALTER TABLE attribution_allocations NO FORCE ROW LEVEL SECURITY")
    map_channels(TO_CANONICAL)
    op.execute("ALTER TABLE attribution_allocations RENAME COLUMN channel TO channel_code")
    op.execute("""
        ALTER TABLE attribution_allocations
            ADD CONSTRAINT fk_attribution_allocations_channel_code
            FOREIGN KEY (channel_code) REFERENCES channel_taxonomy(code)
    """)
    op.execute("ALTER TABLE attribution_allocations FORCE ROW LEVEL SECURITY")
    op.execute("""
        COMMENT ON COLUMN attribution_allocations.channel_code IS
            'Canonical channel code. Must match a value from channel_taxonomy.code (FK). Data '
            'class: Non-PII.'
    """)


def downgrade() -> None:
    op.execute("COMMENT ON COLUMN attribution_allocations.channel_code IS NULL")
    op.execute("""
        ALTER TABLE attribution_allocations
            DROP CONSTRAINT fk_attribution_allocations_channel_code
    """)
    op.execute("ALTER TABLE attribution_allocations RENAME COLUMN channel_code TO channel")
    op.execute("ALTER TABLE attribution_allocations NO FORCE ROW LEVEL SECURITY")
    map_channels(TO_LEGACY)
    op.execute("ALTER TABLE attribution_allocations FORCE ROW LEVEL SECURITY")
    op.execute("""
        ALTER TABLE attribution_allocations
            ADD CONSTRAINT ck_attribution_allocations_channel_code_valid
            CHECK (channel IN (
                'google_search', 'facebook_ads', 'direct', 'email', 'organic',
                'referral', 'social', 'paid_search', 'display'
            ))
    """)


def map_channels(mapping: dict[str, str]) -> None:
    """Replace the values of attribution_allocations.channel; values not in `mapping` stay."""
    cases = " ".join(f"WHEN '{old}' THEN '{new}'" for old, new in mapping.items())
    mapped = f"CASE channel {cases} ELSE channel END"
    op.execute(f"""
        DO $$
        DECLARE
            collision_count bigint;
            example text;
        BEGIN
            SELECT count(*), min(description) INTO collision_count, example
            FROM (
                SELECT format(
                    'event %s, model version %s: %s would all be %s', event_id, model_version,
                    string_agg(channel, ' and ' ORDER BY channel), {mapped}
                ) AS description
                FROM attribution_allocations
                GROUP BY tenant_id, event_id, model_version, {mapped}
                HAVING count(*) > 1
            ) collisions;

            IF collision_count > 0 THEN
                RAISE EXCEPTION 'attribution_allocations: % groups of rows would meet in one '
                    'channel, for example %',
                        collision_count, example
                    USING ERRCODE = 'unique_violation';
            END IF;
        END
        $$
    """)
    op.execute("ALTER TABLE attribution_allocations DISABLE TRIGGER trg_check_allocation_sum")
    op.execute(f"UPDATE attribution_allocations SET channel = {mapped} WHERE channel <> {mapped}")
    op.execute("ALTER TABLE attribution_allocations ENABLE TRIGGER trg_check_allocation_sum")
