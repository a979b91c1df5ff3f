"""Sessions side by side as text: a column for each, a row for each turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from invariants.checks.base import Case
from invariants.counterexamples.turns import numbered
from invariants.counterexamples.wording import (
    WIDTH,
    counted,
    named,
    refused,
    sent_before,
    spelled_short,
    who,
    wrapped,
)
from invariants.execution.history import History, Place, Turn
from invariants.execution.interleaver import PATIENCE_SECONDS
from invariants.workload import sql
from invariants.workload.operations import Session, Transaction

_GUTTER = 6
_BETWEEN = " | "
# Looks like a space in the end, and is none to what breaks lines.
_TIE = "\N{OPEN BOX}"


def lines(case: Case, marked: int, names: Mapping[str, str]) -> Iterator[str]:
    """The timeline of a history with sessions; nothing without. `marked` is a step's index."""
    if case.history.workload.sessions:
        yield from _Timeline(case, marked, names).lines()


@dataclass
class _Row:
    """One turn: what is in the column of each session that has a part in it, line by line."""

    cells: dict[int, list[str]] = field(default_factory=dict)
    marked: bool = False


class _Timeline:
    def __init__(self, case: Case, marked: int, names: Mapping[str, str]) -> None:
        self.case, self.names = case, names
        self.history: History = case.history
        self.sessions = case.history.workload.sessions
        self.width = (WIDTH - _GUTTER - len(_BETWEEN) * (len(self.sessions) - 1)) // len(
            self.sessions
        )
        self.steps = {s.place: s for s in self.history.steps if s.place is not None}
        self.violating = next((p for p, s in self.steps.items() if s.index == marked), None)

    def lines(self) -> Iterator[str]:
        headings = {i: list(self._heading(i, s)) for i, s in enumerate(self.sessions)}
        yield from self._across("turn", headings)
        # So that a row ends where the next begins, in whichever column.
        rule = "-" * _GUTTER + "-+-".join("-" * self.width for _ in self.sessions)
        yield rule
        for number, row in self._rows().items():
            yield from self._across(f"{'->' if row.marked else '  '}{number:>2}", row.cells)
        yield rule

    def _rows(self) -> Mapping[int, _Row]:
        rows: dict[int, _Row] = {}
        violating = None
        for number, turn in numbered(self.history):
            sent = number not in rows
            row = rows.setdefault(number, _Row())
            cell = row.cells.setdefault(turn.place.session, [])
            if sent:
                cell += self._sent(turn.place, turn.part)
            cell += self._heard(turn)
            if turn.place == self.violating:
                violating = row
        if violating is not None:
            violating.marked = True
        return rows

    def _heading(self, position: int, session: Session) -> Iterator[str]:
        actors = {self._actor(t) for t in session}
        told = f": {actors.pop()}" if len(actors) == 1 else ""
        yield from self._wrapped(f"session {position + 1}{told}")

    def _actor(self, transaction: Transaction) -> str:
        roles = self.case.contract.application_roles
        actor = who(transaction.operation.actor, self.names, roles)
        # One word, so that it goes into the next line as a whole.
        return f"{actor}, {transaction.isolation.replace(' ', _TIE)}"

    def _sent(self, place: Place, part: int) -> Iterator[str]:
        transaction = place.transaction
        statements = transaction.operation.statements
        if part == 0:
            if place.again:
                yield from self._wrapped("(sent again, alone)")
            step = self.steps.get(place)
            if step is not None and not place.again and sent_before(self.history, step):
                yield from self._wrapped("(the same message again)")
            session = self.sessions[place.session]
            alike = len({self._actor(t) for t in session}) == 1
            yield from self._wrapped("BEGIN" if alike else f"BEGIN: {self._actor(transaction)}")
        if part < len(statements):
            yield from self._wrapped(named(spelled_short(statements[part]), self.names))
        else:
            yield from self._wrapped(sql.ending(transaction, part))

    def _heard(self, turn: Turn) -> Iterator[str]:
        goes_on = "goes on: " if turn.resumed else ""
        if turn.waits_for:
            others = ", ".join(f"session {s + 1}" for s in turn.waits_for)
            yield from self._wrapped(f"= waits for {others}")
        elif turn.ended_by == "order":
            yield from self._wrapped("= would wait as well: called off")
        elif turn.ended_by == "patience":
            yield from self._wrapped(f"= called off after {PATIENCE_SECONDS} s")
        elif turn.error is not None:
            yield from self._wrapped(f"= {goes_on}{named(refused(turn.error), self.names)}")
        elif turn.count is not None:
            yield from self._wrapped(f"= {goes_on}{counted(turn.count)}")
        elif turn.resumed:
            yield from self._wrapped("= goes on")
        if turn.error is not None:
            yield "ROLLBACK"

    def _wrapped(self, text: str) -> Iterator[str]:
        lines = wrapped("", text, "  ", self.width, cut=True)
        yield from (line.replace(_TIE, " ") for line in lines)

    def _across(self, label: str, cells: Mapping[int, list[str]]) -> Iterator[str]:
        columns = [cells.get(i, []) for i in range(len(self.sessions))]
        for parts in zip_longest(*columns, fillvalue=""):
            row = _BETWEEN.join(f"{part:<{self.width}}" for part in parts)
            yield f"{label:<{_GUTTER}}{row}".rstrip()
            label = ""
