"""Thirty faults in a row on a server of somebody else's, then one plain run: all is as it was.

Of the faults `make slow` has the first six; INVARIANTS_FAULTS=30 has as many as it says.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.conftest import Chain, SpawnChild
from tests.servers.guest import Guest, guest
from tests.servers.test_url import HOLD, open_on

pytestmark = pytest.mark.usefixtures("cache")
FAULTS = int(os.environ.get("INVARIANTS_FAULTS", "6"))
WAIT_SECONDS = 60.0


def killed_at_any_time(server: Guest, chain: Chain, spawn: SpawnChild, luck: random.Random) -> None:
    child = spawn(HOLD, server.conninfo, str(chain.folder / "alembic.ini"))
    time.sleep(luck.uniform(0.3, 4.0))
    child.kill(signal.SIGKILL)


def killed_when_ready(server: Guest, chain: Chain, spawn: SpawnChild, _: random.Random) -> None:
    child = spawn(HOLD, server.conninfo, str(chain.folder / "alembic.ini"))
    child.says("invariants_")
    child.kill(signal.SIGKILL)


def backends_terminated(
    server: Guest, chain: Chain, spawn: SpawnChild, luck: random.Random
) -> None:
    child = spawn(HOLD, server.conninfo, str(chain.folder / "alembic.ini"))
    time.sleep(luck.uniform(0.3, 4.0))
    server.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    child.kill(signal.SIGTERM)


def restarted(server: Guest, chain: Chain, spawn: SpawnChild, luck: random.Random) -> None:
    child = spawn(HOLD, server.conninfo, str(chain.folder / "alembic.ini"))
    time.sleep(luck.uniform(0.3, 4.0))
    server.stop()
    child.kill(signal.SIGTERM if luck.random() < 0.5 else signal.SIGKILL)
    server.start()


def in_recovery(server: Guest, chain: Chain, spawn: SpawnChild, luck: random.Random) -> None:
    killed_at_any_time(server, chain, spawn, luck)
    server.stop()
    standby = server.data / "standby.signal"
    standby.touch()
    server.start()
    child = spawn(HOLD, server.conninfo, str(chain.folder / "alembic.ini"))
    assert child.process.wait(WAIT_SECONDS) != 0
    server.stop("fast")
    standby.unlink()
    server.start()


def read_only_and_out_of_time(
    server: Guest, chain: Chain, spawn: SpawnChild, luck: random.Random
) -> None:
    server.execute(
        "ALTER SYSTEM SET default_transaction_read_only = on;\n"
        "ALTER SYSTEM SET statement_timeout = 1;\nSELECT pg_reload_conf()",
        "postgres",
    )
    killed_at_any_time(server, chain, spawn, luck)
    options = "-c default_transaction_read_only=off -c statement_timeout=0"
    with psycopg.connect(server.conninfo, options=options, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM RESET ALL")
        connection.execute("SELECT pg_reload_conf()")


Fault = Callable[[Guest, Chain, SpawnChild, random.Random], None]
KINDS: tuple[Fault, ...] = (
    killed_when_ready,
    killed_at_any_time,
    backends_terminated,
    restarted,
    read_only_and_out_of_time,
    in_recovery,
)


@pytest.mark.slow
def test_faults_in_a_row_then_one_plain_run(chain: Chain, spawn: SpawnChild) -> None:
    luck = random.Random(20251125)
    with guest() as server:
        before = server.dump()
        for number in range(FAULTS):
            KINDS[number % len(KINDS)](server, chain, spawn, luck)
            # The owner goes on working.
            server.execute(
                f"CREATE ROLE worker{number} LOGIN PASSWORD 'w';\n"
                f"ALTER ROLE boss PASSWORD 'theirs{number}';\nGRANT auditor TO worker{number}",
                "postgres",
            )
            if number:
                server.execute(f"DROP ROLE worker{number - 1}", "postgres")
        lines: list[str] = []
        with open_on(server.conninfo, chain, lines=lines) as environment:
            assert environment.scratch().login("chain_app")
        assert not any("stays" in line for line in lines), lines
        server.execute(f"DROP ROLE worker{FAULTS - 1}", "postgres")
        server.execute("ALTER ROLE boss PASSWORD 'theirs'", "postgres")
        assert server.names() == []
        assert without_passwords(server.dump()) == without_passwords(before)


def without_passwords(dump: str) -> str:
    """A dump without the hashes, which have a salt of their own every time."""
    return "\n".join(line.split(" PASSWORD ")[0] for line in dump.splitlines())
