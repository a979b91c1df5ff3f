"""What is said of an operation's session in a file: read back as it was, and nothing else taken."""

from __future__ import annotations

from typing import Any

import pytest

from invariants.reading import Misfit
from invariants.workload.format import workload_from_json, workload_to_json
from invariants.workload.operations import Actor, Leftover, Operation, Select
from tests.engine import A, of, workload

HANDED_ON = Operation(
    Actor("app_rw"),
    (Leftover("advisory locks", "advisory locks"),),
    settings=(("TimeZone", "Asia/Kathmandu"),),
    inherits=True,
)


def test_it_is_read_back_as_it_was() -> None:
    shown = workload(of(A, Select("dead_events")), HANDED_ON)
    assert workload_from_json(workload_to_json(shown)) == shown


def test_what_is_as_usual_is_not_written() -> None:
    (operation,) = workload_to_json(workload(of(A, Select("dead_events"))))["operations"]
    assert not {"settings", "inherits"} & operation.keys()


@pytest.mark.parametrize(
    "settings", [{"role": "postgres"}, {"TimeZone": "x'; DROP TABLE tenants --"}]
)
def test_no_other_setting_is_made(settings: dict[str, str]) -> None:
    document: dict[str, Any] = workload_to_json(workload(HANDED_ON))
    document["operations"][0]["settings"] = settings
    with pytest.raises(Misfit, match="settings"):
        workload_from_json(document)
