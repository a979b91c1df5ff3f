"""Each kind of harm is found in a chain that does it, and not in the lawful one beside it."""

from __future__ import annotations

import json

import pytest

from invariants.errors import EXIT_HELD, EXIT_VIOLATED, InfrastructureError
from invariants.workload.operations import inserted
from tests.migrations.conftest import FIRST, Project

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


def test_half_a_downgrade(project: Project) -> None:
    project.sql(
        "CREATE INDEX a ON tickets (number); CREATE INDEX b ON tickets (price)", "DROP INDEX a"
    )
    # Up again it fails as well, since the other index is there.
    assert project.signatures("chain") == [
        "migrations/chain/r2/downgrade", "migrations/chain/r2/again/42P07",
    ]  # fmt: skip


def test_a_whole_one(project: Project) -> None:
    project.sql("CREATE INDEX a ON tickets (number)", "DROP INDEX a")
    assert project.signatures("chain") == []


def test_a_role_that_comes_and_goes(project: Project) -> None:
    """Roles are the server's: what one trial makes is gone before the next."""
    project.sql("CREATE ROLE clerk; GRANT SELECT ON tickets TO clerk",
                "REVOKE SELECT ON tickets FROM clerk; DROP ROLE clerk")  # fmt: skip
    assert project.signatures("chain", "upgrade", "downgrade") == []


BACKFILL = "ALTER TABLE tickets ADD slug text; UPDATE tickets SET slug = lower(number)"
SEEING = (
    "ALTER TABLE tickets NO FORCE ROW LEVEL SECURITY;"
    f"{BACKFILL}; ALTER TABLE tickets FORCE ROW LEVEL SECURITY"
)


@pytest.mark.parametrize(
    ("statement", "found"), [(BACKFILL, ["migrations/owner/r2/tickets.slug"]), (SEEING, [])]
)
def test_a_backfill_sees_all_rows_whoever_runs_it(
    project: Project, statement: str, found: list[str]
) -> None:
    project.contract('[migrations]\nowner = "keeper"')
    project.sql(statement, "ALTER TABLE tickets DROP slug")
    assert project.signatures("owner") == found


def test_what_only_a_superuser_may_do(project: Project) -> None:
    project.contract('[migrations]\nowner = "keeper"')
    project.sql("ALTER ROLE desk CONNECTION LIMIT 7")
    (signature,) = project.signatures("owner")
    assert signature.startswith("migrations/owner/r2/42501")


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("ALTER TABLE tickets ALTER price TYPE numeric(12,3)", ["tickets/rewritten"]),
        ("ALTER TABLE tickets ADD at time DEFAULT clock_timestamp()", ["tickets/rewritten"]),
        ("ALTER TABLE tickets ADD seen boolean NOT NULL DEFAULT false", []),
        ("CREATE INDEX a ON tickets (number)", ["tickets/scanned"]),
        ("ALTER TABLE tickets ALTER remark SET DEFAULT ''", []),
        ("ALTER TABLE tickets ADD CONSTRAINT c CHECK (id > 0)", ["tickets/scanned"]),
        ("ALTER TABLE tickets ADD CONSTRAINT c CHECK (id > 0) NOT VALID", []),
        ("ALTER TABLE tickets ADD a text; UPDATE tickets SET a = 'x'", ["tickets/scanned"]),
        ("ALTER TABLE tickets ADD a text; SELECT pg_sleep(0.9)", ["tickets/held"]),
    ],
)  # fmt: skip
def test_what_blocks_clients(project: Project, statement: str, found: list[str]) -> None:
    project.sql(statement)
    assert project.signatures("locks") == [f"migrations/locks/r2/{f}" for f in found]


VALIDATED = "ALTER TABLE tickets ADD CONSTRAINT c CHECK (made IS NOT NULL) NOT VALID"


@pytest.mark.parametrize("apart", [False, True])
def test_a_column_that_is_not_null_any_more(project: Project, apart: bool) -> None:
    """SET NOT NULL looks at all rows, unless a constraint that is valid says so already."""
    project.sql("ALTER TABLE tickets ADD made date DEFAULT '2000-01-01'")
    if apart:
        project.sql(VALIDATED)
        project.sql("ALTER TABLE tickets VALIDATE CONSTRAINT c")
    last = project.sql("ALTER TABLE tickets ALTER made SET NOT NULL")
    project.contract(
        f'[[migrations.accepted]]\nsignature = "migrations/upgrade/{last}"\nreason="x"'
    )
    found = [] if apart else [f"migrations/locks/{last}/tickets/scanned"]
    assert project.signatures("locks", first=last) == found


