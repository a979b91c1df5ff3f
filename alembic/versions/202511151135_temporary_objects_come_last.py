"""Functions look for tables and types among the temporary ones of a session last.

Without pg_temp in it, a search_path has the temporary schema of the session at its front, for
tables and types. Everybody may make temporary objects. A domain of the name "text" was enough: the
checks that run as the owner declare variables of that type, and called the functions of the domain
as the owner, who may be a superuser.
"""

from alembic import op

revision: str = "202511151135"
down_revision: str | None = "202511151130"
branch_labels: str | None = None
depends_on: str | None = None

FUNCTIONS = (
    "check_allocation_sum()",
    "check_event_revenue()",
    "check_ledger_net()",
    "fn_events_prevent_mutation()",
    "fn_ledger_prevent_mutation()",
    "fn_prevent_truncate()",
    "fn_tenants_prevent_removal()",
)


def upgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} SET search_path = pg_catalog, pg_temp")


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} SET search_path = pg_catalog")
