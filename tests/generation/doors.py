"""Doors into head: a routine, a setting, a role, each open too wide, beside a lawful neighbour."""

from __future__ import annotations

from collections.abc import Mapping

from tests.generation.flaws import OWN, Flaw

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


def _dynamic(query: str) -> str:
    return (
        "CREATE FUNCTION letters_from(p_source text) RETURNS TABLE (tenant_id uuid, source text)"
        f" LANGUAGE plpgsql SECURITY DEFINER {PATH} AS $$BEGIN"
        f" RETURN QUERY EXECUTE {query} USING p_source; END$$"
    )


def _settle(condition: str) -> str:
    return (
        "CREATE PROCEDURE settle(p_status text, INOUT done integer) LANGUAGE plpgsql"
        f" SECURITY DEFINER {PATH} AS $$BEGIN DELETE FROM public.reconciliation_runs"
        f" WHERE {condition}; GET DIAGNOSTICS done = ROW_COUNT; END$$"
    )


def _policy(more: str) -> str:
    return f"ALTER POLICY tenant_isolation_policy ON dead_events USING (({OWN}) {more})"


def _by_function(volatility: str) -> str:
    """Dead events, guarded by a function that says who the tenant is."""
    return (
        f"CREATE FUNCTION session_tenant() RETURNS uuid LANGUAGE sql {volatility} PARALLEL SAFE AS"
        " $$ SELECT NULLIF(pg_catalog.current_setting('app.current_tenant_id', true),"
        " '')::pg_catalog.uuid $$; ALTER POLICY tenant_isolation_policy ON dead_events"
        " USING (tenant_id = session_tenant()) WITH CHECK (tenant_id = session_tenant())"
    )


def _secured(table: str) -> str:
    return (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL"
        f" SECURITY; CREATE POLICY own ON {table} USING ({OWN}) WITH CHECK ({OWN})"
    )


def _parted(more: str) -> str:
    """Dead events in two parts; their parent is as safe as it was."""
    return (
        "ALTER TABLE dead_events RENAME TO before; CREATE TABLE dead_events (LIKE before INCLUDING"
        " DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (id), FOREIGN KEY (tenant_id) REFERENCES"
        " tenants ON DELETE CASCADE) PARTITION BY HASH (id); DROP TABLE before;"
        " CREATE TABLE letters_0 PARTITION OF dead_events FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        " CREATE TABLE letters_1 PARTITION OF dead_events FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        " GRANT SELECT, INSERT, UPDATE, DELETE ON dead_events TO app_rw;"
        f" GRANT SELECT ON dead_events TO app_ro; {_secured('dead_events')}; {more}"
    )


def _support(using: str) -> str:
    """A role that an application role may become, with a policy of its own."""
    return (
        "DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'support') THEN"
        " CREATE ROLE support NOLOGIN; END IF; END$$; GRANT SELECT ON dead_events TO support; "
        f"CREATE POLICY support ON dead_events FOR SELECT TO support {using}; "
        "GRANT support TO app_ro WITH INHERIT FALSE"
    )


