"""The four roles, created when missing, and the privileges of app_rw and app_ro.

Roles belong to the server and may serve other databases, so the downgrade takes the privileges back
and leaves the roles. Where the migrating role may not create roles, they have to be there already.
tenants gets no grants.

Source: 002, Roles & GRANTs; 003, phases 1.1 and 3.2.
"""

from alembic import op

revision: str = "202511131121"
down_revision: str | None = "202511131120"
branch_labels: str | None = None
depends_on: str | None = None

ROLES = ("app_rw", "app_ro", "app_admin", "migration_owner")
TENANT_SCOPED_TABLES = (
    "attribution_events",
    "dead_events",
    "attribution_allocations",
    "revenue_ledger",
    "reconciliation_runs",
)
MATERIALIZED_VIEWS = ("mv_realtime_revenue", "mv_reconciliation_status")


def upgrade() -> None:
    for role in ROLES:
        create_role_when_missing(role)
    for table in TENANT_SCOPED_TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {table} TO app_rw")
        op.execute(f"GRANT SELECT ON TABLE {table} TO app_ro")
        op.execute(f"REVOKE ALL ON TABLE {table} FROM PUBLIC")
    for view in MATERIALIZED_VIEWS:
        op.execute(f"GRANT SELECT ON TABLE {view} TO app_rw, app_ro")
        op.execute(f"REVOKE ALL ON TABLE {view} FROM PUBLIC")


def downgrade() -> None:
    for relation in MATERIALIZED_VIEWS + TENANT_SCOPED_TABLES:
        op.execute(f"REVOKE ALL ON TABLE {relation} FROM app_rw, app_ro")


def create_role_when_missing(role: str) -> None:
    # Databases of one server may be migrated at the same time, hence the exceptions.
    op.execute(f"""
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
                CREATE ROLE {role} NOLOGIN;
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL;
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'role "{role}" does not exist and % may not create it', current_user
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'Have the roles {", ".join(ROLES)} created first.';
        END
        $$
    """)
