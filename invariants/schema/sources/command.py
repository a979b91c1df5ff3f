"""A schema that some command makes: any migration tool, given the scratch database."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

from invariants.errors import InfrastructureError, UsageError
from invariants.schema.chain import TIMEOUT_SECONDS, Chain, Lineage
from invariants.schema.runner import Say

NAME = "command"


@dataclass(frozen=True)
class Command:
    """A shell command. What determines its result cannot be known, so nothing of it is cached."""

    text: str
    timeout_seconds: float = TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        if not self.text:
            raise UsageError("--schema command: is empty; for example 'command:make migrate'")

    def at(self, revision: str) -> Command:
        """Itself: it has one revision. Raises `UsageError` for any other."""
        only(revision, NAME, "a command")
        return self

    def read(self) -> Chain:
        """A chain of one revision, without a fingerprint."""
        return Chain(Lineage((NAME,), (NAME,)), {NAME: self.text}, "")

    def fill(self, conninfo: str, say: Say | None = None) -> None:
        """Run the command with DATABASE_URL and PG* of the database.

        It runs in a process group of its own, which is ended at the limit and with us. Raises
        `InfrastructureError` with the last line that it printed when it fails.
        """
        if say is not None:
            say(f"schema: running {self.text}")
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", self.text],
                env=leading_to(conninfo),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout=self.timeout_seconds)
            except subprocess.TimeoutExpired:
                raise InfrastructureError(
                    f"--schema command: not done after {self.timeout_seconds:g} s and ended; "
                    "give it longer with --migration-timeout"
                ) from None
            finally:
                _end(process)
            output.seek(0)
            told = [t.strip() for t in output.read().decode(errors="replace").splitlines()]
        if status != 0:
            last = next((t for t in reversed(told) if t), "it printed nothing")
            raise InfrastructureError(f"--schema command: ended with status {status}: {last[:300]}")


def only(revision: str, name: str, what: str) -> None:
    """Raise `UsageError` for a revision that a source of one revision has not."""
    if revision not in ("head", "heads", name):
        raise UsageError(
            f"--revision {revision}: {what} makes the whole schema at once; leave --revision out"
        )


def leading_to(conninfo: str) -> dict[str, str]:
    """The environment in which every tool finds the database, and no other."""
    options = {k: str(v) for k, v in conninfo_to_dict(conninfo).items() if v is not None}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    names = {
        "host": "PGHOST",
        "hostaddr": "PGHOSTADDR",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "dbname": "PGDATABASE",
    }
    found = {names[k]: v for k, v in options.items() if k in names}
    user = quote(options.get("user", ""), safe="")
    if password := options.get("password"):
        user += f":{quote(password, safe='')}"
    host = options.get("host", "")
    rest = {} if host and not host.startswith("/") else {"host": host}
    port = options.get("port", "")
    if rest and port:
        rest["port"] = port
    place = f"{host}:{port}" if not rest and port else ("" if rest else host)
    url = f"postgresql://{user}{'@' if user else ''}{place}/{quote(options.get('dbname', ''))}"
    if rest and rest["host"]:
        url += f"?{urlencode(rest)}"
    return {**kept, **found, "DATABASE_URL": url}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and whatever it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
