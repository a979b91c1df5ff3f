"""The taxonomy at the head of the chain."""

import pytest
from psycopg import errors

from tests.database.hardened import APPLICATION_ROLES, acting
from tests.databases import Database


@pytest.mark.parametrize("role", APPLICATION_ROLES)
def test_application_roles_read_the_taxonomy_and_do_not_write_it(
    hardened: Database, role: str
) -> None:
    with acting(hardened, role) as session:
        assert session.run("SELECT count(*) FROM channel_taxonomy") == [(9,)]
        for write in (
            "INSERT INTO channel_taxonomy (code, family, is_paid, display_name)"
            " VALUES ('tv', 'tv', true, 'TV')",
            "UPDATE channel_taxonomy SET is_active = false",
            "DELETE FROM channel_taxonomy WHERE code = 'organic'",
            "TRUNCATE channel_taxonomy CASCADE",
        ):
            with pytest.raises(errors.InsufficientPrivilege), session.conn.transaction():
                session.run(write)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM channel_taxonomy WHERE code = 'tiktok_paid'",
        "UPDATE channel_taxonomy SET code = 'tiktok' WHERE code = 'tiktok_paid'",
    ],
)
def test_a_code_in_use_is_neither_removed_nor_renamed(hardened: Database, statement: str) -> None:
    key = "fk_attribution_allocations_channel_code"
    with (
        pytest.raises(errors.ForeignKeyViolation, match=key),
        acting(hardened, hardened.migrator) as session,
    ):
        session.run(statement)
