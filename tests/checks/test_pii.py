"""Keys that name personal data are found in every document the contract names, and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from invariants.checks.values import pii_keys
from invariants.contract.contract import Contract
from invariants.search.judge import Judge
from invariants.servers.environment import Environment
from invariants.workload.operations import Conflict, Copy, Insert, Json, Merge, Operation, Update
from tests.engine import (
    A,
    Lab,
    dead_event,
    event,
    key,
    of,
    refused_without_violation,
    repair,
    workload,
)

NAME = "pii"
COLUMNS = (
    ("attribution_events", "raw_payload"),
    ("dead_events", "raw_payload"),
    ("dead_events", "error_detail"),
)
DEPTHS: dict[str, Any] = {
    "at the top": {"id": 1, "email": "x"},
    "in an object": {"id": 1, "customer": {"email": "x"}},
    "in a list": [{"id": 1}, {"email": None}],
    "far down": {"a": [{"b": [[{"c": {"email": {}}}]]}]},
}
LOOKALIKES = (
    "emailed_at", "email_opt_in", "product_name", "campaignName", "hostname", "name_2_show",
    "zip", "zipcode", "shipping", "tip", "ipo", "phoneVerified", "is_mobile", "addressee",
    "street_level", "ssn_free", "nameplate", "rename", "device", "E-mailed", "", "1", "é",
)  # fmt: skip


def unguarded(table: str, column: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{column}_names_no_pii"


def stored(table: str, column: str, document: Any, number: int = 1) -> Insert:
    if table == "attribution_events":
        return event(number, raw_payload=Json.of(document))
    return dead_event(number, A, **{column: Json.of(document)})


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_key_that_is_inserted(head_lab: Lab, table: str, column: str, depth: str) -> None:
    shown = workload(of(A, stored(table, column, DEPTHS[depth])))
    found = head_lab.findings(NAME, shown, unguarded(table, column))
    assert set(found) == {f"insert/{table}/{column}"}
    (finding,) = found.values()
    assert "'email'" in finding.violation.summary
    assert finding.rows[0][column] == DEPTHS[depth]


def changed(how: str, table: str, column: str) -> Operation:
    """A key put into a row that is there without."""
    document = Json.of({"billing": {"E-Mail 2": "x"}})
    made = stored(table, column, document.document)
    match how:
        case "merge":
            return of(A, Merge(table, made.columns, made.rows[0], ("id",), (column,)))
        case "on conflict":
            return of(A, replace(made, conflict=Conflict(("id",), updates=(column,))))
    update = Update(table, ((column, document),), key(table, 1))
    return repair(update) if how == "repair" else of(A, update)


@pytest.mark.parametrize(
    ("how", "table", "column"),
    [
        ("repair", *COLUMNS[0]),
        *((how, *c) for c in COLUMNS[1:] for how in ("update", "on conflict", "merge")),
    ],
)
def test_a_key_that_is_put_into_a_row(head_lab: Lab, how: str, table: str, column: str) -> None:
    shown = workload(of(A, stored(table, column, {})), changed(how, table, column))
    found = head_lab.findings(NAME, shown, unguarded(table, column))
    assert set(found) == {f"update/{table}/{column}"}


def test_a_key_that_is_copied_in(head_lab: Lab) -> None:
    """COPY is refused where rows are isolated by policies, so the flaw takes these away as well."""
    open_ = "ALTER TABLE dead_events DISABLE ROW LEVEL SECURITY"
    made = dead_event(1, raw_payload=Json.of({'it\'s "x" \\ email': 1}))
    found = head_lab.tells_apart(
        NAME,
        workload(of(A, Copy(made.relation, made.columns, made.rows))),
        broken=f"{open_}; {unguarded('dead_events', 'raw_payload')}",
        mended=open_,
    )
    assert set(found) == {"insert/dead_events/raw_payload"}


def test_a_check_that_looks_at_the_top_only(head_lab: Lab) -> None:
    flaw = """
        CREATE OR REPLACE FUNCTION names_pii(document jsonb) RETURNS boolean
        LANGUAGE sql IMMUTABLE AS $$
            SELECT EXISTS (SELECT FROM jsonb_object_keys(
                CASE jsonb_typeof(document) WHEN 'object' THEN document ELSE '{}' END
            ) k WHERE k = 'email')
        $$
    """
    shown = workload(
        *(of(A, stored(*COLUMNS[0], d, i)) for i, d in enumerate(DEPTHS.values(), start=1))
    )
    found = head_lab.tells_apart(NAME, shown, broken=flaw)
    # The one at the top is refused; the first that is not is told.
    assert [f.violation.operation for f in found.values()] == [1]


def test_a_check_that_knows_too_few_words(head_lab: Lab) -> None:
    flaw = """
        DO $$ BEGIN
            EXECUTE replace(pg_get_functiondef('names_pii'::regproc), 'surname', 'sirname');
        END $$
    """
    shown = workload(of(A, stored(*COLUMNS[0], {"surname": 1})))
    found = head_lab.tells_apart(NAME, shown, broken=flaw)
    assert set(found) == {"insert/attribution_events/raw_payload"}


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_check_that_refuses_lookalikes(head_lab: Lab, table: str, column: str) -> None:
    flaw = f"ALTER TABLE {table} ADD CONSTRAINT strict CHECK ({column}::text NOT LIKE '%email%')"
    shown = workload(of(A, stored(table, column, {"emailed_at": "x"})))
    found = head_lab.tells_apart(NAME, shown, broken=flaw)
    assert set(found) == {f"insert/{table}/strict refuses other keys"}


def test_a_repair_that_is_refused_for_a_lookalike(head_lab: Lab) -> None:
    flaw = """
        ALTER TABLE attribution_events ADD CONSTRAINT strict
        CHECK (raw_payload::text NOT LIKE '%name%')
    """
    change = Update("attribution_events", (("raw_payload", Json.of({"product_name": 1})),))
    shown = workload(of(A, event(1)), repair(change))
    found = head_lab.tells_apart(NAME, shown, broken=flaw)
    assert set(found) == {"update/attribution_events/strict refuses other keys"}


def test_a_trigger_that_refuses_what_is_in_values(head_lab: Lab) -> None:
    flaw = """
        CREATE FUNCTION sniff() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.error_detail::text LIKE '%@%' THEN
                RAISE EXCEPTION 'an address';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER sniffing BEFORE INSERT ON dead_events FOR EACH ROW EXECUTE FUNCTION sniff();
    """
    shown = workload(of(A, dead_event(1, error_detail=Json.of({"message": "a@example.org"}))))
    found = head_lab.tells_apart(NAME, shown, broken=flaw)
    assert set(found) == {"insert/dead_events/sniff refuses other keys"}


def test_what_is_refused_for_another_reason_is_no_violation(head_judge: Judge) -> None:
    shown = workload(
        of(A, event(1, cents=-1)),
        of(A, event(1, external_event_id=None)),
        of(A, dead_event(1, tenant_id="not-a-uuid")),
        of(A, event(1)),
        of(A, event(2, external_event_id="order-1")),
    )
    assert refused_without_violation(head_judge, NAME, shown) == [0, 1, 2, 4]


def test_planted_keys_are_refused_without_violation(head_judge: Judge) -> None:
    inserts = [of(A, stored(*c, d)) for c in COLUMNS for d in DEPTHS.values()]
    whole = [of(A, stored(*COLUMNS[0], {k: 1})) for k in ("name", "Names", "_mobile_2")]
    updates = [
        changed("repair", *COLUMNS[0]),
        *(changed("update", *c) for c in COLUMNS[1:]),
    ]
    planted = [*inserts, *whole, *updates]
    shown = workload(of(A, event(1, A), dead_event(1)), *planted)
    assert refused_without_violation(head_judge, NAME, shown) == list(range(1, len(planted) + 1))


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_lookalikes_are_accepted(head_judge: Judge, table: str, column: str) -> None:
    documents = [
        {k: {"value": "email", "to": ["name", "a@example.org"]} for k in LOOKALIKES},
        ["email", {"text": '{"email": 1}'}],
        "email",
        None,
    ]
    inserts = [of(A, stored(table, column, d, i)) for i, d in enumerate(documents)]
    update = Update(table, ((column, Json.of([documents[0]])),), key(table, 0))
    change = repair(update) if table == "attribution_events" else of(A, update)
    assert refused_without_violation(head_judge, NAME, workload(*inserts, change)) == []


def test_a_document_that_was_there_before_is_not_the_next_operations(head_lab: Lab) -> None:
    """It is told of the operation that stored it, not of one that changes another column."""
    later = Update("dead_events", (("source", "stripe"),), key("dead_events", 1))
    shown = workload(of(A, stored(*COLUMNS[1], {"email": 1})), of(A, later))
    found = head_lab.findings(NAME, shown, unguarded(*COLUMNS[1]))
    assert set(found) == {"insert/dead_events/raw_payload"}


def test_a_contract_without_the_rule_asks_for_nothing(lab: Lab, contract: Contract) -> None:
    shown = workload(of(A, stored(*COLUMNS[0], {"email": 1})))
    assert lab.findings(NAME, shown, contract=replace(contract, pii=None)) == {}
    assert set(lab.findings(NAME, shown)) == {"insert/attribution_events/raw_payload"}


def test_keys_are_found_at_every_depth(contract: Contract) -> None:
    assert contract.pii is not None
    document = {"email": [{"Name": {"x": [[{"ip": 1}]]}}], "zip": {"hostname": "name"}}
    assert sorted(pii_keys(contract.pii, document)) == ["Name", "email", "ip"]


PIECES = (
    "email", "e", "mail", "phone", "number", "numbers", "address", "line", "street", "ip", "v4",
    "v", "4", "s", "first", "name", "names", "Name", "NAME", "eMail", "user", "customer", "date",
    "of", "birth", "birthDate", "ssn", "device", "id", "Id", "mobile", "passport", "remote", "addr",
    "product", "zip", "order", "a", "Z", "x1", "1", "22", "0",
)  # fmt: skip
SEPARATORS = (
    "", "_", " ", "-", ".", "__", "/", '"', "\\", "\n", "\t", "\b", "\x01", "\x7f", "é", "İ",
    "\u017f", "\u212a", "\u2028", "名", "🙂", "{", '{"', '", "', '": ', ":", "u", "n",
)  # fmt: skip


def styled(words: list[str], style: str) -> str:
    match style:
        case "snake":
            return "_".join(words)
        case "kebab":
            return "-".join(words).upper()
        case "camel":
            return words[0] + "".join(w.capitalize() for w in words[1:])
        case "pascal":
            return "".join(w.capitalize() for w in words)
        case "upper":
            return "_".join(words).upper()
    return "".join(words)


def keys_like(contract: Contract) -> st.SearchStrategy[str]:
    """Keys made of the contract's words in any style, of pieces of them, and of anything."""
    assert contract.pii is not None
    listed = st.sampled_from([*contract.pii.last_words, *contract.pii.whole]).map(str.split)
    styles = st.sampled_from(("snake", "kebab", "camel", "pascal", "upper", "joined"))
    before = st.sampled_from(("", "", "billing", "billing_", "x1", "é", "product-", '"', "a\\"))
    after = st.sampled_from(("", "", "1", "_2", "-", "s", "ed_at", "X", "9z", "\n", "é", '"'))
    known = st.builds(lambda b, w, s, a: b + styled(w, s) + a, before, listed, styles, after)
    joined = st.lists(st.sampled_from(PIECES + SEPARATORS), max_size=6).map("".join)
    # jsonb has no NUL, and no text has half a surrogate pair.
    anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    return st.one_of(known, known, joined, joined, anything)


def test_the_contract_and_the_schema_read_keys_alike(head: Environment, contract: Contract) -> None:
    pii = contract.pii
    assert pii is not None
    told: set[bool] = set()
    scratch = head.scratch()
    try:
        with psycopg.connect(scratch.conninfo, autocommit=True) as connection:

            @settings(
                max_examples=60,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(st.lists(keys_like(contract), min_size=25, max_size=25))
            @example(keys=[*LOOKALIKES, "email", "Names", "IPv4", "ip_address-22", "dateOfBirth"])
            def agree(keys: list[str]) -> None:
                rows = connection.execute(
                    "SELECT names_pii(jsonb_build_object(k, 1))"
                    " FROM unnest(%s::text[]) WITH ORDINALITY AS t (k, n) ORDER BY n",
                    [keys],
                ).fetchall()
                mine = [pii.names(k) for k in keys]
                told.update(mine)
                assert dict(zip(keys, mine, strict=True)) == {
                    k: named for k, (named,) in zip(keys, rows, strict=True)
                }

            agree()
    finally:
        scratch.drop()
    assert told == {True, False}
