"""What is read of a database."""

from __future__ import annotations

from invariants.schema.catalog import Catalog
from invariants.schema.reader import read_catalog
from tests.databases import database_maker


def catalog_of(server_url: str, schema: str) -> Catalog:
    with database_maker(server_url) as make:
        database = make()
        database.execute(schema)
        with database.connect() as connection:
            return read_catalog(connection)


def test_partitions_are_relations_of_their_own_and_no_tables(server_url: str) -> None:
    catalog = catalog_of(
        server_url,
        "CREATE TABLE days (day date, place text) PARTITION BY RANGE (day);"
        "CREATE TABLE days_rest PARTITION OF days DEFAULT PARTITION BY LIST (place);"
        "CREATE TABLE days_rest_here PARTITION OF days_rest FOR VALUES IN ('here');",
    )
    assert set(catalog.tables) == {"days"}
    assert {r.name: r.part_of for r in catalog.relations.values()} == {
        "days": None,
        "days_rest": "days",
        "days_rest_here": "days",
    }


def test_the_books_of_migration_tools_and_what_extensions_bring_are_nobodys(
    server_url: str,
) -> None:
    catalog = catalog_of(
        server_url,
        "CREATE TABLE alembic_version (v text); CREATE TABLE flyway_schema_history (v text);"
        "CREATE EXTENSION pg_stat_statements; CREATE TABLE mine (v text);",
    )
    assert set(catalog.relations) == {"mine"}
