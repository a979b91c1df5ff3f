"""A small shell that owns one server folder and outlives us by a moment to clean it up.

It makes the folder, runs initdb and the server in it, and when the pipe from us closes, for
whatever reason, SIGKILL included, it stops the server and removes the folder. It runs in a session
of its own, so a Ctrl-C in the terminal reaches us first and not the server.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from psycopg.conninfo import make_conninfo

from invariants.errors import InfrastructureError
from invariants.servers.account import Account
from invariants.servers.binaries import Binaries
from invariants.servers.connect import settled

FOLDER_PREFIX = "invariants-"
# A socket's path holds 103 bytes on some systems; ".s.PGSQL.5432" and a slash take 15 of them.
FOLDER_LENGTH_MAX = 85
# Nothing here outlives the run, so memory is the place for it, where there is enough: copying a
# cluster takes a tenth of the time, cloning a database half of it.
MEMORY_FOLDER = "/dev/shm"
MEMORY_FREE_BYTES_MIN = 2 << 30
PORT = 5432
SUPERUSER = "postgres"
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.005

# $1 folder, $2 programs, the rest: arguments of the server. Ignored signals include PIPE, since
# whoever reads our answers may be dead. SIGQUIT is sent until it works: the server ignores it
# before its handlers are in place. A reader in the background notices that the pipe has closed
# while the shell itself waits for the server.
SCRIPT = """
umask 077
trap '' HUP INT QUIT TERM PIPE
exec 3<&0 </dev/null
folder=$1 bin=$2
shift 2
mkdir "$folder" && cd "$folder" || { echo failed; exit 1; }
echo made
while read -r order <&3; do
  case $order in
  init)
    "$bin/initdb" -D data -U postgres -A trust -E UTF8 --no-locale --wal-segsize=1 \
      --no-sync --no-instructions >>log 2>&1 3<&-
    echo "init $?" ;;
  start)
    "$bin/postgres" -D data "$@" >>log 2>&1 3<&- &
    server=$!
    (
      while read -r order <&3; do :; done
      : >closing
      tries=0
      until [ -e exited ]; do
        signal=QUIT
        [ $tries -lt 50 ] || signal=KILL
        kill -$signal $server
        tries=$((tries + 1))
        sleep 0.1
      done
    ) 2>/dev/null &
    reader=$!
    wait $server
    status=$?
    : >exited
    echo "exited $status"
    [ -e closing ] || wait $reader
    kill -KILL $reader 2>/dev/null
    break ;;
  esac
done
cd /
rm -rf "$folder"
"""


class Supervisor:
    """One server folder and the server in it. `close` removes both and may be repeated."""

    def __init__(self, binaries: Binaries, account: Account, settings: Mapping[str, str]) -> None:
        self.account = account
        self.folder = _folder(account)
        self.data = self.folder / "data"
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                SCRIPT,
                "invariants-supervisor",
                str(self.folder),
                str(binaries.bin),
                *arguments,
                f"--unix_socket_directories={_listed(self.folder)}",
                f"--port={PORT}",
                "--listen_addresses=",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # Nothing of our environment: PGPORT and its like would change the server.
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            **account.spawn,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders = self._process.stdin
        self._answers = self._process.stdout
        try:
            if self._answer() != "made":
                raise InfrastructureError(f"{self.folder}: cannot make the server's folder there")
        except BaseException:
            self.close()
            raise

    @property
    def conninfo(self) -> str:
        """The superuser's conninfo, database `postgres`."""
        return settled(
            make_conninfo(host=str(self.folder), port=PORT, user=SUPERUSER, dbname="postgres")
        )

    def initialize(self) -> None:
        """Run initdb. Raises InfrastructureError with the reason it gave."""
        self._order("init")
        answer = self._answer()
        if answer != "init 0":
            raise InfrastructureError(f"initdb failed: {self._complaint()}")

    def adopt(self) -> None:
        """Make `data`, which we copied here, the server account's own."""
        if self.account.switch:
            for folder, _, files in os.walk(self.data):
                for path in (folder, *(f"{folder}/{file}" for file in files)):
                    os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        self._order("start")
        deadline = time.monotonic() + START_SECONDS_MAX
        while self._state() != "ready":
            if self._has_answer() or time.monotonic() > deadline:
                raise InfrastructureError(f"PostgreSQL did not start: {self._complaint()}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Shut the server down cleanly, so that a copy of `data` is consistent."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server_pid(), signal.SIGINT)
        if not self._has_answer(STOP_SECONDS_MAX) or self._answer() != "exited 0":
            raise InfrastructureError(f"PostgreSQL did not stop cleanly: {self._complaint()}")

    def close(self) -> None:
        """Stop the server at once and remove the folder."""
        with contextlib.suppress(OSError):
            self._orders.close()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            # Only when somebody stopped the shell itself.
            self._process.kill()
            with contextlib.suppress(OSError, ValueError, IndexError):
                os.kill(self._server_pid(), signal.SIGKILL)
        self._answers.close()
        if self.folder.exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _order(self, word: str) -> None:
        try:
            self._orders.write(f"{word}\n".encode())
            self._orders.flush()
        except OSError as error:
            raise InfrastructureError(f"{self.folder}: the server's supervisor is gone") from error

    def _has_answer(self, seconds: float = 0.0) -> bool:
        return bool(select.select([self._answers], [], [], seconds)[0])

    def _answer(self) -> str:
        return self._answers.readline().decode().strip()

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _state(self) -> str:
        lines = self._pid_file()
        return lines[7].strip() if len(lines) > 7 else ""

    def _server_pid(self) -> int:
        lines = self._pid_file()
        if not lines:
            raise ProcessLookupError
        return int(lines[0])

    def _complaint(self) -> str:
        """Return the line of the server's log that says what went wrong."""
        try:
            lines = (self.folder / "log").read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        telling = [
            line for line in lines if any(mark in line for mark in ("FATAL", "PANIC", "rror"))
        ]
        return (telling or lines or ["its log is empty"])[-1].strip()


def _listed(folder: Path) -> str:
    """The folder as the only one of a list."""
    return '"' + str(folder).replace('"', '""') + '"'


def _folder(account: Account) -> Path:
    """Choose a private folder's path: short, and where the account can make and remove it."""
    parents = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    if "TMPDIR" not in os.environ and _roomy(MEMORY_FOLDER):
        parents.insert(0, MEMORY_FOLDER)
    candidates = list(dict.fromkeys(Path(parent).absolute() for parent in parents))
    for parent in candidates:
        folder = parent / f"{FOLDER_PREFIX}{secrets.token_hex(5)}"
        # To libpq, a comma begins another host.
        fits = len(os.fsencode(folder)) <= FOLDER_LENGTH_MAX and "," not in str(folder)
        if fits and account.reaches(parent, write=True):
            return folder
    raise InfrastructureError(
        f"none of {', '.join(map(str, candidates))} can hold the server's folder; "
        "set TMPDIR to a short path that the server's account may write to"
    )


def _roomy(parent: str) -> bool:
    try:
        status = os.statvfs(parent)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize >= MEMORY_FREE_BYTES_MIN
