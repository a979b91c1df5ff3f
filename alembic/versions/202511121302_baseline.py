"""Zero state: the point the chain starts from, without any object.

Source: 002, Migration System ("empty DDL").
"""

revision: str = "baseline"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
