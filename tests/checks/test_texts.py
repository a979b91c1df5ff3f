"""Texts that reach a client: what of them is compared, and what one may not have in it."""

from __future__ import annotations

import pytest

from invariants.checks import INVARIANTS, texts
from invariants.search.judge import Judge, by_signature
from invariants.workload.operations import Workload
from tests.engine import A, B, Finding, Lab, altered, dead_event, of, reconciliation, workload

KNOWN = frozenset({A.encode()})


@pytest.mark.parametrize(
    ("text", "compared"),
    [
        ("at 2024-03-01 10:00:00.123+00, not later", "at ~, not later"),
        ("on 2024-03-01", "on ~"),
        (f"{A} is known, {B} is not", f"{A} is known, ~ is not"),
        ("process 1234 waits for transaction 77", "process ~ waits for transaction ~"),
        ("in pg_temp_12.mine", "in ~.mine"),
        ("epoch 1700000000.25", "epoch ~"),
        ("receipt 4 of 17", "receipt 4 of 17"),
    ],
)
def test_what_follows_the_clock_or_chance_is_masked(text: str, compared: str) -> None:
    assert texts.masked(text, KNOWN) == compared


TELLS = """
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$BEGIN
RAISE NOTICE '%', (SELECT {} FROM public.dead_events WHERE {}); RETURN NEW; END$$;
CREATE TRIGGER tell BEFORE INSERT ON dead_events FOR EACH ROW EXECUTE FUNCTION tell()
"""
ONE_EACH = workload(of(A, dead_event(1, A)), of(B, dead_event(2, B)))
SENT = workload(of(A, dead_event(1, A, error_code="secret-17")), of(B, dead_event(2, B)))
AS_MANY = workload(of(A, dead_event(1, A)), of(A, dead_event(3, A)), of(B, dead_event(2, B)))


@pytest.mark.parametrize(
    ("what", "whose", "shown"),
    [
        ("count(*)", "true", AS_MANY),
        ("string_agg(id::text, ' ')", "true", ONE_EACH),
        ("max(error_code)", "tenant_id <> NEW.tenant_id", SENT),
    ],
)
def test_a_notice_that_tells_of_others(
    head_lab: Lab, what: str, whose: str, shown: Workload
) -> None:
    """psql has notices nowhere to compare them: its script says that it does not judge."""
    changes = TELLS.format(what, whose)
    with altered(head_lab.environment, changes) as broken, Judge(broken, head_lab.contract) as j:
        case, violations = j.violations(INVARIANTS["cross-tenant"], shown)
        found = by_signature(violations)
        assert set(found) == {"cross-tenant/insert/dead_events/tell"}
        script = Finding(case, next(iter(found.values()))).counterexample.script
        assert head_lab.psql(broken, script).returncode == 2


def test_a_notice_of_ones_own_rows(head_lab: Lab) -> None:
    own = TELLS.format("count(*)", "tenant_id = NEW.tenant_id AND tenant_id = NEW.tenant_id")
    assert head_lab.findings("cross-tenant", AS_MANY, own) == {}


def test_where_a_text_was_made_is_not_compared(head_lab: Lab) -> None:
    """The same words at two places of a function are the same words."""
    changes = """
    CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$BEGIN
    IF (SELECT count(*) FROM public.dead_events) > 0 THEN RAISE EXCEPTION 'no'; END IF;

    RAISE EXCEPTION 'no'; END$$;
    CREATE TRIGGER say BEFORE INSERT ON reconciliation_runs FOR EACH ROW EXECUTE FUNCTION say()
    """
    shown = workload(of(A, dead_event(1, A)), of(B, reconciliation(1, B)))
    assert head_lab.findings("cross-tenant", shown, changes) == {}


WRITES = """
CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
NEW.error_code := 'WRITTEN'; RAISE NOTICE 'some WRITTEN text'; RETURN NEW; END$$;
CREATE TRIGGER say BEFORE INSERT ON dead_events FOR EACH ROW EXECUTE FUNCTION say()
"""


def test_a_word_of_the_schema_tells_nothing(head_lab: Lab) -> None:
    """Though it stands in rows of others as well."""
    assert head_lab.findings("cross-tenant", ONE_EACH, WRITES) == {}
