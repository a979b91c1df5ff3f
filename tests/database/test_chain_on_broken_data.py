"""The hardened chain on data that break a rule: it stops by name, and its hint mends them."""

import re
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from invariants.schema.difference import catalog_difference
from tests.database.hardened import (
    ALLOCATION,
    FRESH,
    NEW,
    OTHER,
    SPLIT_PART,
    A,
    B,
    acting,
    rows,
    unchecked,
)
from tests.databases import DOCUMENTED_HEAD, Database

# The statement that breaks the rule for a tenant, and how the message names the row.
BROKEN = {
    "an allocation of another tenant's event": (
        ALLOCATION + " VALUES ('{new}', '{own}', '{other_fresh}', 'm1', 'email', 100)",
        "{new}",
    ),
    "a posting of another tenant's allocation": (
        "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents)"
        " VALUES ('{new}', '{own}', '{other}', 100)",
        "{new}",
    ),
    "an allocation of no event": (
        ALLOCATION + " VALUES ('{new}', '{own}', '{new}', 'm1', 'email', 100)",
        "{new}",
    ),
    "a posting of no allocation": (
        "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, revenue_cents)"
        " VALUES ('{new}', '{own}', '{new}', 100)",
        "{new}",
    ),
    "a group out of balance": (
        ALLOCATION + " VALUES ('{new}', '{own}', '{fresh}', 'm7', 'email', 98)",
        "event {fresh}, model version m7: 98 instead of 100 cents",
    ),
    "a group whose sum is no integer": (
        ALLOCATION + " VALUES ('{new}', '{own}', '{fresh}', 'm7', 'email', 2147483647),"
        " (gen_random_uuid(), '{own}', '{fresh}', 'm7', 'direct', 2147483647)",
        "event {fresh}, model version m7: 4294967294 instead of 100 cents",
    ),
    "an event without a key": (
        "UPDATE attribution_events SET correlation_id = NULL WHERE id = '{fresh}'",
        "{fresh}",
    ),
    "a posting of another amount": (
        "UPDATE revenue_ledger SET revenue_cents = 99 WHERE id = '{own}'",
        "{own}: 99 instead of 100 cents",
    ),
    "personal data in an event": (
        "UPDATE attribution_events SET raw_payload = jsonb_build_object('email', 'secret')"
        " WHERE id = '{fresh}'",
        "{fresh}",
    ),
    "personal data in a dead event": (
        "UPDATE dead_events SET raw_payload = jsonb_build_object('email', 'secret')"
        " WHERE id = '{own}'",
        "{own}",
    ),
    "personal data in the detail of an error": (
        "UPDATE dead_events SET error_detail = jsonb_build_object('email', 'secret')"
        " WHERE id = '{own}'",
        "{own}",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rules_stop_the_upgrade_by_name(documented: Database, rule: str) -> None:
    breaking, named = BROKEN[rule]
    with unchecked(documented) as session:
        for tenant in (A, B):
            session.run(breaking.format(**names_of(tenant)))
    refuses_to_migrate(
        documented, documented.upgrade, "head", [named.format(**names_of(t)) for t in (A, B)]
    )


# What is valid at the head and has no place in the documented schema, whose ledger has no
# corrections, and whose materialized views cannot be built from the others.
UNPLACED = {
    "corrections": (
        "INSERT INTO revenue_ledger (id, tenant_id, allocation_id, corrects_id, revenue_cents)"
        " VALUES ('{new}', '{own}', '{own}', '{own}', -40)",
        "{new}",
    ),
    "runs at one time": (
        "INSERT INTO reconciliation_runs (id, tenant_id, last_run_at)"
        " SELECT '{new}', tenant_id, last_run_at FROM reconciliation_runs WHERE id = '{own}'",
        "{new}",
    ),
    **{
        f"ledger rows of {name}": (
            f"UPDATE revenue_ledger SET updated_at = '{time}' WHERE id = '{{own}}'",
            "{own}",
        )
        for name, time in (
            ("1901", "1901-01-01"),
            ("2999", "2999-01-01"),
            ("no time", "infinity"),
            ("no time past", "-infinity"),
        )
    },
}


@pytest.mark.parametrize("kind", UNPLACED)
def test_what_has_no_place_in_the_documented_schema_stops_the_downgrade_by_name(
    hardened: Database, kind: str
) -> None:
    statement, named = UNPLACED[kind]
    with unchecked(hardened) as session:
        for tenant in (A, B):
            session.run(statement.format(**names_of(tenant)))
    refuses_to_migrate(
        hardened,
        hardened.downgrade,
        DOCUMENTED_HEAD,
        [named.format(**names_of(tenant)) for tenant in (A, B)],
    )


# What a hint says, done: the rule and the statement that mends a tenant's rows.
REPAIRS = [
    (
        "an allocation of another tenant's event",
        "UPDATE attribution_allocations SET event_id = '{fresh}' WHERE id = '{new}'",
    ),
    (
        "an allocation of another tenant's event",
        "DELETE FROM attribution_allocations WHERE id = '{new}'",
    ),
    (
        "a posting of another tenant's allocation",
        "UPDATE revenue_ledger SET allocation_id = '{split_part}', revenue_cents = 49"
        " WHERE id = '{new}'",
    ),
    (
        "a posting of another tenant's allocation",
        "DELETE FROM revenue_ledger WHERE id = '{new}'",
    ),
    (
        "an allocation of no event",
        "DELETE FROM attribution_allocations WHERE id = '{new}'",
    ),
    (
        "a posting of no allocation",
        "DELETE FROM revenue_ledger WHERE id = '{new}'",
    ),
    (
        "a group out of balance",
        "UPDATE attribution_allocations SET allocated_revenue_cents = 100 WHERE id = '{new}'",
    ),
    (
        "a group whose sum is no integer",
        "UPDATE attribution_allocations SET allocated_revenue_cents = 50"
        " WHERE event_id = '{fresh}' AND model_version = 'm7'",
    ),
    (
        "an event without a key",
        "UPDATE attribution_events SET correlation_id = id WHERE id = '{fresh}'",
    ),
    (
        "a posting of another amount",
        "UPDATE revenue_ledger SET revenue_cents = 100 WHERE id = '{own}'",
    ),
    (
        "personal data in an event",
        "UPDATE attribution_events SET raw_payload = '{{}}' WHERE id = '{fresh}'",
    ),
    (
        "personal data in a dead event",
        "UPDATE dead_events SET raw_payload = '{{}}' WHERE id = '{own}'",
    ),
    (
        "personal data in the detail of an error",
        "UPDATE dead_events SET error_detail = '{{}}' WHERE id = '{own}'",
    ),
    (
        "corrections",
        "DELETE FROM revenue_ledger WHERE id = '{new}'",
    ),
    (
        "runs at one time",
        "UPDATE reconciliation_runs SET last_run_at = '2025-02-01 00:00:00+00' WHERE id = '{new}'",
    ),
    (
        "runs at one time",
        "DELETE FROM reconciliation_runs WHERE id = '{new}'",
    ),
    *(
        (
            f"ledger rows of {time}",
            "UPDATE revenue_ledger SET updated_at = now() WHERE id = '{own}'",
        )
        for time in ("1901", "2999", "no time", "no time past")
    ),
]


def hint_of(migrate: Callable[[str], None], target: str) -> str:
    with pytest.raises(DBAPIError) as failure:
        migrate(target)
    assert isinstance(failure.value.orig, psycopg.Error)
    return str(failure.value.orig.diag.message_hint)


def follow(database: Database, hint: str, repair: str) -> None:
    """Do to the letter what a hint says, and no more: as whom, for whom, from which revision on."""
    first = re.search(r"Upgrade to (\d+) first", hint)
    if first is not None:
        database.upgrade(first[1])
    role = re.search(r"\bas (the owner|\w+)", hint)
    assert role is not None
    disabled = re.search(r"(trg_\w+) disabled meanwhile", hint)
    for tenant in (A, B):
        with acting(
            database,
            database.migrator if role[1] == "the owner" else role[1],
            tenant if "app.current_tenant_id set to" in hint else None,
        ) as session:
            if disabled is not None:
                session.run(f"ALTER TABLE revenue_ledger DISABLE TRIGGER {disabled[1]}")
            assert session.changed(repair.format(**names_of(tenant))) > 0
            if disabled is not None:
                session.run(f"ALTER TABLE revenue_ledger ENABLE TRIGGER {disabled[1]}")


@pytest.mark.parametrize(
    ("rule", "repair"),
    [pytest.param(*pair, id=pair[0]) for pair in REPAIRS if pair[0] in BROKEN],
)
def test_who_follows_the_hint_gets_to_the_head(
    documented: Database, rule: str, repair: str
) -> None:
    with unchecked(documented) as session:
        for tenant in (A, B):
            session.run(BROKEN[rule][0].format(**names_of(tenant)))
    follow(documented, hint_of(documented.upgrade, "head"), repair)
    documented.upgrade("head")


@pytest.mark.parametrize(
    ("kind", "repair"),
    [pytest.param(*pair, id=pair[0]) for pair in REPAIRS if pair[0] not in BROKEN],
)
def test_who_follows_the_hint_gets_back_to_the_documented_schema(
    hardened: Database, kind: str, repair: str
) -> None:
    with unchecked(hardened) as session:
        for tenant in (A, B):
            session.run(UNPLACED[kind][0].format(**names_of(tenant)))
    follow(hardened, hint_of(hardened.downgrade, DOCUMENTED_HEAD), repair)
    hardened.downgrade(DOCUMENTED_HEAD)


def test_every_hint_is_followed() -> None:
    assert {kind for kind, _ in REPAIRS} == BROKEN.keys() | UNPLACED.keys()


def names_of(tenant: str) -> dict[str, str]:
    return {
        "own": tenant,
        "other": OTHER[tenant],
        "fresh": FRESH[tenant],
        "other_fresh": FRESH[OTHER[tenant]],
        "new": NEW[tenant],
        "split_part": SPLIT_PART[tenant],
    }


def refuses_to_migrate(
    database: Database, migrate: Callable[[str], None], target: str, named: list[str]
) -> None:
    """Stops with a message that names the rows of both tenants, and leaves all as it was."""
    revision, catalog, data = database.revision(), database.fingerprint(), rows(database)
    with pytest.raises(DBAPIError) as failure:
        migrate(target)
    message = str(failure.value.orig)
    assert re.search(r"^\w+: \d (rows|groups) ", message)
    for name in named:
        assert name in message
    assert "secret" not in message
    assert database.revision() == revision
    assert catalog_difference(catalog, database.fingerprint()) == []
    assert rows(database) == data


def test_runs_and_ages_that_do_not_show_do_not_stop_the_downgrade(hardened: Database) -> None:
    with unchecked(hardened) as session:
        for tenant in (A, B):
            session.tenant = tenant
            for _ in range(2):
                session.insert("reconciliation_runs", last_run_at="2024-01-01 00:00:00+00")
            session.insert(
                "revenue_ledger",
                allocation_id=SPLIT_PART[tenant],
                revenue_cents=49,
                updated_at="1901-01-01",
            )
    hardened.downgrade(DOCUMENTED_HEAD)


def test_data_that_broke_the_refresh_do_not_stop_the_upgrade(documented: Database) -> None:
    with unchecked(documented) as session:
        for tenant in (A, B):
            session.run(
                "INSERT INTO reconciliation_runs (id, tenant_id, last_run_at)"
                " SELECT '{new}', tenant_id, last_run_at FROM reconciliation_runs"
                " WHERE id = '{own}'".format(**names_of(tenant))
            )
        session.run("UPDATE revenue_ledger SET updated_at = '1901-01-01' WHERE id = %s", A)
        session.run("UPDATE revenue_ledger SET updated_at = 'infinity' WHERE id = %s", B)
    kept = rows(documented)
    documented.upgrade("head")
    assert rows(documented) == kept
