"""`[strategies] modules`: a contract's own rows and operations, from modules beside its file."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract, load
from invariants.errors import UsageError
from invariants.search.judge import Judge
from invariants.workload.operations import Workload, ident
from tests.engine import drawn
from tests.projects import HEAD, ORDERLY, named, project_in

Project = Callable[..., Contract]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A contract in a folder of its own, with modules beside it."""
    made: list[Path] = []

    def make(files: Mapping[str, str], modules: str = '["strategies"]') -> Contract:
        folder = tmp_path / f"project {len(made)}"
        made.append(folder)
        return load(project_in(folder, files, modules))

    return make


def name_of_a_tenant(contract: Contract, judge: Judge) -> object:
    """What the row strategy of the tenants makes."""
    (tenant, *_) = shown(contract, judge).tenants
    return dict(zip(tenant.columns, tenant.row, strict=True))["name"]


def shown(contract: Contract, judge: Judge) -> Workload:
    """A workload that is drawn under the contract."""
    now = contract.at(judge.environment.lineage.applied, judge.environment.lineage.known)
    generation.check(now, judge.catalog)
    return drawn(generation.workloads(now, judge.catalog, INVARIANTS["cross-tenant"]), 1)[0]


def test_every_import_within_a_package_works(project: Project, head_judge: Judge) -> None:
    contract = project(
        {
            "strategies/__init__.py": "from strategies import names\nfrom . import tenants\n",
            "strategies/names.py": "NAME = 'absolute'\n",
            "strategies/late.py": "NAME = 'late'\n",
            "strategies/tenants.py": HEAD
            + """
from .names import NAME

@rows("tenants")
def tenant(world, tenant):
    import strategies.late
    from strategies import names
    return {"id": tenant, "name": f"{NAME} {names.NAME} {strategies.late.NAME}"}
""",
        }
    )
    assert name_of_a_tenant(contract, head_judge) == "absolute absolute late"


@pytest.mark.parametrize(
    ("file", "module"),
    [("mine.py", "mine"), ("mine/own.py", "mine.own"), ("mine/__init__.py", "mine")],
)
def test_a_module_a_folder_and_a_package(
    project: Project, head_judge: Judge, file: str, module: str
) -> None:
    contract = project({file: named("mine")}, f'["{module}"]')
    assert name_of_a_tenant(contract, head_judge) == "mine"
    assert [p.name for p in generation.files_of(contract)] == [Path(file).name]


def test_two_contracts_share_nothing(project: Project, head_judge: Judge) -> None:
    late = "def tenant(world, tenant):\n    from strategies import late\n"
    package = f'{HEAD}@rows("tenants")\n{late}    return {{"id": tenant, "name": late.NAME}}\n'
    one, two = (
        project({"strategies/__init__.py": package, "strategies/late.py": f"NAME = {name!r}\n"})
        for name in ("one", "two")
    )
    for _ in range(2):
        assert name_of_a_tenant(one, head_judge) == "one"
        assert name_of_a_tenant(two, head_judge) == "two"


