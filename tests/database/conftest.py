"""Databases at the documented revision and at the head of the hardened chain."""

from collections.abc import Callable, Iterator

import pytest

from tests.database.hardened import MIGRATORS, Templates, populate
from tests.databases import Database, MakeDatabase, database_maker, plain_owner


@pytest.fixture(scope="session")
def templates_of(server_url: str) -> Iterator[Callable[[str], Templates]]:
    made: dict[str, Templates] = {}
    with database_maker(server_url) as make:

        def of(migrator: str) -> Templates:
            if migrator not in made:
                owner = plain_owner(server_url) if migrator == "migration_owner" else None
                documented = make(owner)
                documented.upgrade()
                populate(documented)
                hardened = make(owner, template=documented.name)
                hardened.upgrade("head")
                made[migrator] = Templates(documented, hardened)
            return made[migrator]

        yield of


@pytest.fixture(params=MIGRATORS)
def templates(
    request: pytest.FixtureRequest, templates_of: Callable[[str], Templates]
) -> Templates:
    """Migrated by a superuser, or by a migration_owner that owns the database."""
    return templates_of(request.param)


@pytest.fixture
def make_database(server_url: str) -> Iterator[MakeDatabase]:
    with database_maker(server_url) as make:
        yield make


@pytest.fixture
def documented(make_database: MakeDatabase, templates: Templates) -> Database:
    """A populated database at the documented head."""
    return make_database(templates.documented.migrator, template=templates.documented.name)


@pytest.fixture
def hardened(make_database: MakeDatabase, templates: Templates) -> Database:
    """A populated database at the head."""
    return make_database(templates.hardened.migrator, template=templates.hardened.name)
