"""The hunt: mutants are noticed, survivors told, roles put back, stale excuses refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.errors import (
    EXIT_HELD,
    EXIT_INFRASTRUCTURE,
    EXIT_VIOLATED,
    InfrastructureError,
    UsageError,
)
from invariants.front import cli
from invariants.mutants import equivalents
from invariants.mutants.base import Mutant
from invariants.mutants.hunt import Hunt, Outcome, hunt, order, slug
from invariants.mutants.pool import hunt_all
from invariants.mutants.score import MutantOptions, Score, score, selected
from invariants.mutants.summary import score_to_json, verdict
from invariants.reports.mutants import markdown, matrix, survivors
from invariants.servers import roles
from invariants.servers.environment import Environment
from invariants.servers.logins import members_of_nothing
from tests.conftest import ROOT, TempFolder

PROGRAM = (sys.executable, "-m", "invariants")
ALL = tuple(INVARIANTS)
PLAN = Hunt(ALL, seed=0, seconds=20)
HARMLESS = Mutant(
    "function-search-path",
    "comment",
    ("COMMENT ON TABLE dead_events IS 'nothing that anybody could notice'",),
)
OPEN_POLICY = Mutant(
    "policy-using-true",
    "dead_events.tenant_isolation_policy",
    ("ALTER POLICY tenant_isolation_policy ON dead_events USING (true)",),
)
BYPASS = Mutant("role-bypassrls", "app_ro", ("ALTER ROLE app_ro BYPASSRLS",), server_wide=True)
IMPOSSIBLE = Mutant("check-dropped", "nothing", ("ALTER TABLE nothing DROP CONSTRAINT x",))


def tables_of(environment: Environment) -> list[str]:
    with psycopg.connect(environment.handle()["conninfo"]) as connection:
        rows = connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
    return [r[0] for r in rows]


class TestHunt:
    def test_a_mutant_is_noticed_with_a_counterexample(
        self, head: Environment, contract: Contract, tmp_path: Path
    ) -> None:
        before = tables_of(head)
        outcome = hunt(head, contract, OPEN_POLICY, replace(PLAN, artifacts=tmp_path))
        assert outcome.status == "killed"
        assert outcome.kill is not None
        assert outcome.kill.signature == "cross-tenant/select/dead_events/tenant_isolation_policy"
        assert outcome.kill.operations == 2
        assert outcome.kill.saved is not None
        assert outcome.kill.saved.json.parent == tmp_path / slug(OPEN_POLICY)
        assert outcome.kill.saved.sql.is_file()
        assert 0 < outcome.fuzzing <= outcome.seconds < 20
        assert outcome.examples >= 1
        assert tables_of(head) == before

    def test_what_nobody_notices_survives(self, head: Environment, contract: Contract) -> None:
        plan = replace(PLAN, invariants=("taxonomy", "pii"), seconds=1)
        outcome = hunt(head, contract, HARMLESS, plan)
        assert (outcome.status, outcome.kill) == ("survived", None)
        assert outcome.seconds >= 1

    def test_roles_are_put_back(self, head: Environment, contract: Contract) -> None:
        with psycopg.connect(head.handle()["conninfo"], autocommit=True) as admin:
            before = roles.snapshot(admin)
            assert hunt(head, contract, BYPASS, PLAN).status == "killed"
            assert roles.snapshot(admin) == before

    def test_a_mutant_that_cannot_be_made_is_no_kill(
        self, head: Environment, contract: Contract
    ) -> None:
        before = tables_of(head)
        outcome = hunt(head, contract, IMPOSSIBLE, PLAN)
        assert (outcome.status, outcome.kill) == ("error", None)
        assert outcome.error == (
            'cannot alter a scratch database: relation "nothing" does not exist'
        )
        assert tables_of(head) == before

    def test_a_mutant_on_which_nothing_can_run_is_no_kill(
        self, head: Environment, contract: Contract
    ) -> None:
        refusing = Mutant(
            "check-strengthened", "tenants", ("ALTER TABLE tenants ADD CHECK (name = '')",)
        )
        outcome = hunt(head, contract, refusing, PLAN)
        assert outcome.status == "error"
        assert outcome.error is not None
        assert "no tenant can be created" in outcome.error

    @pytest.mark.parametrize(
        ("operator", "first"),
        [
            ("privilege-granted", "liveness"),
            ("policy-dropped", "cross-tenant"),
            ("trigger-dropped", "allocation-sum"),
            ("reference-row-missing", "taxonomy"),
            ("reference-dropped", "cross-tenant"),
        ],
    )
    def test_who_is_asked_first(self, operator: str, first: str) -> None:
        asked = [i.name for i in order(replace(HARMLESS, operator=operator), ALL)]
        assert asked[0] == first
        assert sorted(asked) == sorted(ALL)

    def test_only_who_was_named_is_asked(self) -> None:
        assert [i.name for i in order(OPEN_POLICY, ("pii", "liveness"))] == ["liveness", "pii"]


class TestPool:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_every_mutant_has_an_outcome(
        self, head: Environment, contract: Contract, jobs: int
    ) -> None:
        tasks = [(m, PLAN) for m in (OPEN_POLICY, BYPASS, IMPOSSIBLE)]
        found = {o.mutant.name: o.status for o in hunt_all(head, contract, tasks, jobs)}
        assert found == {
            OPEN_POLICY.name: "killed",
            BYPASS.name: "killed",
            IMPOSSIBLE.name: "error",
        }

    def test_a_server_that_is_gone_is_an_error_of_ours(
        self, head: Environment, contract: Contract
    ) -> None:
        handle = {**head.handle(), "conninfo": "host=127.0.0.1 port=9 user=x dbname=x"}
        with (
            Environment.attach(handle) as gone,
            pytest.raises(InfrastructureError, match=r"server 127\.0\.0\.1:9"),
        ):
            list(hunt_all(gone, contract, [(OPEN_POLICY, PLAN)], 1))


def told(outcome: Outcome, done: int, total: int) -> None:
    del outcome, done, total


@pytest.fixture
def options(tmp_path: Path) -> MutantOptions:
    return MutantOptions(artifacts=tmp_path, equivalents=tmp_path / "none.toml", jobs=2)


@pytest.fixture(scope="module")
def taken(head: Environment, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Score:
    """The score of a few operators on head."""
    folder = tmp_path_factory.mktemp("taken")
    wanted = MutantOptions(
        operators=("policy-using-true", "reference-row-missing", "check-dropped"),
        artifacts=folder,
        equivalents=ROOT / "mutants.toml",
        jobs=2,
        # Nobody survives here, so it costs time only where other work slows the hunt.
        mutant_budget=60,
    )
    return score(head, contract, wanted, told)


class TestScore:
    def test_all_are_killed_or_justified_on_head(self, taken: Score) -> None:
        assert [o.mutant.name for o in taken.having("survived")] == []
        assert [o.mutant.name for o in taken.having("error")] == []
        assert [o.mutant.name for o in taken.having("equivalent")] == [
            "check-dropped/revenue_ledger.ck_revenue_ledger_posted_cents_not_negative"
        ]
        assert taken.value == 1
        assert taken.exit_status == EXIT_HELD
        assert taken.matrix["reference-row-missing"] == {"taxonomy": 9}
        assert taken.matrix["policy-using-true"] == {"cross-tenant": 5}

    # Which operator only this invariant notices, and so what the report names without it.
    @pytest.mark.parametrize(
        ("without", "operator", "mutant"),
        [
            ("taxonomy", "reference-row-missing", "reference-row-missing/channel_taxonomy/email"),
            ("append-only", "trigger-disabled", "trg_revenue_ledger_prevent_truncate"),
            ("liveness", "trigger-not-deferred", "trg_check_ledger_net_of_correction"),
        ],
    )
    def test_without_an_invariant_the_score_falls(
        self,
        head: Environment,
        contract: Contract,
        options: MutantOptions,
        without: str,
        operator: str,
        mutant: str,
    ) -> None:
        left = tuple(n for n in ALL if n != without)
        wanted = replace(options, operators=(operator,), invariants=left, mutant_budget=2.5)
        crippled = score(head, contract, wanted, told)
        assert crippled.value < 1
        assert crippled.exit_status == EXIT_VIOLATED
        lines = list(survivors(crippled))
        assert any(line.startswith("SURVIVED") and mutant in line for line in lines)
        assert f"{len(lines)} survived" in verdict(crippled)
        text = markdown(crippled)
        assert text.index("## Not noticed") < text.index("## Which invariant kills what")
        assert without not in matrix(crippled)[0]

    def test_the_json_has_every_mutant(self, taken: Score) -> None:
        document = json.loads(json.dumps(score_to_json(taken)))
        assert document["format"] == 1
        assert document["score"] == 1
        assert document["counts"] == {"killed": 23, "survived": 0, "equivalent": 1, "error": 0}
        assert len(document["mutants"]) == len(taken.outcomes)
        for mutant in document["mutants"]:
            if mutant["status"] == "killed":
                assert Path(mutant["json"]).is_file()
                assert mutant["seconds"] > 0
                assert mutant["killed_by"] in INVARIANTS

    def test_the_table_has_every_mutant_and_the_reasons(self, taken: Score) -> None:
        text = markdown(taken)
        for outcome in taken.outcomes:
            assert f"`{outcome.mutant.name}`" in text
        assert "by the CHECK of the allocation" in text

    def test_an_unknown_operator_is_told(self) -> None:
        with pytest.raises(UsageError, match="--operator: 'x' is not known; use one of: row-sec"):
            selected((OPEN_POLICY,), ["x"])


EXCUSE = """\
format = 1

