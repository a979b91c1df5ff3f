"""Webhook payloads that look like the vendors': Shopify, Stripe, PayPal, WooCommerce.

Faker is too slow to call for each event, so each process makes a pool once, from a fixed seed.
Nothing in them names a person, because the ingestion service strips that before it writes; except
where a key that does is planted, or one that only looks like it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from invariants.operations import Json

if TYPE_CHECKING:
    from faker import Faker

    from invariants.contract import Pii
    from strategies.world import World

POOL_SIZE = 6
VENDORS = ("shopify", "stripe", "paypal", "woocommerce")


@lru_cache(maxsize=1)
def pool() -> Mapping[str, Sequence[Json]]:
    """For each vendor some payloads, the same in every run."""
    from faker import Faker

    fake = Faker("en_US")
    fake.seed_instance(20251114)
    makers = {
        "shopify": _shopify,
        "stripe": _stripe,
        "paypal": _paypal,
        "woocommerce": _woocommerce,
    }
    return {v: [Json.of(make(fake)) for _ in range(POOL_SIZE)] for v, make in makers.items()}


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


def payload(world: World, vendor: str) -> Json:
    """A payload of the vendor's; in some a key is planted, at any depth."""
    made = world.pick(pool()[vendor])
    if world.contract.pii is None or not world.chance(10):
        return made
    return Json.of(_planted(world, made.document, _key(world, world.contract.pii)))


def planted(world: World, pii: Pii) -> Json:
    """A document with little in it but a key that is planted."""
    return Json.of(_planted(world, {"id": 1, "items": [{"sku": "a"}]}, _key(world, pii)))


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


def _items(fake: Faker) -> list[dict[str, Any]]:
    return [
        {
            "sku": fake.bothify("??-####").upper(),
            "title": fake.catch_phrase(),
            "quantity": fake.random_int(1, 3),
            "price": f"{fake.random_int(1, 200)}.{fake.random_int(0, 99):02}",
        }
        for _ in range(fake.random_int(1, 2))
    ]


def _shopify(fake: Faker) -> dict[str, Any]:
    return {
        "id": fake.random_number(digits=13, fix_len=True),
        "order_number": fake.random_int(1000, 9999),
        "currency": fake.currency_code(),
        "total_price": f"{fake.random_int(1, 900)}.00",
        "financial_status": fake.random_element(["paid", "pending", "refunded"]),
        "source_name": fake.random_element(["web", "pos"]),
        "landing_site": fake.uri_path(),
        "line_items": _items(fake),
    }


def _stripe(fake: Faker) -> dict[str, Any]:
    return {
        "id": f"evt_{fake.lexify('????????????????')}",
        "object": "event",
        "type": "payment_intent.succeeded",
        "livemode": False,
        "data": {
            "object": {
                "id": f"pi_{fake.lexify('????????????????')}",
                "amount": fake.random_int(100, 90000),
                "currency": fake.currency_code().lower(),
                "status": "succeeded",
                "metadata": {"utm": fake.random_element(["google/cpc", "newsletter/email"])},
            }
        },
    }


def _paypal(fake: Faker) -> dict[str, Any]:
    return {
        "id": f"WH-{fake.bothify('##??####').upper()}",
        "event_type": "PAYMENT.CAPTURE.COMPLETED",
        "resource": {
            "id": fake.bothify("?#?#?#?#?#?#").upper(),
            "amount": {
                "value": f"{fake.random_int(1, 900)}.00",
                "currency_code": fake.currency_code(),
            },
            "final_capture": True,
        },
    }


def _woocommerce(fake: Faker) -> dict[str, Any]:
    return {
        "id": fake.random_int(100, 99999),
        "status": fake.random_element(["processing", "completed"]),
        "currency": fake.currency_code(),
        "total": f"{fake.random_int(1, 900)}.00",
        "line_items": _items(fake),
        "meta_data": [{"key": "_wc_order_attribution_source_type", "value": "organic"}],
    }
