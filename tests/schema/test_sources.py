"""Where schemas come from besides Alembic."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from invariants.errors import InfrastructureError, UsageError
from invariants.schema.difference import catalog_fingerprint
from invariants.schema.sources import source_of
from invariants.schema.sources.command import Command
from invariants.schema.sources.database import Database
from invariants.schema.sources.sqlfiles import SqlFiles
from invariants.servers.binaries import pg_dump
from tests.databases import MakeDatabase, create_role_when_missing, database_maker


@pytest.fixture
def make(server_url: str) -> Iterator[MakeDatabase]:
    with database_maker(server_url) as made:
        yield made


def folder(tmp_path: Path, **scripts: str) -> Path:
    for name, text in scripts.items():
        path = tmp_path / f"{name.replace('__', '/')}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


class TestSqlFiles:
    def test_a_folder_is_a_chain_in_the_order_of_its_names(
        self, tmp_path: Path, make: MakeDatabase
    ) -> None:
        for name, text in {
            "V1_first": "CREATE TABLE a (n integer);",
            "V2_second": "INSERT INTO a VALUES (1);",
            "V10_third": "ALTER TABLE a ADD m integer;",
        }.items():
            (tmp_path / f"{name}.sql").write_text(text)
        source = SqlFiles(tmp_path)
        assert source.read().lineage.applied == ("V1_first", "V2_second", "V10_third")
        database = make()
        source.at("V2").fill(database.conninfo)
        assert database.execute("SELECT * FROM a") == [(1,)]

    @pytest.mark.parametrize(
        ("script", "undone"),
        [
            ("a.up.sql", "a.down.sql"),
            ("V1__a.sql", "U1__a.sql"),
            ("deploy/a.sql", "revert/a.sql"),
            ("a/migration.sql", "a/down.down.sql"),
        ],
    )
    def test_what_undoes_is_not_run(self, tmp_path: Path, script: str, undone: str) -> None:
        for name in (script, undone):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("SELECT 1;")
        assert [f.relative_to(tmp_path).as_posix() for f in SqlFiles(tmp_path).files] == [script]

    @pytest.mark.parametrize("mark", ["-- migrate:down", "-- +goose Down"])
    def test_both_ways_in_one_file(self, tmp_path: Path, make: MakeDatabase, mark: str) -> None:
        (tmp_path / "1.sql").write_text(f"CREATE TABLE a (n integer);\n{mark}\nDROP TABLE a;\n")
        database = make()
        SqlFiles(tmp_path).fill(database.conninfo)
        assert database.execute("SELECT count(*) FROM a") == [(0,)]

    def test_the_hash_covers_what_is_included_and_no_later_script(self, tmp_path: Path) -> None:
        (tmp_path / "1.sql").write_text("\\ir parts/one.txt\n")
        (tmp_path / "2.sql").write_text("SELECT 2;")
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "one.txt").write_text("SELECT 1;")
        first = SqlFiles(tmp_path, "1")
        before = first.read().fingerprint
        (tmp_path / "2.sql").write_text("SELECT 3;")
        assert first.read().fingerprint == before
        (tmp_path / "parts" / "one.txt").write_text("SELECT 4;")
        assert first.read().fingerprint != before

    def test_a_failure_names_file_and_line(self, tmp_path: Path, make: MakeDatabase) -> None:
        script = tmp_path / "1.sql"
        script.write_text("SELECT 1;\nSELECT nothing;\n")
        with pytest.raises(InfrastructureError, match=r"1\.sql:2: column"):
            SqlFiles(script).fill(make().conninfo)

    def test_an_empty_folder_and_an_unknown_revision_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"holds no \.sql file"):
            SqlFiles(tmp_path).read()
        (tmp_path / "1.sql").write_text("SELECT 1;")
        with pytest.raises(UsageError, match="--revision 7: no such script; known are head, 1"):
            SqlFiles(tmp_path, "7").read()


class TestCommand:
    def test_it_finds_the_database_by_either_name(self, make: MakeDatabase) -> None:
        database = make()
        tool = "psql -X -q -v ON_ERROR_STOP=1"
        Command(
            f"{tool} -c 'CREATE TABLE a ()' && {tool} -d $DATABASE_URL -c 'SELECT * FROM a'"
        ).fill(database.conninfo)
        assert database.execute("SELECT count(*) FROM a") == [(0,)]

    def test_its_last_words_are_told(self, make: MakeDatabase) -> None:
        with pytest.raises(InfrastructureError, match="status 3: no such thing"):
            Command("echo first; echo 'no such thing' >&2; exit 3").fill(make().conninfo)

    def test_it_ends_at_the_limit_with_all_that_it_started(self, make: MakeDatabase) -> None:
        mark = f"sleep 98.{time.time_ns()}"
        with pytest.raises(InfrastructureError, match="--migration-timeout"):
            Command(f"{mark} & {mark}", timeout_seconds=0.3).fill(make().conninfo)
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
        assert mark not in listing.stdout.splitlines()

    def test_nobody_knows_what_determines_it(self) -> None:
        assert Command("true").read().fingerprint == ""


class TestDatabase:
    def test_it_is_copied_with_its_roles_and_not_written_to(
        self, make: MakeDatabase, server_url: str
    ) -> None:
        theirs, ours = make(), make()
        with psycopg.connect(server_url, autocommit=True) as admin:
            create_role_when_missing(admin, "copied")
        theirs.execute(
            "CREATE SCHEMA app; CREATE TABLE app.codes (code text PRIMARY KEY);"
            "CREATE TABLE app.things (id integer, code text REFERENCES app.codes);"
            "INSERT INTO app.codes VALUES ('a'); INSERT INTO app.things VALUES (1, 'a');"
            "ALTER TABLE app.things ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY own ON app.things TO copied USING (true);"
            "GRANT SELECT ON app.things TO copied; GRANT USAGE ON SCHEMA app TO copied"
        )
        source = Database(theirs.url(), pg_dump, with_data=("app.codes",))
        source.fill(ours.conninfo)
        assert source.read().fingerprint == source.read().fingerprint
        with theirs.connect() as one, ours.connect() as other:
            assert catalog_fingerprint(one) == catalog_fingerprint(other)
        assert ours.execute("SELECT count(*) FROM app.codes") == [(1,)]
        assert ours.execute("SELECT count(*) FROM app.things") == [(0,)]

    def test_a_change_there_changes_the_hash(self, make: MakeDatabase) -> None:
        theirs = make()
        source = Database(theirs.url(), pg_dump)
        before = source.read().fingerprint
        theirs.execute("CREATE TABLE a ()")
        assert source.read().fingerprint != before

    def test_its_sessions_cannot_write(self, make: MakeDatabase) -> None:
        theirs = make()
        with (
            Database(theirs.url(), pg_dump)._connected() as connection,
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        ):
            connection.execute("CREATE TABLE a ()")

    def test_a_password_is_in_no_message(self) -> None:
        source = Database("postgresql://me:secret@127.0.0.1:1/x", pg_dump)
        with pytest.raises(InfrastructureError) as caught:
            source.read()
        assert "secret" not in f"{caught.value} {source!r}"


class TestNaming:
    def test_scripts_before_are_run_first_and_count(
        self, tmp_path: Path, make: MakeDatabase
    ) -> None:
        before, script = tmp_path / "before.sql", tmp_path / "schema.sql"
        before.write_text("CREATE SCHEMA platform;")
        script.write_text("CREATE TABLE platform.a ();")
        source = source_of(str(script), Path("alembic.ini"), "head", 60, (before,))
        first = source.read().fingerprint
        database = make()
        source.fill(database.conninfo)
        assert database.execute("SELECT count(*) FROM platform.a") == [(0,)]
        before.write_text("CREATE SCHEMA platform; -- other")
        assert source.read().fingerprint != first

    @pytest.mark.parametrize(
        ("schema", "told"),
        [
            ("nothing.sql", "no such file or folder"),
            ("mysql://host/db", "unknown; it is"),
            ("command:", "is empty"),
            ("", "unknown; it is"),
        ],
    )
    def test_what_is_no_source_is_named(self, schema: str, told: str) -> None:
        with pytest.raises(UsageError, match=told):
            source_of(schema, Path("alembic.ini"), "head", 60).read()

    def test_without_a_chain_it_says_what_there_could_be(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="--schema"):
            source_of(None, tmp_path / "alembic.ini", "head", 60)
