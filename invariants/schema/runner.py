"""Runs what a user has written, env.py and revisions, in a process apart, and bounds it.

Whatever that code does (exit, hang, chdir, change the environment, leave threads, read standard
input), it happens there; here arrives what came of it, as data. A process that ends without an
answer has failed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from invariants.errors import InfrastructureError, MigrationFailed, UsageError
from invariants.escaping import shown
from invariants.masking import masked
from invariants.schema.apart import KILLED

Say = Callable[[str], None]

# -P: the working directory must not decide what is imported.
_COMMAND = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from invariants.schema.apart.serving import serve; serve()"
)
TOLD_AFTER_SECONDS = 5.0
# It imports Alembic, on a machine that may be busy.
START_SECONDS_MAX = 120.0
END_SECONDS_MAX = 10.0
OUTPUT_LINES_SHOWN = 10


class Runner:
    """The process apart. It takes one order at a time and ends with us, whatever ends us."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
            # A Ctrl-C in the terminal reaches us, and we end it.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders = self._process.stdin
        self._answers = self._process.stdout
        self._pid = os.getpid()
        self._unread = b""
        self._ready = False

    def usable(self) -> bool:
        """Whether it still runs, and is ours and not our parent's."""
        return self._pid == os.getpid() and self._process.poll() is None

    def close(self) -> None:
        """End it, and with it what it does; again is no error."""
        with contextlib.suppress(OSError):
            self._orders.close()
        if self._pid == os.getpid():
            try:
                self._process.wait(END_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._answers.close()
        self._said.close()

    def ask(
        self, order: Mapping[str, Any], *, limit_seconds: float, say: Say | None = None
    ) -> dict[str, Any]:
        """Have an order carried out; returns what `work.carry_out` says is done.

        Each revision may take `limit_seconds`, and so may what comes before and after them. `say`
        hears of a revision that takes long. Raises UsageError and InfrastructureError.
        """
        place = _Place(str(order["config"]))
        answer: dict[str, Any] = {}
        try:
            if not self._ready:
                self._told(place, START_SECONDS_MAX, None)
                self._ready = True
            self._orders.write(json.dumps(order).encode() + b"\n")
            while "ended" not in (told := self._told(place, limit_seconds, say)):
                if not place.moved(told):
                    answer = told
        except BaseException:
            self.close()
            raise
        if "done" in answer:
            done: dict[str, Any] = answer["done"]
            return done
        if "wrong" in answer:
            raise UsageError(_shown(answer["wrong"]))
        if say is not None:
            for line in told["output"].splitlines()[-OUTPUT_LINES_SHOWN:]:
                say(f"migrations: {_shown(line)}")
        why = answer.get("failed") or _ended(told["ended"])
        # Asked for as `kill_after`; whatever else ends so has failed.
        killed = (
            bool(order.get("kill_after")) and os.waitstatus_to_exitcode(told["ended"]) == KILLED
        )
        raise MigrationFailed(_shown(f"{place.failed}: {why}"), answer.get("facts"), killed=killed)

    def _told(self, place: _Place, limit_seconds: float, say: Say | None) -> dict[str, Any]:
        """The next thing it tells, within the limit."""
        started = time.monotonic()
        quiet = say is None
        while b"\n" not in self._unread:
            spent = time.monotonic() - started
            if spent >= limit_seconds:
                raise InfrastructureError(
                    _shown(
                        f"{place.name} ran for more than {limit_seconds:g} s and was stopped; "
                        "mend it, or let it take longer with --migration-timeout"
                    )
                )
            if not quiet and spent >= TOLD_AFTER_SECONDS:
                assert say is not None
                say(_shown(f"{place.name} is running .."))
                quiet = True
            until = limit_seconds if quiet else min(limit_seconds, TOLD_AFTER_SECONDS)
            if select.select([self._answers], [], [], max(0.0, until - spent))[0]:
                read = os.read(self._answers.fileno(), 65536)
                if not read:
                    raise InfrastructureError(_shown(f"{place.name}: {self._complaint()}"))
                self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    def _complaint(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"the process for migrations ended: {lines[-1] if lines else 'it gave no reason'}"


@dataclass
class _Place:
    """What is running: a revision, env.py, or the loading of a file."""

    config: str
    _loading: str = ""
    _in_env: bool = False
    _step: str = ""
    _stepped: bool = False

    def moved(self, told: Mapping[str, Any]) -> bool:
        """Whether `told` says what runs now."""
        if "loading" in told:
            self._loading = told["loading"]
        elif "env" in told:
            self._in_env = True
        elif "step" in told:
            self._stepped = told["step"] is None
            self._step = "" if self._stepped else f"migration {told['step']} ({told['file']})"
        else:
            return False
        return True

    @property
    def name(self) -> str:
        """What runs, for a sentence that begins with it."""
        if self._step:
            return self._step
        if self._in_env:
            return f"{self.config}: env.py"
        return f"{self.config}: {self._loading or 'loading the migrations'}"

    @property
    def failed(self) -> str:
        """That it failed, for a sentence that ends with the reason."""
        if self._step:
            return f"{self._step} failed"
        if self._stepped:
            return f"{self.config}: running the migrations failed"
        if self._in_env:
            return f"{self.config}: env.py failed"
        return f"{self.config}: cannot load the migrations" + (
            f": {self._loading}" if self._loading else ""
        )


def _ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    how = f"with exit status {code}" if code >= 0 else f"by signal {-code}"
    return f"it ended the process {how}"


def _shown(text: str) -> str:
    return shown(masked(text))


_lock = threading.RLock()
_runner: Runner | None = None


def ask(
    order: Mapping[str, Any], *, limit_seconds: float, say: Say | None = None
) -> dict[str, Any]:
    """Have an order carried out by the process apart, which is started when there is none."""
    global _runner
    with _lock:
        if _runner is None or not _runner.usable():
            close()
            _runner = Runner()
        environment = dict(os.environ)
        return _runner.ask(
            {**order, "environment": environment, "folder": os.getcwd()},  # noqa: PTH109
            limit_seconds=limit_seconds,
            say=say,
        )


def start() -> None:
    """Start the process apart ahead of its first order: it takes a moment to import Alembic."""
    global _runner
    with _lock:
        if _runner is None:
            _runner = Runner()


@atexit.register
def close() -> None:
    """End the process apart; again is no error."""
    global _runner
    with _lock:
        if _runner is not None:
            _runner.close()
            _runner = None
