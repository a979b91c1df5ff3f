"""What is enumerated: it holds at head, and each list finds what it is there for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st

from invariants import generation
from invariants.checks import INVARIANTS, Invariant
from invariants.contract.contract import Contract
from invariants.generation.drawing import plainest
from invariants.generation.world import Draw, World
from invariants.schema.routines import Sought
from invariants.search.judge import Judge, by_signature
from invariants.servers.environment import Environment
from invariants.workload.operations import Operation, Select, Shadow, Truncate, Workload
from tests.engine import (
    A,
    Lab,
    allocation,
    altered,
    dead_event,
    event,
    of,
    refused_without_violation,
    workload,
)
from tests.generation.doors import ENTERED
from tests.generation.flaws import CROSSED, DOORS, Flaw

SWEPT = [(i.name, sweep) for i in INVARIANTS.values() for sweep in i.sweeps]
# Head has no view that takes rows, no partition, no routine for everybody that reaches any, no
# setting but that of the tenant, and no role that is a member of another.
ONLY_ELSEWHERE = frozenset(
    [
        *("views", "parts", "plans", "routines", "writers", "settings", "becoming", "unlocking"),
        *("unlocking as another", "unnamed", "unplaced"),
    ]
)
SESSION = "NULLIF(current_setting('app.current_tenant_id', true), '')::uuid"


def with_sweeps(invariant: str, *sweeps: str) -> Invariant:
    """The invariant as if these lists were all it has."""
    base = type(INVARIANTS[invariant])
    made: Invariant = type(base.__name__, (base,), {"sweeps": sweeps})()
    return made


def swept(judge: Judge, invariant: str, *sweeps: str) -> list[Workload]:
    return list(generation.sweeps(judge.contract, judge.catalog, with_sweeps(invariant, *sweeps)))


def found(judge: Judge, invariant: str, *sweeps: str) -> set[str]:
    """The signatures that a sweep shows, without the invariant's name."""
    return {
        signature.removeprefix(f"{invariant}/")
        for workload in swept(judge, invariant, *sweeps)
        for signature in by_signature(judge.violations(INVARIANTS[invariant], workload)[1])
    }


@pytest.mark.parametrize(("invariant", "sweep"), SWEPT)
def test_it_holds_at_head(head_judge: Judge, invariant: str, sweep: str) -> None:
    workloads = swept(head_judge, invariant, sweep)
    assert workloads or sweep in ONLY_ELSEWHERE
    assert found(head_judge, invariant, sweep) == set()


def test_it_is_the_same_every_time(head_judge: Judge) -> None:
    for invariant, sweep in SWEPT:
        assert swept(head_judge, invariant, sweep) == swept(head_judge, invariant, sweep)


