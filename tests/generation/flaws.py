"""Flaws at head, each with a cause that a sweep shows, and lawful neighbours of doors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Flaw:
    """SQL that breaks head, and a cause that the sweep of an invariant shows then.

    With `lawful`, SQL of a schema that does nearly the same, the sweep finds nothing.
    """

    sql: str
    cause: str
    lawful: str = ""


OWN = "tenant_id = NULLIF(current_setting('app.current_tenant_id', true), '')::uuid"
RUN = "reconciliation_run_id"
KEY = "idx_attribution_events_tenant_external_event_id"


def _view(options: str, check: str) -> str:
    return (
        f"CREATE VIEW letters WITH ({options}) AS SELECT * FROM dead_events WHERE {OWN} {check}; "
        "GRANT SELECT, INSERT, UPDATE, DELETE ON letters TO app_rw"
    )


def _postbox(tenant: str) -> str:
    """A view without rows that takes them by a trigger, for the tenant so determined."""
    return (
        "CREATE VIEW postbox AS SELECT id, tenant_id, source FROM dead_events WHERE false; "
        "CREATE FUNCTION post() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp AS $$BEGIN"
        " INSERT INTO public.dead_events (id, tenant_id, source, error_code, error_detail,"
        f" raw_payload) VALUES (NEW.id, {tenant}, NEW.source, 'x', '{{}}', '{{}}');"
        " RETURN NEW; END$$; "
        "CREATE TRIGGER post INSTEAD OF INSERT ON postbox FOR EACH ROW EXECUTE FUNCTION post(); "
        "GRANT INSERT ON postbox TO app_rw"
    )


def _runs(action: str) -> str:
    """The ledger refers to its run, with this action; its guard lets the reference go."""
    return (
        "ALTER TABLE reconciliation_runs ADD UNIQUE (tenant_id, id); "
        "ALTER TABLE revenue_ledger ADD CONSTRAINT of_run"
        f" FOREIGN KEY (tenant_id, {RUN}) REFERENCES reconciliation_runs (tenant_id, id) {action}; "
        "CREATE OR REPLACE FUNCTION fn_ledger_prevent_mutation() RETURNS trigger LANGUAGE plpgsql"
        " SET search_path = pg_catalog, pg_temp AS $$BEGIN"
        f" IF TG_OP = 'UPDATE' AND (NEW.{RUN} IS DISTINCT FROM OLD.{RUN}"
        " OR pg_trigger_depth() > 1) THEN RETURN NEW; END IF;"
        " IF current_user = 'migration_owner' THEN RETURN coalesce(NEW, OLD); END IF;"
        " RAISE EXCEPTION 'revenue_ledger is immutable'; END$$"
    )


def _summed(kind: str) -> str:
    """A second look at sums, which counts in this type; the first one is gone."""
    return (
        "DROP TRIGGER trg_check_allocation_sum ON attribution_allocations; "
        "CREATE FUNCTION add_up() RETURNS trigger LANGUAGE plpgsql AS $$"
        f"DECLARE wanted {kind}; given {kind}; BEGIN"
        " SELECT revenue_cents INTO wanted FROM public.attribution_events"
        " WHERE id = NEW.event_id AND tenant_id = NEW.tenant_id;"
        " SELECT sum(allocated_revenue_cents) INTO given FROM public.attribution_allocations"
        " WHERE (tenant_id, event_id, model_version)"
        " = (NEW.tenant_id, NEW.event_id, NEW.model_version);"
        " IF abs(wanted - given) > 1 THEN RAISE EXCEPTION 'does not add up'; END IF;"
        " RETURN NULL; END$$; "
        "CREATE CONSTRAINT TRIGGER add_up AFTER INSERT OR UPDATE ON attribution_allocations"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION add_up()"
    )


def _index(of: str, tenant: str = "tenant_id, ") -> str:
    return (
        f"DROP INDEX {KEY}; CREATE UNIQUE INDEX {KEY} ON attribution_events ({tenant}{of})"
        " WHERE external_event_id IS NOT NULL"
    )


def _printed(moment: str) -> str:
    """A trigger that makes the key of a message of how a time is printed."""
    return (
        f"DROP INDEX {KEY}; ALTER TABLE attribution_events ADD told_apart_by text;"
        " CREATE FUNCTION tell_apart() RETURNS trigger LANGUAGE plpgsql"
        " SET search_path = pg_catalog, pg_temp AS $$BEGIN"
        f" NEW.told_apart_by = NEW.external_event_id || ({moment})::text; RETURN NEW; END$$;"
        "CREATE TRIGGER tell_apart BEFORE INSERT ON attribution_events"
        " FOR EACH ROW EXECUTE FUNCTION tell_apart();"
        f"CREATE UNIQUE INDEX {KEY} ON attribution_events (tenant_id, told_apart_by)"
    )


def _explaining(theirs: str) -> str:
    """A trigger that looks for a row's event among everybody's, and says this of another's."""
    return (
        "CREATE FUNCTION explain() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp AS $$DECLARE whose uuid; called text; BEGIN"
        " SELECT t.id, t.name INTO whose, called FROM public.attribution_events e"
        " JOIN public.tenants t ON t.id = e.tenant_id WHERE e.id = NEW.event_id;"
        f" IF whose <> NEW.tenant_id THEN {theirs}; END IF;"
        " IF whose IS NULL THEN RAISE EXCEPTION 'no event' USING ERRCODE = '23503',"
        " DETAIL = 'as of ' || clock_timestamp() || ', ' || gen_random_uuid(); END IF;"
        " RETURN NEW; END$$; "
        "CREATE TRIGGER explain BEFORE INSERT ON attribution_allocations"
        " FOR EACH ROW EXECUTE FUNCTION explain()"
    )


