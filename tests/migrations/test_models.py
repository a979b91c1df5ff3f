"""The newest schema against the models that env.py knows."""

from __future__ import annotations

import pytest

from tests.migrations.conftest import Project

MODELS = """
from sqlalchemy import BigInteger, Column, ForeignKey, MetaData, Numeric, Table, Text, Uuid
from sqlalchemy import UniqueConstraint
models = MetaData()
Table("shops", models, Column("id", Uuid, primary_key=True), Column("name", Text, nullable=False))
Table(
    "tickets", models, Column("id", BigInteger, primary_key=True),
    Column("shop_id", Uuid, ForeignKey("shops.id", ondelete="CASCADE"), nullable=False),
    Column("state", Text, nullable=False), Column("number", Text, nullable=False),
    Column("price", Numeric(10, 2), nullable=False), Column("remark", Text),
    UniqueConstraint("shop_id", "number", "state"),
)
"""


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SELECT 1", []),
        ("ALTER TABLE tickets ADD extra text", ["remove column tickets.extra"]),
        ("ALTER TABLE tickets DROP remark", ["add column tickets.remark"]),
        ("ALTER TABLE tickets ALTER number TYPE varchar(9)", ["modify type tickets.number"]),
        ("CREATE INDEX a ON tickets (price)", ["remove index tickets.a"]),
        ("CREATE TABLE others (id int)", ["remove table others"]),
    ],
)
def test_what_the_models_say_is_there(project: Project, statement: str, found: list[str]) -> None:
    env = project.folder / "scripts/env.py"
    text = env.read_text()
    assert "context.configure(" in text
    env.write_text(MODELS + text.replace("context.configure(",
                                         "context.configure(target_metadata=models, "))  # fmt: skip
    contract = '[[migrations.accepted]]\nsignature = "migrations/chain/r2/downgrade"\nreason = "x"'
    project.contract(contract)
    project.sql(statement)
    expected = ["migrations/chain/r2/models"] if found else []
    assert [s for s in project.signatures("chain") if "/again" not in s] == expected
    told = [line for f in project.found for line in f.counterexample.text.splitlines()]
    assert all(any(line.strip() == difference for line in told) for difference in found)


def test_without_models_nothing_is_said(project: Project) -> None:
    project.sql("CREATE INDEX a ON tickets (price)", "DROP INDEX a")
    assert project.signatures("chain") == []
