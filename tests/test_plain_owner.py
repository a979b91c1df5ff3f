"""Every invariant holds at head where migrations ran as a plain role that owns all they made."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import invariants.environment
from invariants.checks import INVARIANTS
from invariants.contract import Contract
from invariants.engine import Explorer, Search
from invariants.environment import Environment, open_environment
from invariants.migrate import Migrations
from tests.databases import ROOT, Database, plain_owner

EXAMPLES = 80


def upgrade_as_plain_owner(conninfo: str, migrations: Migrations) -> None:
    name = str(conninfo_to_dict(conninfo)["dbname"])
    database = Database(conninfo, name, plain_owner(conninfo))
    database.execute(f'ALTER DATABASE "{name}" OWNER TO {database.migrator}')
    database.upgrade(migrations.revision)


@pytest.fixture(scope="module")
def owned() -> Iterator[Environment]:
    """The schema at head, all of it migration_owner's, who is no superuser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invariants.environment, "upgrade", upgrade_as_plain_owner)
        # Not cached: the cache knows migrations by their files, and these are the same.
        environment = open_environment(
            "embedded", Migrations(ROOT / "alembic.ini"), say=lambda _: None, cache=False
        )
    with environment:
        scratch = environment.scratch()
        with psycopg.connect(scratch.conninfo) as connection:
            owners = connection.execute(
                "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace"
            ).fetchall()
        assert owners == [("migration_owner",)]
        scratch.drop()
        yield environment


@pytest.mark.parametrize("name", INVARIANTS)
def test_it_holds(owned: Environment, contract: Contract, name: str) -> None:
    explorer = Explorer(owned, contract, lambda _: None)
    try:
        finished = explorer.explore(INVARIANTS[name], Search(seed=1, examples=EXAMPLES))
    finally:
        explorer.close()
    assert [f.counterexample.text for f in finished.found] == []
    assert (finished.status, finished.error, finished.examples) == ("held", None, EXAMPLES)
