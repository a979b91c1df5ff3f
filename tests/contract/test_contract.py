"""The contract's file: every fault in it is one line with file, key and remedy; what `introduced`
names is not there before its revision; and what a key of a document, or of a row, is."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from invariants.contract.contract import Contract, load
from invariants.contract.sections import RowColumn
from invariants.errors import UsageError
from invariants.front.cli import main
from invariants.schema.catalog import Catalog, Column
from invariants.search.judge import Judge
from invariants.servers.environment import Environment
from tests.conftest import ROOT
from tests.engine import DOCUMENTED

Wrong = Callable[[str, str], Path]


@pytest.fixture
def wrong(tmp_path: Path) -> Wrong:
    """The contract's file with the one place where a text stands replaced."""

    def write(old: str, new: str) -> Path:
        text = (ROOT / "invariants.toml").read_text()
        assert text.count(old) == 1, f"{old!r} stands there {text.count(old)} times"
        file = tmp_path / "wrong.toml"
        mapping = "db/channel_mapping.yaml"
        file.write_text(text.replace(old, new).replace(mapping, str(ROOT / mapping)))
        return file

    return write


STATUS_VIEW = 'view = "v_reconciliation_status"'
# What is replaced by what, and what is said of it.
UNREADABLE = {
    "a later format": (
        ("format = 1", "format = 2"),
        "format: 2 is not known; this version reads format 1",
    ),
    "a key of the file": (
        ("[clock]", "[clocks]"),
        "clocks: unknown key; use one of: format, revisions,",
    ),
    "a table that is a list": (
        ("[tenancy]\n", "[[tenancy]]\n"),
        "tenancy: is not a table; write [tenancy]",
    ),
    "a list that is a table": (
        ("[[ledger]]", "[ledger]"),
        "ledger: is not a list of tables; write [[ledger]]",
    ),
    "a name that is none": (
        ('root = "tenants"', "root = 1"),
        "tenancy.root: 1 is not a name; write it in quotes",
    ),
    "an empty name": (
        ('posts = "allocation_id"', 'posts = ""'),
        "ledger[0].posts: '' is not a name; write it in quotes",
    ),
    "one name for a list": (
        ('group_by = ["event_id", "model_version"]', 'group_by = "event_id"'),
        "sums[0].group_by: 'event_id' is not a list; write [\"a\", \"b\"]",
    ),
    "a revision that is a number": (
        ('documented = "202511141311"', "documented = 202511141311"),
        "revisions.documented: 202511141311 is not a name; write it in quotes",
    ),
    "a privilege": (
        ('attribution_allocations = ["select", "insert", "update", "delete"]',
         'attribution_allocations = ["select", "upsert"]'),
        "roles.app_rw.attribution_allocations[1]: 'upsert' is not known; use one of: select,",
    ),
    "an eraser": (
        ('erased_by = "migration_owner"', 'erased_by = "nobody"'),
        "tenancy.erased_by: 'nobody' is not among [roles]; add it there",
    ),
    "a repairer": (
        ('table = "attribution_events"\nrepaired_by = "migration_owner"',
         'table = "attribution_events"\nrepaired_by = "nobody"'),
        "append_only[0].repaired_by: 'nobody' is not among [roles]; add it there",
    ),
    "a total without a table": (
        ('total = "attribution_events.revenue_cents"', 'total = "revenue_cents"'),
        "sums[0].total: 'revenue_cents' does not name a column; write table.column",
    ),
    "a total's key": (
        ('total_key = "event_id"', 'total_key = "id"'),
        "sums[0].total_key: 'id' is not in group_by; add it there",
    ),
    "a tolerance below nothing": (
        ("tolerance = 1", "tolerance = -1"),
        "sums[0].tolerance: is not a whole number of at least 0; for example 1",
    ),
    "a tolerance of true": (
        ("tolerance = 1", "tolerance = true"),
        "sums[0].tolerance: is not a whole number of at least 0; for example 1",
    ),
    "a type that is none": (
        ('state = "varchar(20)"', 'state = "varchar(20"'),
        "rows.reconciliation_runs.state: 'varchar(20' is not a type followed by some of: key,",
    ),
    "a word that is not known": (
        ('error_message = "text, nullable"', 'error_message = "text, optional"'),
        "rows.reconciliation_runs.error_message: 'text, optional' is not a type followed by",
    ),
    "a type that is a number": (
        ('error_message = "text, nullable"', "error_message = 1"),
        "rows.reconciliation_runs.error_message: 1 is not a name; write it in quotes",
    ),
    "a blank that is no truth": (
        ("not_blank = true", 'not_blank = "yes"'),
        "domains.\"tenants.name\".not_blank: 'yes' is not true or false; write one",
    ),
    "keys that are no list": (
        ('keys = [["allocation_id"]]', 'keys = "allocation_id"'),
        'idempotency[2].keys: \'allocation_id\' is not a list; write [["a"], ["b"]]',
    ),
    "a key that is no list": (
        ('keys = [["allocation_id"]]', 'keys = ["allocation_id"]'),
        "idempotency[2].keys[0]: 'allocation_id' is not a list; write [\"a\", \"b\"]",
    ),
    "a mapping": (
        ('mapping = "db/channel_mapping.yaml"', 'mapping = "db/nothing.yaml"'),
        "taxonomies[0].mapping: no such file ",
    ),
    "a user of codes": (
        ('used_by = ["attribution_allocations.channel_code"]', 'used_by = ["channel_code"]'),
        "taxonomies[0].used_by[0]: 'channel_code' does not name a column; write table.column",
    ),
    "a ledger without an amount": (
        ('amount = "revenue_cents"\n', ""),
        "ledger[0].amount: missing; add this key",
    ),
    "a ledger's source": (
        ('source = "attribution_allocations.allocated_revenue_cents"', 'source = "amount"'),
        "ledger[0].source: 'amount' does not name a column; write table.column",
    ),
    "a ledger's corrections": (
        ('corrects = "corrects_id"', "corrects = true"),
        "ledger[0].corrects: True is not a name; write it in quotes",
    ),
    "a ledger's typing error": (
        ('corrects = "corrects_id"', 'correct = "corrects_id"'),
        "ledger[0].correct: unknown key; use one of: table, amount, posts, source, corrects",
    ),
    "words in capitals": (
        ('"e mail"', '"E-Mail"'),
        "pii.last_words[2]: 'E-Mail' is not words; write lower-case words with spaces between,",
    ),
    "words with too much space": (
        ('["name", "names", "mobile"]', '["name "]'),
        "pii.whole[0]: 'name ' is not words; write lower-case words with spaces between,",
    ),
    "a document without a table": (
        ('"dead_events.error_detail"', '"error_detail"'),
        "pii.columns[2]: 'error_detail' does not name a column; write table.column",
    ),
    "documents under another key": (
        ('whole = ["name", "names", "mobile"]', "entire = []"),
        "pii.entire: unknown key; use one of: columns, last_words, whole",
    ),
    "a latest row": (
        ('latest_by = ["last_run_at", "created_at", "id"]\n', ""),
        "read_path[1].latest_by: missing; name the columns that say which row is the latest",
    ),
    "a view without rows": (
        ('rows_of = "reconciliation_runs"\n', ""),
        "read_path[1].rows_of: missing; add this key",
    ),
    "a view's typing error": (
        (STATUS_VIEW, f'{STATUS_VIEW}\nlast_by = ["id"]'),
        "read_path[1].last_by: unknown key; use one of: view, filled_by, rows_of, columns,",
    ),
    "a column that says nothing": (
        ('verified = { type = "boolean", any = "is_verified" }', 'verified = { type = "boolean" }'),
        "read_path[0].columns.verified: says 0 things of the rows; use one of: tenant, sum, any,",
    ),
    "a column that says two things": (
        ('any = "is_verified"', 'any = "is_verified", sum = "is_verified"'),
        "read_path[0].columns.verified: says 2 things of the rows; use one of: tenant, sum, any,",
    ),
    "a column without a type": (
        ('state = { type = "character varying", ', "state = { "),
        "read_path[1].columns.state.type: missing; add this key",
    ),
    "a column that is no table": (
        ('state = { type = "character varying", latest = "state" }', 'state = "state"'),
        "read_path[1].columns.state: is not a table; write [read_path[1].columns.state]",
    ),
    "a column of no tenant": (
        ('[read_path.columns]\ntenant_id = { type = "uuid", tenant = true }\ntotal',
         '[read_path.columns]\ntenant_id = { type = "uuid", tenant = false }\ntotal'),
        "read_path[0].columns.tenant_id.tenant: is not true; write tenant = true",
    ),
    "a sum divided by nothing": (
        ("divided_by = 100", "divided_by = 0"),
        "read_path[0].columns.total_revenue.divided_by: is not a whole number of at least 1;",
    ),
    "a sum of no name": (
        ('sum = "revenue_cents"', "sum = 1"),
        "read_path[0].columns.total_revenue.sum: 1 is not a name; write it in quotes",
    ),
    "a domain without a table": (
        ('"reconciliation_runs.state" =', "state ="),
        "domains.state: 'state' does not name a column; write table.column",
    ),
    "a domain's typing error": (
        ("one_of", "oneof"),
        'domains."reconciliation_runs.state".oneof: unknown key; use one of: min, max, one_of',
    ),
    "a domain's list": (
        ('one_of = ["idle", "running", "failed", "completed"]', 'one_of = "idle"'),
        "domains.\"reconciliation_runs.state\".one_of: 'idle' is not a list; write",
    ),
    "a domain that is no table": (
        ('"reconciliation_runs.state" = { one_of = ["idle", "running", "failed", "completed"] }',
         '"reconciliation_runs.state" = "idle"'),
        'domains."reconciliation_runs.state": is not a table; write [domains.',
    ),
    "a domain without values": (
        ('one_of = ["idle", "running", "failed", "completed"]', "one_of = []"),
        'domains."reconciliation_runs.state".one_of: is empty; name at least one',
    ),
    "a domain's bound": (
        ('"attribution_allocations.allocation_ratio" = { min = 0, max = 1 }',
         '"attribution_allocations.allocation_ratio" = { min = "a", max = 1 }'),
        "domains.\"attribution_allocations.allocation_ratio\".min: 'a' is not a number",
    ),
    "a domain's bounds": (
        ('"attribution_allocations.allocation_ratio" = { min = 0, max = 1 }',
         '"attribution_allocations.allocation_ratio" = { min = 2, max = 1 }'),
        'domains."attribution_allocations.allocation_ratio": min 2 is more than max 1; swap them',
    ),
    "a format that is true": (
        ("format = 1", "format = true"),
        "format: True is not known; this version reads format 1",
    ),
    "an eraser that is a list": (
        ('erased_by = "migration_owner"', 'erased_by = ["migration_owner"]'),
        "tenancy.erased_by: ['migration_owner'] is not a name; write it in quotes",
    ),
    "a key of no column": (
        ('keys = [["external_event_id"], ["correlation_id"]]', "keys = [[]]"),
        "idempotency[0].keys[0]: is empty; name at least one",
    ),
    "what is active": (
        ('active = "is_active"', "active = 5"),
        "taxonomies[0].active: 5 is not a name; write it in quotes",
    ),
    "a mapping without a name": (
        ('mapping = "db/channel_mapping.yaml"', 'mapping = ""'),
        "taxonomies[0].mapping: '' is not a name; write it in quotes",
    ),
    "what is no sum divided": (
        ('any = "is_verified" }', 'any = "is_verified", divided_by = 100 }'),
        "read_path[0].columns.verified.divided_by: divides a sum only; remove it",
    ),
    "a clock": (
        ('"v_realtime_revenue.data_freshness_seconds"', '"data_freshness_seconds"'),
        "clock.columns[1]: 'data_freshness_seconds' does not name a column; write table.column",
    ),
    "an accepted channel": (
        ('channel = "primary-key-collision"', 'channel = "gossip"'),
        "accepted[0].channel: 'gossip' is not known; use one of: primary-key-collision",
    ),
    "what is accepted for no reason": (
        ('reason = "ids are random UUIDs; '
         'whoever can name another tenant\'s id already knows that it exists"\n', ""),
        "accepted[0].reason: missing; add this key",
    ),
    "an introduction without a revision": (
        ('v_realtime_revenue = "202511151110"', 'v_realtime_revenue = ""'),
        "introduced.v_realtime_revenue: '' is not a name; write it in quotes",
    ),
    "an introduction that is no table": (
        ("[introduced] ", "[[introduced]] "),
        "introduced: is not a table; write [introduced]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_fault_of_the_file(wrong: Wrong, what: str) -> None:
    (old, new), message = UNREADABLE[what]
    file = wrong(old, new)
    with pytest.raises(UsageError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ('"mine"', "'mine' is not a list"),
        ('["my-own"]', "'my-own' is not a module's name; write it as in an import"),
        ('["../mine"]', "'../mine' is not a module's name"),
        ('[".mine"]', "'.mine' is not a module's name"),
        ('["json"]', "'json' is a module of Python's or of this program; give yours another name"),
        ('["invariants.generation"]', "'invariants.generation' is a module of Python's or of"),
    ],
)
def test_what_names_no_module_of_ones_own(tmp_path: Path, modules: str, said: str) -> None:
    text = (ROOT / "invariants.toml").read_text()
    file = tmp_path / "wrong.toml"
    mapping = "db/channel_mapping.yaml"
    text = text.replace(mapping, str(ROOT / mapping))
    file.write_text(text.replace('modules = ["strategies"]', f"modules = {modules}"))
    with pytest.raises(UsageError, match=re.escape(said)):
        load(file)


def test_personal_data_without_words(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    text = (ROOT / "invariants.toml").read_text()
    start, end = text.index("whole = "), text.index("# What a tenant reads")
    file.write_text((text[:start] + text[end:]).replace("db/", f"{ROOT}/db/"))
    with pytest.raises(UsageError) as error:
        load(file)
    assert str(error.value) == f"{file}: pii: names no words; add last_words or whole"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing, latin = tmp_path / "missing.toml", tmp_path / "latin.toml"
    latin.write_bytes(b'root = "K\xf6ln"')
    with pytest.raises(UsageError, match=re.escape(f"{missing}: no such file; name the contract")):
        load(missing)
    with pytest.raises(UsageError, match=re.escape(f"{latin}: not valid TOML: ")):
        load(latin)
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}: cannot be read (Is a dir")):
        load(tmp_path)


# What is replaced by what, and what is said of it once the database is known.
UNBOUND = {
    "a role's relation": (
        ('[roles.app_admin]\nrevenue_ledger =', "[roles.app_admin]\nv_revenue ="),
        "roles.app_admin.v_revenue: the database has no relation 'v_revenue'; ",
    ),
    "a routine": (
        ("[roles.app_admin]\n", '[roles.app_admin]\n"names_pii(text)" = ["execute"]\n'),
        "roles.app_admin.names_pii(text): the database has no routine 'names_pii(text)'; ",
    ),
    "what is done with a routine": (
        ("[roles.app_admin]\n", '[roles.app_admin]\n"names_pii(jsonb)" = ["select"]\n'),
        "roles.app_admin.names_pii(jsonb): nobody can select a routine; use one of: execute",
    ),
    "a tenancy's column": (
        ('column = "tenant_id" ', 'column = "owner_id" '),
        "tenancy.column: table 'attribution_events' has no column 'owner_id'; use one of: id,",
    ),
    "an idempotency key": (
        ('keys = [["allocation_id"]]', 'keys = [["allocation"]]'),
        "idempotency[2].keys: table 'revenue_ledger' has no column 'allocation'; use one of: id,",
    ),
    "a taxonomy's flag": (
        ('active = "is_active"', 'active = "active"'),
        "taxonomies[0].active: table 'channel_taxonomy' has no column 'active'; use one of: code,",
    ),
    "a ledger": (
        ('[[ledger]]\ntable = "revenue_ledger"', '[[ledger]]\ntable = "ledger"'),
        "ledger[0].table: the database has no table 'ledger'; did you mean 'revenue_ledger'?",
    ),
    "a ledger's source": (
        ('"attribution_allocations.allocated_revenue_cents"\ncorrects',
         '"allocations.cents"\ncorrects'),
        "ledger[0].source: the database has no table 'allocations'; ",
    ),
    "a ledger's source's amount": (
        ('"attribution_allocations.allocated_revenue_cents"\ncorrects',
         '"attribution_allocations.cents"\ncorrects'),
        "ledger[0].source: table 'attribution_allocations' has no column 'cents'; use one of: id,",
    ),
    "a ledger's corrections": (
        ('corrects = "corrects_id"', 'corrects = "corrected"'),
        "ledger[0].corrects: table 'revenue_ledger' has no column 'corrected'; use one of: id,",
    ),
    "a document": (
        ('"dead_events.error_detail"', '"dead_events.detail"'),
        "pii.columns: table 'dead_events' has no column 'detail'; use one of: id,",
    ),
    "a document of no table": (
        ('"dead_events.error_detail"', '"deed_events.error_detail"'),
        "pii.columns: the database has no relation 'deed_events'; did you mean 'dead_events'?",
    ),
    "a view": (
        (STATUS_VIEW, 'view = "v_reconciliation_state"'),
        "read_path[1].view: the database has no view 'v_reconciliation_state'; "
        "did you mean 'v_reconciliation_status'?",
    ),
    "a view that is materialized": (
        (STATUS_VIEW, 'view = "mv_reconciliation_status"'),
        "read_path[1].view: the database has no view 'mv_reconciliation_status'; did you mean",
    ),
    "a view that is filled by a view": (
        ('filled_by = "mv_reconciliation_status"', 'filled_by = "v_reconciliation_status"'),
        "read_path[1].filled_by: the database has no materialized view 'v_reconciliation_status'; ",
    ),
    "a view's table": (
        ('rows_of = "revenue_ledger"', 'rows_of = "v_realtime_revenue"'),
        "read_path[0].rows_of: the database has no table 'v_realtime_revenue'; ",
    ),
    "a view's source": (
        ('any = "is_verified"', 'any = "verified"'),
        "read_path[0].columns.verified.any: table 'revenue_ledger' has no column 'verified'; use",
    ),
    "a view's order": (
        ('latest_by = ["last_run_at", "created_at", "id"]', 'latest_by = ["run_at"]'),
        "read_path[1].latest_by: table 'reconciliation_runs' has no column 'run_at'; use one of:",
    ),
    "a domain": (
        ('"reconciliation_runs.state" =', '"reconciliation_runs.status" ='),
        "domains.\"reconciliation_runs.status\": table 'reconciliation_runs' has no column",
    ),
    "a clock": (
        ('"mv_realtime_revenue.data_freshness_seconds"', '"mv_realtime_revenue.age"'),
        "clock.columns: table 'mv_realtime_revenue' has no column 'age'; use one of: tenant_id,",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNBOUND)
def test_a_fault_that_the_database_shows(head_judge: Judge, wrong: Wrong, what: str) -> None:
    (old, new), message = UNBOUND[what]
    file = wrong(old, new)
    with pytest.raises(UsageError) as error:
        load(file).bind(head_judge.catalog)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


def test_what_is_promised_besides_rows(head_judge: Judge, wrong: Wrong) -> None:
    said = (
        '"names_pii(jsonb)" = ["execute"]\n"names_pii(document jsonb)" = ["execute"]\n'
        '"schema public" = ["usage", "create"]\ndatabase = ["create"]\n'
        '"role pg_monitor" = ["member"]\n"parameter work_mem" = ["set"]\n'
        'dead_events = ["trigger", "references", "maintain"]\n'
    )
    load(wrong("[roles.app_admin]\n", f"[roles.app_admin]\n{said}")).bind(head_judge.catalog)


def test_the_contract_fits_head_and_what_was_before(
    judge: Judge, head_judge: Judge, contract: Contract
) -> None:
    contract.bind(head_judge.catalog)
    judge.contract.bind(judge.catalog)
    with pytest.raises(UsageError, match="has no column 'corrects_id'"):
        contract.bind(judge.catalog)


def test_nothing_is_left_out_at_head(head: Environment, contract: Contract) -> None:
    assert contract.at(head.lineage.applied, head.lineage.known) == contract


def test_what_is_not_there_yet(documented: Environment, contract: Contract) -> None:
    early = contract.at(documented.lineage.applied, documented.lineage.known)
    assert documented.lineage.applied[-1] == DOCUMENTED
    assert contract.ledgers[0].corrects == "corrects_id"
    assert early.ledgers == (replace(contract.ledgers[0], corrects=None),)
    assert (len(contract.read_paths), early.read_paths) == (2, ())
    assert not any(r.startswith("v_") for grants in early.roles.values() for r in grants)
    assert early.may("app_rw", "select", "revenue_ledger")
    assert early.clock_columns == {("mv_realtime_revenue", "data_freshness_seconds")}
    assert {c.name for c in contract.rows["revenue_ledger"]} - {
        c.name for c in early.rows["revenue_ledger"]
    } == {"corrects_id"}
    assert replace(
        early,
        ledgers=contract.ledgers,
        read_paths=contract.read_paths,
        roles=contract.roles,
        clock_columns=contract.clock_columns,
        introduced=contract.introduced,
        rows=contract.rows,
        later=contract.later,
    ) == contract  # fmt: skip


def test_an_introduction_at_a_revision_that_does_not_exist(head: Environment, wrong: Wrong) -> None:
    file = wrong('v_realtime_revenue = "202511151110"', 'v_realtime_revenue = "202511151111"')
    contract = load(file)
    with pytest.raises(UsageError) as error:
        contract.at(head.lineage.applied, head.lineage.known)
    assert str(error.value) == (
        f"{file}: introduced.\"v_realtime_revenue\": there is no revision '202511151111'; "
        "name one by its full id"
    )


INTRODUCED: dict[str, Callable[[Contract], object]] = {
    "reconciliation_runs": lambda c: [p.table for p in c.read_paths],
    "mv_reconciliation_status": lambda c: [p.filled_by for p in c.read_paths],
    "revenue_ledger.revenue_cents": lambda c: [rule.table for rule in c.ledgers],
    "attribution_allocations.allocated_revenue_cents": lambda c: [s.table for s in c.sums],
    "attribution_allocations.channel_code": lambda c: [i.table for i in c.idempotency],
    "attribution_events.correlation_id": lambda c: [i.table for i in c.idempotency],
    "channel_taxonomy": lambda c: [t.table for t in c.taxonomies],
    "dead_events.error_detail": lambda c: c.pii and c.pii.columns,
    "reconciliation_runs.state": lambda c: list(c.domains),
    "attribution_allocations": lambda c: [rule.source_table for rule in c.ledgers],
    "revenue_ledger": lambda c: [a.table for a in c.append_only],
}


@pytest.mark.parametrize("name", INTRODUCED)
def test_what_a_later_revision_introduces_is_left_out(contract: Contract, name: str) -> None:
    told = INTRODUCED[name]
    later = replace(contract, introduced={name: "2"})
    assert later.at(["1", "2"], ["1", "2"]) == later
    before, after = told(later.at(["1"], ["1", "2"])), told(later)
    assert isinstance(before, list | tuple)
    assert isinstance(after, list | tuple)
    # Exactly what names it is gone.
    assert len(before) == len(after) - 1
    assert [x for x in after if x in before] == list(before)


def test_a_table_and_a_column_of_a_taxonomy_may_be_introduced_later(contract: Contract) -> None:
    names = "dead_events", "channel_taxonomy.is_active", "attribution_allocations.channel_code"
    before = replace(contract, introduced=dict.fromkeys(names, "2")).at(["1"], ["1", "2"])
    assert set(contract.tenancy.tables) - set(before.tenancy.tables) == {"dead_events"}
    assert [(t.active, t.used_by) for t in before.taxonomies] == [(None, ())]


def test_what_was_introduced_must_be_there(contract: Contract, head_judge: Judge) -> None:
    there = replace(contract, introduced={"v_realtime_revenue": "2", "tenants.name": "2"})
    there.bind(head_judge.catalog)
    for name in ("v_realtime_revenues", "tenants.nam", "nothing.name"):
        with pytest.raises(UsageError, match=f'"{name}": the database has no such'):
            replace(contract, introduced={name: "2"}).bind(head_judge.catalog)


def test_only_json_has_keys(contract: Contract, head_judge: Judge) -> None:
    assert contract.pii is not None
    wrong = replace(contract, pii=replace(contract.pii, columns=(("tenants", "name"),)))
    with pytest.raises(UsageError, match=r"tenants\.name is of type"):
        wrong.bind(head_judge.catalog)


@pytest.mark.parametrize(
    ("table", "values", "key"),
    [
        ("attribution_events", {"external_event_id": "a"}, (("external_event_id",), ("a",))),
        (
            "attribution_events",
            {"external_event_id": "a", "correlation_id": "b"},
            (("external_event_id",), ("a",)),
        ),
        (
            "attribution_events",
            {"external_event_id": None, "correlation_id": "b"},
            (("correlation_id",), ("b",)),
        ),
        ("attribution_events", {"external_event_id": None}, None),
        ("attribution_allocations", {"event_id": "a", "model_version": "m"}, None),
        ("revenue_ledger", {"allocation_id": "a"}, (("allocation_id",), ("a",))),
        ("revenue_ledger", {"allocation_id": "a", "corrects_id": "b"}, None),
        ("dead_events", {"external_event_id": "a"}, None),
    ],
)  # fmt: skip
def test_the_key_of_a_row(
    contract: Contract, table: str, values: dict[str, str], key: object
) -> None:
    assert contract.key_of(table, values) == key


@pytest.mark.parametrize(
    ("spec", "promised"),
    [
        ("uuid, key", RowColumn("x", "uuid", key=True)),
        ("varchar(20), nullable", RowColumn("x", "character varying", length=20, nullable=True)),
        ("character varying(20)", RowColumn("x", "character varying", length=20)),
        ("numeric(6,5)", RowColumn("x", "numeric", scale=5)),
        ("decimal(6, 5)", RowColumn("x", "numeric", scale=5)),
        ("timestamptz", RowColumn("x", "timestamp with time zone", scale=6)),
        ("timestamp(0) with time zone", RowColumn("x", "timestamp with time zone", scale=0)),
        ("int", RowColumn("x", "integer")),
        ("uuid, cascade", RowColumn("x", "uuid", gone_with="CASCADE")),
        ("uuid, nullable, restrict", RowColumn("x", "uuid", nullable=True, gone_with="NO ACTION")),
    ],
)
def test_what_a_column_is_promised_to_hold(wrong: Wrong, spec: str, promised: RowColumn) -> None:
    file = wrong('error_message = "text, nullable"', f'error_message = "{spec}"')
    columns = {c.name: c for c in load(file).rows["reconciliation_runs"]}
    assert columns["error_message"] == replace(promised, name="error_message")


def test_the_promise_stands_whatever_the_database_has(
    contract: Contract, head_judge: Judge
) -> None:
    """Type, length, NOT NULL, key, and what becomes of a row; the rest is as it is."""
    catalog = head_judge.catalog
    weak = replace(
        catalog,
        relations={
            name: replace(
                relation,
                primary_key=(),
                columns={
                    c: replace(column, type="text", length=3, not_null=False, scale=1)
                    for c, column in relation.columns.items()
                },
                foreign_keys=tuple(replace(k, on_delete="SET NULL") for k in relation.foreign_keys),
            )
            for name, relation in catalog.relations.items()
        },
    )
    promised = contract.promised(weak)
    for table in contract.rows:
        assert promised.tables[table].primary_key == catalog.tables[table].primary_key
        for name in (c.name for c in contract.rows[table]):
            assert told(promised, table, name) == told(catalog, table, name)
        actions = {k.name: k.on_delete for k in promised.tables[table].foreign_keys}
        assert actions == {k.name: k.on_delete for k in catalog.tables[table].foreign_keys}
    assert promised.relations["mv_realtime_revenue"] == weak.relations["mv_realtime_revenue"]


def told(catalog: Catalog, table: str, name: str) -> Column:
    return catalog.tables[table].columns[name]


def test_the_schema_for_editors_is_as_the_command_prints_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["contract", "--json-schema"]) == 0
    printed = capsys.readouterr().out
    assert (ROOT / "invariants.schema.json").read_text() == printed, (
        "invariants contract --json-schema > invariants.schema.json"
    )
    assert (ROOT / "invariants.toml").read_text().startswith("#:schema ./invariants.schema.json\n")
    properties = json.loads(printed)["definitions"]["ContractFile"]["properties"]
    assert properties.keys() >= tomllib.loads((ROOT / "invariants.toml").read_text()).keys()


def _rejected(contract: str) -> bool:
    import jsonschema

    schema = json.loads((ROOT / "invariants.schema.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    return any(validator.iter_errors(tomllib.loads(contract)))


def test_editors_take_what_the_command_takes() -> None:
    text = (ROOT / "invariants.toml").read_text()
    assert not _rejected(text)
    for what in ("a key of the file", "a total without a table", "a tolerance below nothing"):
        (old, new), _ = UNREADABLE[what]
        assert _rejected(text.replace(old, new)), what


BROKEN: dict[str, tuple[bytes, str]] = {
    "deep": (b"a = " + b"[" * 5000 + b"]" * 5000, "not valid TOML: nested too deep; mend it"),
    "deep tables": (b"a = " + b"{a = " * 5000 + b"1" + b"}" * 5000, "not valid TOML: nested too"),
    "deep keys": (b"a." * 5000 + b"a = 1", "is nested too deep; write less into one"),
    "a long number": (b"format = " + b"9" * 5000, "not valid TOML: Exceeds the limit"),
    "a key twice": (b"format = 1\nformat = 1", "not valid TOML: Cannot overwrite a value"),
    "a day that is none": (b"format = 2025-02-30", "not valid TOML: "),
    "NUL": (b"format = \0", "not valid TOML: Invalid value"),
    "no text": (b"\xff\xfe", "not valid TOML: 'utf-8' codec can't decode byte 0xff"),
    "nothing": (b"", "format: missing; add this key"),
    "large": (b"#" * (9 * 1024**2), "larger than 8 MB; name the contract with --contract FILE"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_contract(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = BROKEN[what]
    file = tmp_path / "broken.toml"
    file.write_bytes(text)
    assert main(["run", "--contract", str(file), "--artifacts", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"invariants: {file}: {message}")
    assert said.count("\n") == 1


def test_numbers_that_are_none(wrong: Wrong) -> None:
    old = "{ min = 0, max = 1 }"
    for number in ("nan", "inf", "-inf"):
        with pytest.raises(UsageError, match=r"\.max: -?(nan|inf) is not a number; write one"):
            load(wrong(old, f"{{ max = {number} }}"))
