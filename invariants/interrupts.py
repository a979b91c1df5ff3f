"""Makes Ctrl-C certain, and quiet however often it is typed.

Python raises KeyboardInterrupt wherever it happens to be. In a finalizer, or in a callback of the
garbage collector (Hypothesis has one), it is printed and forgotten, and the run would go on: such
an interrupt is raised again a moment later. A second one, while the first cleans up, would leave
half of that undone: it is ignored.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Also what a terminal sends when it is closed; Windows has no such signal.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def once(*, for_good: bool) -> Iterator[None]:
    """Raise KeyboardInterrupt for whatever asks the block to end, and once only.

    Signals that are ignored stay so, as under nohup. `for_good` ignores all of them afterwards:
    nothing is left that could be interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: h for n in SIGNALS if (h := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if for_good else handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Let no signal in while the block runs; processes that it starts hold theirs back as well.

    What came meanwhile comes at the end of the block. Elsewhere than on POSIX nothing is done.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_in() -> None:
    """In a process that was started while signals were held back: let them in."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    handled = sys.exc_info()[1]
    while handled is not None:
        if isinstance(handled, KeyboardInterrupt):
            return
        handled = handled.__context__
    raise KeyboardInterrupt


@contextmanager
def insistent() -> Iterator[Callable[[], None]]:
    """Note interrupts while the block runs; what it gives raises KeyboardInterrupt after one.

    Signals that are ignored, or left to the system, stay so, and threads have none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came = False

    def noting(handler: Callable[[int, FrameType | None], object]) -> signal.Handlers:
        def note(number: int, frame: FrameType | None) -> None:
            nonlocal came
            came = True
            if not _swallows(frame):
                handler(number, frame)

        return note  # type: ignore[return-value]

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    before = {n: h for n in SIGNALS if callable(h := signal.getsignal(n))}
    for number, handler in before.items():
        signal.signal(number, noting(handler))
    try:
        yield check
    except Exception:
        # What the interrupt broke on its way; Hypothesis for one then fails an assertion.
        if came:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _swallows(frame: FrameType | None) -> bool:
    """Whether what is raised here reaches nobody."""
    callbacks = {getattr(c, "__code__", None) for c in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
