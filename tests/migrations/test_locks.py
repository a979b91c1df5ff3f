"""Tables that are rewritten or scanned while clients wait, and locks held for too long."""

from __future__ import annotations

import pytest

from tests.migrations.conftest import Project


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("ALTER TABLE tickets ALTER price TYPE numeric(12,3)", ["tickets/rewritten"]),
        ("ALTER TABLE tickets ADD at time DEFAULT clock_timestamp()", ["tickets/rewritten"]),
        ("ALTER TABLE tickets ADD seen boolean NOT NULL DEFAULT false", []),
        ("CREATE INDEX a ON tickets (number)", ["tickets/scanned"]),
        ("ALTER TABLE tickets ALTER remark SET DEFAULT ''", []),
        ("ALTER TABLE tickets ADD CONSTRAINT c CHECK (id > 0)", ["tickets/scanned"]),
        ("ALTER TABLE tickets ADD CONSTRAINT c CHECK (id > 0) NOT VALID", []),
        ("ALTER TABLE tickets ADD a text; UPDATE tickets SET a = 'x'", ["tickets/scanned"]),
        ("ALTER TABLE tickets ADD a text; SELECT pg_sleep(0.9)", ["tickets/held"]),
    ],
)  # fmt: skip
def test_what_blocks_clients(project: Project, statement: str, found: list[str]) -> None:
    project.sql(statement)
    assert project.signatures("locks") == [f"migrations/locks/r2/{f}" for f in found]


VALIDATED = "ALTER TABLE tickets ADD CONSTRAINT c CHECK (made IS NOT NULL) NOT VALID"


@pytest.mark.parametrize("apart", [False, True])
def test_a_column_that_is_not_null_any_more(project: Project, apart: bool) -> None:
    """SET NOT NULL looks at all rows, unless a constraint that is valid says so already."""
    project.sql("ALTER TABLE tickets ADD made date DEFAULT '2000-01-01'")
    if apart:
        project.sql(VALIDATED)
        project.sql("ALTER TABLE tickets VALIDATE CONSTRAINT c")
    last = project.sql("ALTER TABLE tickets ALTER made SET NOT NULL")
    project.contract(
        f'[[migrations.accepted]]\nsignature = "migrations/upgrade/{last}"\nreason="x"'
    )
    found = [] if apart else [f"migrations/locks/{last}/tickets/scanned"]
    assert project.signatures("locks", first=last) == found


def test_an_index_built_beside_its_clients(project: Project) -> None:
    project.code(
        """
        with op.get_context().autocommit_block():
            op.execute("CREATE INDEX CONCURRENTLY a ON tickets (number)")
        """
    )
    assert project.signatures("locks") == []


def test_rows_filled_in_a_transaction_of_their_own(project: Project) -> None:
    project.code(
        """
        run("ALTER TABLE tickets ADD a text")
        run("COMMIT")
        run("BEGIN")
        run("UPDATE tickets SET a = 'x'")
        """
    )
    assert project.signatures("locks") == []


def test_a_constraint_validated_apart(project: Project) -> None:
    project.sql("ALTER TABLE tickets ADD CONSTRAINT c CHECK (id > 0) NOT VALID")
    project.sql("ALTER TABLE tickets VALIDATE CONSTRAINT c")
    assert project.signatures("locks") == []
