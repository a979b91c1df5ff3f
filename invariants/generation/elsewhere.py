"""A sweep of messages sent again from sessions with other settings.

A key that is made of how a time is printed in another zone is another one; so is one of how an
interval or a number is printed. How dates are printed is nothing that the invariant promises to
leave to the client: DateStyle stays as it is, and so does what no key is printed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from invariants.contract.contract import Contract
from invariants.contract.sections import Idempotency
from invariants.generation.lawful import identified, lawful
from invariants.generation.ruled import TOTAL, in_one, with_key
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.operations import SESSION_SETTINGS, Conflict, Operation, Settings

_SETTINGS = ("TimeZone", "IntervalStyle", "extra_float_digits")
Make = Callable[[World], list[Operation]]


def elsewhere(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """For each key of each rule, one message again and again, each time with another setting."""
    for rule in contract.idempotency:
        if identified(catalog, rule.table):
            for position in range(len(rule.keys)):
                yield "", partial(_sent_again, rule=rule, position=position)


def _sent_again(world: World, rule: Idempotency, position: int) -> list[Operation]:
    *before, row = lawful(world, rule.table, world.tenants[0], TOTAL)
    row = with_key(world, rule, row, position)
    delivery = world.next("delivery")

    def sent(settings: Settings = ()) -> Operation:
        message = replace(in_one([row.renewed(world)]), conflict=Conflict())
        return Operation(row.actor, (message,), delivery, settings)

    # With the usual ones twice, to know whether it is the settings that make the difference.
    again = [sent(((name, value),)) for name in _SETTINGS for value in SESSION_SETTINGS[name]]
    return [*(r.inserted() for r in before), sent(), sent(), *again, sent()]
