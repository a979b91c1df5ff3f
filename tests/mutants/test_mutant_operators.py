"""Mutants are derived from whatever schema is there, apply to it and change one thing."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from invariants.contract.contract import Contract
from invariants.mutants import FAMILIES, OPERATORS, TEXTUAL, Mutant, applied, derive
from invariants.mutants.reading import read_facts
from invariants.mutants.tokens import terms, tokens
from invariants.mutants.views import without_filter
from invariants.schema.chain import Migrations
from invariants.schema.difference import catalog_difference, catalog_fingerprint
from invariants.servers.environment import Environment, open_environment
from invariants.servers.roles import snapshot
from tests.databases import ROOT

Connection = psycopg.Connection[tuple[object, ...]]

# All that a mutant may change, in a few milliseconds: definitions, privileges, roles, taxonomy.
DIGEST = """
SELECT md5(string_agg(fact, '|' ORDER BY fact)) FROM (
    SELECT concat_ws(' ', c.relname, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.relacl,
                     c.reloptions, CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END)
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm')
    UNION ALL
    SELECT concat_ws(' ', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod),
                     a.attnotnull, a.attacl)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND c.relkind IN ('r', 'v', 'm')
    UNION ALL
    SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    UNION ALL
    SELECT pg_get_indexdef(oid) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'i'
    UNION ALL
    SELECT concat_ws(' ', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT concat_ws(' ', polrelid::regclass, polname, polcmd, polpermissive, polroles,
                     pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
    FROM pg_policy
    UNION ALL
    SELECT concat_ws(' ', proname, prosrc, proowner, proacl, prosecdef, proconfig)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT concat_ws(' ', rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,
                     rolreplication) FROM pg_roles
    UNION ALL
    SELECT m::text FROM pg_auth_members m
    UNION ALL
    SELECT concat_ws(' ', nspname, nspacl) FROM pg_namespace
    UNION ALL
    SELECT channel_taxonomy::text FROM channel_taxonomy
) facts(fact)
"""


# The same for privileges, which are half of the mutants.
PRIVILEGES = """
SELECT array_agg(c.oid || relacl::text ORDER BY c.oid),
       (SELECT array_agg(attrelid || attname || attacl::text ORDER BY attrelid, attnum)
        FROM pg_attribute WHERE attacl IS NOT NULL)
FROM pg_class c WHERE relnamespace = 'public'::regnamespace
"""


def at(environment: Environment, contract: Contract) -> Contract:
    return contract.at(environment.lineage.applied, environment.lineage.known)


def opened(environment: Environment) -> Iterator[Connection]:
    scratch = environment.scratch()
    with psycopg.connect(scratch.conninfo, autocommit=True) as connection:
        yield connection
    scratch.drop()


@pytest.fixture
def schema(head: Environment) -> Iterator[Connection]:
    """A scratch database at head."""
    yield from opened(head)


@pytest.fixture(scope="module")
def mutants(head: Environment, contract: Contract) -> dict[str, Mutant]:
    """The mutants of the schema at head by name; on every clone they are the same."""
    return {m.name: m for connection in opened(head) for m in derive(connection, contract)}


@pytest.fixture(scope="module")
def sixteen(shared_cache: Path) -> Iterator[Environment]:
    """The schema at head on PostgreSQL 16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVARIANTS_CACHE_DIR", str(shared_cache))
        environment = open_environment(
            "embedded:16", Migrations(ROOT / "alembic.ini"), say=lambda _: None
        )
    with environment:
        yield environment


@pytest.mark.parametrize("name", ["documented", "sixteen", "owned"])
def test_every_mutant_applies(
    name: str, request: pytest.FixtureRequest, contract: Contract
) -> None:
    environment: Environment = request.getfixturevalue(name)
    for connection in opened(environment):
        found = derive(connection, at(environment, contract))
        for mutant in found:
            with applied(connection, mutant):
                pass
        assert len(found) > 1000
        assert max(Counter(m.name for m in found).values()) == 1
        assert [m.name for m in found if re.search(r"\s", m.name)] == []


def test_a_mutant_that_the_server_refuses_edits_the_text_of_a_function(
    schema: Connection, contract: Contract, mutants: dict[str, Mutant]
) -> None:
    facts = read_facts(schema, contract)
    proposed = {m.name: m for family in FAMILIES for m in family(facts, contract)}
    assert {proposed[n].operator for n in proposed.keys() - mutants.keys()} <= TEXTUAL


def test_every_mutant_changes_the_schema_for_as_long_as_it_is_applied(
    schema: Connection, mutants: dict[str, Mutant]
) -> None:
    for digest in (DIGEST, PRIVILEGES):
        before = schema.execute(digest).fetchall()
        unchanged = []
        for mutant in mutants.values():
            of_privileges = mutant.operator.endswith(("privilege-granted", "-revoked"))
            if of_privileges == (digest == PRIVILEGES):
                with applied(schema, mutant):
                    if schema.execute(digest).fetchall() == before:
                        unchanged.append(mutant.name)
        assert unchanged == []
        assert schema.execute(digest).fetchall() == before


def test_two_mutants_never_change_the_schema_in_the_same_way(
    mutants: dict[str, Mutant],
) -> None:
    found: dict[tuple[str, ...], list[str]] = {}
    for mutant in mutants.values():
        found.setdefault(mutant.statements, []).append(mutant.name)
    assert [names for names in found.values() if len(names) > 1] == []


def test_deriving_leaves_nothing_behind(
    head: Environment, schema: Connection, contract: Contract
) -> None:
    before, roles = catalog_fingerprint(schema), snapshot(schema)
    first = derive(schema, contract)
    assert catalog_difference(before, catalog_fingerprint(schema)) == []
    assert snapshot(schema) == roles
    for other in opened(head):
        assert derive(other, contract) == first


def test_every_operator_finds_something_at_head(mutants: dict[str, Mutant]) -> None:
    # Functions of this schema write what they guard, and lock no rows: see `LOCKS` for these. It
    # has no sequences and no partitions: see `test_sequences_and_partitions_are_granted`.
    none = {"function-lock-dropped", "function-lock-weakened"}
    none |= {"sequence-granted", "partition-granted"}
    assert {m.operator for m in mutants.values()} == set(OPERATORS) - none


def test_sequences_and_partitions_are_granted(schema: Connection, contract: Contract) -> None:
    schema.execute("CREATE TABLE parts (id integer) PARTITION BY RANGE (id)")
    schema.execute("CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (9)")
    schema.execute('CREATE SEQUENCE "my numbers"')
    found = [m for m in derive(schema, contract) if m.target in ("part_1", "my numbers")]
    assert Counter(m.operator for m in found) == {"sequence-granted": 2, "partition-granted": 2}
    for mutant in found:
        with applied(schema, mutant):
            pass


def test_only_mutants_of_roles_are_of_the_whole_server(mutants: dict[str, Mutant]) -> None:
    for mutant in mutants.values():
        assert mutant.server_wide == mutant.operator.startswith("role-"), mutant.name


def test_an_operator_that_is_not_described_is_an_error() -> None:
    with pytest.raises(ValueError, match="'table-renamed' is no operator"):
        Mutant("table-renamed", "tenants", ())


@pytest.mark.parametrize("role", ["superuser", "migration_owner"])
def test_of_a_narrowed_column_only_types_change(
    role: str, schema: Connection, contract: Contract, request: pytest.FixtureRequest
) -> None:
    """What forbids it, views for example, is put back as it was."""
    if role == "migration_owner":
        environment: Environment = request.getfixturevalue("owned")
        connections = opened(environment)
        schema = next(connections)
    before = catalog_fingerprint(schema)
    narrowed = [m for m in derive(schema, contract) if m.operator == "type-narrowed"]
    assert len(narrowed) == 33
    for mutant in narrowed:
        with applied(schema, mutant):
            difference = catalog_difference(before, catalog_fingerprint(schema))
        objects = [line for line in difference if not line.startswith(" ")]
        assert f"changed: column public.{mutant.target}" in objects, mutant.name
        # Casts in predicates and conditions follow the type.
        allowed = (
            "changed: column ",
            "changed: constraint ",
            "changed: index ",
            "removed: comment ",
        )
        others = [o for o in objects if not o.startswith(allowed)]
        assert others == [], mutant.name


def test_a_new_table_brings_mutants_of_its_own(
    schema: Connection, contract: Contract, mutants: dict[str, Mutant]
) -> None:
    schema.execute("""
        CREATE TABLE coupons (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL REFERENCES tenants,
            event_id uuid,
            code text NOT NULL,
            percent integer CHECK (percent BETWEEN 0 AND 100),
            UNIQUE (tenant_id, code),
            FOREIGN KEY (tenant_id, event_id) REFERENCES attribution_events (tenant_id, id)
        )
    """)
    schema.execute("ALTER TABLE coupons ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    schema.execute("CREATE POLICY isolation ON coupons USING (tenant_id IS NOT NULL)")
    found = {m.name for m in derive(schema, contract)} - mutants.keys()
    assert {name.split("/")[1].split(".")[0] for name in found} == {"coupons"}
    assert {name.split("/")[0] for name in found} >= {
        "row-security-disabled",
        "row-security-not-forced",
        "policy-dropped",
        "policy-using-true",
        "policy-other-column",
        "table-owner",
        "privilege-granted",
        "column-privilege-granted",
        "reference-dropped",
        "reference-without-tenant",
        "unique-dropped",
        "unique-without-tenant",
        "unique-fewer-columns",
        "check-weakened",
        "not-null-dropped",
        "type-narrowed",
        "policy-restrictive",
        "unique-added",
        "not-null-added",
    }
    assert "check-weakened/coupons.coupons_percent_check/le.2.100-to-101" in found
    assert "unique-without-tenant/coupons.coupons_tenant_id_code_key" in found


def test_what_the_server_or_an_extension_brought_has_none(
    schema: Connection, contract: Contract
) -> None:
    schema.execute("CREATE TABLE brought (id integer PRIMARY KEY)")
    schema.execute("ALTER EXTENSION plpgsql ADD TABLE brought")
    schema.execute("CREATE TABLE parts (id integer) PARTITION BY RANGE (id)")
    schema.execute("CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (9)")
    derived = derive(schema, contract)
    found = {m.target.split(".")[0] for m in derived if m.operator != "partition-granted"}
    assert "parts" in found
    assert found & {"brought", "part_1", "alembic_version", "plpgsql"} == set()


def test_awkward_names_are_quoted(schema: Connection, contract: Contract) -> None:
    schema.execute('CREATE SCHEMA "a.b"')
    schema.execute(
        'CREATE TABLE "a.b"."Or der" (id integer PRIMARY KEY, tenant_id uuid NOT NULL,'
        ' "user" text NOT NULL, "x.y" integer UNIQUE CHECK ("x.y" > -5),'
        ' UNIQUE (tenant_id, "user"))'
    )
    schema.execute('CREATE VIEW "a.b"."V" AS SELECT "user" FROM "a.b"."Or der"')
    found = [m for m in derive(schema, contract) if m.target.startswith("a.b.")]
    assert {m.name for m in found} >= {
        "table-owner/a.b.Or_der/app_rw",
        "column-privilege-granted/a.b.Or_der/app_ro/UPDATE(x.y)",
        "check-weakened/a.b.Or_der.Or der_x.y_check/gt.-5-to--6".replace(" ", "_"),
        "privilege-granted/a.b.V/PUBLIC/UPDATE",
    }
    for mutant in found:
        with applied(schema, mutant):
            pass


SETTING = (
    "(NULLIF(pg_catalog.current_setting('app.current_tenant_id'::text, true), ''::text))::uuid"
)


def statements(mutants: dict[str, Mutant], name: str) -> list[str]:
    return [re.sub(r"\s+", " ", s) for s in mutants[name].statements]


def test_a_policy_about_another_column(mutants: dict[str, Mutant]) -> None:
    shown = SETTING.replace("pg_catalog.", "")
    assert statements(
        mutants, "policy-other-column/attribution_events.tenant_isolation_policy/session_id"
    ) == [
        "ALTER POLICY tenant_isolation_policy ON public.attribution_events"
        f" USING ((session_id = {shown})) WITH CHECK ((session_id = {shown}))"
    ]


def test_a_policy_for_one_command_has_the_clauses_of_that_command(
    mutants: dict[str, Mutant],
) -> None:
    clauses = {
        command: [
            word
            for word in ("USING", "WITH CHECK")
            if word
            in statements(
                mutants, f"policy-one-command/dead_events.tenant_isolation_policy/{command}"
            )[1]
        ]
        for command in ("SELECT", "INSERT", "UPDATE", "DELETE")
    }
    assert clauses == {
        "SELECT": ["USING"],
        "INSERT": ["WITH CHECK"],
        "UPDATE": ["USING", "WITH CHECK"],
        "DELETE": ["USING"],
    }


def test_a_reference_without_tenant_finds_its_index_or_makes_one(
    mutants: dict[str, Mutant],
) -> None:
    by_id = statements(
        mutants,
        "reference-without-tenant/attribution_allocations.fk_attribution_allocations_tenant_event_id",
    )
    assert by_id[1:] == [
        "ALTER TABLE public.attribution_allocations"
        " ADD CONSTRAINT fk_attribution_allocations_tenant_event_id FOREIGN KEY (event_id)"
        " REFERENCES public.attribution_events(id) ON DELETE CASCADE"
    ]
    by_amount = statements(
        mutants, "reference-without-tenant/revenue_ledger.fk_revenue_ledger_posted_allocation"
    )
    assert by_amount[1:] == [
        "CREATE UNIQUE INDEX invariants_referenced"
        " ON public.attribution_allocations (id, allocated_revenue_cents)",
        "ALTER TABLE public.revenue_ledger ADD CONSTRAINT fk_revenue_ledger_posted_allocation"
        " FOREIGN KEY (allocation_id, posted_cents)"
        " REFERENCES public.attribution_allocations(id, allocated_revenue_cents)",
    ]


def test_a_partial_unique_index_for_other_rows(mutants: dict[str, Mutant]) -> None:
    name = "unique-other-where/attribution_events.idx_attribution_events_tenant_correlation_id"
    predicates = {
        detail: statements(mutants, f"{name}/{detail}")[1].partition(" WHERE ")[2]
        for detail in ("negated", "without-1", "without-2")
    }
    assert predicates == {
        "negated": "(NOT ((correlation_id IS NOT NULL) AND (external_event_id IS NULL)))",
        "without-1": "((external_event_id IS NULL))",
        "without-2": "((correlation_id IS NOT NULL))",
    }


def test_a_trigger_keeps_what_is_not_changed(mutants: dict[str, Mutant]) -> None:
    target = "revenue_ledger.trg_check_ledger_net_of_correction"
    created = "TRIGGER trg_check_ledger_net_of_correction"
    on, calls = "ON public.revenue_ledger", "EXECUTE FUNCTION public.check_ledger_net()"
    when = "WHEN ((new.corrects_id IS NOT NULL))"
    assert [
        statements(mutants, f"{operator}/{target}{detail}")[-1]
        for operator, detail in (
            ("trigger-other-timing", "/BEFORE"),
            ("trigger-not-deferred", ""),
            ("trigger-statement-level", ""),
        )
    ] == [
        f"CREATE {created} BEFORE INSERT {on} FOR EACH ROW {when} {calls}",
        f"CREATE CONSTRAINT {created} AFTER INSERT {on} FOR EACH ROW {when} {calls}",
        f"CREATE {created} AFTER INSERT {on} FOR EACH STATEMENT {calls}",
    ]


def test_a_swallowing_trigger_discards_rows(schema: Connection, mutants: dict[str, Mutant]) -> None:
    schema.execute("INSERT INTO tenants (name) VALUES ('one')")
    mutant = mutants["trigger-swallowing/tenants.trg_tenants_prevent_removal"]
    with applied(schema, mutant):
        assert schema.execute("DELETE FROM tenants").rowcount == 0


def test_a_view_without_filter_keeps_its_options_and_privileges(
    schema: Connection, mutants: dict[str, Mutant]
) -> None:
    before = catalog_fingerprint(schema)
    with applied(schema, mutants["view-without-filter/v_realtime_revenue"]):
        difference = catalog_difference(before, catalog_fingerprint(schema))
    assert [line.split()[:3] for line in difference] == [
        ["changed:", "view", "public.v_realtime_revenue"],
        ["-", "FROM", "public.mv_realtime_revenue"],
        ["+", "FROM", "public.mv_realtime_revenue;"],
        ["-", "WHERE", "(tenant_id"],
    ]


def test_a_materialized_view_without_filter_takes_along_what_reads_it(
    schema: Connection, contract: Contract
) -> None:
    for statement in (
        "CREATE MATERIALIZED VIEW mine AS SELECT id, tenant_id FROM dead_events WHERE tenant_id ="
        " nullif(current_setting('app.current_tenant_id', true), '')::uuid AND source <> ''",
        "CREATE UNIQUE INDEX ON mine (id)",
        "ALTER MATERIALIZED VIEW mine OWNER TO migration_owner",
        "COMMENT ON MATERIALIZED VIEW mine IS 'its own'",
        "GRANT SELECT ON mine TO app_ro WITH GRANT OPTION",
        "CREATE VIEW counted WITH (security_barrier) AS SELECT count(*) AS n FROM mine",
        "CREATE VIEW above AS SELECT n FROM counted, mine",
        "GRANT SELECT (n) ON above TO app_ro",
    ):
        schema.execute(statement.encode())
    before = catalog_fingerprint(schema)
    found = {m.name: m for m in derive(schema, contract)}
    with applied(schema, found["view-without-filter/mine"]):
        difference = catalog_difference(before, catalog_fingerprint(schema))
    assert [line for line in difference if not line.startswith(" ")] == [
        "changed: materialized view public.mine"
    ]
    assert difference[-1].split() == ["+", "WHERE", "(source", "<>", "''::text);"]


FUNCTION = r"""
CREATE FUNCTION tricky(a integer, b text) RETURNS boolean LANGUAGE plpgsql AS $body$
DECLARE
    limits integer = 3;
    found integer := 0;
BEGIN
    -- a < 1 here is a comment, /* and so is
    found = limits;
    /* a > 2 and 'this' */
    PERFORM $$ a >= 4 $$, E'it\'s <> 5', "count"(*) FROM (SELECT 1.5) x("count");
    IF (CASE WHEN a <> 7 THEN true ELSE b::text || 'x' = 'y' END) THEN
        RAISE NOTICE 'a = 8';
    ELSIF NULLIF(b, '') !~ '^a<b' THEN
        RAISE EXCEPTION 'no <';
    END IF;
    UPDATE tenants SET name = 'z' WHERE '{"a": 1}'::jsonb -> 'a' <> '1'::jsonb;
    RETURN a<=-1;
END
$body$
"""


def test_of_a_function_only_code_is_changed(schema: Connection, contract: Contract) -> None:
    schema.execute(FUNCTION.encode())
    found = [m for m in derive(schema, contract) if m.target == "tricky"]
    assert [f"{m.operator.removeprefix('function-')} {m.detail}".strip() for m in found] == [
        "comparison L10.1.ne-lt",
        "comparison L10.1.ne-gt",
        "comparison L10.2.eq-le",
        "comparison L10.2.eq-ge",
        "comparison L12.nomatch-match",
        "comparison L15.2.ne-lt",
        "comparison L15.2.ne-gt",
        "comparison L16.le-lt",
        "comparison L16.le-eq",
        "constant L3.3-to-4",
        "constant L3.3-to-2",
        "constant L4.0-to-1",
        "constant L4.0-to--1",
        "constant L10.7-to-8",
        "constant L10.7-to-6",
        "constant L16.1-to-2",
        "constant L16.1-to-0",
        "branch L10.false",
        "branch L10.true",
        "branch L12.false",
        "branch L12.true",
        "write-dropped L15",
        "result L16.false",
        "result L16.true",
        "security DEFINER",
    ]


LOCKS = """
CREATE FUNCTION locking() RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    one record;
BEGIN
    LOCK TABLE dead_events IN SHARE MODE;
    PERFORM pg_advisory_xact_lock(1);
    FOR one IN SELECT * FROM tenants t, public.dead_events FOR UPDATE OF t, dead_events NOWAIT LOOP
        PERFORM * FROM (SELECT id FROM tenants FOR NO KEY UPDATE) inner_ones;
        PERFORM id FROM tenants FOR SHARE SKIP LOCKED;
        INSERT INTO tenants (id, name) SELECT id, 'x' FROM tenants FOR KEY SHARE;
    END LOOP;
END
$body$
"""


def test_the_locks_of_a_function(schema: Connection, contract: Contract) -> None:
    schema.execute(LOCKS)
    found = {m.name: m for m in derive(schema, contract) if m.target == "locking"}

    def changed(name: str) -> list[str]:
        before = catalog_fingerprint(schema)
        with applied(schema, found[f"function-{name}"]):
            difference = catalog_difference(before, catalog_fingerprint(schema))
        lines = [" ".join(line.split()) for line in difference[1:]]
        return [line for line in lines if line[:1] in ("-", "+")]

    of_locks = [n.removeprefix("function-") for n in found if "lock-" in n or "write-" in n]
    assert of_locks == [
        "lock-dropped/locking/L7",
        "lock-weakened/locking/L7",
        "lock-dropped/locking/L8",
        "lock-weakened/locking/L8",
        "lock-dropped/locking/L9",
        "lock-dropped/locking/L10",
        "write-dropped/locking/L5",
        "write-dropped/locking/L6",
        "write-dropped/locking/L10",
    ]
    loop = "FOR one IN SELECT * FROM tenants t, public.dead_events"
    assert changed("lock-dropped/locking/L7") == [
        f"- {loop} FOR UPDATE OF t, dead_events NOWAIT LOOP",
        f"+ {loop} LOOP",
    ]
    assert changed("lock-weakened/locking/L7")[1] == (
        f"+ {loop} FOR KEY SHARE OF t, dead_events NOWAIT LOOP"
    )
    assert changed("lock-dropped/locking/L8")[1] == (
        "+ PERFORM * FROM (SELECT id FROM tenants ) inner_ones;"
    )
    assert changed("lock-dropped/locking/L9")[1] == "+ PERFORM id FROM tenants ;"
    assert changed("write-dropped/locking/L6") == [
        "- PERFORM pg_advisory_xact_lock(1);",
        "+ NULL;",
    ]


def test_a_function_with_a_body_of_sql(schema: Connection, contract: Contract) -> None:
    schema.execute(
        "CREATE FUNCTION paid(cents integer) RETURNS boolean LANGUAGE sql"
        " BEGIN ATOMIC SELECT cents > 0 AND cents < 10; END"
    )
    schema.execute("CREATE FUNCTION paid(cents text) RETURNS text LANGUAGE sql RETURN cents || 1")
    found = [m for m in derive(schema, contract) if m.target.startswith("paid")]
    assert [m.name for m in found if "cents_text" not in m.name] == [
        "function-comparison/paid(cents_integer)/L2.1.gt-ge",
        "function-comparison/paid(cents_integer)/L2.1.gt-ne",
        "function-comparison/paid(cents_integer)/L2.2.lt-le",
        "function-comparison/paid(cents_integer)/L2.2.lt-ne",
        "function-constant/paid(cents_integer)/L2.1.0-to-1",
        "function-constant/paid(cents_integer)/L2.1.0-to--1",
        "function-constant/paid(cents_integer)/L2.2.10-to-11",
        "function-constant/paid(cents_integer)/L2.2.10-to-9",
        "function-security/paid(cents_integer)/DEFINER",
    ]
    assert "function-constant/paid(cents_text)/L1.1-to-2" in {m.name for m in found}


def test_a_clause_of_a_function(mutants: dict[str, Mutant]) -> None:
    def body(name: str) -> str:
        return " ".join(statements(mutants, f"function-clause-dropped/{name}"))

    wheres = [
        re.findall(r"allocations WHERE (.*?);", body(f"check_allocation_sum/L26.without-{n}"))
        for n in (1, 2, 3)
    ]
    tenant, event = "tenant_id = touched.tenant_id", "event_id = touched.event_id"
    model = "model_version = touched.model_version"
    assert wheres == [
        [f"{event} AND {model}"],
        [f"{tenant} AND {model}"],
        [f"{tenant} AND {event}"],
    ]
    assert (
        "IF coalesce(NEW, OLD) *= OLD AND current_user = ( SELECT pg_get_userbyid(relowner)"
        " FROM pg_class WHERE oid = TG_RELID ) THEN"
    ) in body("fn_events_prevent_mutation/L10.without-2")


def test_a_comparison_in_a_function(schema: Connection, mutants: dict[str, Mutant]) -> None:
    name = "function-comparison/check_allocation_sum/L31.gt-ge"
    before = catalog_fingerprint(schema)
    with applied(schema, mutants[name]):
        difference = catalog_difference(before, catalog_fingerprint(schema))
    assert [line.strip() for line in difference] == [
        "changed: function public.check_allocation_sum()",
        "-                 IF abs(allocated_sum - event_revenue) > 1 THEN",
        "+                 IF abs(allocated_sum - event_revenue) >= 1 THEN",
    ]


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        ("SELECT a FROM t WHERE (x = current_setting('s'::text))", "SELECT a FROM t"),
        (
            "SELECT a FROM t WHERE ((x = current_setting('s'::text)) AND (y > 1)) ORDER BY a",
            "SELECT a FROM t WHERE (y > 1) ORDER BY a",
        ),
        (
            "SELECT a FROM (SELECT * FROM t WHERE (x = current_setting('s'::text))) q WHERE b",
            "SELECT a FROM (SELECT * FROM t ) q WHERE b",
        ),
        ("SELECT a FROM t WHERE (x = current_setting('other'::text))", None),
        ("SELECT current_setting('s'::text) FROM t", None),
    ],
)
def test_a_query_without_the_filter(query: str, rest: str | None) -> None:
    assert without_filter(query, "s") == rest


@pytest.mark.parametrize(
    ("expression", "conditions"),
    [
        ("((a > 1) AND (b < 2))", ["(a > 1)", "(b < 2)"]),
        ("(a > 1)", ["a > 1"]),
        ("a BETWEEN 1 AND 2 AND b", ["a BETWEEN 1 AND 2", "b"]),
        ("CASE WHEN a AND b THEN c ELSE d END", ["CASE WHEN a AND b THEN c ELSE d END"]),
        ("(a OR (b AND c))", ["a OR (b AND c)"]),
        ("a OR b AND c", ["a OR b AND c"]),
        ("' AND ' = a AND b", ["' AND ' = a", "b"]),
    ],
)
def test_conditions_that_and_connects(expression: str, conditions: list[str]) -> None:
    assert terms(expression, "AND") == conditions


def test_tokens() -> None:
    source = "a<=-1 -- b\n||E'\\'' $x$ ' $x$ \"c d\"::text@-/*e*/1..2 x=>y:=z"
    assert [t.text for t in tokens(source)] == [
        *["a", "<=", "-", "1", "||", "E'\\''", "$x$ ' $x$", '"c d"', "::", "text", "@-", "1"],
        *["..", "2", "x", "=>", "y", ":=", "z"],
    ]
