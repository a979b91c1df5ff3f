"""libpq's variables around a server of our own: as if they were not there."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from invariants.servers import connect, open_server
from invariants.servers.base import Content

WRONG = {
    "PGSERVICE": "nothing",
    "PGHOST": "127.0.0.1",
    "PGHOSTADDR": "127.0.0.1",
    "PGPORT": "1",
    "PGUSER": "nobody",
    "PGDATABASE": "nothing",
    "PGPASSWORD": "wrong",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLCERTMODE": "nonsense",
    "PGSSLMINPROTOCOLVERSION": "nonsense",
    "PGMINPROTOCOLVERSION": "nonsense",
    "PGMAXPROTOCOLVERSION": "nonsense",
    "PGLOADBALANCEHOSTS": "nonsense",
    "PGCONNECT_TIMEOUT": "nonsense",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require",
    "PGGSSENCMODE": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PGCLIENTENCODING": "SQL_ASCII",
    "PGOPTIONS": "-c search_path=nowhere",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_variable_has_no_say(name: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    del cache
    monkeypatch.setenv(name, WRONG[name])
    # Those that other tests have open would keep it away for longer.
    monkeypatch.setattr(connect, "_servers", [])
    monkeypatch.setattr(connect, "_services", [])
    made = Content("variables", lambda conninfo: psycopg.connect(conninfo).close())
    with (
        closing(open_server("embedded", made, say=lambda _: None)) as server,
        psycopg.connect(server.conninfo) as connection,
    ):
        shown = connection.execute("SHOW client_encoding").fetchone()
        path = connection.execute("SHOW search_path").fetchone()
        kept = os.environ.get(name)
    assert (shown, path) == (("UTF8",), ('"$user", public',))
    # Only this one has to go as long as the server is there.
    assert kept == (None if name == "PGSERVICE" else WRONG[name])
    assert os.environ[name] == WRONG[name]
