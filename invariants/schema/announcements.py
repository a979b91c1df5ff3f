"""Channels on which the code of the schema notifies: whoever logs in can listen to all of them."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.schema.catalog import Catalog
from invariants.schema.reach import Reach

_SOME = "*"
_LENGTH_MAX = 63


def channels(catalog: Catalog) -> tuple[str, ...]:
    """The channels that routines and rules name.

    Where one is put together, those that are called like a relation, or like what the routine
    mentions, are among them.
    """
    found: set[str] = set()
    effects = [r.effects for r in catalog.definitions.routines]
    effects += [r.effects for r in catalog.definitions.rules]
    for one in effects:
        found |= one.channels
        if _SOME in one.channels:
            found |= {name.rpartition(".")[2] for name in catalog.relations} | one.literals
    usable = (c for c in found - {_SOME} if c and len(c.encode()) <= _LENGTH_MAX)
    return tuple(sorted(usable))


def announcing(catalog: Catalog, table: str, verb: str) -> Iterator[str]:
    """The triggers and rules by which a write of a table is made known."""
    reach = Reach(catalog, catalog.definitions)
    for trigger in catalog.definitions.triggers:
        fires = trigger.table == table and verb in trigger.events and trigger.enabled
        if fires and reach.of_call(trigger.routine).channels:
            yield trigger.name
    for rule in catalog.definitions.rules:
        if rule.table == table and rule.event == verb and reach.of_effects(rule.effects).channels:
            yield rule.name
