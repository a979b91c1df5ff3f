"""What clients of the revision before were permitted stays permitted."""

from __future__ import annotations

import pytest

from tests.migrations.conftest import Project


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
