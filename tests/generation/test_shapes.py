"""Rows for tables of every shape: all are written, and nothing is reported without a flaw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.contract.contract import load
from invariants.schema.sources import source_of
from invariants.search.judge import Judge, by_signature
from invariants.servers.environment import open_environment
from tests.engine import drawn
from tests.generation import shapes

DRAWS = 120


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """Everything in one schema, which is isolated as it should be."""
    folder: Path = tmp_path_factory.mktemp("shapes")
    (folder / "schema.sql").write_text(shapes.schema())
    (folder / "invariants.toml").write_text(shapes.contract())
    source = source_of(str(folder / "schema.sql"), Path("alembic.ini"), "head", 60)
    with (
        open_environment("embedded", source, say=lambda _: None, cache=False) as environment,
        Judge(environment, load(folder / "invariants.toml")) as made,
    ):
        yield made


def reported(judge: Judge, invariant: str) -> dict[str, str]:
    """What sweeps and draws show, by its signature, with its summary."""
    of = judge.contract, judge.catalog, INVARIANTS[invariant]
    found = {}
    for workload in (*generation.sweeps(*of), *drawn(generation.workloads(*of), DRAWS)):
        _, violations = judge.violations(INVARIANTS[invariant], workload)
        found.update({s: v.summary for s, v in by_signature(violations).items()})
    return found


@pytest.mark.parametrize("invariant", ["cross-tenant", "liveness"])
def test_nothing_is_reported_of_a_schema_without_a_flaw(judge: Judge, invariant: str) -> None:
    assert reported(judge, invariant) == {}


def test_every_table_is_written(judge: Judge) -> None:
    of = judge.contract, judge.catalog, INVARIANTS["cross-tenant"]
    written = {
        row.table
        for workload in generation.sweeps(*of)
        for step in judge.case(INVARIANTS["cross-tenant"], workload, worlds=False).history.steps
        for row in step.after.records
    }
    assert set(judge.contract.tenancy.tables) <= written


def test_what_all_share_is_filled_first(judge: Judge) -> None:
    of = INVARIANTS["cross-tenant"]
    made = drawn(generation.workloads(judge.contract, judge.catalog, of), DRAWS)
    for workload in [w for w in made if not w.sessions][:10]:
        final = judge.case(of, workload, worlds=False).history.final
        assert len(final.rows("countries")) == 2
        # What the migrations brought is enough.
        assert len(final.rows("plans")) == 2
