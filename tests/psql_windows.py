"""Several psql windows and somebody at the keyboard who presses Enter where the script asks for it.

The order is that of the script; where a window waits for a lock, the next one is gone on in. Waits
end with what psql prints or what the server says about locks, and after a minute in any case.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

PATIENCE_SECONDS = 60
_PROMPT = re.compile(r"(after turn|turn|the verdict)(?: (\d+))?.*: press Enter here when .* \Z")
_WAITING = (
    "SELECT application_name FROM pg_stat_activity"
    " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
)


@dataclass(frozen=True)
class Windows:
    """What each window printed, standard error last, and where Enter was pressed.

    `order` has the beginnings of the prompts; `waited` the windows that were seen to wait.
    """

    done: list[subprocess.CompletedProcess[str]]
    order: list[str]
    waited: list[int]


@dataclass
class _Window:
    number: int
    process: subprocess.Popen[bytes]
    errors: Path
    text: str = ""
    unanswered: str = ""
    ended: bool = False

    @property
    def name(self) -> str:
        return f"window {self.number}"

    def prompt(self) -> tuple[float, str] | None:
        """Where it stands in the order, and its words, when it asks for Enter."""
        found = _PROMPT.search(self.unanswered)
        if found is None:
            return None
        turn = float(found[2]) if found[2] else float("inf")
        return turn + (0.5 if found[1] == "after turn" else 0), found[0].partition(":")[0]

    @property
    def descriptor(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def read(self) -> None:
        said = os.read(self.descriptor, 65536).decode(errors="replace")
        self.text += said
        self.unanswered += said
        if not said:
            self.ended = True
            self.process.wait(PATIENCE_SECONDS)

    def press_enter(self) -> None:
        assert self.process.stdin is not None
        self.unanswered = ""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


@dataclass
class _Keyboard:
    conninfo: str
    windows: list[_Window]
    order: list[str] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)

    def play(self) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        with psycopg.connect(self.conninfo, autocommit=True) as control:
            while not all(w.ended for w in self.windows):
                assert time.monotonic() < until, self.told()
                if not self._listen() and self._stands_still(control):
                    self._go_on()

    def told(self) -> str:
        return "\n".join(f"{w.name}: {w.text}{w.errors.read_text()}" for w in self.windows)

    def _listen(self) -> bool:
        """Take what they print; False when nobody has said anything for a moment."""
        by_descriptor = {w.descriptor: w for w in self.windows if not w.ended}
        heard, _, _ = select.select(list(by_descriptor), [], [], 0.02)
        for descriptor in heard:
            by_descriptor[descriptor].read()
        return bool(heard)

    def _stands_still(self, control: psycopg.Connection) -> bool:
        busy = [w for w in self.windows if not w.ended and w.prompt() is None]
        if not busy:
            return True
        waiting = {name for (name,) in control.execute(_WAITING)}
        if not all(w.name in waiting for w in busy):
            return False
        self.waited += [w.number for w in busy if w.number not in self.waited]
        return any(w.prompt() for w in self.windows)

    def _go_on(self) -> None:
        asking = [(p, w) for w in self.windows if not w.ended and (p := w.prompt())]
        (turn, words), window = min(asking, key=lambda x: x[0])
        others = [w for w in self.windows if w is not window]
        assert turn < float("inf") or all(w.ended for w in others), self.told()
        self.order.append(f"{window.number}: {words}")
        window.press_enter()


def in_windows(program: str, conninfo: str, script: str, count: int) -> Windows:
    """Run a script as its first lines tell the user to."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "script.sql")
        file.write_text(script)
        windows: list[_Window] = []
        try:
            for number in range(1, count + 1):
                errors = Path(folder, f"errors{number}")
                with errors.open("wb") as sink:
                    chosen = "-v", f"window={number}"
                    process = subprocess.Popen(
                        [program, "-X", "-q", *chosen, "-d", conninfo, "-f", str(file)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=sink,
                        env={**os.environ, "PGOPTIONS": "", "PGAPPNAME": f"window {number}"},
                    )
                windows.append(_Window(number, process, errors))
            keyboard = _Keyboard(conninfo, windows)
            keyboard.play()
            done = [
                subprocess.CompletedProcess(
                    w.process.args, w.process.returncode, w.text, w.errors.read_text()
                )
                for w in windows
            ]
        finally:
            for window in windows:
                window.process.kill()
                window.process.wait(PATIENCE_SECONDS)
                for stream in (window.process.stdin, window.process.stdout):
                    assert stream is not None
                    stream.close()
    return Windows(done, keyboard.order, keyboard.waited)
