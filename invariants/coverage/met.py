"""Which guards a search met, refusing and letting pass: the sum over all cases, and its gaps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from invariants.coverage.guards import (
    DOORS,
    NO_PRIVILEGE,
    PRIVILEGE,
    Guard,
)

_NAMES_SHOWN = 6


@dataclass(frozen=True)
class Met:
    """How often a guard refused something, and how often it let something pass."""

    refused: int = 0
    passed: int = 0

    def __add__(self, other: Met) -> Met:
        return Met(self.refused + other.refused, self.passed + other.passed)


@dataclass(frozen=True)
class Coverage:
    """What searches met. All that is expected is in it, with nothing counted when it never came.

    `kinds` are statements accepted, `roles` operations sent, `tables` rows that came. `decided`
    says which triggers and rules decide what comes of a write, so that nobody predicts it.
    """

    guards: Mapping[Guard, Met] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)
    roles: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)
    decided: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Coverage) -> Coverage:
        guards = dict(self.guards)
        for guard, met in other.guards.items():
            guards[guard] = guards.get(guard, Met()) + met
        return Coverage(
            guards,
            _summed(self.kinds, other.kinds),
            _summed(self.roles, other.roles),
            _summed(self.tables, other.tables),
            {**self.decided, **other.decided},
        )

    @classmethod
    def merged(cls, parts: Iterable[Coverage]) -> Self:
        """What several searches, or processes, met together."""
        return sum(parts, cls())  # type: ignore[return-value]

    @property
    def never_met(self) -> tuple[Guard, ...]:
        """Guards that neither refused nor let pass: nothing was learned about them."""
        return self._where(lambda met: not met.refused and not met.passed)

    @property
    def never_refused(self) -> tuple[Guard, ...]:
        """Guards that let pass only; a promised privilege, or a door, has nothing to refuse."""
        return tuple(
            g
            for g in self._where(lambda met: not met.refused and met.passed > 0)
            if g.kind != PRIVILEGE and g.kind not in DOORS
        )

    @property
    def never_passed(self) -> tuple[Guard, ...]:
        """Guards that refused only; what is not promised, or is a door, is not to pass."""
        return tuple(
            g
            for g in self._where(lambda met: met.refused > 0 and not met.passed)
            if g.kind != NO_PRIVILEGE and g.kind not in DOORS
        )

    @property
    def kinds_never_accepted(self) -> tuple[str, ...]:
        """Kinds of statement that some role may send and none was accepted of."""
        return _missing(self.kinds)

    @property
    def roles_never_acting(self) -> tuple[str, ...]:
        """Roles of the contract that sent nothing."""
        return _missing(self.roles)

    @property
    def tables_never_written(self) -> tuple[str, ...]:
        """Tables that may be written and that no row came into."""
        return _missing(self.tables)

    @property
    def complete(self) -> bool:
        """Whether something was recorded and nothing was left out."""
        return not self.gaps

    @cached_property
    def gaps(self) -> tuple[str, ...]:
        """One line for everything that was never met."""
        if not self.roles:
            return ("nothing was recorded: no search went far enough",)
        return (
            *(f"{g} was never met" for g in self.never_met),
            *(f"no {k} was ever accepted" for k in self.kinds_never_accepted),
            *(f"role {r} never acted" for r in self.roles_never_acting),
            *(f"no row ever came into {t}" for t in self.tables_never_written),
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """The few lines that a person reads; none when nothing was recorded."""
        if not self.roles:
            return ()
        met = len(self.guards) - len(self.never_met)
        first = f"guards: {met} of {len(self.guards)} met"
        told = [f"{first}; never met: {_listed(self.never_met)}" if self.never_met else first]
        for words, names in (
            ("statements never accepted", self.kinds_never_accepted),
            ("roles that never acted", self.roles_never_acting),
            ("tables never written", self.tables_never_written),
        ):
            if names:
                told.append(f"{words}: {_listed(names)}")
        if self.decided:
            by = tuple(f"{what} ({who})" for what, who in sorted(self.decided.items()))
            told.append(f"not predicted, since triggers, rules or policies decide: {_listed(by)}")
        return tuple(told)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads the counts back."""
        return {
            "guards": [
                {
                    "kind": g.kind,
                    "relation": g.relation,
                    "name": g.name,
                    "refused": met.refused,
                    "passed": met.passed,
                }
                for g, met in sorted(self.guards.items())
            ],
            "never_met": [str(g) for g in self.never_met],
            "never_refused": [str(g) for g in self.never_refused],
            "never_passed": [str(g) for g in self.never_passed],
            "kinds": dict(self.kinds),
            "kinds_never_accepted": list(self.kinds_never_accepted),
            "roles": dict(self.roles),
            "roles_never_acting": list(self.roles_never_acting),
            "tables": dict(self.tables),
            "tables_never_written": list(self.tables_never_written),
            "decided": dict(self.decided),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What another process wrote with `to_json`."""
        return cls(
            {
                Guard(g["kind"], g["relation"], g["name"]): Met(g["refused"], g["passed"])
                for g in data["guards"]
            },
            dict(data["kinds"]),
            dict(data["roles"]),
            dict(data["tables"]),
            dict(data.get("decided", {})),
        )

    def _where(self, wanted: Callable[[Met], bool]) -> tuple[Guard, ...]:
        return tuple(sorted(g for g, met in self.guards.items() if wanted(met)))


def _missing(counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(name for name, count in counts.items() if not count)


def _summed(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {k: one.get(k, 0) + other.get(k, 0) for k in (*one, *other)}


def _listed(things: Collection[object]) -> str:
    shown = [str(t) for t in things][:_NAMES_SHOWN]
    left = len(things) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")
