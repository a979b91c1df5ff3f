"""A sweep of messages sent again from sessions in other time zones.

A key that is made of how a time is printed there is another one. How dates are printed is nothing
that the invariant promises to leave to the client: DateStyle and its like stay as they are.
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
from invariants.workload.operations import SESSION_SETTINGS, Conflict, Operation

_TIME_ZONE = "TimeZone"
Make = Callable[[World], list[Operation]]


def elsewhere(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """For each key of each rule, one message from sessions in several time zones."""
    for rule in contract.idempotency:
        if identified(catalog, rule.table):
            for position in range(len(rule.keys)):
                yield "", partial(_sent_again, rule=rule, position=position)


def _sent_again(world: World, rule: Idempotency, position: int) -> list[Operation]:
    *before, row = lawful(world, rule.table, world.tenants[0], TOTAL)
    row = with_key(world, rule, row, position)
    delivery = world.next("delivery")

    def sent(settings: tuple[tuple[str, str], ...] = ()) -> Operation:
        message = replace(in_one([row.renewed(world)]), conflict=Conflict())
        return Operation(row.actor, (message,), delivery, settings)

    again = [sent(((_TIME_ZONE, zone),)) for zone in SESSION_SETTINGS[_TIME_ZONE]]
    return [*(r.inserted() for r in before), sent(), *again, sent()]
