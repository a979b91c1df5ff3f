"""Doors into head: a routine, a setting, a role, each open too wide, beside a lawful neighbour."""

from __future__ import annotations

from collections.abc import Mapping

from tests.generation.flaws import Flaw

PATH = "SET search_path = pg_catalog, pg_temp"
THEIRS = "tenant_id = NULLIF(current_setting('app.current_tenant_id', true), '')::pg_catalog.uuid"


def _function(head: str, query: str) -> str:
    """A function in SQL that runs as its owner, for everybody."""
    return f"CREATE FUNCTION {head} LANGUAGE sql SECURITY DEFINER {PATH} AS $$ {query} $$"


def _letter(condition: str) -> str:
    return _function(
        "letter(p_id uuid) RETURNS text",
        f"SELECT source FROM public.dead_events WHERE id = p_id AND {condition}",
    )


def _settle(condition: str) -> str:
    return (
        "CREATE PROCEDURE settle(p_status text, INOUT done integer) LANGUAGE plpgsql"
        f" SECURITY DEFINER {PATH} AS $$BEGIN DELETE FROM public.reconciliation_runs"
        f" WHERE {condition}; GET DIAGNOSTICS done = ROW_COUNT; END$$"
    )


ENTERED: Mapping[tuple[str, str], tuple[Flaw, ...]] = {
    ("cross-tenant", "routines"): (
        # Whose rows it hands out, its caller says.
        Flaw(
            _function(
                "letters_of(p_tenant uuid) RETURNS SETOF dead_events",
                "SELECT * FROM public.dead_events WHERE tenant_id = p_tenant",
            ),
            "call/letters_of(uuid)/function",
            lawful=_function(
                "letters_of(p_tenant uuid) RETURNS SETOF dead_events",
                f"SELECT * FROM public.dead_events WHERE tenant_id = p_tenant AND {THEIRS}",
            ),
        ),
        # What comes back does not say whose it is: what the others do makes the difference.
        Flaw(_letter("true"), "call/letter(uuid)/function", lawful=_letter(THEIRS)),
        Flaw(
            _function(
                "letters_like(VARIADIC patterns text[]) RETURNS jsonb",
                "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(d)) FROM public.dead_events d"
                " WHERE source LIKE ANY (patterns)",
            ),
            "call/letters_like(VARIADIC text[])/function",
        ),
        Flaw(
            _settle("true"),
            "delete/reconciliation_runs/settle(text, integer)",
            lawful=_settle(THEIRS),
        ),
    ),
    ("append-only", "writers"): (
        Flaw(
            _function(
                "forget(p_id uuid) RETURNS void",
                f"DELETE FROM public.revenue_ledger WHERE id = p_id AND {THEIRS}",
            )
            + "; CREATE OR REPLACE FUNCTION fn_ledger_prevent_mutation() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN RETURN coalesce(NEW, OLD); END'",
            "delete/revenue_ledger/forget(uuid)",
        ),
    ),
}
