"""No silent green: what nobody reached, or nobody placed, is an error beside any verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_VIOLATED
from invariants.front import cli
from tests.conftest import ROOT
from tests.projects import OF_SHOPS, shops_in

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("cache")

OF_SHOP = "shop_id = nullif(current_setting('app.shop', true), '')::uuid"


def guarded(table: str, columns: str = "", grants: str = "SELECT, INSERT, UPDATE, DELETE") -> str:
    """A table of the shops, each of which sees its own rows."""
    return f"""
        CREATE TABLE {table} (id uuid PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops{columns});
        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
        CREATE POLICY of_shop ON {table} USING ({OF_SHOP});
        GRANT {grants} ON {table} TO clerk;
    """


def contract(
    *, tables: str = '"orders"', tenancy: str = "", roles: str = "", more: str = ""
) -> str:
    """The contract of the shops, with more tables, and lines for its sections."""
    return (
        OF_SHOPS.replace('tables = ["orders"]', f"tables = [{tables}]\n{tenancy}").replace(
            "[[accepted]]", f"{roles}\n[[accepted]]"
        )
        + more
    )


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_FAILED", str(tmp_path / "failed"))
    monkeypatch.setenv("INVARIANTS_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)


class Ran:
    """What a run came to."""

    def __init__(self, folder: Path, schema: str, contract: str, *more: str) -> None:
        options = shops_in(folder / "shops", schema, contract)
        report = folder / "report.json"
        arguments = ["run", *options, "--seed", "1", "--max-examples", "120", "--json", str(report)]
        self.status = cli.main([*arguments, "-q", *more])
        self.document: dict[str, Any] = json.loads(report.read_text())

    @property
    def unreached(self) -> list[tuple[str, str]]:
        """What was not reached, by kind and name."""
        return [(u["kind"], u["name"]) for u in self.document["not_reached"]]

    def told(self, name: str) -> str:
        """What is said of one."""
        (one,) = [u for u in self.document["not_reached"] if u["name"] == name]
        return f"{one['what']}; {one['remedy']}"

    @property
    def found(self) -> list[str]:
        """The causes found."""
        return [c["signature"] for i in self.document["invariants"] for c in i["counterexamples"]]


def test_a_lawful_schema_has_nothing_left(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "", contract())
    assert (ran.status, ran.unreached, ran.found) == (EXIT_HELD, [], [])
    assert ran.document["exit_status"] == EXIT_HELD


class TestTables:
    """One that may be written and into which nothing ever came."""

    REFUSING = (
        guarded("bills")
        + """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog,
        pg_temp AS $$ BEGIN RAISE 'bills are closed'; END $$;
        REVOKE EXECUTE ON FUNCTION refuse() FROM PUBLIC;
        CREATE TRIGGER refuse BEFORE INSERT ON bills FOR EACH ROW EXECUTE FUNCTION refuse();
    """
    )

    def test_every_insert_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ran = Ran(
            tmp_path,
            self.REFUSING,
            contract(
                tables='"orders", "bills"',
                roles='bills = ["select", "insert", "update", "delete"]',
            ),
        )
        assert ran.status == EXIT_INFRASTRUCTURE
        assert ran.unreached == [("table", "bills")]
        assert "every INSERT was refused, so no row ever came: bills are closed" in (
            ran.told("bills")
        )
        assert "row strategy" in ran.told("bills")
        told = capsys.readouterr().out
        assert "NOT REACHED, 1 of what these invariants cover:" in told
        assert "table bills: every INSERT was refused" in told
        assert "invariants held" not in told

    def test_findings_do_not_hide_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ran = Ran(
            tmp_path,
            self.REFUSING + "CREATE POLICY all_read ON orders FOR SELECT USING (true);",
            contract(
                tables='"orders", "bills"',
                roles='bills = ["select", "insert", "update", "delete"]',
            ),
        )
        assert ran.status == EXIT_VIOLATED
        assert ran.unreached == [("table", "bills")]
        assert "NOT REACHED" in capsys.readouterr().out

    @pytest.mark.parametrize(("of", "left"), [("INSERT", []), ("TRUNCATE", [("table", "audit")])])
    def test_one_that_triggers_are_said_to_write(
        self, tmp_path: Path, of: str, left: list[tuple[str, str]]
    ) -> None:
        each = "ROW" if of == "INSERT" else "STATEMENT"
        whose = "NEW.shop_id" if of == "INSERT" else "(SELECT id FROM public.shops LIMIT 1)"
        ran = Ran(
            tmp_path,
            guarded("audit", grants="SELECT")
            + f"""
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp AS $$ BEGIN
              INSERT INTO public.audit VALUES (gen_random_uuid(), {whose}); RETURN NULL;
            END $$;
            REVOKE EXECUTE ON FUNCTION note() FROM PUBLIC;
            CREATE TRIGGER note AFTER {of} ON orders FOR EACH {each} EXECUTE FUNCTION note();
            """,
            contract(
                tables='"orders", "audit"',
                roles='audit = ["select"]',
                more='[written_by_triggers]\ntables = ["audit"]\n',
            ),
        )
        assert (ran.status, ran.found) == (EXIT_INFRASTRUCTURE if left else EXIT_HELD, [])
        assert ran.unreached == left

    @pytest.mark.parametrize(("when", "left"), [("true", []), ("false", [("table", "audit")])])
    def test_one_that_triggers_may_write(
        self, tmp_path: Path, when: str, left: list[tuple[str, str]]
    ) -> None:
        ran = Ran(
            tmp_path,
            guarded("audit", grants="REFERENCES")
            + f"""
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp AS $$ BEGIN
              IF {when} THEN
                INSERT INTO public.audit VALUES (gen_random_uuid(), NEW.shop_id);
              END IF;
              RETURN NULL;
            END $$;
            REVOKE EXECUTE ON FUNCTION note() FROM PUBLIC; REVOKE ALL ON audit FROM clerk;
            CREATE TRIGGER note AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note();
            """,
            contract(tables='"orders", "audit"'),
        )
        assert (ran.status, ran.found) == (EXIT_INFRASTRUCTURE if left else EXIT_HELD, [])
        assert ran.unreached == left


class TestRelations:
    """One that may be read and never was, with rows of others in it."""

    def test_nobody_brings_rows(self, tmp_path: Path) -> None:
        ran = Ran(
            tmp_path,
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog,"
            " pg_temp AS $$ BEGIN RAISE 'not now'; END $$;"
            "REVOKE EXECUTE ON FUNCTION no() FROM PUBLIC;"
            + guarded("reports", grants="SELECT")
            + "CREATE TRIGGER no BEFORE INSERT ON reports EXECUTE FUNCTION no();",
            contract(tables='"orders", "reports"', roles='reports = ["select"]'),
            "--invariant",
            "cross-tenant",
        )
        assert ran.status == EXIT_INFRASTRUCTURE
        assert ran.unreached == [("relation", "reports")]
        assert "clerk never read it while another tenant had rows" in ran.told("reports")

    def test_a_role_that_is_refused_everything(self, tmp_path: Path) -> None:
        ran = Ran(
            tmp_path,
            "DO $$ BEGIN CREATE ROLE porter NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL;"
            " END $$;",
            contract(roles='[roles.porter]\norders = ["select"]'),
            "--invariant",
            "cross-tenant",
        )
        assert ran.status == EXIT_INFRASTRUCTURE
        assert ran.unreached == [("role", "porter")]
        assert "no operation of it was accepted: permission denied" in ran.told("porter")

    def test_a_role_that_is_promised_nothing_need_do_nothing(self, tmp_path: Path) -> None:
        ran = Ran(
            tmp_path,
            "DO $$ BEGIN CREATE ROLE porter NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL;"
            " END $$;",
            contract(roles="[roles.porter]"),
        )
        assert (ran.status, ran.unreached) == (EXIT_HELD, [])


class TestSettings:
    """One that a policy reads, and no session makes."""

    REGION = "CREATE POLICY {0} ON orders AS RESTRICTIVE USING ({1});"
    IN_FUNCTION = (
        "CREATE FUNCTION closed() RETURNS boolean LANGUAGE sql STABLE SET search_path = "
        "pg_catalog, pg_temp AS $$ SELECT current_setting('app.closed', true) IS NOT NULL $$;"
    )

    @pytest.mark.parametrize(
        ("schema", "setting"),
        [
            (REGION.format("here", "current_setting('App.Region', true) IS NULL"), "app.region"),
            (IN_FUNCTION + REGION.format("open", "NOT closed()"), "app.closed"),
        ],
        ids=["in the policy", "in a function it calls"],
    )
    def test_it_is_named_with_the_line(self, tmp_path: Path, schema: str, setting: str) -> None:
        ran = Ran(tmp_path, schema, contract(), "--invariant", "cross-tenant")
        assert ("setting", setting) in ran.unreached
        assert ran.status in (EXIT_INFRASTRUCTURE, EXIT_VIOLATED)
        line = f'session = {{ "app.shop" = "{{tenant}}", "{setting}" = ".." }}'
        assert line in ran.told(setting)

    def test_those_that_sessions_make_and_the_servers_own(self, tmp_path: Path) -> None:
        text = OF_SHOPS.replace(
            'setting = "app.shop"', 'session = { "app.shop" = "{tenant}", "app.Who" = "{user}" }'
        )
        policy = (
            "current_setting('app.who', true) IS NOT NULL AND current_setting('TimeZone') <> 'x'"
        )
        ran = Ran(tmp_path, self.REGION.format("who", policy), text, "--invariant", "cross-tenant")
        assert ran.unreached == []


class TestPlaces:
    """A relation that a role may reach, and that is nowhere in the contract."""

    @pytest.mark.parametrize(
        ("schema", "name", "line"),
        [
            (guarded("bills"), "bills", 'tables = [.., "bills"]'),
            (
                "CREATE TABLE currencies (code text PRIMARY KEY);"
                "GRANT SELECT (code) ON currencies TO clerk;",
                "currencies",
                'shared = [.., "currencies"]',
            ),
            (
                "CREATE TABLE currencies (code text PRIMARY KEY);"
                "GRANT SELECT ON currencies TO PUBLIC;",
                "currencies",
                'shared = [.., "currencies"]',
            ),
            (
                "CREATE TABLE lines (id uuid PRIMARY KEY, order_id uuid NOT NULL REFERENCES orders"
                " ON DELETE CASCADE);"
                "ALTER TABLE lines ENABLE ROW LEVEL SECURITY;"
                "CREATE POLICY of_order ON lines USING"
                " (EXISTS (SELECT FROM orders o WHERE o.id = order_id));"
                "GRANT SELECT, INSERT ON lines TO clerk;",
                "lines",
                'scoped_by = { "lines" = "order_id" }',
            ),
            (
                'CREATE SCHEMA "Till"; GRANT USAGE ON SCHEMA "Till" TO clerk;'
                + guarded('"Till"."Cash"'),
                "Till.Cash",
                'tables = [.., "Till.Cash"]',
            ),
        ],
        ids=["tenant column", "column grant", "public", "through a parent", "names"],
    )
    def test_it_is_tried_and_told(self, tmp_path: Path, schema: str, name: str, line: str) -> None:
        ran = Ran(tmp_path, schema, contract())
        assert (ran.status, ran.found) == (EXIT_INFRASTRUCTURE, [])
        assert ran.unreached == [("place", name)]
        assert "clerk may reach it, and the contract does not say whose rows it has" in (
            ran.told(name)
        )
        assert line in ran.told(name)

    @pytest.mark.parametrize(
        ("schema", "name"),
        [
            (
                "CREATE TABLE bills (id uuid PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops);"
                "GRANT SELECT, INSERT ON bills TO clerk;",
                "bills",
            ),
            (
                "CREATE TABLE lines (id uuid PRIMARY KEY, order_id uuid NOT NULL REFERENCES orders"
                " ON DELETE CASCADE); GRANT SELECT, INSERT ON lines TO clerk;",
                "lines",
            ),
            (
                "CREATE TABLE chat (id uuid PRIMARY KEY, said text);"
                "GRANT SELECT, INSERT ON chat TO clerk;",
                "chat",
            ),
            ("CREATE VIEW busy AS SELECT * FROM orders; GRANT SELECT ON busy TO clerk;", "busy"),
        ],
        ids=["tenant column", "through a parent", "of nobody", "view"],
    )
    def test_what_leaks_is_found_beside(self, tmp_path: Path, schema: str, name: str) -> None:
        ran = Ran(tmp_path, schema, contract())
        assert ran.status == EXIT_VIOLATED
        assert any(s.startswith("cross-tenant/") and name in s for s in ran.found)
        assert ("place", name) in ran.unreached
        # Of a table that nobody placed nothing is expected.
        expected = [s for s in ran.found if s.startswith("liveness/") and name in s]
        assert expected == ([f"liveness/select/{name}/privilege not enforced"] * (name == "busy"))

    def test_a_view_is_promised_by_name_or_not_at_all(self, tmp_path: Path) -> None:
        view = (
            "CREATE VIEW mine WITH (security_invoker) AS SELECT * FROM orders;"
            "GRANT SELECT ON mine TO clerk;"
        )
        ran = Ran(tmp_path, view, contract())
        assert (ran.status, ran.unreached) == (EXIT_VIOLATED, [("place", "mine")])
        assert ran.found == ["liveness/select/mine/privilege not enforced"]
        assert 'add to [roles.clerk]: "mine" = ["select"]' in ran.told("mine")
        ran = Ran(tmp_path, view, contract(roles='mine = ["select"]'))
        assert (ran.status, ran.unreached, ran.found) == (EXIT_HELD, [], [])

    def test_what_need_not_be_placed(self, tmp_path: Path) -> None:
        ran = Ran(
            tmp_path,
            """
            CREATE TABLE internal (id uuid PRIMARY KEY, shop_id uuid);
            CREATE SCHEMA locked;
            CREATE TABLE locked.away (id uuid PRIMARY KEY); GRANT SELECT ON locked.away TO clerk;
            CREATE TABLE schema_migrations (version text);
            GRANT SELECT ON schema_migrations TO PUBLIC;
            CREATE TABLE parts (id uuid, shop_id uuid NOT NULL) PARTITION BY HASH (shop_id);
            CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
            CREATE TABLE currencies (code text PRIMARY KEY); GRANT SELECT ON currencies TO clerk;
            """,
            contract(tenancy='shared = ["currencies"]', roles='currencies = ["select"]'),
        )
        assert (ran.status, ran.unreached) == (EXIT_HELD, [])

    def test_a_partition_belongs_to_its_parent(self, tmp_path: Path) -> None:
        ran = Ran(
            tmp_path,
            """
            CREATE TABLE parts (id uuid, shop_id uuid NOT NULL) PARTITION BY HASH (shop_id);
            CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
            GRANT SELECT ON parts_0 TO clerk;
            """,
            contract(),
            "--invariant",
            "cross-tenant",
        )
        assert ran.unreached == [("place", "parts")]


def test_with_little_time_nothing_is_demanded_of_what_was_not_tried(tmp_path: Path) -> None:
    ran = Ran(
        tmp_path,
        TestTables.REFUSING,
        contract(
            tables='"orders", "bills"', roles='bills = ["select", "insert", "update", "delete"]'
        ),
        *("--max-examples", "1", "--invariant", "cross-tenant"),
    )
    assert ran.unreached == []
    (searched,) = ran.document["invariants"]
    assert "leaks" in searched["cut_short"]


def test_pytest_errs_and_says_it_beside_a_violation(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    schema = guarded("bills")
    for more, outcome, status in (
        ("", {"errors": 1}, 1),
        ("CREATE POLICY all_read ON orders FOR SELECT USING (true);", {"failed": 1}, 1),
    ):
        options = shops_in(pytester.path, schema + more, contract())
        arguments = [
            f"--invariants-{option.removeprefix('--')}={value}"
            for option, value in zip(options[::2], options[1::2], strict=True)
        ]
        result = pytester.runpytest_subprocess(
            *("-m", "invariants", "-p", "no:cacheprovider", "-k", "cross-tenant"),
            *("--invariants-max-examples=60", *arguments),
        )
        assert result.ret == status
        result.assert_outcomes(**outcome, deselected=10)
        result.stdout.fnmatch_lines(
            [
                "NOT REACHED, 1 of what these invariants cover:",
                "*table bills: clerk may reach it, and the contract does not say*",
                '*add to [[]tenancy]: tables = [[].., "bills"]',
            ]
        )
        assert ("violated" in result.stdout.str()) == bool(more)


def test_the_gate_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = shops_in(tmp_path / "shops", guarded("bills"), contract())
    report = tmp_path / "report"
    status = cli.main(
        ["gate", *options, "--profile", "dev", "--max-examples", "60", "--report", str(report)]
    )
    assert status == EXIT_INFRASTRUCTURE
    (check,) = [
        c
        for c in json.loads((report / "gate.json").read_text())["checks"]
        if c["name"] == "not reached"
    ]
    assert (check["status"], len(check["details"])) == ("error", 1)
    assert "bills" in capsys.readouterr().out
    assert "bills: clerk may reach it" in (report / "gate.md").read_text()
