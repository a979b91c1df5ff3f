"""Events are append-only, by privilege: app_rw keeps SELECT and INSERT.

The downgrade grants UPDATE and DELETE back.

Source: 003 phase 1.3.
"""

from alembic import op

revision: str = "202511141200"
down_revision: str | None = "202511131250"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("REVOKE UPDATE, DELETE ON TABLE attribution_events FROM app_rw")


def downgrade() -> None:
    op.execute("GRANT UPDATE, DELETE ON TABLE attribution_events TO app_rw")
