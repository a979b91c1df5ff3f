"""Personal data: documents in which a key that names some is planted, or one that only looks so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from invariants.contract.sections import Pii
from invariants.generation.world import World
from invariants.workload.operations import Json

# Keys that share letters or words with those that name personal data, and name none.
LOOKALIKES = (
    "product_name",
    "emailed_at",
    "zip",
    "shipping",
    "email_opt_in",
    "addressee_count",
    "phoneVerified",
    "is_mobile",
    "hostname",
    "ipo",
    "nameplate",
)
# How a key is written, from its words.
_STYLES: tuple[Callable[[list[str]], str], ...] = (
    "_".join,
    lambda words: words[0] + "".join(w.capitalize() for w in words[1:]),
    lambda words: "-".join(words).upper(),
    lambda words: "_".join(words) + "_2",
)


def planted(world: World, pii: Pii, document: Any = None) -> Json:
    """The document, or one with little in it, with a key planted somewhere in its objects."""
    if document is None:
        document = {"id": 1, "items": [{"sku": "a"}]}
    return Json.of(_planted(world, document, _key(world, pii)))


def _key(world: World, pii: Pii) -> str:
    shape = world.below(10)
    if shape < 4:
        return world.pick(LOOKALIKES)
    if shape < 5 and pii.whole:
        return world.pick(pii.whole).capitalize()
    words = world.pick(pii.last_words or pii.whole).split()
    before = ["billing"] if pii.last_words and world.chance(40) else []
    return world.pick(_STYLES)(before + words)


def _planted(world: World, document: Any, key: str) -> Any:
    """The document with the key in one of its objects."""
    objects: list[dict[str, Any]] = []
    pending = [document]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            objects.append(part)
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    value = world.pick(("x", None, 1, '{"email": "x"}'))
    world.pick(objects)[key] = value
    return document
