"""What a deed leads to, asked of a real database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from invariants.schema.definitions import read_definitions
from invariants.schema.reach import Reach
from invariants.schema.reader import read_catalog
from tests.databases import database_maker

SCHEMA = """
CREATE SCHEMA app;
CREATE TABLE orgs (id uuid PRIMARY KEY);
CREATE TABLE app.members (org_id uuid REFERENCES orgs ON DELETE CASCADE, user_id uuid);
CREATE FUNCTION app.my_orgs() RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER
  SET search_path = app, pg_temp
  AS 'SELECT org_id FROM members WHERE user_id = current_setting(''app.user'', true)::uuid';
CREATE TABLE counters (n integer);
CREATE FUNCTION next_number() RETURNS integer LANGUAGE sql
  AS 'UPDATE counters SET n = n + 1 RETURNING n';
CREATE TABLE items (
  id uuid PRIMARY KEY, org_id uuid REFERENCES orgs ON DELETE SET NULL,
  number integer DEFAULT next_number(),
  note text CHECK (note <> current_setting('app.word', true)));
CREATE TABLE audit (what text);
CREATE TABLE log (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN INSERT INTO audit VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR DELETE ON items FOR EACH ROW EXECUTE FUNCTION note();
CREATE RULE logged AS ON INSERT TO audit DO ALSO INSERT INTO log VALUES ('x');
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON items USING (org_id IN (SELECT app.my_orgs()));
CREATE VIEW open_items AS SELECT id, org_id FROM items;
"""


@pytest.fixture(scope="module")
def reach(server_url: str) -> Iterator[Reach]:
    with database_maker(server_url) as make:
        database = make()
        database.execute(SCHEMA)
        with database.connect() as conn:
            yield Reach(read_catalog(conn), read_definitions(conn))


def test_an_insert_sets_off_triggers_rules_and_defaults(reach: Reach) -> None:
    reached = reach.of_write("items", "insert")
    assert reached.writes == {
        ("items", "insert"),
        ("audit", "insert"),
        ("log", "insert"),
        ("counters", "update"),
    }
    assert "app.word" in {s.name for s in reached.settings}


def test_an_update_fires_no_trigger_of_other_verbs(reach: Reach) -> None:
    assert reach.of_write("items", "update").written == {"items"}


def test_a_deletion_goes_along_foreign_keys(reach: Reach) -> None:
    assert reach.of_write("orgs", "delete").writes == {
        ("orgs", "delete"),
        ("app.members", "delete"),
        ("items", "update"),
    }


def test_a_write_through_a_view_is_one_of_its_table(reach: Reach) -> None:
    assert "audit" in reach.of_write("open_items", "insert").written


def test_a_read_asks_what_the_functions_of_policies_ask(reach: Reach) -> None:
    reached = reach.of_read("open_items")
    assert {s.name for s in reached.settings} == {"app.user"}
    assert reached.reads == {"open_items", "items", "app.members"}
    assert reached.routines == {"app.my_orgs()"}


def test_all_that_is_asked_for_is_known(reach: Reach) -> None:
    assert {s.name for s in reach.everything.settings} == {"app.user", "app.word"}