FLAWS: Mapping[tuple[str, str], tuple[Flaw, ...]] = {
    ("cross-tenant", "writes"): (
        Flaw(
            "ALTER POLICY tenant_isolation_policy ON dead_events WITH CHECK (true)",
            "insert/dead_events/tenant_isolation_policy",
        ),
        Flaw(
            "ALTER ROLE migration_owner BYPASSRLS",
            "update/attribution_events/tenant_isolation_policy",
        ),
    ),
    ("cross-tenant", "leaks"): (
        Flaw(
            "ALTER VIEW v_realtime_revenue RESET (security_barrier)",
            "select/v_realtime_revenue/22P02",
        ),
    ),
    ("append-only", "layers"): (
        Flaw(
            "GRANT UPDATE (revenue_cents) ON attribution_events TO app_ro",
            "update/attribution_events/privilege",
        ),
        Flaw(
            "ALTER TABLE revenue_ledger DISABLE TRIGGER trg_ledger_prevent_mutation",
            "update/revenue_ledger/trg_check_ledger_net_of_repair",
        ),
        Flaw(
            "CREATE OR REPLACE FUNCTION fn_events_prevent_mutation() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "delete/attribution_events/trg_events_prevent_mutation",
        ),
    ),
    ("liveness", "permitted"): (
        Flaw(
            "CREATE UNIQUE INDEX too_much ON dead_events (tenant_id, ingested_at)",
            "insert/dead_events/too_much",
        ),
        Flaw(
            "DROP POLICY tenant_isolation_policy ON dead_events; "
            f"CREATE POLICY p ON dead_events FOR SELECT USING (tenant_id = {SESSION}); "
            f"CREATE POLICY q ON dead_events FOR INSERT WITH CHECK (tenant_id = {SESSION})",
            "update/dead_events/another effect",
        ),
    ),
    ("liveness", "privileges"): (
        Flaw("GRANT SELECT (name) ON tenants TO PUBLIC", "select/tenants/privilege not enforced"),
        Flaw(
            "GRANT UPDATE (code) ON channel_taxonomy TO app_admin",
            "update/channel_taxonomy/privilege not enforced",
        ),
        # A foreign key refuses as well, and that hides it.
        Flaw(
            "GRANT TRUNCATE ON attribution_events TO app_ro",
            "truncate/attribution_events/privilege not enforced",
        ),
        Flaw(
            "GRANT INSERT (tenant_id, source, error_code, error_detail, raw_payload)"
            " ON dead_events TO app_ro",
            "insert/dead_events/privilege not enforced",
        ),
        Flaw(
            "ALTER TABLE reconciliation_runs OWNER TO app_ro",
            "comment/reconciliation_runs/ownership not enforced",
        ),
        Flaw(
            "ALTER FUNCTION names_pii(jsonb) OWNER TO app_rw",
            "comment/public.names_pii(document jsonb)/ownership not enforced",
        ),
        Flaw(
            "GRANT EXECUTE ON FUNCTION check_ledger_net() TO app_rw",
            "attach/public.check_ledger_net()/execution not enforced",
        ),
    ),
    ("liveness", "shadows"): (
        Flaw(
            "ALTER FUNCTION check_allocation_sum() RESET search_path",
            "shadow/pg_catalog.text/check_allocation_sum",
        ),
        Flaw(
            "ALTER FUNCTION check_ledger_net() SET search_path = pg_catalog, public",
            "shadow/pg_catalog.text/check_ledger_net",
        ),
        # The deletions of a cascade are the owner's.
        Flaw(
            "ALTER FUNCTION fn_events_prevent_mutation() RESET search_path",
            "shadow/pg_catalog.pg_class/fn_events_prevent_mutation",
        ),
    ),
    ("liveness", "columns"): (
        Flaw(
            "ALTER TABLE dead_events ALTER source DROP NOT NULL",
            "insert/dead_events/not null not enforced",
        ),
        Flaw("ALTER TABLE dead_events ALTER source TYPE varchar(999)", "insert/dead_events/22001"),
        Flaw(
            "ALTER TABLE attribution_allocations"
            " DROP CONSTRAINT ck_attribution_allocations_allocation_ratio_bounds",
            "insert/attribution_allocations/domain not enforced",
        ),
        Flaw(
            "ALTER TABLE attribution_allocations ALTER allocation_ratio TYPE numeric(5,4)",
            "insert/attribution_allocations/another effect",
        ),
        Flaw(
            "ALTER TABLE reconciliation_runs ALTER updated_at TYPE timestamptz(0)",
            "insert/reconciliation_runs/another effect",
        ),
        Flaw(
            "ALTER TABLE dead_events DROP CONSTRAINT dead_events_pkey",
            "insert/dead_events/unique not enforced",
        ),
        Flaw(
            "ALTER TABLE tenants DROP CONSTRAINT ck_tenants_name_not_empty",
            "insert/tenants/domain not enforced",
        ),
    ),
    ("liveness", "erasures"): (
        Flaw(
            "ALTER TABLE dead_events DROP CONSTRAINT dead_events_tenant_id_fkey",
            "delete/dead_events/another effect",
        ),
    ),
    ("liveness", "truncations"): (
        Flaw(
            "REVOKE TRUNCATE ON revenue_ledger FROM migration_owner",
            "truncate/revenue_ledger/privilege",
        ),
    ),
    ("liveness", "sums"): (
        Flaw(
            "DROP TRIGGER trg_check_allocation_sum ON attribution_allocations; "
            "CREATE TRIGGER trg_check_allocation_sum AFTER INSERT OR UPDATE OR DELETE"
            " ON attribution_allocations FOR EACH ROW EXECUTE FUNCTION check_allocation_sum()",
            "delete/attribution_allocations/check_allocation_sum",
        ),
    ),
    ("allocation-sum", "sums"): (
        Flaw(
            "DROP TRIGGER trg_check_event_revenue ON attribution_events",
            "update/attribution_events/trg_events_prevent_mutation",
        ),
    ),
    ("ledger", "ledgers"): (
        Flaw(
            "DROP TRIGGER trg_check_ledger_net_of_repair ON revenue_ledger",
            "update/revenue_ledger/net below zero",
        ),
    ),
    ("idempotent-ingest", "keys"): (
        Flaw(
            "DROP INDEX idx_attribution_events_tenant_correlation_id",
            "insert/attribution_events/unique (correlation_id)",
        ),
    ),
    ("taxonomy", "taxonomies"): (
        Flaw(
            "ALTER TABLE attribution_allocations"
            " DROP CONSTRAINT fk_attribution_allocations_channel_code",
            "insert/attribution_allocations/no foreign key",
        ),
        Flaw(
            "UPDATE channel_taxonomy SET is_active = false WHERE code = 'email'",
            "mapping/channel_taxonomy/retired",
        ),
    ),
    ("read-path", "refreshes"): (
        Flaw(
            "DROP INDEX idx_mv_realtime_revenue_tenant_id",
            "refresh/mv_realtime_revenue/55000",
        ),
    ),
    ("pii", "documents"): (
        Flaw(
            "ALTER TABLE dead_events DROP CONSTRAINT ck_dead_events_raw_payload_names_no_pii",
            "insert/dead_events/raw_payload",
        ),
    ),
}


