"""A partition that is attached: with the policies of its table, or past them."""

from __future__ import annotations

import pytest

from tests.migrations.conftest import Project

PARTED = """
CREATE TABLE calls (
  id bigint NOT NULL, shop_id uuid NOT NULL REFERENCES shops(id), year int NOT NULL,
  PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
ALTER TABLE calls ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON calls USING (shop_id = nullif(current_setting('app.shop', true), '')::uuid);
GRANT SELECT, INSERT ON calls TO desk;
CREATE TABLE calls_rest PARTITION OF calls DEFAULT;
"""
ATTACHED = """
CREATE TABLE calls_2024 (LIKE calls INCLUDING ALL);
{guard}
ALTER TABLE calls ATTACH PARTITION calls_2024 FOR VALUES FROM (2024) TO (2025)
"""
GUARDED = """
ALTER TABLE calls_2024 ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON calls_2024
  USING (shop_id = nullif(current_setting('app.shop', true), '')::uuid);
"""
GRANTED = "GRANT SELECT ON calls_2024 TO desk;"


@pytest.mark.parametrize(
    ("guard", "found"),
    [
        (GRANTED, ["migrations/data/r3/calls_2024/unguarded"]),
        (GUARDED + GRANTED, []),
        # Nobody but its owner can name it.
        ("", []),
    ],
    ids=["open", "guarded", "not granted"],
)
def test_a_partition_is_attached(project: Project, guard: str, found: list[str]) -> None:
    project.contract()
    contract = project.folder / "invariants.toml"
    text = contract.read_text().replace('["tickets"]', '["tickets", "calls"]')
    contract.write_text(f'{text}calls = ["select", "insert"]\n')
    project.sql(PARTED)
    project.sql(ATTACHED.format(guard=guard))
    assert project.signatures("data", first="r3") == found
