"""Sends a workload from session to session: each part when the one before it has been answered.

What follows on one connection is one part, and goes out at once. Nobody need wait meanwhile: who
has something else to do passes by now and then (`advance`), so that the server has its next part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from invariants.execution.wire import Batch, Reply, Wire

# What is sent in one go on one connection; what must be waited for is a call instead.
Part = tuple[Wire, list[Batch]] | Callable[[], Reply]


class Relay:
    """One workload under way. `parts` are asked for one after the other, when their turn comes."""

    def __init__(self, parts: Iterator[Part]) -> None:
        self._parts = parts
        self._wire: Wire | None = None
        self._left = 0
        self._replies: list[Reply] = []
        self._send()

    def advance(self) -> None:
        """Take what has arrived, and send what comes next if all has; does not wait."""
        while self._wire is not None and self._wire.heard:
            while self._left:
                reply = self._wire.take()
                if reply is None:
                    return
                self._replies.append(reply)
                self._left -= 1
            self._send()

    def finish(self) -> list[Reply]:
        """Wait for the end; the replies to everything, in order."""
        while self._wire is not None:
            self._replies += self._wire.receive()
            self._send()
        return self._replies

    def _send(self) -> None:
        self._wire = None
        for part in self._parts:
            if callable(part):
                self._replies.append(part())
                continue
            wire, batches = part
            if batches:
                wire.send(batches)
                self._wire, self._left = wire, len(batches)
                return
