"""data: partitions that can be reached past the policies of their table.

Policies of a partitioned table hold for whoever names it, and not for whoever names a partition:
there the partition's own count. One that has none, and a privilege, shows all of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from invariants.errors import InfrastructureError
from invariants.migrations.finding import Finding
from invariants.migrations.stage import Stage
from invariants.servers.base import connect, database_message

# Not those who pass the policies of the table itself, too.
_OPEN = """
SELECT c.oid::regclass::text, t.oid::regclass::text, string_agg(r.rolname, ', ' ORDER BY r.rolname)
FROM pg_class c JOIN pg_class t ON t.oid = pg_partition_root(c.oid), pg_roles r
WHERE c.relispartition AND c.relkind IN ('r', 'p') AND t.relrowsecurity AND NOT c.relrowsecurity
  AND r.rolname = ANY (%s) AND NOT r.rolsuper AND NOT r.rolbypassrls
  AND has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE')
  AND has_schema_privilege(r.oid, c.relnamespace, 'USAGE')
  AND (t.relforcerowsecurity OR NOT pg_has_role(r.oid, t.relowner, 'USAGE'))
GROUP BY c.oid, t.oid ORDER BY 1
"""


def unguarded(stage: Stage) -> Iterator[Finding]:
    """Partitions that a role of the contract can reach so since the step."""
    before = {partition for partition, _, _ in _open(stage, stage.step.below)}
    for partition, table, roles in _open(stage, stage.step.revision):
        if partition in before:
            continue
        yield Finding(
            "data",
            stage.step.revision,
            f"{partition}/unguarded",
            f"the partition {partition} has no policies, and {roles} may name it: what is in it "
            f"is seen past those of {table}",
            f"ALTER TABLE {partition} ENABLE ROW LEVEL SECURITY, with the policies of {table}; or "
            "grant nothing on partitions, which needs no privilege for whoever names the table",
        )


def _open(stage: Stage, revision: str | None) -> list[tuple[str, str, str]]:
    roles = list(stage.contract.application_roles)
    with stage.shelf.scratch(revision) as scratch:
        try:
            with connect(scratch.conninfo) as connection:
                return connection.execute(_OPEN.encode(), [roles]).fetchall()
        except psycopg.Error as error:
            raise InfrastructureError(
                f"partitions cannot be looked at: {database_message(error)}"
            ) from error
