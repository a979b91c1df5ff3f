"""What triggers and rules decide in a schema: of that neither contract nor model say anything.

A trigger may change the row, leave it out, refuse it, or write other rows. Of a table whose rows
the contract describes (`[rows]`) it says itself what comes of a write, whatever triggers there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from invariants.contract.contract import Contract
from invariants.remembering import remembered
from invariants.schema.catalog import Catalog
from invariants.schema.definitions import TriggerText
from invariants.schema.effects import OPAQUE
from invariants.schema.reach import Reach

_EVERY = "*"


@dataclass(frozen=True)
class Decided:
    """What is not the client's to say of one way to write a table.

    `columns` are filled in (`*`: any of them), rows of `tables` written besides; `skips` when rows
    may be left out, `refuses` when all of it may be refused. `by` names what decides.
    """

    columns: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    skips: bool = False
    refuses: bool = False
    by: tuple[str, ...] = ()

    @property
    def rewrites(self) -> bool:
        """Whether the row that is judged may be another than the one that was sent."""
        return self.skips or bool(self.columns)

    def covers(self, column: str) -> bool:
        """Whether a column may come out otherwise than it was sent."""
        return _EVERY in self.columns or column in self.columns


NOTHING = Decided()


@remembered
def decided(contract: Contract, catalog: Catalog, table: str, verb: str) -> Decided:
    """What triggers and rules decide when a table is written so."""
    return NOTHING if table in contract.rows else _found(contract, catalog, table, verb)


def _found(contract: Contract, catalog: Catalog, table: str, verb: str) -> Decided:
    definitions = catalog.definitions
    reach = Reach(catalog, definitions)
    columns = {c for t, c in contract.written_by_triggers.columns if t == table}
    tables = set(contract.written_by_triggers.tables)
    skips = refuses = False
    by = []
    for trigger in definitions.triggers:
        if trigger.table != table or verb not in trigger.events or not trigger.enabled:
            continue
        by.append(trigger.name)
        reached = reach.of_call(trigger.routine)
        tables |= reached.written
        # What it writes elsewhere may be refused there.
        raises = _raises(catalog, reached.routines) or bool(reached.written)
        refuses = refuses or reached.opaque or raises
        if trigger.before and trigger.for_each_row:
            filled, left_out = _on_the_row(catalog, trigger, verb)
            columns |= filled
            skips = skips or left_out
    for rule in definitions.rules:
        if rule.table == table and rule.event == verb:
            by.append(rule.name)
            refuses = skips = True
            tables |= reach.of_effects(rule.effects).written
    return Decided(frozenset(columns), frozenset(tables), skips, refuses, tuple(by))


def _on_the_row(catalog: Catalog, trigger: TriggerText, verb: str) -> tuple[frozenset[str], bool]:
    """The columns that a trigger fills in, and whether it may leave the row out."""
    routine = catalog.definitions.routine.get(trigger.routine)
    effects = routine.effects if routine is not None else OPAQUE
    if effects.opaque:
        return frozenset({_EVERY}), True
    left_out = effects.returns_null or (effects.returns_old and verb == "update")
    return frozenset() if verb == "delete" else effects.assigns, left_out


def _raises(catalog: Catalog, routines: frozenset[str]) -> bool:
    known = catalog.definitions.routine
    return any(known[r].effects.raises or known[r].effects.opaque for r in routines if r in known)
