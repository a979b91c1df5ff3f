"""The loop of the process apart: an order comes as a line of JSON, a fork of us carries it out.

Every order has a fork of its own, so that nothing that it changes (environment, folder, modules,
signals, threads) is there for the next one, and Alembic is imported once. The fork leads a process
group, which is killed as soon as the fork has ended, or when the pipe of orders closes: whoever
gave the order is gone, or wants it to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import tempfile
from typing import IO, Any

from invariants.schema.apart.work import carry_out

OUTPUT_BYTES_MAX = 8192


def serve() -> None:
    """Take orders from standard input and answer on standard output until there are no more."""
    orders, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    child_ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    _write(answers, {"ready": True})
    # Here once, and not in each fork: most orders connect.
    import psycopg  # noqa: F401
    import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401

    with os.fdopen(orders, "rb", buffering=0) as lines:
        # Orders come one at a time, so that reading never takes more than one line.
        while line := lines.readline():
            with tempfile.TemporaryFile() as output:
                ended = _in_a_fork(line, output, lines.fileno(), answers, child_ended)
                if ended is None:
                    return
                told = {"ended": ended, "output": _tail(output)}
                _write(answers, told)


def _in_a_fork(line: bytes, output: IO[bytes], orders: int, answers: int, ended: int) -> int | None:
    """Carry out one order; returns how the fork ended, None when nobody wants to know any more."""
    child = os.fork()
    if child == 0:
        _be_the_fork(line, output, answers)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    try:
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status
            readable, _, _ = select.select([orders, ended], [], [])
            if ended in readable:
                os.read(ended, 4096)
            if orders in readable:
                return None
    finally:
        # Also what the order has left running.
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)


def _be_the_fork(line: bytes, output: IO[bytes], answers: int) -> None:
    me = os.getpid()
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(fd, mode, errors="backslashreplace")
            for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        answer = carry_out(json.loads(line), lambda told: _write(answers, told))
        # A migration may fork, too, and come back here twice.
        if os.getpid() == me:
            _write(answers, answer)
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)


def _write(answers: int, told: dict[str, Any]) -> None:
    line = json.dumps(told).encode() + b"\n"
    while line:
        line = line[os.write(answers, line) :]


def _tail(output: IO[bytes]) -> str:
    size = os.fstat(output.fileno()).st_size
    content = os.pread(output.fileno(), OUTPUT_BYTES_MAX, max(0, size - OUTPUT_BYTES_MAX))
    return content.decode(errors="replace")
