"""Webhook payloads that look like the vendors': Shopify, Stripe, PayPal, WooCommerce.

Faker is too slow to call for each event, so each process makes a pool once, from a fixed seed.
Nothing in them names a person, because the ingestion service strips that before it writes; except
where a key that does is planted, or one that only looks like it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from invariants.generation.personal import planted
from invariants.workload.operations import Json

if TYPE_CHECKING:
    from faker import Faker

    from invariants.generation.world import World

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


def payload(world: World, vendor: str) -> Json:
    """A payload of the vendor's; in some a key is planted, at any depth."""
    made = world.pick(pool()[vendor])
    if world.contract.pii is None or not world.chance(10):
        return made
    return planted(world, world.contract.pii, made.document)


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