def test_an_index_built_beside_its_clients(project: Project) -> None:
    project.code(
        """
        with op.get_context().autocommit_block():
            op.execute("CREATE INDEX CONCURRENTLY a ON tickets (number)")
        """
    )
    assert project.signatures("locks") == []


def test_rows_filled_in_a_transaction_of_their_own(project: Project) -> None:
    project.code(
        """
        run("ALTER TABLE tickets ADD a text")
        run("COMMIT")
        run("BEGIN")
        run("UPDATE tickets SET a = 'x'")
        """
    )
    assert project.signatures("locks") == []


def test_a_constraint_validated_apart(project: Project) -> None:
    project.sql("ALTER TABLE tickets ADD CONSTRAINT c CHECK (id > 0) NOT VALID")
    project.sql("ALTER TABLE tickets VALIDATE CONSTRAINT c")
    assert project.signatures("locks") == []


def test_clients_of_before_name_what_is_gone(project: Project) -> None:
    project.sql("ALTER TABLE tickets RENAME remark TO note")
    found = project.signatures("clients")
    assert "migrations/clients/r2/insert/tickets.remark" in found
    assert "migrations/clients/r2/select/tickets.remark" in found
    project.found.clear()
    project.contract('[migrations.revisions.r2]\nbreaks = ["tickets.remark: deployed together"]')
    assert project.signatures("clients") == []


def test_clients_of_before_go_on_where_both_names_are_there(project: Project) -> None:
    project.sql("ALTER TABLE tickets ADD note text")
    assert project.signatures("clients") == []


IN_TWO_PARTS = """
with op.get_context().autocommit_block():
    op.execute("CREATE INDEX CONCURRENTLY {exists} a ON tickets (number)")
    op.execute("CREATE INDEX CONCURRENTLY {exists} b ON tickets (price)")
"""


@pytest.mark.parametrize(
    ("exists", "found"), [("", ["migrations/killed/r2"]), ("IF NOT EXISTS", [])]
)
def test_killed_between_two_statements(project: Project, exists: str, found: list[str]) -> None:
    project.code(IN_TWO_PARTS.format(exists=exists))
    assert project.signatures("killed") == found


def test_killed_within_one_transaction_nothing_is_left(project: Project) -> None:
    project.code("run('CREATE INDEX a ON tickets (number)')\nrun('CREATE INDEX b ON tickets (id)')")
    assert project.signatures("killed") == []


def test_a_failure_that_is_known_is_accepted(project: Project) -> None:
    project.contract(
        """
        [[migrations.accepted]]
        signature = "migrations/chain/r2"
        reason = "the index may stay"
        """
    )
    project.sql("CREATE INDEX IF NOT EXISTS a ON tickets (number)")
    result = project.tried("chain")
    assert (result.exit_status, project.found) == (EXIT_HELD, [])
    (accepted,) = result.accepted
    assert (accepted.signature, accepted.reason) == (
        "migrations/chain/r2/downgrade", "the index may stay",
    )  # fmt: skip


def test_a_second_head_is_found(project: Project) -> None:
    project.sql("ALTER TABLE tickets ADD a text", "ALTER TABLE tickets DROP a")
    beside = (project.folder / "scripts/versions/r2.py").read_text().replace("'r2'", "'z9'")
    (project.folder / "scripts/versions/z9.py").write_text(beside)
    (signature,) = project.signatures("chain", first=None)
    assert signature in ("migrations/chain/r2/another-head", "migrations/chain/z9/another-head")


def test_a_step_that_fails_by_itself_says_nothing(project: Project) -> None:
    project.sql("SELECT nothing")
    with pytest.raises(InfrastructureError, match=r"migration r2 .* failed: column"):
        project.tried("upgrade")


def test_the_first_revision_may_go_back_to_nothing(project: Project) -> None:
    assert FIRST
    result = project.tried(first=None)
    assert (result.exit_status, project.found) == (EXIT_HELD, [])
    assert result.exit_status != EXIT_VIOLATED


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("ALTER TABLE tickets ALTER made SET DEFAULT '2020-01-01'", ["tickets.made"]),
        ("ALTER TABLE tickets ALTER made DROP DEFAULT", ["tickets.made"]),
        ("ALTER TABLE tickets ALTER remark SET DEFAULT ''", []),
    ],
)
def test_what_clients_leave_out_stays_what_it_was(
    project: Project, statement: str, found: list[str]
) -> None:
    project.sql("ALTER TABLE tickets ADD made date DEFAULT '2000-01-01'")
    project.sql(statement)
    signatures = project.signatures("clients", first="r3")
    assert signatures == [f"migrations/clients/r3/default/{f}" for f in found]


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
