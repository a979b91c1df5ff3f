"""Names of any spelling, as SQL: a dot parts schema and relation only where it is in no quotes."""

from __future__ import annotations

import pytest

from invariants.checks.base import row_matches
from invariants.workload import sql
from invariants.workload.operations import Delete, Insert, Merge


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("orders", "orders"),
        ("Visits", '"Visits"'),
        ("app.Visits", 'app."Visits"'),
        ('"a.b"', '"a.b"'),
        ('app."a.b"', 'app."a.b"'),
        ('"a ""b"""', '"a ""b"""'),
        ("select", '"select"'),
    ],
)
def test_a_relation(name: str, quoted: str) -> None:
    assert sql.name(name) == quoted


def test_a_column_has_no_schema() -> None:
    assert sql.column("Row.Id") == '"Row.Id"'
    assert sql.spelled(Delete("t", (("Row.Id", 1),))) == 'DELETE FROM t WHERE "Row.Id" = 1'
    assert row_matches("t", {"Row.Id": 1}) == 'EXISTS (SELECT FROM t WHERE "Row.Id" = 1)'


def test_keys_that_the_server_numbers_always_are_chosen() -> None:
    chosen = Insert("t", ("id",), ((1,),), overriding=True)
    assert sql.spelled(chosen) == "INSERT INTO t (id) OVERRIDING SYSTEM VALUE VALUES (1)"
    query, _ = sql.parametrised(Merge("t", ("id",), (1,), ("id",), overriding=True))
    assert query.endswith("INSERT (id) OVERRIDING SYSTEM VALUE VALUES (s.id)")
