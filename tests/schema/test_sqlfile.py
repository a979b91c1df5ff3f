"""SQL files as psql reads them."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from invariants.errors import UsageError
from invariants.schema.sqlfile import files_read, read_statements, run_file
from tests.databases import database_maker

DUMP = r"""--
-- PostgreSQL database dump
--
\restrict abcDEF0123
SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE FUNCTION public.f() RETURNS integer LANGUAGE plpgsql AS $_$ BEGIN RETURN 1; END; $_$;
CREATE TABLE public.t (id integer, what text DEFAULT ';'::text);
COPY public.t (id, what) FROM stdin;
1	a;b
2	\N
\.

CREATE FUNCTION public.g() RETURNS integer LANGUAGE sql
BEGIN ATOMIC
 SELECT CASE WHEN true THEN 1 ELSE 2 END;
 SELECT 3;
END;
DO $$ BEGIN PERFORM 1; END $$; DO $$ BEGIN PERFORM 2; END $$;
\unrestrict abcDEF0123
"""


def texts(path: Path) -> list[str]:
    return [s.text for s in read_statements(path)]


def test_a_dump_runs(tmp_path: Path, server_url: str) -> None:
    dump = tmp_path / "dump.sql"
    dump.write_text(DUMP)
    with database_maker(server_url) as make:
        database = make()
        with database.connect() as connection:
            run_file(connection, dump)
        assert database.execute("SELECT id, what FROM public.t ORDER BY 1") == [
            (1, "a;b"),
            (2, None),
        ]
        assert database.execute("SELECT public.g()") == [(3,)]


def test_a_failure_has_its_place(tmp_path: Path, server_url: str) -> None:
    file = tmp_path / "a.sql"
    file.write_text("SELECT 1;\n\n-- what follows\nSELECT\n  nothing;\n")
    with database_maker(server_url) as make, make().connect() as connection:
        with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
            run_file(connection, file)
        assert caught.value.__notes__ == [f"{file}:5"]


def test_files_beside_are_included_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "main.sql").write_text("SELECT 1;\n\\i sub/one.sql\n\\ir 'two two.sql'\nSELECT 4;")
    (tmp_path / "sub" / "one.sql").write_text("\\ir three.sql\n")
    (tmp_path / "sub" / "three.sql").write_text("SELECT 2;")
    (tmp_path / "two two.sql").write_text("SELECT 3;")
    assert texts(tmp_path / "main.sql") == ["SELECT 1;", "SELECT 2;", "SELECT 3;", "SELECT 4;"]
    assert len(files_read(tmp_path / "main.sql")) == 4


def test_a_file_that_includes_itself_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.sql"
    file.write_text("\\i a.sql\n")
    with pytest.raises(UsageError, match="includes itself"):
        texts(file)


def test_variables_stand_for_what_they_were_set_to(tmp_path: Path) -> None:
    file = tmp_path / "a.sql"
    file.write_text(
        "\\set owner app\n\\set word 'it''s'\n"
        "SELECT :'owner', :\"owner\", 1::int, ':owner', :other;"
        "SELECT a[1:2], :'word';"
    )
    assert texts(file) == [
        "SELECT 'app', \"app\", 1::int, ':owner', :other;",
        "SELECT a[1:2], 'its';",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "\\connect production",
        "\\c 'host=elsewhere'",
        "\\! touch pwned",
        "\\copy t FROM 'x'",
        "\\gexec",
        "\\if true",
        "\\o |cat",
        "SELECT 1 \\gset",
    ],
)
def test_what_would_leave_the_database_is_refused(tmp_path: Path, command: str) -> None:
    file = tmp_path / "a.sql"
    file.write_text(f"SELECT 0;\n{command}\n")
    with pytest.raises(UsageError, match=r"a\.sql:2: .*is not done here") as caught:
        texts(file)
    assert len(str(caught.value).splitlines()) == 1


def test_rows_without_an_end_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.sql"
    file.write_text("COPY t FROM STDIN;\n1\n2\n")
    with pytest.raises(UsageError, match=r"a\.sql:1: the rows of this COPY have no end"):
        texts(file)
