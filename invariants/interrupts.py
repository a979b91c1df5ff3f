"""Makes Ctrl-C certain: an interrupt that Python would swallow is raised a moment later.

Python raises KeyboardInterrupt wherever it happens to be. In a finalizer, or in a callback of the
garbage collector (Hypothesis has one), it is printed and forgotten, and the run would go on.
"""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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

    before = {n: h for n in _SIGNALS if callable(h := signal.getsignal(n))}
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