ALL_FLAWS = {**FLAWS, **DOORS, **ENTERED, **CROSSED}
# Of what the contract does not place: tests/search/test_unreached.py.
NOT_PLACED = frozenset({"unnamed", "unplaced"})


def _flaws() -> Iterator[tuple[str, str, Flaw]]:
    for (invariant, sweep), flaws in ALL_FLAWS.items():
        for flaw in flaws:
            yield invariant, sweep, flaw


@pytest.mark.parametrize(("invariant", "sweep", "flaw"), list(_flaws()))
def test_it_finds_what_it_is_for(
    head: Environment,
    contract: Contract,
    head_lab: Lab,
    invariant: str,
    sweep: str,
    flaw: Flaw,
) -> None:
    with altered(head, flaw.sql) as broken, Judge(broken, contract) as judge:
        telling = [
            w
            for w in swept(judge, invariant, sweep)
            if f"{invariant}/{flaw.cause}"
            in by_signature(judge.violations(INVARIANTS[invariant], w)[1])
        ]
    assert telling
    # psql agrees, here and on head, or where there is a lawful one.
    assert flaw.cause in head_lab.tells_apart(
        invariant, telling[0], broken=flaw.sql, mended=flaw.lawful
    )


@pytest.mark.parametrize(
    ("invariant", "sweep", "flaw"), [f for f in _flaws() if f[2].lawful], ids=str
)
def test_it_finds_nothing_in_a_lawful_neighbour(
    head: Environment, contract: Contract, invariant: str, sweep: str, flaw: Flaw
) -> None:
    with altered(head, flaw.lawful) as mended, Judge(mended, contract) as judge:
        assert swept(judge, invariant, sweep)
        assert found(judge, invariant, sweep) == set()


def test_who_may_insert_rows_may_number_them(head: Environment, contract: Contract) -> None:
    numbered = (
        "CREATE SEQUENCE numbers; GRANT USAGE ON numbers TO app_rw; "
        "ALTER TABLE dead_events ADD number bigint DEFAULT nextval('numbers'); "
        # The server numbers these itself, whatever is granted.
        "ALTER TABLE reconciliation_runs ADD number bigint GENERATED ALWAYS AS IDENTITY"
    )
    with altered(head, numbered) as made, Judge(made, contract) as judge:
        assert found(judge, "liveness", "inquiries") == set()