def _unlocked(condition: str) -> str:
    """The guard of events lets pass what it is told to."""
    return (
        "CREATE OR REPLACE FUNCTION fn_events_prevent_mutation() RETURNS trigger LANGUAGE plpgsql"
        f" {PATH} AS $$BEGIN IF {condition} THEN RETURN coalesce(NEW, OLD); END IF;"
        " RAISE EXCEPTION 'attribution_events is append-only'; END$$"
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
                "letters_by(wish jsonb) RETURNS SETOF dead_events",
                "SELECT * FROM public.dead_events"
                " WHERE tenant_id = (wish ->> 'customer')::pg_catalog.uuid",
            ),
            "call/letters_by(jsonb)/function",
        ),
        Flaw(
            "CREATE DOMAIN customer AS uuid; "
            + _function(
                "letters_to(customer) RETURNS SETOF dead_events",
                "SELECT * FROM public.dead_events WHERE tenant_id = $1",
            ),
            "call/letters_to(customer)/function",
        ),
        Flaw(
            _function(
                "letters_like(VARIADIC patterns text[]) RETURNS jsonb",
                "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(d)) FROM public.dead_events d"
                " WHERE source LIKE ANY (patterns)",
            ),
            "call/letters_like(VARIADIC text[])/function",
        ),
        # SQL made at run time is not read beforehand: what it reaches is tried.
        Flaw(
            _dynamic("'SELECT tenant_id, source FROM public.dead_events WHERE source = $1'"),
            "call/letters_from(text)/function",
            lawful=_dynamic(
                "$q$SELECT tenant_id, source FROM public.dead_events"
                f" WHERE source = $1 AND {THEIRS}$q$"
            ),
        ),
        Flaw(
            _settle("true"),
            "delete/reconciliation_runs/settle(text, integer)",
            lawful=_settle(THEIRS),
        ),
    ),
    ("cross-tenant", "settings"): (
        Flaw(
            _policy("OR current_setting('app.support', true) = 'granted'"),
            "select/dead_events/app.support",
            lawful=_policy("AND current_setting('app.support', true) IS DISTINCT FROM 'closed'"),
        ),
        # A function in between, a truth, and a way to write.
        Flaw(
            "CREATE FUNCTION importing() RETURNS boolean LANGUAGE sql STABLE"
            f" {PATH} AS $$ SELECT current_setting('app.import', true)::boolean $$; "
            "CREATE POLICY importing ON dead_events FOR INSERT WITH CHECK (importing())",
            "insert/dead_events/app.import",
        ),
    ),
    ("cross-tenant", "becoming"): (
        Flaw(
            _support("USING (true)"),
            "select/dead_events/support",
            lawful=_support(f"USING ({OWN})"),
        ),
    ),
    ("append-only", "unlocking"): (
        Flaw(
            _unlocked("current_setting('app.repair', true) = 'yes, please'"),
            "delete/attribution_events/app.repair",
            lawful=_unlocked(
                "current_user = 'migration_owner' AND current_setting('app.repair', true) = 'yes'"
            ),
        ),
    ),
    ("append-only", "unlocking as another"): (
        Flaw(
            "GRANT migration_owner TO app_rw WITH INHERIT FALSE",
            "update/attribution_events/migration_owner",
            lawful="GRANT app_ro TO app_rw WITH INHERIT FALSE",
        ),
    ),
    ("cross-tenant", "plans"): (
        Flaw(
            _by_function("IMMUTABLE"),
            "select/dead_events/session_tenant",
        ),
    ),
    ("cross-tenant", "parts"): (
        Flaw(
            _parted("GRANT SELECT ON letters_0, letters_1 TO app_ro"),
            "select/letters_0/row security disabled",
            lawful=_parted(
                "GRANT SELECT ON letters_0, letters_1 TO app_ro;"
                f" {_secured('letters_0')}; {_secured('letters_1')}"
            ),
        ),
        Flaw(
            _parted("GRANT SELECT, DELETE ON letters_0, letters_1 TO app_rw"),
            "delete/dead_events/letters_1",
        ),
    ),
    ("liveness", "inquiries"): (
        Flaw(
            "GRANT TRIGGER ON dead_events TO app_rw",
            "trigger/dead_events/privilege not enforced",
        ),
        Flaw(
            "GRANT REFERENCES (id) ON tenants TO PUBLIC",
            "references/tenants/privilege not enforced",
        ),
        Flaw(
            "GRANT INSERT ON dead_events TO app_rw WITH GRANT OPTION",
            "insert with grant option/dead_events/privilege not enforced",
        ),
        Flaw(
            "CREATE SEQUENCE numbers; GRANT USAGE ON numbers TO app_rw",
            "usage/numbers/privilege not enforced",
        ),
        Flaw("GRANT CREATE ON SCHEMA public TO app_ro", "create/public/privilege not enforced"),
        Flaw(
            "GRANT pg_read_server_files TO app_ro WITH INHERIT FALSE",
            "member/pg_read_server_files/privilege not enforced",
        ),
        Flaw(
            "CREATE SEQUENCE counted; GRANT SELECT ON SEQUENCE counted TO app_ro",
            "select/counted/privilege not enforced",
        ),
        Flaw("ALTER ROLE app_ro CREATEROLE", "attribute/createrole/privilege not enforced"),
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
