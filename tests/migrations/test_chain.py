"""One head, downgrades that undo their upgrades, and upgrades that are killed midway."""

from __future__ import annotations

import pytest

from invariants.errors import EXIT_HELD, EXIT_VIOLATED
from tests.migrations.conftest import FIRST, Project


def test_half_a_downgrade(project: Project) -> None:
    project.sql(
        "CREATE INDEX a ON tickets (number); CREATE INDEX b ON tickets (price)", "DROP INDEX a"
    )
    # Up again it fails as well, since the other index is there.
    assert project.signatures("chain") == [
        "migrations/chain/r2/downgrade", "migrations/chain/r2/again/42P07",
    ]  # fmt: skip


def test_a_whole_one(project: Project) -> None:
    project.sql("CREATE INDEX a ON tickets (number)", "DROP INDEX a")
    assert project.signatures("chain") == []


def test_a_role_that_comes_and_goes(project: Project) -> None:
    """Roles are the server's: what one trial makes is gone before the next."""
    project.sql("CREATE ROLE clerk; GRANT SELECT ON tickets TO clerk",
                "REVOKE SELECT ON tickets FROM clerk; DROP ROLE clerk")  # fmt: skip
    assert project.signatures("chain", "upgrade", "downgrade") == []


def test_a_second_head_is_found(project: Project) -> None:
    project.sql("ALTER TABLE tickets ADD a text", "ALTER TABLE tickets DROP a")
    beside = (project.folder / "scripts/versions/r2.py").read_text().replace("'r2'", "'z9'")
    (project.folder / "scripts/versions/z9.py").write_text(beside)
    (signature,) = project.signatures("chain", first=None)
    assert signature in ("migrations/chain/r2/another-head", "migrations/chain/z9/another-head")


IN_TWO_PARTS = """
with op.get_context().autocommit_block():
    op.execute("CREATE INDEX CONCURRENTLY {exists} a ON tickets (number)")
    op.execute("CREATE INDEX CONCURRENTLY {exists} b ON tickets (price)")
"""


@pytest.mark.parametrize(
    ("exists", "found"), [("", ["migrations/killed/r2"]), ("IF NOT EXISTS", [])]
)
def test_killed_between_two_statements(project: Project, exists: str, found: list[str]) -> None:
    project.code(IN_TWO_PARTS.format(exists=exists))
    assert project.signatures("killed") == found


def test_killed_within_one_transaction_nothing_is_left(project: Project) -> None:
    project.code("run('CREATE INDEX a ON tickets (number)')\nrun('CREATE INDEX b ON tickets (id)')")
    assert project.signatures("killed") == []


def test_a_failure_that_is_known_is_accepted(project: Project) -> None:
    project.contract(
        """
        [[migrations.accepted]]
        signature = "migrations/chain/r2"
        reason = "the index may stay"
        """
    )
    project.sql("CREATE INDEX IF NOT EXISTS a ON tickets (number)")
    result = project.tried("chain")
    assert (result.exit_status, project.found) == (EXIT_HELD, [])
    (accepted,) = result.accepted
    assert (accepted.signature, accepted.reason) == (
        "migrations/chain/r2/downgrade", "the index may stay",
    )  # fmt: skip


def test_the_first_revision_may_go_back_to_nothing(project: Project) -> None:
    assert FIRST
    result = project.tried(first=None)
    assert (result.exit_status, project.found) == (EXIT_HELD, [])
    assert result.exit_status != EXIT_VIOLATED
