"""What a database tells of its own contract."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from invariants.contract.contract import Contract
from invariants.contract.drafting.draft import Draft, draft, toml
from invariants.contract.drafting.tenancy import Tenancy
from invariants.errors import UsageError
from invariants.servers.environment import Environment
from tests.databases import create_role_when_missing, database_maker

ROOT = "CREATE TABLE teams (id uuid PRIMARY KEY, title text);"
TASKS = (
    "CREATE TABLE tasks (id uuid PRIMARY KEY, team_id uuid NOT NULL REFERENCES teams, note text);"
    "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; GRANT SELECT, INSERT, UPDATE, DELETE ON tasks"
    " TO drafter;"
)
OWN = (
    "CREATE POLICY own ON tasks"
    " USING (team_id = nullif(current_setting('my.team', true), '')::uuid);"
)

Drafted = Callable[..., dict[str, Any]]


@pytest.fixture
def drafted(server_url: str) -> Iterator[Drafted]:
    """Gives a function that drafts a contract for a schema, and reads it as TOML."""
    with psycopg.connect(server_url, autocommit=True) as admin:
        create_role_when_missing(admin, "drafter")
    with database_maker(server_url) as make:

        def from_schema(*parts: str) -> dict[str, Any]:
            database = make()
            database.execute("".join(parts))
            with database.connect() as connection:
                return tomllib.loads(toml(draft(connection), "it"))

        yield from_schema


class TestTenancy:
    def test_policies_and_foreign_keys_agree(self, drafted: Drafted) -> None:
        contract = drafted(ROOT, TASKS, OWN)
        assert contract["tenancy"] == {
            "root": "teams",
            "column": "team_id",
            "setting": "my.team",
            "tables": ["tasks"],
        }
        assert contract["roles"]["drafter"] == {"tasks": ["select", "insert", "update", "delete"]}

    def test_a_setting_asked_for_by_a_function(self, drafted: Drafted) -> None:
        contract = drafted(
            "CREATE FUNCTION team() RETURNS uuid LANGUAGE sql STABLE"
            " AS $$ SELECT current_setting('my.team', true)::uuid $$;",
            ROOT,
            TASKS,
            "CREATE POLICY own ON tasks USING (team_id = (SELECT team()));",
        )
        assert contract["tenancy"]["setting"] == "my.team"

    def test_a_claim_becomes_a_template(self, drafted: Drafted) -> None:
        contract = drafted(
            ROOT,
            TASKS,
            "CREATE POLICY own ON tasks USING (team_id ="
            " (current_setting('jwt', true)::jsonb -> 'app' ->> 'team')::uuid);",
        )
        assert contract["tenancy"]["session"] == {"jwt": '{"app": {"team": "{tenant}"}}'}

    @pytest.mark.parametrize("taken", ["said() ->> 'team'", "said()::json ->> 'team'"])
    def test_a_claim_taken_from_what_a_function_gives(self, drafted: Drafted, taken: str) -> None:
        contract = drafted(
            "CREATE FUNCTION said() RETURNS jsonb LANGUAGE sql STABLE"
            " AS $$ SELECT nullif(current_setting('jwt', true), '')::jsonb -> 'app' $$;"
            "CREATE FUNCTION mine() RETURNS uuid LANGUAGE sql STABLE"
            f" AS $$ SELECT ({taken})::uuid $$;",
            ROOT,
            TASKS,
            "CREATE POLICY own ON tasks USING (team_id = (SELECT mine()));",
        )
        assert contract["tenancy"]["session"] == {"jwt": '{"app": {"team": "{tenant}"}}'}

    @pytest.mark.parametrize(
        ("listed", "template"),
        [
            (
                "IN (SELECT v::uuid FROM jsonb_array_elements_text("
                "current_setting('jwt', true)::jsonb #> '{app,teams}') v)",
                '{"app": {"teams": ["{tenant}"]}}',
            ),
            (
                "IN (SELECT v::uuid FROM jsonb_array_elements_text("
                "current_setting('jwt', true)::jsonb) v)",
                '["{tenant}"]',
            ),
        ],
    )
    def test_a_list_of_claims(self, drafted: Drafted, listed: str, template: str) -> None:
        contract = drafted(ROOT, TASKS, f"CREATE POLICY own ON tasks USING (team_id {listed});")
        assert contract["tenancy"]["session"] == {"jwt": template}

    def test_a_claim_taken_in_the_policy_itself(self, drafted: Drafted) -> None:
        contract = drafted(
            "CREATE FUNCTION said() RETURNS jsonb LANGUAGE sql STABLE"
            " AS $$ SELECT nullif(current_setting('jwt', true), '')::jsonb $$;",
            ROOT,
            TASKS,
            "CREATE POLICY own ON tasks USING (team_id = (said() -> 'app' ->> 'team')::uuid);",
        )
        assert contract["tenancy"]["session"] == {"jwt": '{"app": {"team": "{tenant}"}}'}

    def test_a_role_that_no_policy_binds_is_left_to_a_person(self, drafted: Drafted) -> None:
        bypassing = (
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drafts_all') THEN"
            " CREATE ROLE drafts_all NOLOGIN BYPASSRLS; END IF; END $$;"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON tasks TO drafts_all;"
        )
        contract = drafted(ROOT, TASKS, OWN, bypassing)
        assert "drafts_all" not in contract["roles"]
        assert "drafter" in contract["roles"]

    def test_a_role_for_each_tenant(self, drafted: Drafted) -> None:
        contract = drafted(
            "CREATE TABLE teams (id name PRIMARY KEY);",
            TASKS.replace("team_id uuid", "team_id name"),
            "CREATE POLICY own ON tasks USING (team_id = current_user);",
        )
        assert contract["tenancy"]["session"] == {"role": "{tenant}"}

    def test_members(self, drafted: Drafted) -> None:
        contract = drafted(
            ROOT,
            "CREATE TABLE people (id uuid PRIMARY KEY);"
            "CREATE TABLE seats (team_id uuid REFERENCES teams, person uuid REFERENCES people,"
            " PRIMARY KEY (team_id, person));",
            TASKS,
            "CREATE POLICY own ON tasks USING (team_id IN (SELECT team_id FROM seats"
            " WHERE person = current_setting('my.person', true)::uuid));",
        )
        assert contract["tenancy"]["members"] == {
            "table": "seats",
            "user": "person",
            "tenant": "team_id",
        }
        assert contract["tenancy"]["session"] == {"my.person": "{user}"}
        assert contract["tenancy"]["shared"] == ["people"]

    def test_a_column_tied_to_what_the_session_says(self, drafted: Drafted) -> None:
        contract = drafted(
            ROOT,
            TASKS.replace("note text", "note text, done_for uuid"),
            "CREATE POLICY own ON tasks USING (team_id = current_setting('my.team', true)::uuid"
            " AND done_for = current_setting('my.user', true)::uuid);",
        )
        assert contract["tenancy"]["tied"] == {"tasks.done_for": "{user}"}
        assert contract["tenancy"]["session"] == {"my.team": "{tenant}", "my.user": "{user}"}

    def test_an_escape_is_no_part_of_the_session(self, drafted: Drafted) -> None:
        contract = drafted(
            ROOT,
            TASKS,
            "CREATE POLICY own ON tasks USING (current_setting('my.all', true) = 'on'"
            " OR team_id = current_setting('my.team', true)::uuid);",
        )
        assert contract["tenancy"]["setting"] == "my.team"

    def test_tables_belong_to_whom_their_parents_belong_to(self, drafted: Drafted) -> None:
        contract = drafted(
            ROOT,
            TASKS,
            OWN,
            "CREATE TABLE steps (id uuid PRIMARY KEY, task_id uuid NOT NULL REFERENCES tasks);"
            "CREATE TABLE marks (id uuid PRIMARY KEY, step uuid NOT NULL REFERENCES steps);",
        )
        assert contract["tenancy"]["scoped_by"] == {"steps": "task_id", "marks": "step"}

    def test_without_anything_to_tell_tenants_apart_it_says_so(self, drafted: Drafted) -> None:
        with pytest.raises(UsageError, match=r"write \[tenancy\] by hand"):
            drafted("CREATE TABLE a (id integer)")


class TestRules:
    def test_append_only_by_privilege_alone(self, drafted: Drafted) -> None:
        contract = drafted(
            ROOT,
            TASKS,
            OWN,
            "CREATE TABLE notes (id uuid PRIMARY KEY, team_id uuid REFERENCES teams);"
            "GRANT SELECT, INSERT ON notes TO drafter;",
        )
        assert contract["append_only"] == [{"table": "notes", "layers": ["privilege"]}]

    def test_what_triggers_write_is_not_the_clients(self, drafted: Drafted) -> None:
        contract = drafted(
            ROOT,
            TASKS.replace("note text", "note text, touched timestamptz"),
            OWN,
            "CREATE TABLE trail (id uuid, team_id uuid REFERENCES teams, what text);"
            "GRANT SELECT ON trail TO drafter;"
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.touched := now(); RETURN NEW; END $$;"
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO trail VALUES (NEW.id, NEW.team_id, TG_OP); RETURN NULL; END $$;"
            "CREATE TRIGGER touch BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION touch();"
            "CREATE TRIGGER note AFTER INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION note();",
        )
        assert contract["written_by_triggers"] == {
            "columns": ["tasks.touched"],
            "tables": ["trail"],
        }

    def test_a_counter_of_all_tenants_is_accepted_until_somebody_says_no(
        self, drafted: Drafted
    ) -> None:
        contract = drafted(
            ROOT,
            TASKS,
            OWN,
            "CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " team_id uuid REFERENCES teams);",
        )
        (sequence,) = [a for a in contract["accepted"] if a["channel"] == "sequence"]
        assert "visits.id" in sequence["reason"]
        assert sequence["reason"].startswith("nobody has confirmed")

    def test_codes_came_with_the_schema(self, drafted: Drafted) -> None:
        contract = drafted(
            ROOT,
            "CREATE TABLE moods (code text PRIMARY KEY, is_active boolean);"
            "INSERT INTO moods VALUES ('glad', true);",
            TASKS.replace("note text", "note text, mood text REFERENCES moods"),
            OWN,
        )
        assert contract["taxonomies"] == [
            {"table": "moods", "code": "code", "active": "is_active", "used_by": ["tasks.mood"]}
        ]


def test_all_that_tenancy_can_say_is_written() -> None:
    made = Draft(
        Tenancy("a", "a_id", {"x": '{"t": "{tenant}"}'}, ("b",), {"c": "b_id"}, ("d",)),
        (),
        (),
        ((), ("b",)),
        {"sequence": "why"},
    )
    whole = tomllib.loads(toml(made, "it"))
    assert whole == {
        "format": 1,
        "tenancy": {
            "root": "a",
            "column": "a_id",
            "session": {"x": '{"t": "{tenant}"}'},
            "tables": ["b"],
            "scoped_by": {"c": "b_id"},
            "shared": ["d"],
        },
        "written_by_triggers": {"tables": ["b"]},
        "accepted": [{"channel": "sequence", "reason": "why"}],
    }


def test_of_this_schema_it_proposes_what_was_written_by_hand(
    head: Environment, contract: Contract
) -> None:
    scratch = head.scratch()
    try:
        with psycopg.connect(scratch.conninfo, autocommit=True) as connection:
            text = toml(draft(connection), "it")
    finally:
        scratch.drop()
    found = tomllib.loads(text)
    tenancy = contract.tenancy
    assert found["tenancy"]["root"] == tenancy.root
    assert found["tenancy"]["column"] == tenancy.column
    assert (found["tenancy"]["setting"],) == tenancy.settings
    assert set(found["tenancy"]["tables"]) == set(tenancy.tables)
    assert found["tenancy"]["erased_by"] == tenancy.erased_by
    assert {
        role: {relation: set(verbs) for relation, verbs in grants.items()}
        for role, grants in found["roles"].items()
    } == {role: {r: set(v) for r, v in grants.items()} for role, grants in contract.roles.items()}
    assert {(a["table"], a.get("repaired_by")) for a in found["append_only"]} == {
        (a.table, a.repaired_by) for a in contract.append_only
    }
    assert {(i["table"], *map(tuple, i["keys"])) for i in found["idempotency"]} == {
        (i.table, *i.keys) for i in contract.idempotency
    }
    (codes,) = found["taxonomies"]
    (rule,) = contract.taxonomies
    assert (codes["table"], codes["code"], codes["active"]) == (rule.table, rule.code, rule.active)
    assert contract.pii is not None
    for table, column in contract.pii.columns:
        assert f'"{table}.{column}"' in text
    for section in ("[[sums]]", "[[ledger]]", "[[read_path]]", "[references]"):
        assert f"# {section}" in text
    for path in contract.read_paths:
        assert f'view = "{path.view}"' in text


def test_what_is_granted_besides_rows_is_drafted(drafted: Drafted) -> None:
    given = (
        "CREATE SEQUENCE tickets; CREATE TABLE notes (id bigserial, team_id uuid REFERENCES teams);"
        "GRANT ALL ON notes TO drafter; GRANT USAGE, SELECT ON notes_id_seq TO drafter;"
        "GRANT USAGE ON tickets TO drafter;"
        "CREATE FUNCTION shut(p_team uuid) RETURNS void LANGUAGE sql AS '';"
        "REVOKE EXECUTE ON FUNCTION shut(uuid) FROM PUBLIC; GRANT EXECUTE ON FUNCTION shut(uuid) TO"
        " drafter;"
    )
    granted = drafted(ROOT, TASKS, OWN, given)["roles"]["drafter"]
    assert {"references", "trigger"} <= {*granted["notes"]}
    # Who inserts rows numbers them; reading the number that was given last is more.
    assert granted["notes_id_seq"] == ["select"]
    assert granted["tickets"] == ["usage"]
    assert granted["shut(p_team uuid)"] == ["execute"]


def test_columns_of_an_index_over_expressions_are_no_key(drafted: Drafted) -> None:
    indexes = (
        "CREATE UNIQUE INDEX {name} ON tasks (team_id, note{more});"
        "ALTER TABLE tasks ALTER COLUMN note SET NOT NULL;"
    )
    sure = drafted(ROOT, TASKS, OWN, indexes.format(name="plain", more=""))
    assert sure["idempotency"] == [{"table": "tasks", "keys": [["note"]]}]
    assert "idempotency" not in drafted(
        ROOT, TASKS, OWN, indexes.format(name="mixed", more=", (lower(id::text))")
    )
