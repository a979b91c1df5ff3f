"""`invariants init`, as a user types it in his own project."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from invariants.front.cli import main

SCHEMA = """
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'clerk') THEN
  CREATE ROLE clerk NOLOGIN; END IF; END $$;
CREATE TABLE shops (id uuid PRIMARY KEY);
CREATE TABLE sales (id uuid PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops, what text);
ALTER TABLE sales ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON sales USING (shop_id = nullif(current_setting('my.shop', true), '')::uuid);
GRANT SELECT, INSERT ON sales TO clerk;
"""
LATER = """
CREATE TABLE refunds (id uuid PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops);
GRANT SELECT, INSERT, UPDATE, DELETE ON refunds TO clerk;
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    del cache
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.sql").write_text(SCHEMA)
    return tmp_path


def init(*more: str) -> int:
    return main(["init", "--schema", "schema.sql", "--server", "embedded", *more])


def test_what_it_drafts_runs_without_an_edit(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init() == 0
    told = capsys.readouterr()
    assert told.out.rstrip().endswith("next:  invariants run --schema schema.sql")
    assert "erased_by" in told.out
    contract = tomllib.loads((project / "invariants.toml").read_text())
    assert contract["tenancy"]["tables"] == ["sales"]
    arguments = ["run", "--schema", "schema.sql", "--server", "embedded", "--seed", "1"]
    assert main([*arguments, "--max-examples", "20", "--invariant", "cross-tenant"]) == 0


def test_tenants_are_lawful_in_every_workload(project: Path) -> None:
    """What is tried of other rows is not tried of those that have to be there."""
    plain = "CREATE TABLE shops (id uuid PRIMARY KEY);"
    assert plain in SCHEMA
    strict = (
        "CREATE TABLE shops (id uuid PRIMARY KEY, slug text NOT NULL UNIQUE,"
        " plan text CHECK (plan IN ('free', 'paid')), state text CHECK (state IN ('new', 'old')));"
    )
    (project / "schema.sql").write_text(SCHEMA.replace(plain, strict))
    assert init() == 0
    arguments = ["run", "--schema", "schema.sql", "--server", "embedded", "--seed", "1"]
    assert main([*arguments, "--max-examples", "200", "--invariant", "cross-tenant"]) == 0


OWNED = """
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'clerk') THEN
  CREATE ROLE clerk NOLOGIN; END IF; END $$;
CREATE TABLE people (id uuid PRIMARY KEY, email text UNIQUE);
CREATE TABLE plans (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE shops (id uuid PRIMARY KEY, owner uuid NOT NULL REFERENCES people,
  plan integer NOT NULL REFERENCES plans);
CREATE TABLE seats (shop_id uuid REFERENCES shops, person uuid REFERENCES people,
  PRIMARY KEY (shop_id, person));
CREATE TABLE sales (id uuid PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops, what text);
CREATE FUNCTION mine() RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER AS $$
  SELECT shop_id FROM seats WHERE person = nullif(current_setting('my.person', true), '')::uuid $$;
ALTER TABLE sales ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON sales USING (shop_id IN (SELECT mine()));
GRANT SELECT, INSERT ON sales TO clerk;
"""


def test_tenants_that_name_their_owner(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a tenant's own row refers to is there before it."""
    (project / "schema.sql").write_text(OWNED)
    assert init() == 0
    arguments = ["run", "--schema", "schema.sql", "--server", "embedded", "--seed", "1"]
    arguments += ["--invariant", "cross-tenant", "--max-examples", "30"]
    assert main(arguments) == 0, capsys.readouterr()
    leaking = OWNED.replace("(shop_id IN (SELECT mine()))", "(true)")
    (project / "schema.sql").write_text(leaking)
    assert main(arguments) == 1
    assert "VIOLATED cross-tenant/select/sales" in capsys.readouterr().out


def test_it_writes_over_nothing_unless_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "invariants.toml").write_text("# mine\n")
    assert init() == 2
    assert "--update adds what is new to it, --force writes it anew" in capsys.readouterr().err
    assert (project / "invariants.toml").read_text() == "# mine\n"
    assert init("--force") == 0
    assert "mine" not in (project / "invariants.toml").read_text()


def test_an_update_adds_what_is_new_and_keeps_the_rest(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init() == 0
    path = project / "invariants.toml"
    written = path.read_text().replace(
        'sales = ["select", "insert"]', 'sales = ["select"]   # on purpose'
    )
    path.write_text(written)
    assert init("--update") == 0
    assert path.read_text() == written
    assert "nothing is new" in capsys.readouterr().out
    (project / "schema.sql").write_text(SCHEMA + LATER)
    assert init("--update") == 0
    told = capsys.readouterr().out
    assert "added  tenancy.tables: refunds" in told
    after = path.read_text()
    assert 'sales = ["select"]   # on purpose' in after
    contract = tomllib.loads(after)
    assert contract["tenancy"]["tables"] == ["sales", "refunds"]
    assert contract["roles"]["clerk"] == {
        "sales": ["select"],
        "refunds": ["select", "insert", "update", "delete"],
    }


def test_an_update_of_nothing_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del project
    assert init("--update") == 2
    assert "there is nothing to update" in capsys.readouterr().err
