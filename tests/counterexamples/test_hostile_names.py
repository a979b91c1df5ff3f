"""A schema in which every name is hostile: to psql, terminals, Markdown, XML, file systems."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from invariants import escaping
from invariants.counterexamples.files import Counterexample, save
from invariants.counterexamples.script import Script, block, comment, without_copy
from invariants.counterexamples.spec import _block
from invariants.errors import EXIT_VIOLATED
from invariants.front import cli
from invariants.schema.chain import Migrations
from invariants.servers.environment import Environment, open_environment
from invariants.workload import sql
from invariants.workload.operations import Copy, Delete, Shadow, Update, Workload
from tests.conftest import ENV
from tests.engine import altered, psql_program

# Ends comments and dollar quotes, runs a shell, is markup in four languages, steers a terminal.
HOSTILE = "\n\\! touch pwned\n`x`<b>|$$*/ '} --\x1b[31m[red]:v$1 ]]>\u202e"


def hostile(beginning: str) -> str:
    made = f"{beginning}{HOSTILE}"
    assert len(made.encode()) < 64
    return made


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


ROOT, ITEMS, TENANT, BODY = map(hostile, ("te", "it", "id", "bo"))
ROLE, POLICY = hostile("ro"), hostile("po")
SETTING = f"{quoted(TENANT)} = nullif(current_setting('app.t', true), '')::uuid"
SCHEMA = (
    f"CREATE ROLE {quoted(ROLE)}",
    f"CREATE TABLE {quoted(ROOT)} (id uuid PRIMARY KEY)",
    f"CREATE TABLE {quoted(ITEMS)} (id uuid PRIMARY KEY, {quoted(TENANT)} uuid NOT NULL"
    f" CONSTRAINT {quoted(hostile('fk'))} REFERENCES {quoted(ROOT)} (id),"
    f" {quoted(BODY)} text CONSTRAINT {quoted(hostile('ck'))} CHECK ({quoted(BODY)} <> '-'))",
    f"ALTER TABLE {quoted(ITEMS)} ENABLE ROW LEVEL SECURITY",
    f"CREATE POLICY {quoted(POLICY)} ON {quoted(ITEMS)} USING (true) WITH CHECK ({SETTING})",
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {quoted(ITEMS)} TO {quoted(ROLE)}",
)
MENDED = (
    f"ALTER POLICY {quoted(POLICY)} ON {quoted(ITEMS)} USING ({SETTING}) WITH CHECK ({SETTING})"
)
CONTRACT = f"""
format = 1
[tenancy]
root = {json.dumps(ROOT)}
column = {json.dumps(TENANT)}
setting = "app.t"
tables = [{json.dumps(ITEMS)}]
[roles.{json.dumps(ROLE)}]
{json.dumps(ITEMS)} = ["select", "insert", "update", "delete"]
[[accepted]]
channel = "primary-key-collision"
reason = "ids are drawn by lot"
"""


@dataclass(frozen=True)
class Project:
    """Where the schema's files are, and what a run on it said."""

    folder: Path
    status: int
    said: str

    @property
    def scripts(self) -> list[Path]:
        return sorted((self.folder / "artifacts").glob("*.sql"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "scripts/versions").mkdir(parents=True)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/scripts\n")
    (folder / "scripts/env.py").write_text(ENV)
    statements = "\n".join(f"    op.get_bind().exec_driver_sql({s!r})" for s in SCHEMA)
    (folder / "scripts/versions/a1.py").write_text(
        "from alembic import op\nrevision = 'a1'\ndown_revision = None\n"
        f"def upgrade():\n{statements}\ndef downgrade():\n    pass\n"
    )
    (folder / "invariants.toml").write_text(CONTRACT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("INVARIANTS_CACHE_DIR", str(shared_cache))
        with (folder / "out").open("w+", encoding="utf-8") as out:
            patch.setattr("sys.stdout", out)
            status = cli.main([
                "run", "--server", "embedded", "--seed", "1", "--max-examples", "12",
                "--sessions", "0", "--invariant", "cross-tenant", "--json", "out.json",
            ])  # fmt: skip
        yield Project(folder, status, (folder / "out").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environment(project: Project) -> Iterator[Environment]:
    with open_environment(
        "embedded", Migrations(project.folder / "alembic.ini"), say=lambda _: None, cache=False
    ) as environment:
        yield environment


def run_scripts(project: Project, environment: Environment) -> set[int]:
    """How psql ends on each script, in the project's folder."""
    ends = set()
    for script in project.scripts:
        scratch = environment.scratch()
        done = subprocess.run(
            [psql_program(), "-X", "-q", "-d", scratch.conninfo, "-f", str(script)],
            cwd=project.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        scratch.drop()
        assert (done.returncode == 3) == ("ERROR:  violated: " in done.stderr), done.stderr
        assert "syntax error" not in done.stderr
        ends.add(done.returncode)
    return ends


def test_the_scripts_say_what_they_say_and_run_nothing_else(
    project: Project, environment: Environment
) -> None:
    assert project.status == EXIT_VIOLATED
    assert project.scripts
    assert run_scripts(project, environment) == {3}
    with altered(environment, MENDED) as mended:
        assert run_scripts(project, mended) == {0}
    assert not (project.folder / "pwned").exists()
    assert {p.suffix for p in (project.folder / "artifacts").iterdir()} == {".json", ".sql", ".txt"}


def test_the_terminal_shows_names_and_obeys_none(project: Project) -> None:
    assert all(line.isprintable() for line in project.said.splitlines())
    assert "\n\\! touch" not in project.said
    assert r"[31m[red]:v$1 ]]>\u202e" in project.said
    for story in (project.folder / "artifacts").glob("*.txt"):
        assert all(line.isprintable() for line in story.read_text().splitlines())


def test_json_keeps_names_as_they_are(project: Project) -> None:
    (judged,) = json.loads((project.folder / "out.json").read_bytes())["invariants"]
    for found in judged["counterexamples"]:
        assert HOSTILE in found["signature"]
        assert json.loads(Path(project.folder, found["json"]).read_bytes())


def test_a_comment_has_one_line() -> None:
    for end in "\n\r\x0b\x0c\x85\u2028\x00\x1b":
        assert comment(f"a{end}\\! b") == f"-- a{escaping.shown(end)}\\! b"
        assert escaping.shown(end).isprintable()


def test_a_block_ends_where_it_should() -> None:
    text = "\n".join(block("  PERFORM 'a$$ b $x$ c';"))
    assert text.startswith("DO $xx$ BEGIN\n")
    assert text.endswith("\nEND $xx$;")
    shadow = sql.spelled(Shadow("a$$b", "relation"))
    assert shadow.startswith("DO $x$ ")


def test_values_stay_out_of_names() -> None:
    update = Update("a$1", (("b$1", "x"),), (("$2", "$1"),))
    assert sql.spelled(update) == """UPDATE "a$1" SET "b$1" = 'x' WHERE "$2" = '$1'"""


def test_what_takes_one_line_of_psql_is_sent_another_way() -> None:
    copy = Copy("a\n\\! b", ("id",), (("1",),))
    assert sql.spelled(without_copy(copy)).startswith('INSERT INTO "a\n\\! b" (id)')
    (sent,) = Script.statement(object.__new__(Script), copy)
    assert sent.startswith("INSERT")
    (sent,) = Script.statement(object.__new__(Script), replace(copy, relation="a"))
    assert sent.startswith("\\copy")


def test_no_name_ends_a_step_of_the_isolation_tester() -> None:
    lines = list(_block("step", [f"{sql.spelled(Delete('a}b', (('c', '}'),)))};"]))
    assert "\n".join(lines).count("}") == 1
    assert r'U&"a\007db"' in lines[0]


def test_two_causes_are_never_one_file(tmp_path: Path) -> None:
    workload = Workload((), ())
    made = [
        Counterexample("i", f"i/select/{guard}", "", workload, "", guard)
        for guard in ("a b", "a-b", "A b", "a\nb", "x" * 200 + "1", "x" * 200 + "2")
    ]
    saved = [save(one, tmp_path) for one in made]
    assert [s.sql.read_text() for s in saved] == [m.script for m in made]
    # The same cause again is the same file.
    assert [save(one, tmp_path) for one in made] == saved
