"""What goes from one tenant to another, planted in a few tables: sweeps find it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.contract.contract import load
from invariants.errors import UsageError
from invariants.schema.sources import source_of
from invariants.search.judge import Judge, by_signature
from invariants.servers.environment import open_environment

VERBS = '["select", "insert", "update", "delete"]'
SCHEMA = """
DO $$ BEGIN CREATE ROLE clerk NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE TABLE shops (id uuid PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE racks (shop_id uuid NOT NULL REFERENCES shops, id bigint GENERATED ALWAYS AS IDENTITY,
  PRIMARY KEY (shop_id, id), UNIQUE (id));
CREATE TABLE boxes (shop_id uuid NOT NULL REFERENCES shops, id uuid, rack bigint NOT NULL,
  PRIMARY KEY (shop_id, id), UNIQUE (id),
  FOREIGN KEY (shop_id, rack) REFERENCES racks (shop_id, id));
CREATE TABLE items (shop_id uuid NOT NULL REFERENCES shops, id uuid PRIMARY KEY, box uuid NOT NULL,
  state text NOT NULL, gone_at timestamptz, {reference});
{more}
"""
OWN = """
ALTER TABLE {0} ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON {0} USING (shop_id = nullif(current_setting('app.shop', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON {0} TO clerk;
"""
CONTRACT = """
format = 1
[tenancy]
root = "shops"
column = "shop_id"
setting = "app.shop"
tables = ["racks", "boxes", "items"]
[roles.clerk]
{roles}
[[accepted]]
channel = "primary-key-collision"
reason = "ids are drawn by lot"
{more}
"""
WITHIN = "FOREIGN KEY (shop_id, box) REFERENCES boxes (shop_id, id)"
BEYOND = "FOREIGN KEY (box) REFERENCES boxes (id)"
COUNTED = '[[accepted]]\nchannel = "sequence"\nreason = "one counter for all"\n'
SHOWN = """
CREATE VIEW shelf AS SELECT shop_id, id FROM items WHERE {};
GRANT SELECT ON shelf TO clerk;
"""

Opened = Callable[..., AbstractContextManager[Judge]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """A schema of racks, boxes on them and items in these."""

    @contextmanager
    def open_it(reference: str = WITHIN, sql: str = "", contract: str = COUNTED) -> Iterator[Judge]:
        tables = ("racks", "boxes", "items")
        schema = SCHEMA.format(reference=reference, more=sql)
        roles = [f"{t} = {VERBS}" for t in tables]
        if "shelf" in sql:
            roles.append('shelf = ["select"]')
        (tmp_path / "schema.sql").write_text(schema + "".join(map(OWN.format, tables)))
        (tmp_path / "invariants.toml").write_text(
            CONTRACT.format(roles="\n".join(roles), more=contract)
        )
        source = source_of(str(tmp_path / "schema.sql"), Path("alembic.ini"), "head", 60)
        with (
            open_environment("embedded", source, say=lambda _: None, cache=False) as environment,
            Judge(environment, load(tmp_path / "invariants.toml")) as judge,
        ):
            yield judge

    return open_it


def swept(judge: Judge, invariant: str = "cross-tenant") -> set[str]:
    """The signatures that the sweeps of an invariant show."""
    of = INVARIANTS[invariant]
    return {
        signature
        for workload in generation.sweeps(judge.contract, judge.catalog, of)
        for signature in by_signature(judge.violations(of, workload)[1])
    }


@pytest.mark.parametrize("invariant", ["cross-tenant", "liveness"])
def test_without_a_flaw_there_is_nothing(opened: Opened, invariant: str) -> None:
    with opened() as judge:
        assert swept(judge, invariant) == set()


def test_a_reference_without_the_tenant_at_the_end_of_a_chain(opened: Opened) -> None:
    with opened(BEYOND) as judge:
        assert "cross-tenant/reference/items/items_box_fkey" in swept(judge)


def test_rows_that_have_keys_of_the_servers_are_referred_to(opened: Opened) -> None:
    of = INVARIANTS["cross-tenant"]
    with opened() as judge:
        steps = [
            step
            for workload in generation.sweeps(judge.contract, judge.catalog, of)
            for step in judge.case(of, workload, worlds=False).history.steps
        ]
    boxes = {r for s in steps for r in s.after.rows("boxes")}
    assert len(boxes) >= 5
    assert not [s.error for s in steps if s.error and s.error.sqlstate == "428C9"]


@pytest.mark.parametrize(
    "condition",
    [
        "state = 'sold'",
        "state IN ('lost', 'sold')",
        "gone_at IS NULL",
        "gone_at > '2031-07-01'",
        "gone_at < now()",
    ],
)
def test_a_view_that_shows_what_others_have_on_a_condition(opened: Opened, condition: str) -> None:
    with opened(sql=SHOWN.format(condition)) as judge:
        found = {s for s in swept(judge) if s.startswith("cross-tenant/select/shelf")}
    assert found


def test_one_counter_for_all_tells_unless_that_is_accepted(opened: Opened) -> None:
    with opened(contract="") as judge:
        assert swept(judge) == {"cross-tenant/select/racks/numbered by a sequence"}


def test_a_column_that_takes_nothing_is_told_in_one_line(opened: Opened) -> None:
    never = "ALTER TABLE items ADD n integer NOT NULL CHECK (n > 5 AND n < 4);"
    with opened(sql=never) as judge, pytest.raises(UsageError) as told:
        generation.check(judge.contract, judge.catalog)
    assert str(told.value) == (
        "table 'items': no value was found that items_n_check lets into column 'n'; "
        "write a row strategy for it (docs/extending.md)"
    )