def test_every_list_has_a_flaw_that_it_finds() -> None:
    assert {sweep for _, sweep in ALL_FLAWS} == {sweep for _, sweep in SWEPT} - NOT_PLACED


def operations(judge: Judge, invariant: str, sweep: str) -> list[Operation]:
    return [o for w in swept(judge, invariant, sweep) for o in w.operations]


def test_every_privilege_is_asked_for(head_judge: Judge) -> None:
    asked = {
        (o.actor.role, s.kind, s.relation, getattr(s, "columns", ()), getattr(s, "assign", ()))
        for o in operations(head_judge, "liveness", "privileges")
        for s in o.statements
    }
    contract, catalog = head_judge.contract, head_judge.catalog
    for role in contract.application_roles:
        for relation in catalog.relations.values():
            for column in relation.columns.values():
                if not contract.may(role, "select", relation.name):
                    assert (role, "select", relation.name, (column.name,), ()) in asked
                if (
                    relation.kind == "table"
                    and not column.generated
                    and not contract.may(role, "update", relation.name)
                ):
                    assert (role, "update", relation.name, (), ((column.name, None),)) in asked


def test_a_leak_is_read_without_indexes(head_judge: Judge) -> None:
    leaks = [o for o in operations(head_judge, "cross-tenant", "leaks") if o.leaks]
    columns = {s.leak for o in leaks for s in o.statements if isinstance(s, Select)}
    assert {"tenant_id", "total_revenue", "raw_payload"} <= columns


def test_truncate_is_tried_with_and_without_cascade(head_judge: Judge) -> None:
    tried = {
        (s.relation, s.cascade)
        for o in operations(head_judge, "append-only", "layers")
        for s in o.statements
        if isinstance(s, Truncate)
    }
    for rule in head_judge.contract.append_only:
        assert {(rule.table, True), (rule.table, False)} <= tried


DEFINER = "ALTER FUNCTION check_allocation_sum() RESET search_path"
NO_TEMP = """DO $$ BEGIN
EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$"""
IN_SHADOW = workload(
    of(A, event(1)), of(A, Shadow("pg_catalog.text", "type"), allocation(1)), of(A, dead_event(1))
)


def test_who_can_make_nothing_temporary_has_nobody_run_it(head_lab: Lab) -> None:
    """Refused as well, but not by what was to be run: neither we nor psql take it for that."""
    cause = "shadow/pg_catalog.text/check_allocation_sum"
    found = head_lab.findings("liveness", IN_SHADOW, DEFINER)[cause]
    assert "app_rw has code of its own run as postgres" in found.violation.summary
    assert head_lab.findings("liveness", IN_SHADOW, DEFINER, NO_TEMP) == {}
    with altered(head_lab.environment, DEFINER, NO_TEMP) as mended:
        done = head_lab.psql(mended, found.counterexample.script)
    assert (done.returncode, "42501" in done.stderr or "permission denied" in done.stderr) == (
        0,
        True,
    )


def test_a_function_that_runs_as_who_calls_it_may_find_a_shadow(lab: Lab) -> None:
    """The documented check does, and nobody gets any rights by that."""
    with Judge(lab.environment, lab.contract) as judge:
        assert Sought("pg_catalog.text", "type") in judge.catalog.sought
        assert refused_without_violation(judge, "liveness", IN_SHADOW) == []


def test_every_writer_writes_in_shadow(head_judge: Judge) -> None:
    shadowed = [o for o in operations(head_judge, "liveness", "shadows") if o.shadows]
    tried = {(o.actor.role, o.statements[-1].kind, o.statements[-1].relation) for o in shadowed}
    contract = head_judge.contract
    for role in (*contract.application_roles, *contract.repair_roles):
        for table in contract.tenancy.tables:
            for verb in ("insert", "update", "delete"):
                assert ((role, verb, table) in tried) == contract.may(role, verb, table)
    assert (contract.tenancy.erased_by, "delete", "tenants") in tried
    assert {
        Shadow("pg_catalog.text", "type"),
        Shadow("pg_catalog.pg_class", "relation"),
    } <= set(shadowed[0].statements)


