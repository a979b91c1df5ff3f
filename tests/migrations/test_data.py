"""What becomes of lawful rows on the way up, and on the way down again."""

from __future__ import annotations

import json

import pytest

from invariants.errors import EXIT_HELD, InfrastructureError
from invariants.workload.operations import inserted
from tests.migrations.conftest import Project

NARROWER = """
ALTER TABLE tickets DROP CONSTRAINT tickets_state_check;
UPDATE tickets SET state = 'open' WHERE state = 'waiting';
ALTER TABLE tickets ADD CONSTRAINT tickets_state_check CHECK (state IN ('new', 'open', 'done'));
"""


WIDER = """
ALTER TABLE tickets DROP CONSTRAINT tickets_state_check;
ALTER TABLE tickets ADD CONSTRAINT tickets_state_check
  CHECK (state IN ('new', 'open', 'waiting', 'done'));
"""


def test_two_rows_become_one(project: Project) -> None:
    project.sql(NARROWER, WIDER)
    assert project.signatures("upgrade") == [
        "migrations/upgrade/r2/23505/tickets_shop_id_number_state_key"
    ]
    (found,) = project.found
    # Of some dozen rows the two that collide, of one shop and number.
    sent = [r for o in found.counterexample.workload.operations for s in o.statements
            for r in inserted(s)]  # fmt: skip
    states = [str(row["state"]) for row in sent]
    assert sorted(states) == ["open", "waiting"]
    assert found.saved is not None
    assert json.loads(found.saved.json.read_text())["revision"] == "r1"
    script = found.saved.sql.read_text()
    assert script.count("INSERT INTO tickets") == 2
    assert "SET LOCAL app.shop" in script


def test_what_becomes_of_rows_beside_those_that_collide(project: Project) -> None:
    project.sql(NARROWER, WIDER)
    assert "migrations/data/r2/tickets.state" in project.signatures("data")


def test_a_table_without_a_row_that_fits_is_left_out(project: Project) -> None:
    """What becomes of the rows of others is seen, and that those were left out is said."""
    project.contract('[[migrations.accepted]]\nsignature = "migrations/upgrade/r2"\nreason = "x"')
    project.sql(
        "ALTER TABLE tickets ADD CONSTRAINT c CHECK (id < 0);"
        "ALTER TABLE shops ALTER name TYPE varchar(1) USING 'y'"
    )
    result = project.tried("data")
    assert [f.counterexample.signature for f in project.found] == ["migrations/data/r2/shops.name"]
    (remark,) = result.remarks
    assert remark.startswith("r2: tried without rows of tickets")


def test_rows_that_are_told_apart_before_they_are_mapped(project: Project) -> None:
    project.contract(
        """
        [migrations.revisions.r2]
        changes = ["tickets.state: waiting is open now", "tickets.number: made unique"]
        """
    )
    apart = "UPDATE tickets SET number = number || '-' || id WHERE state = 'waiting';"
    project.sql(apart + NARROWER, WIDER)
    result = project.tried("upgrade", "data")
    assert (result.exit_status, project.found) == (EXIT_HELD, [])


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            "ALTER TABLE tickets ALTER price TYPE numeric(10,1)",
            ["migrations/data/r2/tickets.price"],
        ),
        ("ALTER TABLE tickets ALTER price TYPE numeric(12,3)", []),
        ("ALTER TABLE tickets ALTER number TYPE varchar(500)", []),
        ("ALTER TABLE tickets DROP remark", ["migrations/data/r2/tickets.remark"]),
        ("DELETE FROM tickets WHERE state = 'done'", ["migrations/data/r2/tickets/rows"]),
        (
            "ALTER TABLE tickets ADD CONSTRAINT named CHECK (remark <> '') NOT VALID",
            ["migrations/data/r2/tickets/named"],
        ),
        ("ALTER TABLE tickets ADD CONSTRAINT named CHECK (id > 0) NOT VALID", []),
    ],
)
def test_values_stay_as_they_were(project: Project, statement: str, found: list[str]) -> None:
    project.sql(statement, "SELECT 1")
    assert project.signatures("data") == found