[[equivalent]]
mutants = [{name!r}]
reason = "because"
holds = "{holds}"
"""


class TestEquivalents:
    @pytest.fixture
    def connection(self, head: Environment) -> Iterator[psycopg.Connection]:
        scratch = head.scratch()
        with psycopg.connect(scratch.conninfo, autocommit=True) as connection:
            yield connection
        scratch.drop()

    def written(self, tmp_path: Path, text: str) -> Path:
        file = tmp_path / "mutants.toml"
        file.write_text(text)
        return file

    def test_the_projects_own_are_not_stale(
        self, connection: psycopg.Connection, contract: Contract
    ) -> None:
        from invariants.mutants import derive

        claims = equivalents.load(ROOT / "mutants.toml")
        derived = derive(connection, contract)
        # Others' runs on the same server may have made logins.
        with members_of_nothing(connection):
            claims.check(connection, derived)
        assert claims.entries

    @pytest.mark.parametrize(
        ("name", "holds", "said"),
        [
            (OPEN_POLICY.name, "SELECT false", "no longer true of this schema: 'because'"),
            (OPEN_POLICY.name, "SELECT NULL", "no longer true of this schema"),
            (OPEN_POLICY.name, "SELECT 1", "no longer true of this schema"),
            (OPEN_POLICY.name, "SELECT x", 'holds: column \\"x\\" does not exist'),
            ("policy-using-true/x", "SELECT true", "there is no mutant 'policy-using-true/x'"),
        ],
    )
    def test_a_stale_entry_is_an_error(
        self,
        connection: psycopg.Connection,
        tmp_path: Path,
        name: str,
        holds: str,
        said: str,
    ) -> None:
        file = self.written(tmp_path, EXCUSE.format(name=name, holds=holds))
        with pytest.raises(UsageError) as error:
            equivalents.load(file).check(connection, (OPEN_POLICY,))
        assert str(error.value).startswith(f"{file}: equivalent[0]: ")
        assert said.replace("\\", "") in str(error.value)

    def test_one_that_is_noticed_is_an_error(
        self, head: Environment, contract: Contract, options: MutantOptions, tmp_path: Path
    ) -> None:
        name = "policy-using-true/dead_events.tenant_isolation_policy"
        file = self.written(tmp_path, EXCUSE.format(name=name, holds="SELECT true"))
        wanted = replace(options, operators=("policy-using-true",), equivalents=file)
        taken = score(head, contract, wanted, told)
        (wrong,) = taken.having("error")
        assert wrong.mutant.name == name
        assert (
            wrong.error
            == f"{file} calls it equivalent, and cross-tenant notices it; remove it there"
        )
        assert taken.exit_status == EXIT_INFRASTRUCTURE
        assert any(line.startswith(f"NOT JUDGED {name}") for line in survivors(taken))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("format = 2", "format: write format = 1"),
            ("format = 1\nx = 1", "x: unknown key"),
            ("format = 1\nequivalent = 1", "is not a list of tables"),
            ("format = 1\n[[equivalent]]\nmutants = ['a']", "reason: missing; add this key"),
            (
                "format = 1\n[[equivalent]]\nmutants = []\nreason = 'r'\nholds = 'h'",
                "mutants: is empty; name at least one",
            ),
            (
                "format = 1\n[[equivalent]]\nmutants = ['a']\nreason = ''\nholds = 'h'",
                "reason: '' is not a name; write it in quotes",
            ),
            (
                "format = 1\n[[equivalent]]\nmutants = ['a', 'a']\nreason = 'r'\nholds = 'h'",
                "'a' is named twice",
            ),
            ("format = ", "not valid TOML"),
        ],
    )
    def test_a_file_that_makes_no_sense(self, tmp_path: Path, text: str, said: str) -> None:
        file = self.written(tmp_path, text)
        with pytest.raises(UsageError) as error:
            equivalents.load(file)
        assert str(error.value).startswith(f"{file}: ")
        assert said in str(error.value)

    def test_without_a_file_nothing_is_equivalent(self, tmp_path: Path) -> None:
        assert equivalents.load(tmp_path / "none.toml").reason(OPEN_POLICY) is None


@pytest.mark.usefixtures("cache")
class TestCommand:
    def test_it_lists_without_hunting(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(ROOT)
        arguments = ["mutants", "--list", "--server", "embedded", "--operator", "role-bypassrls"]
        assert cli.main(arguments) == EXIT_HELD
        assert capsys.readouterr().out.splitlines()[:2] == [
            "role-bypassrls/app_rw",
            "  ALTER ROLE app_rw BYPASSRLS;",
        ]

    def test_it_hunts_and_writes(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.chdir(ROOT)
        file = tmp_path / "mutants.json"
        arguments = ["mutants", "--server", "embedded", "--operator", "view-without-filter"]
        arguments += ["--json", str(file), "--artifacts", str(tmp_path / "kept"), "--jobs", "2"]
        assert cli.main(arguments) == EXIT_HELD
        said = capsys.readouterr().out
        assert "2 of 2 mutants killed (100.0%)" in said
        assert json.loads(file.read_text())["counts"]["killed"] == 2
        assert (
            "view-without-filter/v_realtime_revenue" in (tmp_path / "kept/mutants.md").read_text()
        )

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--operator", "nonsense"], "--operator: 'nonsense' is not known"),
            (["--invariant", "nonsense"], "--invariant: 'nonsense' is not known"),
            (["--jobs", "0"], "--jobs: '0' is not a whole number of at least 1"),
            (["--mutant-budget", "x"], "--mutant-budget: 'x' is not a duration"),
            (["--json", "/nowhere/x.json"], "--json /nowhere/x.json: cannot be written"),
        ],
    )
    def test_bad_input_is_told_in_one_line(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        said: str,
    ) -> None:
        monkeypatch.chdir(ROOT)
        assert cli.main(["mutants", "--server", "embedded", *arguments]) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("invariants: ")]
        assert said in line

    def test_ctrl_c_leaves_nothing(self, temp_folder: TempFolder, tmp_path: Path) -> None:
        process = subprocess.Popen(
            [*PROGRAM, "mutants", "-v", "--server=embedded", f"--artifacts={tmp_path}", "--jobs=2"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(b"killed"):
                    break
            # Only the parent hears of it: not typed into a terminal.
            os.kill(process.pid, signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 130, rest.decode()
        assert b"Traceback" not in rest
        temp_folder.assert_empty()
