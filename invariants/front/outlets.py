"""Standard output and standard error, whatever becomes of them: closed, full, without a reader.

What cannot be written must neither end a run as if an invariant were violated nor keep files from
being written, and a verdict that nobody could read is none.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from invariants.errors import EXIT_HELD, EXIT_INFRASTRUCTURE, EXIT_VIOLATED, UsageError
from invariants.escaping import shown
from invariants.masking import masked

EXIT_INTERRUPTED = 130


class Outlet:
    """A stream that notes the first failure and swallows what is written after it.

    `lost_reader` says that a reader who has gone ends the work: `| head` has seen enough.
    """

    def __init__(self, stream: TextIO | None, *, lost_reader: bool = False) -> None:
        self.stream, self.lost_reader = stream, lost_reader
        self.fault: OSError | None = None
        if stream is None:
            self.fault = OSError(errno.EBADF, "it is closed")

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        self._tried(lambda stream: stream.write(text))
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Write the texts, or drop them."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        self._tried(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.fault is None and self.stream is not None and self.stream.isatty()

    def fileno(self) -> int:
        """The descriptor, where there is one."""
        if self.stream is None:
            raise OSError(errno.EBADF, "it is closed")
        return self.stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _tried(self, act: Any) -> None:
        if self.fault is not None or self.stream is None:
            return
        try:
            act(self.stream)
        except (OSError, ValueError) as error:
            self.fault = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
            self._discard()
            if self.lost_reader and isinstance(error, BrokenPipeError):
                raise

    def _discard(self) -> None:
        """Send what is buffered nowhere: Python would try again when it ends, and complain."""
        try:
            descriptor = self.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        except (OSError, ValueError):
            return


class Outlets:
    """Both streams for the length of a command."""

    def __enter__(self) -> Self:
        _fill_closed()
        self._before = sys.stdout, sys.stderr
        for stream in self._before:
            # A name that the terminal's encoding lacks is no reason to end.
            if stream is not None and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        self.out = Outlet(sys.stdout, lost_reader=True)
        self.err = Outlet(sys.stderr)
        sys.stdout, sys.stderr = self.out, self.err
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stdout, sys.stderr = self._before

    @property
    def lost_reader(self) -> bool:
        """Whether somebody who read our standard output has gone."""
        return isinstance(self.out.fault, BrokenPipeError)

    def settled(self, status: int) -> int:
        """The exit status, once all that is buffered is written: a lost verdict is none."""
        try:
            self.out.flush()
        except BrokenPipeError:
            return EXIT_INTERRUPTED
        if self.out.fault is not None and status in (EXIT_HELD, EXIT_VIOLATED):
            if self.lost_reader:
                return EXIT_INTERRUPTED
            tell(
                f"standard output: cannot be written ({self.out.fault.strerror}), so the verdict "
                "is nowhere; send it to a file, or to /dev/null and use --json FILE"
            )
            status = EXIT_INFRASTRUCTURE
        self.err.flush()
        return status


def tell(line: str) -> None:
    """Say on standard error, in one line, what is wrong."""
    print(f"invariants: {shown(masked(line))}", file=sys.stderr, flush=True)


def _fill_closed() -> None:
    """Take the places of closed descriptors, or the next file or connection would have them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free: this one.
            os.open(os.devnull, os.O_RDWR)


def ensure_json(path: Path | None) -> None:
    """Raises `UsageError` unless `--json` names a file that can be written."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"--json {path}: it is a folder; name a file")
    target = path.resolve()
    if not os.access(target if path.exists() else target.parent, os.W_OK) or (
        target.is_file() and not os.access(target.parent, os.W_OK)
    ):
        raise UsageError(f"--json {path}: cannot be written; name another file")