def test_a_column_is_found_under_its_new_name(project: Project) -> None:
    project.contract('[migrations.revisions.r2]\nrenames = { "tickets.remark" = "note" }')
    project.sql(
        "ALTER TABLE tickets RENAME remark TO note", "ALTER TABLE tickets RENAME note TO remark"
    )
    assert project.signatures("data", "downgrade") == []


def test_what_was_written_since_does_not_fit_any_more(project: Project) -> None:
    project.sql(
        "ALTER TABLE tickets DROP CONSTRAINT tickets_state_check",
        "ALTER TABLE tickets ADD CONSTRAINT tickets_state_check "
        "CHECK (state IN ('new', 'open', 'waiting', 'done'))",
    )
    assert project.signatures("downgrade") == ["migrations/downgrade/r2/23514/tickets_state_check"]


def test_what_a_downgrade_loses_is_said(project: Project) -> None:
    project.sql(
        "ALTER TABLE tickets ADD seen boolean DEFAULT false", "ALTER TABLE tickets DROP seen"
    )
    assert project.signatures("downgrade") == ["migrations/downgrade/r2/tickets.seen"]
    project.found.clear()
    project.contract('[migrations.revisions.r2]\nloses = ["tickets.seen: who has looked"]')
    assert project.signatures("downgrade") == []


def test_a_step_that_fails_by_itself_says_nothing(project: Project) -> None:
    project.sql("SELECT nothing")
    with pytest.raises(InfrastructureError, match=r"migration r2 .* failed: column"):
        project.tried("upgrade")


LOGGED = """
CREATE TABLE changes (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops(id),
  ticket bigint NOT NULL);
ALTER TABLE changes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON changes
  USING (shop_id = nullif(current_setting('app.shop', true), '')::uuid);
GRANT SELECT, INSERT ON changes TO desk;
GRANT USAGE ON SEQUENCE changes_id_seq TO desk;
CREATE FUNCTION log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO changes (shop_id, ticket) VALUES (NEW.shop_id, NEW.id); RETURN NEW; END $$;
CREATE TRIGGER logged AFTER UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION log_change();
"""


QUIETLY = (
    "ALTER TABLE tickets DISABLE TRIGGER logged; UPDATE tickets SET remark = remark;"
    "ALTER TABLE tickets ENABLE TRIGGER logged"
)


@pytest.mark.parametrize(
    ("statement", "found"),
    [("UPDATE tickets SET remark = remark", ["migrations/data/r3/changes/rows"]), (QUIETLY, [])],
)
def test_a_trigger_that_fires_during_a_backfill(
    project: Project, statement: str, found: list[str]
) -> None:
    project.contract("")
    contract = project.folder / "invariants.toml"
    text = contract.read_text().replace('["tickets"]', '["tickets", "changes"]')
    contract.write_text(f'{text}changes = ["select", "insert"]\n')
    project.sql(LOGGED)
    project.sql(statement)
    assert project.signatures("data", first="r3") == found


ENUM = "CREATE TYPE way AS ENUM ('mail', 'phone', 'fax'); ALTER TABLE tickets ADD way way"


NARROWED = (
    "ALTER TYPE way RENAME TO old_way; CREATE TYPE way AS ENUM ('mail', 'phone');"
    "{first} ALTER TABLE tickets ALTER way TYPE way USING way::text::way; DROP TYPE old_way"
)


def test_a_value_of_an_enum_is_removed(project: Project) -> None:
    project.sql(ENUM)
    project.sql(NARROWED.format(first=""))
    assert project.signatures("upgrade", first="r3") == ["migrations/upgrade/r3/22P02"]


def test_a_value_of_an_enum_is_removed_where_it_is_mapped(project: Project) -> None:
    project.contract('[migrations.revisions.r3]\nchanges = ["tickets.way: fax is mail"]')
    project.sql(ENUM)
    project.sql(NARROWED.format(first="UPDATE tickets SET way = 'mail' WHERE way = 'fax';"))
    assert project.signatures("upgrade", "data", first="r3") == []
