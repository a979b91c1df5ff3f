"""liveness where triggers and rules decide: no opinion there, the same one as ever elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from invariants.front.cli import main
from tests.projects import OF_SHOPS, SHOPS

TRIGGER = "CREATE FUNCTION it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$; {}"
ON_ORDERS = "CREATE TRIGGER it {} ON orders FOR EACH ROW EXECUTE FUNCTION it();"
DECIDING = {
    "fills a column in": TRIGGER.format(
        "NEW.what = upper(coalesce(NEW.what, 'x')); RETURN NEW;",
        ON_ORDERS.format("BEFORE INSERT OR UPDATE"),
    ),
    "counts its changes": "ALTER TABLE orders ADD changes integer NOT NULL DEFAULT 0;"
    + TRIGGER.format(
        "NEW.changes = OLD.changes + 1; RETURN NEW;", ON_ORDERS.format("BEFORE UPDATE")
    ),
    "says whose the row is": TRIGGER.format(
        "NEW.shop_id = nullif(current_setting('app.shop', true), '')::uuid; RETURN NEW;",
        ON_ORDERS.format("BEFORE INSERT"),
    ),
    "refuses what it does not like": TRIGGER.format(
        "IF NEW.what = 'a' THEN RAISE EXCEPTION 'not a'; END IF; RETURN NEW;",
        ON_ORDERS.format("BEFORE INSERT OR UPDATE"),
    ),
    "leaves rows out": TRIGGER.format(
        "IF OLD.what IS NULL THEN RETURN NULL; END IF; RETURN OLD;",
        ON_ORDERS.format("BEFORE DELETE"),
    ),
    "keeps a row that is removed": "ALTER TABLE orders ADD gone boolean NOT NULL DEFAULT false;"
    + TRIGGER.format(
        "UPDATE orders SET gone = true WHERE id = OLD.id; RETURN NULL;",
        ON_ORDERS.format("BEFORE DELETE"),
    ),
    "counts in the shop": "ALTER TABLE shops ADD orders bigint NOT NULL DEFAULT 0;"
    + TRIGGER.format(
        "UPDATE shops SET orders = orders + 1 WHERE id = NEW.shop_id; RETURN NULL;",
        ON_ORDERS.format("AFTER INSERT"),
    ).replace("plpgsql", "plpgsql SECURITY DEFINER SET search_path = public, pg_temp"),
    "is a rule": "CREATE RULE it AS ON DELETE TO orders WHERE old.what = 'a' DO INSTEAD NOTHING;",
}


# What a policy asks for besides the shop, and what says so.
POLICIES = {
    "is not removed yet": "ALTER TABLE orders ADD gone boolean NOT NULL DEFAULT false;"
    "CREATE POLICY there ON orders AS RESTRICTIVE FOR SELECT USING (NOT gone);",
    "is the author's": "ALTER TABLE orders ADD author text;"
    "DROP POLICY of_shop ON orders; CREATE POLICY of_author ON orders USING (shop_id ="
    " nullif(current_setting('app.shop', true), '')::uuid AND author = current_user);",
    "is what a function finds in the table itself": "ALTER TABLE orders ADD gone boolean;"
    "CREATE FUNCTION there() RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER SET"
    " search_path = public, pg_temp AS $$ SELECT id FROM orders WHERE gone IS NULL $$;"
    "CREATE POLICY there ON orders AS RESTRICTIVE FOR SELECT USING (id IN (SELECT there()));",
    "is what a function takes": "ALTER TABLE shops ADD kind text;"
    "CREATE FUNCTION fine(uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET"
    " search_path = public, pg_temp AS"
    " $$ SELECT EXISTS (SELECT FROM shops WHERE id = $1 AND kind = 'open') $$;"
    "CREATE POLICY of_kind ON orders AS RESTRICTIVE FOR INSERT WITH CHECK (fine(shop_id));",
}


def verdict(folder: Path, schema: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """What liveness says of the shops with more to their schema."""
    monkeypatch.chdir(folder)
    Path("schema.sql").write_text(SHOPS + schema)
    Path("invariants.toml").write_text(OF_SHOPS)
    options = ["--server", "embedded", "--seed", "1", "--max-examples", "60", "--sessions", "0"]
    return main(["run", "--schema", "schema.sql", "--invariant", "liveness", *options])


@pytest.mark.parametrize("what", DECIDING)
def test_what_a_trigger_decides_is_no_violation(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = verdict(tmp_path, DECIDING[what], monkeypatch)
    told = capsys.readouterr()
    assert status == 0, told
    assert "since triggers, rules or policies decide: " in told.out


@pytest.mark.parametrize("what", POLICIES)
def test_what_a_policy_asks_for_besides_the_tenant_is_left_open(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = verdict(tmp_path, POLICIES[what], monkeypatch)
    told = capsys.readouterr()
    assert "liveness/" not in told.out
    assert status != 1
    assert "since triggers, rules or policies decide: " in told.out


@pytest.mark.parametrize(
    ("index", "status"), [("", 0), ("CREATE UNIQUE INDEX ON sums (shop_id) WHERE false;", 0)]
)
def test_a_concurrent_refresh_that_nobody_has_provided_for(
    index: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without an index over all rows there is none, and no read path asks for it."""
    view = "CREATE MATERIALIZED VIEW sums AS SELECT shop_id, count(*) FROM orders GROUP BY shop_id;"
    assert verdict(tmp_path, view + index, monkeypatch) == status, capsys.readouterr()


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("AS RESTRICTIVE FOR UPDATE USING (false)", "liveness/update/orders"),
        ("AS RESTRICTIVE FOR INSERT WITH CHECK (false)", "liveness/insert/orders"),
        ("FOR SELECT USING (what IS NULL)", None),
    ],
)
def test_a_policy_that_asks_for_nothing_else_is_judged(
    policy: str,
    found: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One beside which another lets all of the tenant's rows pass takes nothing away."""
    verdict(tmp_path, f"CREATE POLICY more ON orders {policy};", monkeypatch)
    told = capsys.readouterr().out
    assert "policies decide: " not in told
    assert found is None or found in told


def test_a_trigger_on_another_table_says_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = TRIGGER.format(
        "NEW.name = upper(NEW.name); RETURN NEW;",
        ON_ORDERS.format("BEFORE UPDATE").replace("ON orders", "ON shops"),
    )
    assert verdict(tmp_path, f"{elsewhere} REVOKE UPDATE ON orders FROM clerk;", monkeypatch) == 1
    assert "liveness/update/orders/privilege" in capsys.readouterr().out


def test_a_privilege_is_asked_for_whatever_triggers_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = DECIDING["fills a column in"] + "REVOKE DELETE ON orders FROM clerk;"
    assert verdict(tmp_path, schema, monkeypatch) == 1
    assert "liveness/delete/orders/privilege" in capsys.readouterr().out


def test_rows_that_refer_to_themselves_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else is looked at here than that the model comes to an end."""
    within = (
        "ALTER TABLE orders ADD UNIQUE (shop_id, id), ADD after uuid, ADD FOREIGN KEY"
        " (shop_id, after) REFERENCES orders (shop_id, id) ON DELETE CASCADE;"
    )
    assert verdict(tmp_path, within, monkeypatch) == 0, capsys.readouterr()