def test_one_that_is_installed_stays_what_it_is(
    project: Project, head_judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "orderly"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("WHOSE = 'installed'\n")
    monkeypatch.syspath_prepend(installed.parent)
    theirs = importlib.import_module("orderly")
    contract = project({"orderly.py": named("mine")}, '["orderly"]')
    assert name_of_a_tenant(contract, head_judge) == "mine"
    assert sys.modules["orderly"] is theirs
    del sys.modules["orderly"]


def test_elsewhere_on_the_path_is_not_beside(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text(named("elsewhere"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"'elsewhere' is not beside the contract"):
        generation.strategies_of(project({}, '["elsewhere"]'))


def test_what_changes_is_loaded_again(project: Project, head_judge: Judge) -> None:
    contract = project({"strategies.py": named("before")})
    assert name_of_a_tenant(contract, head_judge) == "before"
    (contract.path.parent / "strategies.py").write_text(named("after it changed"))
    assert name_of_a_tenant(contract, head_judge) == "after it changed"


def test_imported_by_anybody_else_it_registers_nothing(contract: Contract) -> None:
    before = generation.strategies_of(contract).operations.keys()

    @generation.operation("stray", weight=1)
    def stray(world: generation.World) -> None:
        del world

    @generation.rows("tenants")
    def tenant(world: generation.World, tenant: str) -> generation.Values:
        del world
        return {"id": tenant}

    assert generation.strategies_of(contract).operations.keys() == before
    assert not generation.strategies_of(replace(contract, strategies=())).rows


def test_a_table_that_has_a_strategy_elsewhere_is_just_a_table(contract: Contract) -> None:
    assert "reconciliation_runs" in generation.strategies_of(contract).rows
    plain = generation.strategies_of(replace(contract, strategies=()))
    assert not plain.rows
    assert "ingest" not in plain.operations


TABLELESS = HEAD + '@operation("x", weight=1, tables=("revenue_leger",))\ndef x(world): return None'
FAULTS = {
    "missing": ({}, "'strategies' is not beside the contract; make strategies.py there, or"),
    "a missing import": (
        {"strategies/__init__.py": "from strategies import event\n"},
        "'strategies' cannot be loaded: ImportError: cannot import name 'event' from ",
    ),
    "a missing library": (
        {"strategies.py": "import no_such_library\n"},
        "'strategies' cannot be loaded: ModuleNotFoundError: No module named 'no_such_library' "
        "(strategies.py, line 1); mend it",
    ),
    "no Python": (
        {"strategies.py": "def x(:\n"},
        "'strategies' cannot be loaded: SyntaxError: invalid syntax (strategies.py, line 1); mend",
    ),
    "NUL": ({"strategies.py": "x = '\0'\n"}, "'strategies' cannot be loaded: "),
    "raises": (
        {"strategies/__init__.py": "from . import a", "strategies/a.py": "\n\n1 / 0\n"},
        "'strategies' cannot be loaded: ZeroDivisionError: division by zero (strategies/a.py, "
        "line 3); mend it",
    ),
    "raises many lines": (
        {"strategies.py": "raise ValueError('a\\nb')\n"},
        "'strategies' cannot be loaded: ValueError: a b (strategies.py, line 1); mend it",
    ),
    "ends the program": (
        {"strategies.py": "import sys\nsys.exit(0)\n"},
        "'strategies' cannot be loaded: it ends the program (SystemExit: 0 (strategies.py, line 2)",
    ),
    "nothing": ({"strategies.py": "x = 1\n"}, "'strategies': registers nothing; decorate with"),
    "twice": (
        {"strategies.py": named("x") + ORDERLY},
        "'strategies' cannot be loaded: ValueError: rows('tenants') is registered twice",
    ),
    "a weight that is none": (
        {"strategies.py": HEAD + '@operation("x", weight="1")\ndef x(world): return None'},
        "ValueError: operation('x'): weight: '1' is not a whole number of at least 0",
    ),
    "a keyword that is none": (
        {"strategies.py": HEAD + '@operation("x", wait=1)\ndef x(world): return None'},
        "TypeError: operation() ",
    ),
    "rows of a table that is not there": (
        {"strategies.py": HEAD + '@rows("tenant")\ndef x(world, tenant): return {}'},
        "rows('tenant'): the database has no table 'tenant'; did you mean 'tenants'?",
    ),
    "an operation on a table that is not there": (
        {"strategies.py": TABLELESS},
        "operation('x'): the database has no table 'revenue_leger'; did you mean 'revenue_ledger'",
    ),
    "an invariant that is none": (
        {
            "strategies.py": HEAD
            + '@operation("x", weight=1, focus={"ledgers": 1})\ndef x(world): return None'
        },
        "operation('x'): focus: 'ledgers' is no invariant; did you mean 'ledger'?",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_one_line(project: Project, head_judge: Judge, what: str) -> None:
    files, said = FAULTS[what]
    contract = project(files)
    there = set(sys.modules)
    with pytest.raises(UsageError) as fault:
        shown(contract, head_judge)
    (line,) = str(fault.value).splitlines()
    assert line.startswith(f"{contract.path}: strategies.modules: ")
    assert said in line
    if "database" not in said and "invariant" not in said:
        assert "strategies" not in set(sys.modules) - there


def test_what_a_later_revision_brings_is_no_fault(
    project: Project, contract: Contract, judge: Judge
) -> None:
    spoken = HEAD + '@operation("x", weight=1, tables=("orders",))\ndef x(world): return None'
    later = replace(project({"strategies.py": spoken}), introduced={**contract.introduced})
    with pytest.raises(UsageError, match="no table 'orders'"):
        generation.check(later, judge.catalog)
    generation.check(replace(later, later=frozenset({"orders"})), judge.catalog)


OWN_KEYS = """
@rows("tenants")
def tenant(world, tenant):
    number = world.next("tenant")
    return {"id": f"aaaaaaaa-0000-4000-8000-00000000000{number}", "name": f"T{number}"}
"""


def test_a_row_strategy_may_choose_a_tenants_key(project: Project, head_judge: Judge) -> None:
    contract = project({"strategies.py": HEAD + OWN_KEYS})
    seen = shown(contract, head_judge)
    assert [t.id[:8] for t in seen.tenants] == ["aaaaaaaa"] * len(seen.tenants)
    acting = {o.actor.tenant for o in seen.operations}
    assert ident("tenants", 1) not in acting
    case, violations = head_judge.violations(INVARIANTS["cross-tenant"], seen)
    assert not violations
    assert {r.get("id") for r in case.history.steps[-1].after.rows("tenants")} == {
        t.id for t in seen.tenants
    }


def test_two_tenants_with_one_key_are_told(project: Project, head_judge: Judge) -> None:
    same = OWN_KEYS.replace("{number}", "1")
    contract = project({"strategies.py": HEAD + same})
    with pytest.raises(UsageError, match=re.escape("rows('tenants'): two tenants have the id")):
        drawn(generation.workloads(contract, head_judge.catalog, INVARIANTS["ledger"]), 20)
