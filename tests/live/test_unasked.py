"""audit: what could not be asked is said, and never taken for answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from invariants.errors import UsageError
from invariants.live.audit import Audit, audit
from invariants.options import SchemaOptions
from tests.conftest import database_on, query
from tests.live.test_drift import _url

CONTRACT = """
format = 1
[tenancy]
column = "org"
setting = "app.org"
tables = ["items", "notes"]
[references]
"notes.item" = "items.id"
[roles]
"""
TABLES = "CREATE TABLE items (id int PRIMARY KEY, org text);"
NOTES = "CREATE TABLE notes (id int PRIMARY KEY, org text, item {});"


def _asked(conninfo: str, folder: Path, contract: str = CONTRACT) -> Audit:
    path = folder / "invariants.toml"
    path.write_text(contract)
    return audit(_url(conninfo), SchemaOptions(contract=path), lambda _: None)


def test_a_table_that_is_not_there_is_an_error(server_url: str, tmp_path: Path) -> None:
    with database_on(server_url, "unasked") as conninfo:
        query(conninfo, TABLES)
        with pytest.raises(UsageError, match="'notes' is not in the database"):
            _asked(conninfo, tmp_path)
        later = 'format = 1\n[revisions]\n[introduced]\nnotes = "r2"\n'
        assert not _asked(conninfo, tmp_path, CONTRACT.replace("format = 1", later)).unjudged


def test_what_cannot_be_compared_is_not_judged(server_url: str, tmp_path: Path) -> None:
    with database_on(server_url, "unasked") as conninfo:
        query(conninfo, TABLES + NOTES.format("text"))
        assert all(
            "operator does not exist" in a.unjudged for a in _asked(conninfo, tmp_path).unjudged
        )
        assert _asked(conninfo, tmp_path).unjudged
    with database_on(server_url, "unasked") as conninfo:
        query(conninfo, TABLES + NOTES.format("int"))
        assert not _asked(conninfo, tmp_path).unjudged
