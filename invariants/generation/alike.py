"""A sweep of messages whose keys are nearly the same and not the same.

By case, accents and normal form, blanks, leading zeros, and what comes after a long common
beginning: who folds, trims, cuts or hashes a key takes two messages for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from invariants.contract.contract import Contract
from invariants.contract.sections import Idempotency
from invariants.generation.lawful import identified, lawful
from invariants.generation.ruled import TOTAL, in_one, with_key
from invariants.generation.world import World
from invariants.schema.catalog import Catalog, Column
from invariants.workload.operations import Conflict, Operation, Value, ident

Make = Callable[[World], list[Operation]]

_TEXTS: Sequence[Sequence[str]] = (
    ("evt_aB3", "evt_Ab3", "EVT_AB3"),
    ("caf\u00e9", "cafe\u0301", "cafe", "CAF\u00c9"),
    ("stra\u00dfe", "strasse", "\u0131d", "id", "Id", "\u0130d", "\ufb01n", "fin"),
    ("a 1", " a 1", "a 1 ", "a  1", "a1", "a\u00a01", "a\t1", "a 1\n"),
    ("7", "007", "7.0", "+7", "7e0", "\uff17"),
    ("k-1", "k_1", "k.1", "k/1", "k:1", "k1", "k%1", "k\\1"),
    *(("p" * length + "a", "p" * length + "b") for length in (8, 32, 64, 128, 255, 1_000)),
    *(("a" + "s" * length, "b" + "s" * length) for length in (32, 255)),
)
_UUIDS = (
    (ident("alike", 1), ident("alike", 2), ident("unlike", 1)),
    (ident("alike", 10), ident("alike", 10 + 2**40)),
)
_NUMBERS = ((0, 1, -1), (2**24, 2**24 + 1), (2**53, 2**53 + 1), (2**31 - 2, 2**31 - 1))
_SIZES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}


def alike(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """For each column of each key, groups of values that are nearly the same."""
    for rule in contract.idempotency:
        if not identified(catalog, rule.table):
            continue
        relation = catalog.tables[rule.table]
        for position, columns in enumerate(rule.keys):
            for name in columns:
                if relation.foreign_key_of(name) is None and not _named(contract, rule, name):
                    for values in _groups(relation.columns[name]):
                        yield (
                            "",
                            partial(
                                _told_apart,
                                rule=rule,
                                position=position,
                                column=name,
                                values=values,
                            ),
                        )


def _named(contract: Contract, rule: Idempotency, column: str) -> bool:
    """Whether the column refers to something, so that it takes no value of ours."""
    return column in {c for c, _ in contract.references(rule.table)}


def _groups(column: Column) -> Iterator[tuple[Value, ...]]:
    if column.enum or column.is_array:
        return
    if column.type in ("text", "character varying"):
        for texts in _TEXTS:
            fitting = tuple(t for t in texts if column.length < 0 or len(t) <= column.length)
            if len(fitting) > 1:
                yield fitting
    elif column.type == "uuid":
        yield from _UUIDS
    elif column.type in _SIZES:
        size = _SIZES[column.type]
        yield from (n for n in _NUMBERS if all(-size <= v < size for v in n))


def _told_apart(
    world: World, rule: Idempotency, position: int, column: str, values: tuple[Value, ...]
) -> list[Operation]:
    """Each a message of its own, sent twice."""
    tenant = world.tenants[0]
    *before, first = lawful(world, rule.table, tenant, TOTAL)
    first = with_key(world, rule, first, position)
    made = [r.inserted() for r in before]
    for value in values:
        delivery = world.next("delivery")
        for _ in range(2):
            row = first.renewed(world, **{column: value})
            message = replace(in_one([row]), conflict=Conflict())
            made.append(Operation(row.actor, (message,), delivery))
    return made
