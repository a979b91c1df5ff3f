"""drift: a database in use against what its revision makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from invariants.errors import InfrastructureError
from invariants.front.cli import main
from invariants.live.drift import compared
from invariants.live.looking import looking
from invariants.schema.portable import MIGRATOR, migrator, portable_catalog
from invariants.servers.environment import Environment
from tests.conftest import query
from tests.databases import ROOT

ROLES = ("app_rw", "app_ro", "app_admin", "migration_owner")
ALTERED = [
    ("GRANT DELETE ON revenue_ledger TO app_ro", "privileges relation public.revenue_ledger"),
    ("REVOKE SELECT ON channel_taxonomy FROM app_ro",
     "privileges relation public.channel_taxonomy"),
    ("GRANT UPDATE (name) ON tenants TO app_rw", "privileges column public.tenants.name"),
    ("ALTER TABLE dead_events OWNER TO app_admin", "table public.dead_events"),
    ("ALTER TABLE revenue_ledger DISABLE ROW LEVEL SECURITY", "table public.revenue_ledger"),
    ("ALTER TABLE revenue_ledger NO FORCE ROW LEVEL SECURITY", "table public.revenue_ledger"),
    ("CREATE POLICY open_door ON tenants USING (true)", "policy public.tenants.open_door"),
    ("ALTER TABLE dead_events ALTER source SET DEFAULT 'x'", "column public.dead_events.source"),
    ("ALTER TABLE dead_events ALTER source TYPE varchar(99)", "column public.dead_events.source"),
    ("ALTER TABLE dead_events ALTER error_code DROP NOT NULL",
     "column public.dead_events.error_code"),
    ("ALTER TABLE tenants ADD extra int", "column public.tenants.extra"),
    ("CREATE INDEX one_more ON tenants (name)", "index public.one_more"),
    ("ALTER TABLE tenants ADD CONSTRAINT long CHECK (length(name) > 0) NOT VALID",
     "constraint public.tenants.long"),
    ("CREATE TABLE left_over (id int PRIMARY KEY, t text DEFAULT 'a')", "table public.left_over"),
    ("CREATE VIEW peek AS SELECT id FROM tenants", "view public.peek"),
    ("CREATE SEQUENCE s; ALTER SEQUENCE s CYCLE", "sequence public.s"),
    ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function public.f()"),
    ("CREATE TYPE mood AS ENUM ('a')", "type public.mood"),
    ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app_ro",
     f"privileges default {MIGRATOR} r"),
    ("CREATE SCHEMA attic", "schema attic"),
    ("COMMENT ON TABLE tenants IS 'changed by hand'", "comment table public.tenants"),
]  # fmt: skip


@pytest.fixture(scope="module")
def expected(head: Environment) -> dict[str, str]:
    return _read(head.scratch().conninfo)


@pytest.fixture
def live(head: Environment) -> Iterator[str]:
    scratch = head.scratch()
    yield scratch.conninfo
    scratch.drop()


def _read(conninfo: str) -> dict[str, str]:
    with psycopg.connect(conninfo) as connection:
        return portable_catalog(connection, [migrator(connection) or ""], ROLES)


def _named(expected: dict[str, str], conninfo: str) -> list[str]:
    return [d.name for d in compared(expected, _read(conninfo))]


def test_a_copy_without_differences_has_none(expected: dict[str, str], live: str) -> None:
    assert _named(expected, live) == []


@pytest.mark.parametrize(("statement", "name"), ALTERED, ids=[s[:40] for s, _ in ALTERED])
def test_what_was_altered_by_hand_is_named_and_nothing_else(
    expected: dict[str, str], live: str, statement: str, name: str
) -> None:
    query(live, statement)
    assert _named(expected, live) == [name]


@pytest.mark.parametrize("kind", ["policy", "trigger", "index", "function", "dropped"])
def test_what_the_chain_made_and_somebody_changed_is_named(
    expected: dict[str, str], live: str, kind: str
) -> None:
    def first(kind: str) -> str:
        return next(n for n in expected if n.startswith(f"{kind} public.")).partition(" ")[2]

    if kind in ("policy", "trigger", "dropped"):
        whole = first("trigger" if kind == "trigger" else "policy")
        table, _, own = whole.rpartition(".")
        query(live, {
            "policy": f"ALTER POLICY {own} ON {table} TO app_ro",
            "trigger": f"ALTER TABLE {table} DISABLE TRIGGER {own}",
            "dropped": f"DROP POLICY {own} ON {table}",
        }[kind])  # fmt: skip
        name = f"{'trigger' if kind == 'trigger' else 'policy'} {whole}"
    elif kind == "index":
        whole = first("index")
        name = f"index {whole}"
        query(live, "UPDATE pg_index SET indisvalid = false WHERE indexrelid ="
                    f" '{whole}'::regclass")  # fmt: skip
    else:
        whole = first("function")
        name = f"function {whole}"
        query(live, f"ALTER FUNCTION {whole} SET work_mem = '9MB'")
    assert _named(expected, live) == [name]


def test_what_a_role_is_and_may_become_is_named(
    head: Environment, expected: dict[str, str], live: str
) -> None:
    with head.with_roles("app_ro", "ALTER ROLE app_ro BYPASSRLS"):
        assert _named(expected, live) == ["role app_ro"]
    assert _named(expected, live) == []


@pytest.mark.usefixtures("cache")
def test_the_command_says_it_and_writes_nothing(
    live: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)
    query(live, "GRANT DELETE ON revenue_ledger TO app_ro")
    before = _read(live)
    lsn = query(live, "SELECT pg_current_wal_insert_lsn() IS NOT NULL, txid_current()")[0][1]
    out = tmp_path / "drift.json"
    status = main(["drift", _url(live), "--server", "embedded", "--json", str(out)])
    assert status == 1, capsys.readouterr()
    # Whoever writes takes a transaction id; ours is the next one.
    assert query(live, "SELECT txid_current()")[0][0] <= lsn + 2
    assert _read(live) == before
    told: dict[str, Any] = json.loads(out.read_text())
    assert [d["name"] for d in told["differences"]] == ["privileges relation public.revenue_ledger"]
    assert "changed  privileges relation public.revenue_ledger" in capsys.readouterr().out
    query(live, "REVOKE DELETE ON revenue_ledger FROM app_ro")
    assert main(["drift", _url(live), "--server", "embedded", "-q"]) == 0


def test_nothing_can_be_written_and_no_lock_is_waited_for(live: str) -> None:
    with (
        pytest.raises(InfrastructureError, match="read-only transaction"),
        looking(_url(live)) as connection,
    ):
        connection.execute("CREATE TABLE public.x ()")
    with psycopg.connect(live) as other:
        other.execute("LOCK tenants")
        with (
            pytest.raises(InfrastructureError, match="holds a lock"),
            looking(_url(live)) as connection,
        ):
            connection.execute("SELECT FROM public.tenants")


@pytest.mark.usefixtures("cache")
def test_a_database_of_another_revision_is_said(
    live: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    query(live, "CREATE TABLE IF NOT EXISTS alembic_version (version_num text)")
    query(live, "UPDATE alembic_version SET version_num = 'unheard'")
    assert main(["drift", _url(live), "--server", "embedded"]) == 2
    assert "unheard" in capsys.readouterr().err
    query(live, "DELETE FROM alembic_version")
    assert main(["drift", _url(live), "--server", "embedded"]) == 2
    assert "--revision" in capsys.readouterr().err
    assert main(["drift", "nonsense"]) == 2


def _url(conninfo: str) -> str:
    from urllib.parse import quote, urlencode

    known = {k: str(v) for k, v in conninfo_to_dict(conninfo).items() if v and k != "options"}
    name = quote(known.pop("dbname"))
    return f"postgresql:///{name}?{urlencode(known, quote_via=quote)}"
