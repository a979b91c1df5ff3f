"""Mutants that no invariant can notice, each with a reason that the database itself confirms.

`mutants.toml` names them. Every entry has a condition in SQL that is asked of the schema as
migrated: once it is no longer true, or a mutant is no longer derived, or an invariant does notice
it, the entry is stale and an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg

from invariants.errors import UsageError
from invariants.mutants.base import Mutant
from invariants.mutants.hunt import Outcome
from invariants.reading import Misfit, Text, fit, read_toml
from invariants.servers.base import database_message

FORMAT = 1
Name = Annotated[Text, msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class Equivalent:
    """Mutants called equivalent for one reason; `holds` is a query that returns true for it."""

    mutants: tuple[str, ...]
    reason: str
    holds: str


@dataclass(frozen=True)
class Equivalents:
    """What a file says. Build it with `load`."""

    path: Path
    entries: tuple[Equivalent, ...] = ()

    def reason(self, mutant: Mutant) -> str | None:
        """Why the mutant is equivalent; None when it is not called so."""
        return next((e.reason for e in self.entries if mutant.name in e.mutants), None)

    def claimed(self, outcome: Outcome) -> Outcome:
        """The outcome with what the file says of its mutant: equivalent, unless it was noticed."""
        reason = self.reason(outcome.mutant)
        if reason is None or outcome.status == "error":
            return outcome
        if outcome.kill is None:
            return replace(outcome, status="equivalent", reason=reason)
        said = f"{self.path} calls it equivalent, and {outcome.kill.invariant} notices it"
        return replace(outcome, status="error", error=f"{said}; remove it there")

    def check(self, connection: psycopg.Connection[Any], mutants: Sequence[Mutant]) -> None:
        """Check every entry against the schema as migrated. Raises `UsageError` for a stale one."""
        known = {m.name for m in mutants}
        for number, entry in enumerate(self.entries, 1):
            for name in entry.mutants:
                if name not in known:
                    near = get_close_matches(name, known, 1)
                    meant = f"did you mean {near[0]}?" if near else "remove it"
                    raise self._fault(number, f"there is no mutant {name!r} any more; {meant}")
            try:
                row = connection.execute(entry.holds.encode()).fetchone()
            except psycopg.Error as error:
                raise self._fault(
                    number, f"holds: {database_message(error)}; write one query for one boolean"
                ) from None
            if row is None or row[0] is not True:
                raise self._fault(
                    number,
                    f"no longer true of this schema: {entry.reason!r}; "
                    f"remove the entry for {entry.mutants[0]}, or write why it still is",
                )

    def _fault(self, number: int, what: str) -> UsageError:
        return UsageError(f"{self.path}: equivalent[{number - 1}]: {what}")


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    mutants: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    reason: Name
    holds: Name


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """`mutants.toml` as it is written."""

    format: int
    equivalent: tuple[_Entry, ...] = ()


def load(path: Path) -> Equivalents:
    """Read the file; without one nothing is equivalent. Raises `UsageError` naming the fault."""
    if not path.exists():
        return Equivalents(path)
    document = read_toml(path, "mend it")
    told = document.get("format")
    if type(told) is not int or told != FORMAT:
        raise UsageError(f"{path}: format: write format = {FORMAT}")
    try:
        entries = tuple(
            Equivalent(e.mutants, " ".join(e.reason.split()), e.holds)
            for e in fit(document, _File).equivalent
        )
    except Misfit as misfit:
        raise misfit.of(path) from None
    for i, entry in enumerate(entries):
        for name, text in (("reason", entry.reason), ("holds", entry.holds)):
            if not text.strip():
                raise UsageError(f"{path}: equivalent[{i}].{name}: is blank; write it in quotes")
    names = [n for e in entries for n in e.mutants]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: {name!r} is named twice; remove one")
    return Equivalents(path, entries)
