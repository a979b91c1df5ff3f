"""Mutants that no invariant can notice, each with a reason that the database itself confirms.

`mutants.toml` names them. Every entry has a condition in SQL that is asked of the schema as
migrated: once it is no longer true, or a mutant is no longer derived, or an invariant does notice
it, the entry is stale and an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import psycopg

from invariants.errors import UsageError
from invariants.mutants.base import Mutant
from invariants.mutants.hunt import Outcome
from invariants.servers.base import database_message

FORMAT = 1


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


def load(path: Path) -> Equivalents:
    """Read the file; without one nothing is equivalent. Raises `UsageError` naming the fault."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Equivalents(path)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; mend it") from None
    if document.pop("format", None) != FORMAT:
        raise UsageError(f"{path}: format: write format = {FORMAT}")
    entries = tuple(_entries(path, document))
    names = [n for e in entries for n in e.mutants]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: {name!r} is named twice; remove one")
    return Equivalents(path, entries)


def _entries(path: Path, document: Mapping[str, Any]) -> Iterator[Equivalent]:
    for key in document:
        if key != "equivalent":
            raise UsageError(f"{path}: {key}: unknown key; write [[equivalent]]")
    listed = document.get("equivalent", [])
    if not isinstance(listed, list):
        raise UsageError(f"{path}: equivalent: is not a list of tables; write [[equivalent]]")
    for i, entry in enumerate(listed):
        where = f"{path}: equivalent[{i}]"
        if not isinstance(entry, dict) or set(entry) != {"mutants", "reason", "holds"}:
            raise UsageError(f"{where}: write the keys mutants, reason and holds")
        mutants, reason, holds = entry["mutants"], entry["reason"], entry["holds"]
        if not isinstance(mutants, list) or not mutants or not all(map(_text, mutants)):
            raise UsageError(f"{where}.mutants: write the names of mutants in quotes, in a list")
        if not _text(reason) or not _text(holds):
            raise UsageError(f"{where}: write reason and holds as text in quotes")
        yield Equivalent(tuple(mutants), " ".join(reason.split()), holds)


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
