"""Who acts for an organisation reads its notes and no others."""

from alembic import op

revision = "0002"
down_revision = "0001"

OWN = "org_id = nullif(current_setting('app.org', true), '')::uuid"


def upgrade() -> None:
    op.execute(f"ALTER POLICY of_org ON notes USING ({OWN})")


def downgrade() -> None:
    op.execute("ALTER POLICY of_org ON notes USING (true)")
