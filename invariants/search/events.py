"""What an engine tells while it runs. The terminal, the JSON file and pytest are listeners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from invariants.counterexamples.files import Counterexample, Saved
from invariants.coverage.met import Coverage
from invariants.coverage.unreached import Unreached

Status = Literal["held", "violated", "error"]


@dataclass(frozen=True)
class InvariantStarted:
    """The search for violations of one invariant begins."""

    name: str
    promise: str
    examples_max: int


@dataclass(frozen=True)
class Progress:
    """How far the search for one invariant is; `seconds_left` is None without a budget."""

    name: str
    examples: int
    examples_max: int
    operations: int
    seconds: float
    seconds_left: float | None
    doing: Literal["searching", "reducing"]


@dataclass(frozen=True)
class PassedOver:
    """A file that failed before was not tried again: it is broken, or of another schema."""

    why: str


@dataclass(frozen=True)
class Found:
    """A violation was reduced, confirmed on a fresh database, and kept (None: not asked to)."""

    name: str
    counterexample: Counterexample
    saved: Saved | None


@dataclass(frozen=True)
class Flaky:
    """A workload failed and on a fresh database did not: no finding, but not nothing either."""

    name: str
    signature: str
    text: str
    saved: tuple[str, ...] = ()


@dataclass(frozen=True)
class InvariantFinished:
    """What came of one invariant. `operations` counts every one executed, reduction included.

    `error` says why it could not be judged; `fault` is the failure of the server or the disk that
    ended the search, and says nothing about the invariant. `examined` counts the facts that could
    have been a violation; `note` says why there was nothing to search for, where that is in order.
    `unreached` is an error beside any status; `unswept` are the lists that the budget cut short.
    """

    name: str
    status: Status
    examples: int
    operations: int
    seconds: float
    found: tuple[Found, ...]
    flaky: tuple[Flaky, ...] = ()
    error: str | None = None
    fault: str | None = None
    examined: int = 0
    note: str | None = None
    coverage: Coverage = field(default_factory=Coverage)
    unreached: tuple[Unreached, ...] = ()
    unswept: tuple[str, ...] = ()


Event = InvariantStarted | Progress | PassedOver | Found | Flaky | InvariantFinished
Listener = Callable[[Event], None]
