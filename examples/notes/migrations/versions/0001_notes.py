"""Organisations and their notes. The policy lets everybody read everything: 0002 mends it."""

from alembic import op

revision = "0001"
down_revision = None

UPGRADE = """
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['web', 'owner'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
    END LOOP;
END $$;

CREATE TABLE orgs (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE notes (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES orgs ON DELETE CASCADE,
    slug text NOT NULL,
    body text NOT NULL,
    UNIQUE (org_id, slug)
);

ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY of_org ON notes USING (true)
    WITH CHECK (org_id = nullif(current_setting('app.org', true), '')::uuid);

GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO web;
GRANT SELECT, DELETE ON orgs TO owner;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("DROP TABLE notes, orgs")