_LAWFUL = _explaining(
    "RAISE EXCEPTION 'no event' USING ERRCODE = '23503',"
    " DETAIL = 'as of ' || clock_timestamp() || ', ' || gen_random_uuid()"
)


def _refusing(text: str) -> str:
    return f"RAISE EXCEPTION USING ERRCODE = '23503', {text}"


def _keeping(body: str) -> str:
    """A trigger that does something to the session that writes a letter."""
    return (
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql"
        f" SET search_path = pg_catalog, pg_temp AS $$BEGIN {body}; RETURN NULL; END$$; "
        "CREATE TRIGGER keep AFTER INSERT ON dead_events FOR EACH ROW EXECUTE FUNCTION keep()"
    )


def _says(local: str) -> str:
    return f"PERFORM set_config('app.current_tenant_id', NEW.tenant_id::text, {local})"


DOORS: Mapping[tuple[str, str], tuple[Flaw, ...]] = {
    ("cross-tenant", "handovers"): (
        Flaw(
            _keeping(_says("false")),
            "leftover/app.current_tenant_id/keep",
            lawful=_keeping(_says("true")),
        ),
        Flaw(
            _keeping("PERFORM pg_advisory_lock(7)"),
            "leftover/advisory locks/keep",
            lawful=_keeping("PERFORM pg_advisory_xact_lock(7)"),
        ),
        Flaw(
            _keeping("CREATE TEMP TABLE IF NOT EXISTS sent AS SELECT NEW.source"),
            "leftover/temporary objects/keep",
            lawful=_keeping("CREATE TEMP TABLE sent ON COMMIT DROP AS SELECT NEW.source"),
        ),
    ),
    ("cross-tenant", "views"): (
        Flaw(
            _view("security_barrier", ""),
            "insert/dead_events/letters",
            lawful=_view("security_barrier, security_invoker", "WITH CHECK OPTION"),
        ),
        # What is there already is taken over, whatever the view shows.
        Flaw(
            _view("security_barrier", "WITH CHECK OPTION"),
            "update/dead_events/letters",
            lawful=_view("security_barrier, security_invoker", ""),
        ),
        Flaw(
            _postbox("NEW.tenant_id"),
            "insert/dead_events/postbox",
            lawful=_postbox("NULLIF(current_setting('app.current_tenant_id', true), '')::uuid"),
        ),
    ),
    # In other words alone, which tell nothing but that the row is there; and by what is in it.
    ("cross-tenant", "trespasses"): tuple(
        Flaw(_explaining(theirs), "insert/attribution_allocations/explain", lawful=_LAWFUL)
        for theirs in (
            _refusing("MESSAGE = 'not yours'"),
            _refusing("MESSAGE = 'no event', HINT = 'ask ' || called"),
            _refusing("MESSAGE = 'no event', DETAIL = 'it is of ' || whose"),
        )
    ),
    ("cross-tenant", "twins"): (
        Flaw(
            "ALTER TABLE dead_events NO FORCE ROW LEVEL SECURITY; "
            "CREATE UNIQUE INDEX one_source ON dead_events (source)",
            "insert/dead_events/one_source",
            lawful="CREATE UNIQUE INDEX one_source ON dead_events (tenant_id, id, source)",
        ),
    ),
    ("append-only", "parents"): (
        Flaw(
            _runs(f"ON DELETE SET NULL ({RUN})"),
            "update/revenue_ledger/of_run",
            lawful=_runs("ON DELETE RESTRICT"),
        ),
        Flaw(
            _runs("ON UPDATE CASCADE"),
            "update/revenue_ledger/of_run",
            lawful=_runs("ON UPDATE RESTRICT"),
        ),
    ),
    ("allocation-sum", "magnitudes"): (
        Flaw(
            _summed("real"),
            "insert/attribution_allocations/add_up",
            lawful=_summed("numeric"),
        ),
    ),
    ("idempotent-ingest", "elsewhere"): (
        Flaw(
            _printed("NEW.occurred_at"),
            "insert/attribution_events/tell_apart",
            lawful=_printed("NEW.occurred_at AT TIME ZONE 'UTC'"),
        ),
        Flaw(
            _printed("interval '-1 day 2 hours'"),
            "insert/attribution_events/tell_apart",
            lawful=_printed("extract(epoch FROM interval '-1 day 2 hours')"),
        ),
        Flaw(
            _printed("length(NEW.external_event_id)::float8 / 7"),
            "insert/attribution_events/tell_apart",
            lawful=_printed("length(NEW.external_event_id)"),
        ),
    ),
    ("idempotent-ingest", "alike"): (
        Flaw(_index("lower(external_event_id)"), f"insert/attribution_events/{KEY}"),
        Flaw(_index("btrim(external_event_id)"), f"insert/attribution_events/{KEY}"),
        Flaw(_index("left(external_event_id, 100)"), f"insert/attribution_events/{KEY}"),
        Flaw(_index("ltrim(external_event_id, '0')"), f"insert/attribution_events/{KEY}"),
        Flaw(
            _index("normalize(external_event_id)", tenant=""),
            f"insert/attribution_events/{KEY}",
            lawful=_index("md5(external_event_id)"),
        ),
    ),
}


