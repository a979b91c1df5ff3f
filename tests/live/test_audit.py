"""audit: what rows of a database in use say of what has gone wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from invariants.front.cli import main
from invariants.live.audit import audit
from invariants.options import SchemaOptions
from invariants.servers.environment import Environment
from tests.databases import ROOT

A, B = (f"{n:08x}-0000-4000-8000-000000000001" for n in (1, 2))


def _id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-00000000000f"


EVENT = (
    "INSERT INTO attribution_events (id, tenant_id, occurred_at, raw_payload, external_event_id,"
    " revenue_cents) VALUES ('{}', '{}', '2024-03-01', '{}', '{}', 100)"
)
SHARE = (
    "INSERT INTO attribution_allocations (id, tenant_id, event_id, channel_code, model_version,"
    " allocated_revenue_cents, allocation_ratio) VALUES ('{}', '{}', '{}', '{}', 'v1', {}, 1)"
)
POSTING = (
    "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents, corrects_id)"
    " VALUES ('{}', '{}', '{}', {}, {})"
)
LAWFUL = [
    f"INSERT INTO tenants (id, name) VALUES ('{A}', 'a'), ('{B}', 'b')",
    EVENT.format(_id(1), A, '{"order": {"lines": [{"sku": 1}]}}', "one"),
    # The same key in another tenant is another message.
    EVENT.format(_id(2), B, "{}", "one"),
    SHARE.format(_id(11), A, _id(1), "direct", 100),
    SHARE.format(_id(12), B, _id(2), "direct", 100),
    POSTING.format(_id(21), A, _id(11), 100, "NULL"),
    POSTING.format(_id(22), A, _id(11), -100, f"'{_id(21)}'"),
]
# What is planted, past all guards, and what is told of it.
AMISS = {
    "another tenant's event": (
        [SHARE.format(_id(13), A, _id(2), "email", 100)],
        "cross-tenant",
        "refer to another tenant's row of attribution_events",
    ),
    "no event": (
        [SHARE.format(_id(13), A, _id(99), "email", 100)],
        "reference",
        "refer to a row of attribution_events that is not there",
    ),
    "no tenant": (
        [EVENT.format(_id(3), _id(77), "{}", "three")],
        "reference",
        "refer to a row of tenants that is not there",
    ),
    "a sum": (
        [
            "UPDATE attribution_allocations SET allocated_revenue_cents = 7 WHERE tenant_id = '"
            + A
            + "'"
        ],
        "allocation-sum",
        "do not add up to attribution_events.revenue_cents",
    ),
    "a code": (
        ["UPDATE attribution_allocations SET channel_code = 'smoke' WHERE tenant_id = '" + A + "'"],
        "taxonomy",
        "have a code that channel_taxonomy does not have",
    ),
    "an amount": (
        ["UPDATE revenue_ledger SET revenue_cents = 150 WHERE corrects_id IS NULL"],
        "ledger",
        "post another amount than that of their row of attribution_allocations",
    ),
    "a net": (
        [POSTING.format(_id(23), A, _id(11), -1, f"'{_id(21)}'")],
        "ledger",
        "are postings that corrections take below zero",
    ),
    "a key twice": (
        [
            "DROP INDEX idx_attribution_events_tenant_external_event_id",
            EVENT.format(_id(3), A, "{}", "one"),
        ],
        "idempotent-ingest",
        "are keys that stand more than once within a tenant",
    ),
    "personal data": (
        [EVENT.format(_id(3), A, '{"order": {"lines": [{"customer_email": 1}]}}', "three")],
        "pii",
        "have a key that names personal data",
    ),
}


@pytest.fixture
def live(head: Environment) -> Iterator[str]:
    """The URL of a database at head with rows in which nothing is amiss."""
    scratch = head.scratch()
    given = conninfo_to_dict(scratch.conninfo)
    with psycopg.connect(scratch.conninfo, autocommit=True) as connection:
        for statement in LAWFUL:
            connection.execute(statement.encode())
    keys = ("host", "port", "user", "password", "dbname")
    yield "postgresql://?" + "&".join(f"{k}={given[k]}" for k in keys if given.get(k))
    scratch.drop()


def asked(url: str, folder: Path) -> tuple[int, list[dict[str, object]]]:
    """The status of the command and its answers."""
    file = folder / "audit.json"
    options = ["--contract", str(ROOT / "invariants.toml"), "--json", str(file), "-q"]
    status = main(["audit", url, *options])
    return status, json.loads(file.read_text())["answers"]


def test_nothing_is_amiss(live: str, tmp_path: Path) -> None:
    status, answers = asked(live, tmp_path)
    assert [a for a in answers if a["status"] != "fine"] == []
    assert {a["kind"] for a in answers} == {
        *("reference", "cross-tenant", "taxonomy", "allocation-sum", "idempotent-ingest"),
        *("ledger", "pii"),
    }
    assert status == 0


@pytest.mark.parametrize("what", AMISS)
def test_what_is_amiss_is_told(
    what: str, live: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted, kind, says = AMISS[what]
    with psycopg.connect(live, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "ALTER TABLE attribution_events"
            " DROP CONSTRAINT ck_attribution_events_raw_payload_names_no_pii"
        )
        for statement in planted:
            connection.execute(statement.encode())
    status, answers = asked(live, tmp_path)
    assert status == 1
    amiss = {a["kind"]: a["rows"] for a in answers if a["status"] == "amiss"}
    assert amiss[kind] == 1
    assert says in capsys.readouterr().out


def test_tables_are_read_in_batches(live: str) -> None:
    with psycopg.connect(live, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for number in range(50, 75):
            statement = SHARE.format(_id(number), A, _id(99), "email", 100)
            connection.execute(statement.replace("'v1'", f"'v{number}'").encode())
    options = SchemaOptions(contract=ROOT / "invariants.toml")
    found = [audit(live, options, lambda _: None, batch=n) for n in (4, 1000)]
    counts = [{a.question.name: a.count for a in result.answers} for result in found]
    assert counts[0] == counts[1]
    assert 25 in counts[0].values()


def test_what_row_security_hides_is_not_judged(live: str, tmp_path: Path) -> None:
    """Nothing that the role does not see is taken for nothing."""
    with psycopg.connect(live, autocommit=True) as connection:
        connection.execute("CREATE ROLE invariants_looks LOGIN PASSWORD 'x'")
        try:
            connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO invariants_looks")
            given = conninfo_to_dict(live)
            url = live.replace(f"user={given['user']}", "user=invariants_looks")
            if "password=" in url:
                url = url.replace(f"password={given['password']}", "password=x")
            status, answers = asked(url, tmp_path)
        finally:
            connection.execute("DROP OWNED BY invariants_looks; DROP ROLE invariants_looks")
    assert status == 3
    assert {a["status"] for a in answers} >= {"not judged"}
    assert all("BYPASSRLS" in str(a["why"]) for a in answers if a["status"] == "not judged")
