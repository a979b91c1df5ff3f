"""What a definition does, read from its text."""

from __future__ import annotations

import pytest

from invariants.schema.effects import (
    Effects,
    Match,
    Setting,
    of_expression,
    of_query,
    of_routine,
)


def function(body: str, language: str = "plpgsql", head: str = "f() RETURNS trigger") -> Effects:
    return of_routine(f"CREATE FUNCTION {head} LANGUAGE {language} AS $f$ {body} $f$")


class TestExpressions:
    def test_the_usual_policy_asks_for_one_setting(self) -> None:
        effects = of_expression("org_id = nullif(current_setting('app.Org', true), '')::uuid")
        assert effects.setting_names == {"app.org"}
        assert effects.columns == {("org_id",)}
        assert not effects.opaque

    @pytest.mark.parametrize(
        ("taken", "claim"),
        [
            ("(current_setting('jwt', true)::json ->> 'tenant')", ("tenant",)),
            ("((current_setting('jwt', true)::jsonb -> 'app') ->> 'tenant')", ("app", "tenant")),
            ("(current_setting('jwt', true)::jsonb #>> '{app,tenant}')", ("app", "tenant")),
            ("jsonb_extract_path_text(current_setting('jwt')::jsonb, 'a', 'b')", ("a", "b")),
        ],
    )
    def test_a_claim_is_taken_from_the_document_in_a_setting(
        self, taken: str, claim: tuple[str, ...]
    ) -> None:
        (setting,) = of_expression(f"org_id = ({taken})::uuid").settings
        assert setting.name == "jwt"
        assert claim in setting.claims

    @pytest.mark.parametrize(
        ("compared", "literals"),
        [
            ("current_setting('app.all', true) = 'on'", {"on"}),
            ("'yes' = current_setting('app.all', true)", {"yes"}),
            ("current_setting('app.all', true) IN ('on', '1')", {"on", "1"}),
            ("current_setting('app.all', true) = ANY (ARRAY['on'::text, '1'::text])", {"on", "1"}),
        ],
    )
    def test_what_a_setting_is_compared_with_is_kept(
        self, compared: str, literals: set[str]
    ) -> None:
        assert of_expression(compared).settings == {
            Setting("app.all", literals=frozenset(literals))
        }

    @pytest.mark.parametrize(
        ("expression", "match"),
        [
            (
                "org_id = nullif(current_setting('app.org', true), '')::uuid",
                Match(("org_id",), setting="app.org"),
            ),
            (
                "(current_setting('jwt')::json -> 'a' ->> 'org')::uuid = t.org_id",
                Match(("t", "org_id"), setting="jwt", claim=("a", "org")),
            ),
            ("org_id::text = CURRENT_USER", Match(("org_id",), identity="current_user")),
            ("user_id = auth.uid()", Match(("user_id",), call=("auth", "uid"))),
            ("user_id = (SELECT auth.uid())", Match(("user_id",), call=("auth", "uid"))),
            ("org_id IN (SELECT my_orgs())", Match(("org_id",), call=("my_orgs",))),
            (
                "org_id IN (SELECT m.org_id FROM members m WHERE m.user_id = auth.uid())",
                Match(("org_id",), reads=frozenset({("members",)})),
            ),
        ],
    )
    def test_a_column_is_matched_with_what_the_session_says(
        self, expression: str, match: Match
    ) -> None:
        assert match in of_expression(expression).matches

    def test_who_acts_is_asked_by_either_name(self) -> None:
        assert of_expression("owner = CURRENT_USER").identities == {"current_user"}
        assert of_expression("owner = SESSION_USER").identities == {"session_user"}

    def test_a_setting_whose_name_is_made_at_run_time_is_opaque(self) -> None:
        assert of_expression("current_setting('app.' || kind) = 'x'").opaque

    def test_what_is_no_sql_is_opaque(self) -> None:
        assert of_expression("a = = b").opaque


class TestQueries:
    def test_names_that_with_gives_are_no_relations(self) -> None:
        effects = of_query("WITH a AS (SELECT * FROM b) INSERT INTO c SELECT * FROM a, other.d")
        assert effects.reads == {("b",), ("other", "d")}
        assert effects.writes == {(("c",), "insert")}

    def test_on_conflict_may_update(self) -> None:
        effects = of_query("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1")
        assert effects.writes == {(("t",), "insert"), (("t",), "update")}
        effects = of_query("INSERT INTO t VALUES (1) ON CONFLICT (a) DO NOTHING")
        assert effects.writes == {(("t",), "insert")}

    def test_each_verb_is_a_write(self) -> None:
        effects = of_query(
            "UPDATE a SET x = 1; DELETE FROM b; TRUNCATE c, s.d;"
            "MERGE INTO e USING f ON true WHEN MATCHED THEN DELETE"
        )
        assert effects.writes == {
            (("a",), "update"),
            (("b",), "delete"),
            (("c",), "truncate"),
            (("s", "d"), "truncate"),
            (("e",), "merge"),
        }
        assert effects.reads == {("f",)}


class TestFunctions:
    def test_a_trigger_says_which_columns_it_sets(self) -> None:
        effects = function(
            "DECLARE r record; BEGIN NEW.updated_at := now(); r.other := 1;"
            " SELECT 1, 2 INTO NEW.a, NEW.b; RETURN NEW; END"
        )
        assert effects.assigns == {"updated_at", "a", "b"}

    def test_statements_in_loops_and_branches_count(self) -> None:
        effects = function(
            "DECLARE r record; BEGIN FOR r IN SELECT * FROM items LOOP"
            " IF r.x THEN INSERT INTO audit SELECT r.id; ELSE PERFORM pg_notify('news', 'x');"
            " END IF; END LOOP; RAISE EXCEPTION 'no'; END"
        )
        assert effects.reads == {("items",)}
        assert effects.writes == {(("audit",), "insert")}
        assert effects.channels == {"news"}
        assert effects.raises

    def test_a_notice_is_no_refusal(self) -> None:
        assert not function("BEGIN RAISE NOTICE 'x'; RETURN NEW; END").raises

    @pytest.mark.parametrize(
        "deed",
        ["RESET ROLE", "SET LOCAL ROLE owner", "PERFORM set_config('role', 'owner', true)"],
    )
    def test_a_change_of_role_is_seen(self, deed: str) -> None:
        assert "role" in function(f"BEGIN {deed}; RETURN NEW; END").sets

    def test_sql_made_at_run_time_is_opaque(self) -> None:
        assert function("BEGIN EXECUTE 'DELETE FROM a'; RETURN NEW; END").opaque
        assert not function("BEGIN DELETE FROM a; RETURN NEW; END").opaque

    def test_another_language_is_opaque(self) -> None:
        assert function("whatever", "plperl").opaque

    def test_sql_as_a_string_and_as_a_body_are_the_same(self) -> None:
        query = "SELECT org_id FROM members WHERE user_id = current_setting('app.user')::uuid"
        text = of_routine(f"CREATE FUNCTION f() RETURNS SETOF uuid LANGUAGE sql AS $f$ {query} $f$")
        body = of_routine(
            f"CREATE FUNCTION f() RETURNS SETOF uuid LANGUAGE sql BEGIN ATOMIC {query}; END"
        )
        assert text.reads == body.reads == {("members",)}
        assert text.setting_names == body.setting_names == {"app.user"}
