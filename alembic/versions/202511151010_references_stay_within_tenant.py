"""Allocations and ledger rows refer to rows of their own tenant: the foreign keys carry tenant_id.

A key on the id alone accepts another tenant's event or allocation, because referential checks do
not go through row level security.

Rows that already cross tenants stop the upgrade with a message that names some, and so do rows that
refer to nothing: where migration_owner owns the tables, the documented guards discard a cascade's
deletions. To find them, and for the keys to be validated against every row, forced row level
security is lifted meanwhile, inside the transaction: a migrating owner would else see the rows of
one tenant or none.
"""

from alembic import op

revision: str = "202511151010"
down_revision: str | None = "202511151000"
branch_labels: str | None = None
depends_on: str | None = None

# Table, column, the table it refers to, the name of the documented key, and what mends a row. No
# role's repair of the ledger takes effect before 202511151030, which comes after this revision.
REFERENCES = (
    (
        "attribution_allocations",
        "event_id",
        "attribution_events",
        "attribution_allocations_event_id_fkey",
        "Correct them as app_rw with app.current_tenant_id set to their tenant_id, or remove those "
        "that have no ledger row; then upgrade again.",
    ),
    (
        "revenue_ledger",
        "allocation_id",
        "attribution_allocations",
        "revenue_ledger_allocation_id_fkey",
        "Correct or remove them as the owner of revenue_ledger, with app.current_tenant_id set to "
        "their tenant_id and trg_ledger_prevent_mutation disabled meanwhile; then upgrade again.",
    ),
)
TABLES = ("attribution_events", "attribution_allocations", "revenue_ledger")


def upgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    for table, column, target, documented, hint in REFERENCES:
        refuse_crossing_rows(table, column, target, hint)
        op.execute(f"""
            ALTER TABLE {target}
                ADD CONSTRAINT uq_{target}_tenant_id_id UNIQUE (tenant_id, id)
        """)
        op.execute(f"""
            COMMENT ON CONSTRAINT uq_{target}_tenant_id_id ON {target} IS
                'Target of foreign keys that stay within the tenant.'
        """)
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {documented}")
        op.execute(f"""
            ALTER TABLE {table}
                ADD CONSTRAINT fk_{table}_tenant_{column}
                FOREIGN KEY (tenant_id, {column}) REFERENCES {target} (tenant_id, id)
                ON DELETE CASCADE
        """)
        op.execute(f"""
            COMMENT ON CONSTRAINT fk_{table}_tenant_{column} ON {table} IS
                'Refers to a row of the same tenant.'
        """)
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    for table, column, target, documented, _ in reversed(REFERENCES):
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT fk_{table}_tenant_{column}")
        op.execute(f"""
            ALTER TABLE {table}
                ADD CONSTRAINT {documented}
                FOREIGN KEY ({column}) REFERENCES {target} (id) ON DELETE CASCADE
        """)
        op.execute(f"ALTER TABLE {target} DROP CONSTRAINT uq_{target}_tenant_id_id")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def refuse_crossing_rows(table: str, column: str, target: str, hint: str) -> None:
    op.execute(f"""
        DO $$
        DECLARE
            crossing_count bigint;
            examples text;
        BEGIN
            SELECT count(*), string_agg(id::text, ', ' ORDER BY id) FILTER (WHERE n <= 5)
            INTO crossing_count, examples
            FROM (
                SELECT r.id, row_number() OVER (ORDER BY r.id) AS n
                FROM {table} r
                LEFT JOIN {target} t ON t.id = r.{column}
                WHERE t.tenant_id IS DISTINCT FROM r.tenant_id
            ) crossing;

            IF crossing_count > 0 THEN
                RAISE EXCEPTION '{table}: % rows refer through {column} to a row of {target} that '
                    'belongs to another tenant or is not there, for example %',
                        crossing_count, examples
                    USING ERRCODE = 'foreign_key_violation',
                          HINT = '{hint}';
            END IF;
        END
        $$
    """)
