"""The turns of a history numbered, and as something that can be sent once more by hand.

What is sent makes a turn; what a session that waits hears in another's turn belongs to that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from invariants.execution.history import History, Place, Turn


@dataclass(frozen=True, slots=True)
class Sending:
    """What one session sends in a turn: parts of its transaction, one after the other.

    There is more than one part where the first was refused: the rest is for a server that does not
    refuse it. `late` is what is left to one that was refused after a wait, in another's turn;
    `called_off` stands in the place of a statement that would have waited without end, or as a
    second one. `last` is set where the transaction is over.
    """

    number: int
    place: Place
    parts: tuple[int, ...]
    waits_for: tuple[int, ...] = ()
    late: bool = False
    called_off: bool = False
    last: bool = False


def numbered(history: History) -> Iterator[tuple[int, Turn]]:
    """Each turn with its number, from 1; what is heard in another's turn has the number of that."""
    number = 0
    waiting: set[Place] = set()
    for turn in history.turns:
        if turn.place not in waiting:
            number += 1
        yield number, turn
        if turn.waits_for:
            waiting.add(turn.place)
        else:
            waiting.discard(turn.place)


def sendings(history: History) -> Iterator[Sending]:
    """What is to be sent, in order."""
    waiting: set[Place] = set()
    for number, turn in numbered(history):
        waited = turn.place in waiting
        turns = turn.place.transaction.turns
        rest = tuple(range(turn.part + 1, turns)) if turn.error else ()
        made = Sending(number, turn.place, (turn.part, *rest), turn.waits_for)
        if turn.waits_for:
            waiting.add(turn.place)
            if not waited:
                yield made
            continue
        waiting.discard(turn.place)
        over = turn.error is not None or turn.part == turns - 1
        if turn.ended_by:
            yield replace(made, parts=(), late=waited, called_off=True, last=True)
        elif not waited:
            yield replace(made, last=over)
        elif over:
            # Also where nothing is left to send: what is true once it is over is asked then.
            yield replace(made, parts=rest, late=True, last=True)
