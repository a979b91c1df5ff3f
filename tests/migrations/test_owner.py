"""The plain owner of the database, under forced policies, comes to the same rows."""

from __future__ import annotations

import pytest

from tests.migrations.conftest import Project

BACKFILL = "ALTER TABLE tickets ADD slug text; UPDATE tickets SET slug = lower(number)"


SEEING = (
    "ALTER TABLE tickets NO FORCE ROW LEVEL SECURITY;"
    f"{BACKFILL}; ALTER TABLE tickets FORCE ROW LEVEL SECURITY"
)


@pytest.mark.parametrize(
    ("statement", "found"), [(BACKFILL, ["migrations/owner/r2/tickets.slug"]), (SEEING, [])]
)
def test_a_backfill_sees_all_rows_whoever_runs_it(
    project: Project, statement: str, found: list[str]
) -> None:
    project.contract('[migrations]\nowner = "keeper"')
    project.sql(statement, "ALTER TABLE tickets DROP slug")
    assert project.signatures("owner") == found


def test_what_only_a_superuser_may_do(project: Project) -> None:
    project.contract('[migrations]\nowner = "keeper"')
    project.sql("ALTER ROLE desk CONNECTION LIMIT 7")
    (signature,) = project.signatures("owner")
    assert signature.startswith("migrations/owner/r2/42501")
