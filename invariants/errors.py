"""The two ways a run can end without an answer, each with its exit status.

A violation is not an error: it is a result. An error says in one line what is wrong, with which
file, option or object, and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping

EXIT_HELD = 0
EXIT_VIOLATED = 1
EXIT_USAGE = 2
EXIT_INFRASTRUCTURE = 3


class InvariantsError(Exception):
    """Base of the errors raised on purpose; `exit_status` is what the command returns."""

    exit_status = EXIT_INFRASTRUCTURE


class UsageError(InvariantsError):
    """The input is wrong: an option, a file, the contract. The remedy is the user's."""

    exit_status = EXIT_USAGE


class InfrastructureError(InvariantsError):
    """Server, migration or disk failed. Never evidence about an invariant."""

    exit_status = EXIT_INFRASTRUCTURE


class MigrationFailed(InfrastructureError):
    """A migration was refused by the server, or raised an error of its own.

    `facts` are what the server said of it (sqlstate, table, column, constraint), if it did.
    `killed` is set where it was we who ended it, because that was asked for.
    """

    def __init__(
        self, message: str, facts: Mapping[str, str] | None = None, *, killed: bool = False
    ) -> None:
        super().__init__(message)
        self.facts = dict(facts or {})
        self.killed = killed


def server_lost(reason: str) -> InfrastructureError:
    """What to raise when the server is no longer there, for the reason that libpq gives."""
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    return InfrastructureError(
        f"the database server went away ({lines[0] if lines else 'no reason given'}); "
        "look at its log, then run again"
    )
