"""Every name in a workload is looked up before anything is sent, and none becomes SQL as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from invariants.contract.contract import ANYBODY, Contract
from invariants.contract.premises import GRANTED
from invariants.counterexamples.files import load
from invariants.counterexamples.fitting import check
from invariants.errors import UsageError
from invariants.reading import Misfit
from invariants.schema.catalog import UniqueIndex
from invariants.search.events import Event, PassedOver
from invariants.search.explorer import Explorer, Search
from invariants.search.judge import Judge
from invariants.search.run import fitting, replay
from invariants.servers.environment import Environment
from invariants.workload import sql
from invariants.workload.format import workload_to_json
from invariants.workload.operations import (
    Attach,
    Become,
    Call,
    Comment,
    Conflict,
    Copy,
    Delete,
    Inquire,
    Insert,
    Json,
    Merge,
    Refresh,
    Select,
    Set,
    Shadow,
    Statement,
    Tenant,
    Truncate,
    Update,
    Workload,
)
from tests.conftest import ROOT
from tests.engine import A, B, dead_event, maintenance, of, transaction, workload

ROW = dead_event(1)
RUNS = "public.fn_prevent_truncate(); COPY (SELECT 1) TO PROGRAM 'touch x'"
UNFIT: dict[str, tuple[Workload, str]] = {
    "premise": (workload(of(A, ROW), premise="nope"), "premise: 'nope' is not known; use one of:"),
    "a tenant's column": (
        replace(workload(of(A, ROW)), tenants=(Tenant(A, ("id", "nam"), (A, "T")),)),
        "tenants[0].row: 'tenants' has no column 'nam' in this schema; replay it at a revision",
    ),
    "role": (
        workload(of(A, ROW, role="ghost")),
        "operations[0].role: the contract has no role 'ghost'; use one of: \"\", app_rw, app_ro,",
    ),
    "a role of the server": (
        workload(of(A, ROW, role="pg_execute_server_program")),
        "operations[0].role: the contract has no role 'pg_execute_server_program'",
    ),
    "relation": (
        workload(of(A, Select("nothing"))),
        "operations[0].statements[0].relation: this schema has no relation 'nothing'; replay it at",
    ),
    "the server's catalog": (
        workload(maintenance(Delete("pg_catalog.pg_db_role_setting"))),
        "operations[0].statements[0].relation: this schema has no relation 'pg_catalog.pg_db_role",
    ),
    "the information schema": (
        workload(of(A, Select("information_schema.tables"))),
        "operations[0].statements[0].relation: this schema has no relation 'information_schema.ta",
    ),
    "what is temporary": (
        workload(of(A, Select("pg_temp.tenants"))),
        "operations[0].statements[0].relation: this schema has no relation 'pg_temp.tenants'",
    ),
    "another database": (
        workload(of(A, Select("postgres.public.tenants"))),
        "operations[0].statements[0].relation: this schema has no relation 'postgres.public.tenan",
    ),
    "a name with more": (
        workload(of(A, Select("dead_events; DROP TABLE tenants"))),
        "operations[0].statements[0].relation: this schema has no relation 'dead_events; DROP",
    ),
    "an insert's column": (
        workload(of(A, replace(ROW, columns=("oid", *ROW.columns[1:])))),
        "operations[0].statements[0].columns: 'dead_events' has no column 'oid' in this schema;",
    ),
    "an update's column": (
        workload(of(A, Update("dead_events", (("a = 1; --", 1),)))),
        "operations[0].statements[0].assign: 'dead_events' has no column 'a = 1; --'",
    ),
    "a condition's column": (
        workload(of(A, Delete("dead_events", (("ctid", "(0,1)"),)))),
        "operations[0].statements[0].where: 'dead_events' has no column 'ctid'",
    ),
    "a leak": (
        workload(of(A, Select("dead_events", leak="xmin"))),
        "operations[0].statements[0].leak: 'dead_events' has no column 'xmin'",
    ),
    "a merge's key": (
        workload(of(A, Merge("dead_events", ("id",), ("1",), ("key",)))),
        "operations[0].statements[0].on: 'dead_events' has no column 'key'",
    ),
    "a copy's column": (
        workload(of(A, Copy("dead_events", ("key",), (("1",),)))),
        "operations[0].statements[0].columns: 'dead_events' has no column 'key'",
    ),
    "a conflict's column": (
        workload(of(A, replace(ROW, conflict=Conflict(("key",))))),
        "operations[0].statements[0].conflict.target: 'dead_events' has no column 'key'",
    ),
    "a conflict's predicate": (
        workload(of(A, replace(ROW, conflict=Conflict(("id",), "true) DO NOTHING; --")))),
        "operations[0].statements[0].conflict.where: no unique index of 'dead_events' has the pred",
    ),
    "a truncate": (
        workload(of(A, Truncate("mv_realtime_revenue"))),
        "operations[0].statements[0].relation: 'mv_realtime_revenue' is no table",
    ),
    "a refresh": (
        workload(maintenance(Refresh("dead_events"))),
        "operations[0].statements[0].relation: 'dead_events' is no materialized view",
    ),
    "a call": (
        workload(of(A, Call("pg_catalog.pg_reload_conf"))),
        "operations[0].statements[0].relation: this schema has no function without arguments 'pg_",
    ),
    "a setting of the server's": (
        workload(of(A, Set("session_replication_role", "replica"))),
        "operations[0].statements[0].relation: 'session_replication_role' is no setting of a sch",
    ),
    "a setting that is none": (
        workload(of(A, Set("app.x = 1; --", "1"))),
        "operations[0].statements[0].relation: 'app.x = 1; --' is no setting of a schema's own",
    ),
    "the setting of the tenant": (
        workload(of(A, Set("app.current_tenant_id", B))),
        "operations[0].statements[0].relation: 'app.current_tenant_id' says for whom a session",
    ),
    "a role that nobody is": (
        workload(of(A, Become("ghost"))),
        "operations[0].statements[0].relation: this schema has no role 'ghost'",
    ),
    "a privilege that there is not": (
        workload(of(A, Inquire("tenants", "OWN", "relation"))),
        "operations[0].statements[0].privilege: 'OWN' is no privilege on a relation; use one of:",
    ),
    "an inquiry about nothing": (
        workload(of(A, Inquire("nothing", "USAGE", "sequence"))),
        "operations[0].statements[0].relation: this schema has no sequence 'nothing'",
    ),
    "a call with an argument": (
        workload(of(A, Call("names_pii(text)", ("{}",)))),
        "operations[0].statements[0].relation: this schema has no routine 'names_pii(text)'",
    ),
    "a call without its argument": (
        workload(of(A, Call("names_pii(jsonb)"))),
        "operations[0].statements[0].arguments: 0 values for 1 arguments; write one for each",
    ),
    "a call of what is no procedure": (
        workload(of(A, Call("names_pii(jsonb)", ("{}",), procedure=True))),
        "operations[0].statements[0].procedure: 'names_pii(jsonb)' is a function; write false",
    ),
    "a call that says more": (
        workload(of(A, Call("names_pii(jsonb); --", ("{}",)))),
        "operations[0].statements[0].relation: this schema has no routine 'names_pii(jsonb); --'",
    ),
    "what runs": (
        workload(of(A, Attach(RUNS))),
        'operations[0].statements[0].relation: this schema has no trigger function "public.fn_pr',
    ),
    "a function of the server": (
        workload(of(A, Attach("suppress_redundant_updates_trigger()"))),
        "operations[0].statements[0].relation: this schema has no trigger function 'suppress_redu",
    ),
    "a comment on what is no table": (
        workload(of(A, Comment("mv_realtime_revenue", "table"))),
        "operations[0].statements[0].relation: 'mv_realtime_revenue' is no table",
    ),
    "a comment on more": (
        workload(of(A, Comment("public.f() IS 'x'; --", "function"))),
        "operations[0].statements[0].relation: this schema has no function \"public.f() IS 'x'; -",
    ),
    "a shadow": (
        workload(of(A, Shadow("pg_catalog.nothing", "type"))),
        "operations[0].statements[0].relation: this schema has no type 'pg_catalog.nothing'",
    ),
    "a shadow of passwords": (
        workload(of(A, Shadow("pg_catalog.pg_authid", "relation"))),
        "operations[0].statements[0].relation: this schema has no relation 'pg_catalog.pg_authid'",
    ),
    "the operator's call": (
        workload(maintenance(Comment("tenants", "table"))),
        "operations[0].statements[0]: the operator does no comment of that; name a role of the",
    ),
    "the operator's view": (
        workload(maintenance(Update("v_realtime_revenue", (("verified", True),)))),
        "operations[0].statements[0]: the operator does no update of that",
    ),
    "a session's role": (
        replace(workload(), sessions=((transaction(of(A, Select("tenants"), role="ghost")),),)),
        "sessions[0][0].role: the contract has no role 'ghost'",
    ),
    "a session's relation": (
        replace(workload(), sessions=((transaction(of(A, Select("nothing"))),),)),
        "sessions[0][0].statements[0].relation: this schema has no relation 'nothing'",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_a_schema_does_not_have(head_judge: Judge, what: str) -> None:
    shown, message = UNFIT[what]
    with pytest.raises(Misfit) as raised:
        check(shown, head_judge.contract, head_judge.catalog)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


FITS: tuple[Statement, ...] = (
    Set("app.gone", "on"),
    Become("app_ro"),
    Inquire("superuser", "HELD", "attribute"),
    Call("names_pii(jsonb)", (Json.of({}),)),
    Attach("public.check_ledger_net()"),
    Comment("public.check_ledger_net()", "function"),
    Comment("v_realtime_revenue", "view"),
    Shadow("pg_catalog.text", "type"),
    Shadow("pg_catalog.pg_class", "relation"),
    Shadow("public.tenants", "relation"),
    replace(ROW, conflict=Conflict(("id",), updates=("source",))),
    Truncate("dead_events", cascade=True),
    Copy("dead_events", ROW.columns, ROW.rows),
    Select("v_realtime_revenue", (("tenant_id", A),), ("verified",), "tenant_id"),
)


def test_what_it_has(head_judge: Judge) -> None:
    fits = workload(*(of(A, s, role=ANYBODY) for s in FITS), premise=GRANTED)
    check(fits, head_judge.contract, head_judge.catalog)


def test_a_predicate_of_the_catalog_is_one_to_name(head_judge: Judge) -> None:
    catalog = head_judge.catalog
    table = catalog.tables["dead_events"]
    index = UniqueIndex("once", ("source",), "(source IS NOT NULL)", primary=False)
    partial = replace(
        catalog, relations={**catalog.relations, "dead_events": replace(table, uniques=(index,))}
    )
    shown = replace(ROW, conflict=Conflict(("source",), "(source IS NOT NULL)"))
    check(workload(of(A, shown)), head_judge.contract, partial)
    with pytest.raises(Misfit, match=r"conflict\.where"):
        check(workload(of(A, shown)), head_judge.contract, catalog)


def test_all_that_is_kept_fits_head(head_judge: Judge) -> None:
    for path in sorted((ROOT / "tests" / "counterexamples").glob("*.json")):
        check(load(path).workload, head_judge.contract, head_judge.catalog)


Keep = Callable[[Workload], Path]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    def kept(shown: Workload) -> Path:
        path = tmp_path / "liveness-kept.json"
        document = {"format": 1, "invariant": "liveness", "signature": "liveness/x/y/z"}
        path.write_text(json.dumps({**document, "workload": workload_to_json(shown)}))
        return path

    return kept


def test_nothing_of_it_is_executed(keep: Keep, head: Environment, contract: Contract) -> None:
    path = keep(workload(of(A, ROW), of(A, Select("nothing"))))
    with pytest.raises(UsageError) as raised:
        list(replay([load(path)], head, contract))
    assert str(raised.value).startswith(
        f"{path}: workload.operations[1].statements[0].relation: this schema has no relation"
    )
    told: list[UsageError] = []
    assert list(replay([load(path)], head, contract, lambda _, error: told.append(error))) == []
    assert list(map(str, told)) == [str(raised.value)]


def test_what_failed_before_elsewhere_is_passed_over(
    keep: Keep, tmp_path: Path, head: Environment, contract: Contract
) -> None:
    unfit = keep(workload(of(A, Select("nothing"))))
    broken = tmp_path / "liveness-broken.json"
    broken.write_text("{")
    told: list[Event] = []
    explorer = Explorer(head, contract, told.append)
    try:
        from invariants.checks import INVARIANTS

        search = Search(seed=1, examples=1, failed=tmp_path, retry=True, stages=("draws",))
        explorer.explore(INVARIANTS["liveness"], search)
    finally:
        explorer.close()
    passed = [e.why for e in told if isinstance(e, PassedOver)]
    assert [p.partition(": ")[0] for p in passed] == [str(broken), str(unfit)]


def test_what_one_revision_has_is_replayed_there_alone(
    head: Environment, documented: Environment, contract: Contract
) -> None:
    path = ROOT / "tests" / "counterexamples" / "read-path-refresh-mv_realtime_revenue-22003.json"
    kept = replace(load(path), workload=workload(of(A, Select("v_realtime_revenue"))))
    assert fitting([kept], head, contract) == [kept]
    told: list[UsageError] = []
    assert fitting([kept], documented, contract, lambda _, error: told.append(error)) == []
    assert "this schema has no relation 'v_realtime_revenue'" in str(told[0])


@pytest.mark.parametrize(
    "text",
    [
        RUNS,
        "f",
        "f()x",
        "f(",
        "f(a integer DEFAULT 1)",
        "f('x')",
        "f(a; b)",
        "f(--)",
        'f("a)',
        '"f',
        "a.b.c()",
        "f($$)",
        "f(a" * 30,
        "f(" + "a" * 10_000 + "!",
    ],
)
def test_a_function_s_signature_is_no_statement(text: str) -> None:
    for statement in (Attach(text), Comment(text, "function")):
        with pytest.raises(ValueError, match="is not the name of a function"):
            sql.parametrised(statement)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("public.f()", "public.f()"),
        ('public."F g"("a b" integer[], VARIADIC c "S"."t ""u")',
         'public."F g"("a b" integer[], VARIADIC c "S"."t ""u")'),
        ("public.f(timestamp with time zone, double precision)",
         "public.f(timestamp with time zone, double precision)"),
        ("public.user()", 'public."user"()'),
    ],
)  # fmt: skip
def test_a_function_s_signature(text: str, printed: str) -> None:
    assert sql.signature(text) == printed


def test_no_name_ends_what_stands_between_dollars(head_judge: Judge) -> None:
    del head_judge
    text, _ = sql.parametrised(Attach('public."a$$; DROP TABLE t; --"()'))
    assert text.startswith("DO $x$ BEGIN ")
    assert text.endswith(" END $x$")
    text, _ = sql.parametrised(Shadow("public.a$f$b$$c", "type"))
    assert text.startswith("DO $x$ BEGIN ")
    assert " AS $fx$ BEGIN IF " in text


def test_a_dollar_in_a_name_is_a_dollar() -> None:
    shown = Insert("t", ("a$1", "b"), ((1, "x"),))
    assert sql.spelled(shown) == """INSERT INTO t ("a$1", b) VALUES (1, 'x')"""
