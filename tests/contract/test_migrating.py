"""[migrations]: what it may say, and the contract at a revision before something was renamed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from invariants.contract.chain import Declared, Migrating, Said
from invariants.contract.contract import Contract, load
from invariants.errors import UsageError
from invariants.schema.reader import read_catalog
from invariants.servers.base import connect
from invariants.servers.environment import Environment
from tests.conftest import ROOT

NOTES = """
format = 1
[tenancy]
root = "orgs"
column = "org_id"
setting = "app.org"
tables = ["items"]
[roles.web]
items = ["select"]
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "invariants.toml"
    file.write_text(NOTES + text)
    return file


def test_all_that_it_says(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [migrations]
        owner = "mig"
        blocks_at_most = "1.5 s"
        [migrations.revisions.0002]
        renames = { "items.note" = "remark" }
        changes = ["items.kind: facebook becomes social"]
        loses = ["items.seen"]
        breaks = ["items.note is deployed together with its clients"]
        [[migrations.accepted]]
        signature = "migrations/upgrade/0003"
        reason = "documented"
        """,
    )
    assert load(file).migrations == Migrating(
        "mig",
        1500,
        {
            "0002": Declared(
                {"items.note": "remark"},
                (Said("items.kind", "facebook becomes social"),),
                (Said("items.seen"),),
                (Said("items.note", "is deployed together with its clients"),),
            )
        },
        {"migrations/upgrade/0003": "documented"},
    )


def test_a_failure_is_accepted_by_whole_parts_of_its_signature() -> None:
    migrating = Migrating(accepted={"migrations/upgrade/0002": "known"})
    assert migrating.why_accepted("migrations/upgrade/0002/23505/items_key") == "known"
    assert migrating.why_accepted("migrations/upgrade/0002") == "known"
    assert migrating.why_accepted("migrations/upgrade/00021") is None
    assert migrating.why_accepted("migrations/downgrade/0002") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[migrations]\nblocks_at_most = 'soon'", "migrations.blocks_at_most: 'soon' is no"),
        (
            "[[migrations.accepted]]\nsignature = 'upgrade'\nreason = 'x'",
            "migrations.accepted[0].signature: 'upgrade' is no signature; write it as the report",
        ),
        ("[migrations.revisions.1]\nlooses = []", "migrations.revisions.1.looses: unknown key"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        load(written(tmp_path, text))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_before_a_rename_the_contract_says_the_old_name(contract: Contract) -> None:
    known = ("one", "two", "three")
    renamed = replace(
        contract,
        introduced={},
        migrations=Migrating(
            revisions={
                "two": Declared({"attribution_allocations.channel": "channel_code"}),
                "three": Declared({"allocations": "attribution_allocations"}),
            }
        ),
    )
    # Between the two the column has its new name, and the table its old one.
    between = renamed.at(("one", "two"), known)
    assert "allocations" in between.tenancy.tables
    assert ("allocations", "channel_code") in between.columns_named
    assert (
        between.roles["app_rw"]["allocations"]
        == contract.roles["app_rw"]["attribution_allocations"]
    )
    assert renamed.at(known, known).columns_named == contract.columns_named


def test_a_column_goes_by_its_old_name_everywhere(contract: Contract) -> None:
    renamed = replace(
        contract,
        introduced={},
        migrations=Migrating(
            revisions={"two": Declared({"attribution_allocations.channel": "channel_code"})}
        ),
    )
    before = renamed.at(("one",), ("one", "two"))
    assert ("attribution_allocations", "channel_code") not in before.columns_named
    assert ("attribution_allocations", "channel") in before.taxonomies[0].used_by
    keys = [i.keys for i in before.idempotency if i.table == "attribution_allocations"]
    assert keys == [(("event_id", "model_version", "channel"),)]


def test_what_a_database_has_not_is_not_spoken_of(documented: Environment) -> None:
    scratch = documented.scratch()
    with connect(scratch.conninfo) as conn:
        conn.execute("DROP TABLE revenue_ledger, channel_taxonomy CASCADE")
        catalog = read_catalog(conn)
    scratch.drop()
    there = load(ROOT / "invariants.toml").there(catalog)
    there.bind(catalog)
    assert "revenue_ledger" not in there.tenancy.tables
    assert not there.taxonomies
    assert not there.ledgers
    assert there.sums
