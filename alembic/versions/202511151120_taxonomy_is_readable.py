"""Application roles read the taxonomy: the read path joins it, and nobody was granted it."""

from alembic import op

revision: str = "202511151120"
down_revision: str | None = "202511151110"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("GRANT SELECT ON TABLE channel_taxonomy TO app_rw, app_ro, app_admin")


def downgrade() -> None:
    op.execute("REVOKE SELECT ON TABLE channel_taxonomy FROM app_rw, app_ro, app_admin")
