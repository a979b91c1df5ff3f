"""Personal data in documents at the head of the chain."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors

from tests.database.hardened import Templates, acting
from tests.databases import Database

PERSONAL: list[Any] = [
    {"email": None},
    {"EMAIL": None},
    {"e-mail": None},
    {"customerEmail": "x"},
    {"contact_emails": []},
    {"billing_address_2": "x"},
    {"ip": "x"},
    {"browser_ip": "x"},
    {"name": "x"},
    {"firstName": "x"},
    {"last name": "x"},
    {"phone": 1},
    {"date_of_birth": 1},
    {"order": 1, "shipping": {"to": {"name": "x"}}},
    {"items": [1, {"gift": [[{"email": "x"}]]}]},
    [{"phone": 1}],
    {'a "quoted" email': 1},
    {"a\\email": 1},
    {"a\nemail": 1},
    {"note": 'says "x": , ', "email": 1},
]


IMPERSONAL: list[Any] = [
    {},
    [],
    "email",
    {"product_name": "x", "emailed_at": "x", "zip": "x", "source_name": "x", "is_mobile": True},
    {"note": 'the "email": is missing'},
    {"note": '{"email": "x"}, "name": "x"'},
    {"note": ', "email": '},
    {'email": x': 1},
    {'the "name': 1},
    {"missing": ["email", "name", "ip"]},
    {"first": "ends with, ", "field": "email"},
    {"field": "name", "next": ": "},
]


DOCUMENTS = {
    "attribution_events": ["raw_payload"],
    "dead_events": ["raw_payload", "error_detail"],
}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in DOCUMENTS for column in DOCUMENTS[table]]
)
def test_keys_that_name_personal_data_are_refused_at_any_depth_and_no_others(
    hardened: Database, table: str, column: str
) -> None:
    refused, constraints = [], set()
    with acting(hardened) as session:
        for document in PERSONAL + IMPERSONAL:
            try:
                with session.conn.transaction():
                    session.insert(table, **{column: json.dumps(document)})
            except errors.CheckViolation as error:
                refused.append(document)
                constraints.add(error.diag.constraint_name)
    assert refused == PERSONAL
    assert constraints == {f"ck_{table}_{column}_names_no_pii"}


# Words that name personal data or nearly do, among what JSON writes around keys.
TEXTS = st.lists(
    st.sampled_from(
        ["email", "name", "ip", "z", "_", " ", ", ", "{", "}", "[", '"', "\\", ": ", "E", "1", "\n"]
    ),
    max_size=5,
).map("".join)


JSON_DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def keys_of(document: Any) -> Iterator[str]:
    if isinstance(document, Mapping):
        yield from document
        document = list(document.values())
    if isinstance(document, list):
        for inner in document:
            yield from keys_of(inner)


def test_a_document_names_personal_data_when_one_of_its_keys_does(
    templates_of: Callable[[str], Templates],
) -> None:
    with templates_of("superuser").hardened.connect() as conn:

        def names_pii(document: Any) -> bool:
            row = conn.execute("SELECT names_pii(%s)", [json.dumps(document)]).fetchone()
            assert row is not None
            return bool(row[0])

        @settings(max_examples=200, database=None, suppress_health_check=list(HealthCheck))
        @given(JSON_DOCUMENTS)
        def holds(document: Any) -> None:
            assert names_pii(document) == any(names_pii({key: 1}) for key in keys_of(document))

        holds()
