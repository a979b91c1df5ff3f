"""Mutants of triggers: whether, when, how often and with what function they fire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant, quoted
from invariants.mutants.definitions import create_trigger, drop_trigger
from invariants.mutants.facts import Facts, Relation, Trigger
from invariants.mutants.tokens import tokens

_OTHER_TIMING = {"BEFORE": "AFTER", "AFTER": "BEFORE"}


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every trigger of tables and views."""
    del contract
    for relation in facts.relations.values():
        for trigger in relation.triggers:
            yield from _of(relation, trigger)


def _of(relation: Relation, trigger: Trigger) -> Iterator[Mutant]:
    target = f"{relation.name}.{trigger.name}"
    drop = drop_trigger(relation, trigger)

    def changed(operator: str, other: Trigger, detail: str = "", *before: str) -> Mutant:
        statements = (*before, drop, *create_trigger(relation, other))
        return Mutant(operator, target, statements, detail=detail)

    yield Mutant("trigger-dropped", target, (drop,))
    if trigger.enabled != "D":
        disable = f"ALTER TABLE {relation.sql} DISABLE TRIGGER {quoted(trigger.name)}"
        yield Mutant("trigger-disabled", target, (disable,))
    if len(trigger.events) > 1:
        for event in trigger.events:
            kept = tuple(e for e in trigger.events if e != event)
            other = replace(trigger, events=kept)
            yield changed("trigger-fewer-events", other, f"without-{event.split()[0]}")
    plain = replace(trigger, constraint=False, deferral="")
    # Transition tables are for AFTER alone.
    if trigger.timing in _OTHER_TIMING and not trigger.referencing:
        timing = _OTHER_TIMING[trigger.timing]
        yield changed("trigger-other-timing", replace(plain, timing=timing), timing)
    if trigger.deferred:
        yield changed("trigger-not-deferred", replace(trigger, deferral=""))
    if trigger.level == "ROW" and trigger.timing != "INSTEAD OF":
        condition = "" if _of_a_row(trigger.condition) else trigger.condition
        once = replace(plain, level="STATEMENT", condition=condition)
        yield changed("trigger-statement-level", once)
    # For a row that is about to be written NULL means that it is not; else it means nothing.
    function = f"{relation.schema}.invariants_swallow"
    created = (
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    swallowing = replace(trigger, call=f"{function}()")
    yield changed("trigger-swallowing", swallowing, "", created)


def _of_a_row(condition: str) -> bool:
    return any(t.word in ("NEW", "OLD") for t in tokens(condition))