def _failed_runs(options: str) -> str:
    return (
        f"CREATE VIEW failed_runs {options} AS SELECT id, tenant_id FROM reconciliation_runs"
        " WHERE state = 'failed'; GRANT SELECT ON failed_runs TO app_ro"
    )


# What goes from one tenant to another: by a reference, or by what is shown.
CROSSED: Mapping[tuple[str, str], tuple[Flaw, ...]] = {
    ("cross-tenant", "crossing"): (
        Flaw(
            "DO $$ DECLARE it text; BEGIN SELECT conname INTO it FROM pg_constraint"
            " WHERE conrelid = 'attribution_allocations'::regclass"
            " AND confrelid = 'attribution_events'::regclass;"
            " EXECUTE format('ALTER TABLE attribution_allocations DROP CONSTRAINT %I', it);"
            " ALTER TABLE attribution_allocations ADD CONSTRAINT of_event"
            " FOREIGN KEY (event_id) REFERENCES attribution_events ON DELETE CASCADE; END $$",
            "reference/attribution_allocations/of_event",
        ),
    ),
    ("cross-tenant", "shown"): (
        Flaw(
            _failed_runs(""),
            "select/failed_runs/view without tenant filter",
            _failed_runs("WITH (security_invoker = true)"),
        ),
    ),
}