def test_what_functions_look_for(head: Environment, contract: Contract) -> None:
    bodies = (
        "BEGIN PERFORM 1 FROM pg_am, public.tenants; PERFORM NULL::uuid, NULL::bigint; END",
        "-- in a comment: dead_events\nBEGIN RAISE 'pg_index %', 1::MACADDR; END",
        "BEGIN EXECUTE 'SELECT ''1''::cidr FROM revenue_ledger'; END",
    )
    changes = [
        f"CREATE FUNCTION f{i}() RETURNS void LANGUAGE plpgsql AS $body${body}$body$"
        for i, body in enumerate(bodies)
    ]
    with Judge(head, contract) as judge:
        before = {(s.name, s.kind) for s in judge.catalog.sought}
    with altered(head, *changes) as made, Judge(made, contract) as judge:
        sought = {(s.name, s.kind) for s in judge.catalog.sought}
    assert sought - before == {
        ("pg_catalog.pg_am", "relation"),
        ("pg_catalog.uuid", "type"),
        ("pg_catalog.macaddr", "type"),
        ("pg_catalog.cidr", "type"),
        ("public.revenue_ledger", "relation"),
    }


ODD = """
CREATE TABLE numbered (id serial PRIMARY KEY, tenant_id OWNED, note text);
CREATE TABLE nameless (tenant_id OWNED, at timestamptz NOT NULL);
CREATE TABLE paired (tenant_id OWNED, n int CHECK (n >= 0), tags text[],
    PRIMARY KEY (tenant_id, n));
CREATE TABLE hens (id uuid PRIMARY KEY, tenant_id OWNED, egg uuid NOT NULL);
CREATE TABLE eggs (id uuid PRIMARY KEY, tenant_id OWNED,
    hen uuid NOT NULL REFERENCES hens DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE hens ADD FOREIGN KEY (egg) REFERENCES eggs DEFERRABLE INITIALLY DEFERRED
""".replace("OWNED", "uuid NOT NULL REFERENCES tenants ON DELETE CASCADE")
ODD_TABLES = ("numbered", "nameless", "paired", "hens", "eggs")


@pytest.mark.parametrize("invariant", [n for n, i in INVARIANTS.items() if i.sweeps])
def test_tables_of_any_make_are_swept(
    head: Environment, contract: Contract, invariant: str
) -> None:
    """Keys the server numbers, composite keys, no key, and rows that need each other."""
    verbs = frozenset({"select", "insert", "update", "delete"})
    granted = [
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {t} TO app_rw; "
        f"ALTER TABLE {t} ENABLE ROW LEVEL SECURITY; "
        f"CREATE POLICY p ON {t} USING (tenant_id = {SESSION})"
        for t in ODD_TABLES
    ]
    wider = replace(
        contract,
        accepted={**contract.accepted, "sequence": "they number one after the other"},
        tenancy=replace(contract.tenancy, tables=(*contract.tenancy.tables, *ODD_TABLES)),
        roles={
            **contract.roles,
            "app_rw": {**contract.roles["app_rw"], **dict.fromkeys(ODD_TABLES, verbs)},
        },
    )
    changes = (ODD, *granted, "GRANT USAGE ON SEQUENCE numbered_id_seq TO app_rw")
    with altered(head, *changes) as odd, Judge(odd, wider) as judge:
        judged = [
            judge.violations(INVARIANTS[invariant], w)
            for w in swept(judge, invariant, *INVARIANTS[invariant].sweeps)
        ]
    touched = {
        s.relation
        for case, _ in judged
        for step in case.history.steps
        for s in step.operation.statements
    }
    if invariant in ("cross-tenant", "liveness"):
        assert set(ODD_TABLES) <= touched
    # Their references are not kept within the tenant, and nothing else is amiss.
    amiss = {str(v.signature): v.summary for _, found in judged for v in found}
    assert {k: v for k, v in amiss.items() if "/reference/" not in k} == {}


def test_plain_choices_have_no_end() -> None:
    """However many values the rows of a wide schema take, a sweep can make them."""

    @st.composite
    def build(draw: Draw[Any]) -> int:
        world = World(None, None, draw, None, plain=True)  # type: ignore[arg-type]
        return max(world.below(1000) for _ in range(100_000))

    assert plainest(build()) == 0
