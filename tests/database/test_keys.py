"""Events and their keys at the head of the chain."""

import pytest
from psycopg import errors

from tests.database.hardened import A, B, acting
from tests.databases import Database


def test_an_event_without_a_key_is_refused(hardened: Database) -> None:
    key = "ck_attribution_events_has_key"
    with pytest.raises(errors.CheckViolation, match=key), acting(hardened) as session:
        session.insert("attribution_events", correlation_id=None)


def test_several_external_ids_may_share_a_correlation_id(hardened: Database) -> None:
    with acting(hardened) as session:
        for order in ("1", "2"):
            session.insert("attribution_events", external_event_id=order, correlation_id=A)
        session.insert("attribution_events", correlation_id=B)


def test_a_second_delivery_is_recognised(hardened: Database) -> None:
    for key in ({"external_event_id": "order 2"}, {"correlation_id": B}):
        with acting(hardened) as session:
            session.insert("attribution_events", **key)
        with pytest.raises(errors.UniqueViolation), acting(hardened) as session:
            session.insert("attribution_events", **key)
