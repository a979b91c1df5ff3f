"""append-only where one layer alone is promised: the other is not missed, and this one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from invariants.front.cli import main

SCHEMA = """
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'teller') THEN
  CREATE ROLE teller NOLOGIN; END IF; END $$;
CREATE TABLE banks (id uuid PRIMARY KEY);
CREATE TABLE entries (id uuid PRIMARY KEY, bank_id uuid NOT NULL REFERENCES banks, what text);
ALTER TABLE entries ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON entries USING (bank_id = nullif(current_setting('my.bank', true), '')::uuid);
GRANT SELECT, INSERT ON entries TO teller;
"""
GUARD = """
CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN RAISE EXCEPTION 'entries stay' USING ERRCODE = '23514'; END $$;
CREATE TRIGGER stay BEFORE UPDATE OR DELETE ON entries FOR EACH ROW EXECUTE FUNCTION stay();
CREATE TRIGGER all_stay BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION stay();
CREATE TRIGGER banks_stay BEFORE TRUNCATE ON banks FOR EACH STATEMENT EXECUTE FUNCTION stay();
"""
CONTRACT = """
format = 1
[tenancy]
root = "banks"
column = "bank_id"
setting = "my.bank"
tables = ["entries"]
[roles.teller]
entries = ["select", "insert"]
[[append_only]]
table = "entries"
"""


@pytest.mark.parametrize(
    ("schema", "layers", "status"),
    [
        (SCHEMA, '["privilege"]', 0),
        (SCHEMA, '["trigger"]', 1),
        (SCHEMA, '["privilege", "trigger"]', 1),
        (SCHEMA + GUARD, '["privilege", "trigger"]', 0),
        (SCHEMA + GUARD + "GRANT UPDATE ON entries TO teller;", '["privilege"]', 1),
        (SCHEMA + GUARD + "GRANT UPDATE ON entries TO teller;", '["trigger"]', 0),
    ],
)
def test_a_layer_is_asked_for_where_it_is_promised(
    schema: str, layers: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schema.sql").write_text(schema)
    Path("invariants.toml").write_text(f"{CONTRACT}layers = {layers}\n")
    arguments = ["run", "--schema", "schema.sql", "--server", "embedded", "--seed", "1"]
    assert main([*arguments, "--invariant", "append-only", "--max-examples", "60"]) == status
