"""ledger where postings come in parts: up to what there is to post, whoever sends them."""

from __future__ import annotations

from pathlib import Path

import pytest

from invariants.front.cli import main

SCHEMA = """
DO $$ BEGIN CREATE ROLE cashier NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE TABLE shops (id uuid PRIMARY KEY);
CREATE TABLE bills (id uuid PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops,
  amount integer NOT NULL CHECK (amount >= 0), UNIQUE (shop_id, id));
CREATE TABLE payments (id uuid PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops, bill_id uuid
  NOT NULL, amount integer NOT NULL, FOREIGN KEY (shop_id, bill_id) REFERENCES bills (shop_id, id));
ALTER TABLE bills ENABLE ROW LEVEL SECURITY;
ALTER TABLE payments ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON bills USING (shop_id = nullif(current_setting('my.shop', true), '')::uuid);
CREATE POLICY own ON payments USING (shop_id = nullif(current_setting('my.shop', true), '')::uuid);
GRANT SELECT, INSERT ON bills, payments TO cashier;
"""
GUARD = """
CREATE FUNCTION paid() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE due integer; BEGIN
  SELECT amount INTO due FROM bills WHERE id = NEW.bill_id;
  IF (SELECT sum(amount) FROM payments WHERE bill_id = NEW.bill_id) > due {also} THEN
    RAISE EXCEPTION 'more than is due' USING ERRCODE = '23514';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER paid AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION paid();
"""
CONTRACT = """
format = 1
[tenancy]
root = "shops"
column = "shop_id"
setting = "my.shop"
tables = ["bills", "payments"]
[roles.cashier]
bills = ["select", "insert"]
payments = ["select", "insert"]
[[ledger]]
table = "payments"
amount = "amount"
posts = "bill_id"
source = "bills.amount"
partial = true
"""


@pytest.mark.parametrize(
    ("guard", "status"),
    [(GUARD.format(also=""), 0), (GUARD.format(also="+ 1"), 1), ("", 1)],
    ids=["holds", "misses one", "misses all"],
)
def test_parts_add_up_to_no_more_than_the_source(
    guard: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schema.sql").write_text(SCHEMA + guard)
    Path("invariants.toml").write_text(CONTRACT)
    options = ["--server", "embedded", "--seed", "1", "--max-examples", "60", "--sessions", "0"]
    arguments = ["run", "--schema", "schema.sql", "--invariant", "ledger", *options]
    assert main(arguments) == status, capsys.readouterr()
    if status:
        assert "ledger/insert/payments/amount posted in parts" in capsys.readouterr().out
