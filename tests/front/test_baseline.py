"""Known causes: listed, and no reason to fail; new ones are, and one that is gone is said."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from invariants.errors import EXIT_HELD, EXIT_USAGE, EXIT_VIOLATED
from invariants.front import cli
from invariants.search.baseline import Baseline, read, text
from tests.conftest import ROOT, WORKERS
from tests.projects import shops_in

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("cache")

# Everybody reads every order.
OPEN = "CREATE POLICY all_read ON orders FOR SELECT USING (true);"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARIANTS_FAILED", str(tmp_path / "failed"))
    monkeypatch.setenv("INVARIANTS_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)


def wanted(folder: Path, schema: str) -> list[str]:
    of_shops = shops_in(folder, schema)
    return [*of_shops, "--seed", "1", "--max-examples", "60"]


def test_known_causes_are_listed_and_do_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_shops = wanted(tmp_path / "shops", OPEN)
    file = tmp_path / "known.toml"
    assert cli.main(["baseline", str(file), *of_shops]) == EXIT_HELD
    told = capsys.readouterr().out
    document = tomllib.loads(file.read_text())
    found = [k["signature"] for k in document["known"]]
    assert document["format"] == 1
    assert str(tmp_path / "shops" / "schema.sql") in document["schema"]
    assert found == sorted(found)
    assert any(s.startswith("cross-tenant/select/orders/") for s in found)
    assert all(f"new      {s}\n" in told for s in found)
    assert f"--baseline {file}" in told

    # Written anew it is the same, reasons included.
    edited = file.read_text().replace('reason = ""', 'reason = "orders are public"', 1)
    file.write_text(edited)
    assert cli.main(["baseline", "--baseline", str(file), *of_shops]) == EXIT_HELD
    assert file.read_text() == edited
    assert f"{len(found)} known causes, 0 of them new" in capsys.readouterr().out

    report = tmp_path / "report.json"
    arguments = ["run", *of_shops, "--baseline", str(file), "--json", str(report)]
    assert cli.main(arguments) == EXIT_HELD
    told = capsys.readouterr().out
    assert f"known    {found[0]}: orders are public\n" in told
    assert f"no new cause, {len(found)} known" in told
    assert "VIOLATED" not in told
    said = json.loads(report.read_text())
    assert said["baseline"]["new"] == said["baseline"]["gone"] == []
    assert {"signature": found[0], "reason": "orders are public"} in said["baseline"]["known"]
    assert all(c["known"] for i in said["invariants"] for c in i["counterexamples"])
    # Without a baseline the report is as it was.
    assert cli.main(arguments[:-4] + arguments[-2:]) == EXIT_VIOLATED
    said = json.loads(report.read_text())
    assert "baseline" not in said
    assert not any("known" in c for i in said["invariants"] for c in i["counterexamples"])


def test_a_new_cause_fails_and_one_that_is_gone_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_shops = wanted(tmp_path / "shops", OPEN)
    file = tmp_path / "known.toml"
    file.write_text(
        'format = 1\n[[known]]\nsignature = "cross-tenant/insert/orders/gone"\nreason = "mended"\n'
        '[[known]]\nsignature = "append-only/update/orders/elsewhere"\n'
    )
    assert cli.main(["run", *of_shops, "--baseline", str(file)]) == EXIT_VIOLATED
    told = capsys.readouterr().out
    assert "VIOLATED cross-tenant/select/orders/" in told
    assert "new causes" in told
    assert "gone     cross-tenant/insert/orders/gone: not found" in told
    # Nothing was searched for it: the contract has no such rule, so it may well be there.
    assert cli.main(["baseline", str(file), *of_shops, "--invariant", "liveness"]) == EXIT_HELD
    left = [k["signature"] for k in tomllib.loads(file.read_text())["known"]]
    assert "cross-tenant/insert/orders/gone" in left
    capsys.readouterr()
    assert cli.main(["baseline", str(file), *of_shops]) == EXIT_HELD
    assert "gone     cross-tenant/insert/orders/gone: mended\n" in capsys.readouterr().out
    assert "gone" not in file.read_text().replace("no more goes", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; write it with `invariants baseline`"),
        ("format = 2", "format: 2 is not known; use one of: 1"),
        ("known = []", "format: missing; add this key"),
        ("format = 1\n[[known]]", "known[0].signature: missing; add this key"),
        ('format = 1\nknown = ["a"]', "known[0]: is not a table; write [known[0]]"),
        ("format = ", "not valid TOML: "),
        ('format = 1\n[[known]]\nsignature = "pii"\nwhy = ""', "known[0].why: unknown key"),
        (
            'format = 1\n[[known]]\nsignature = "nothing/of/ours"',
            "known[0].signature: 'nothing/of/ours' begins with none of: cross-tenant, ",
        ),
        (
            'format = 1\n[[known]]\nsignature = "pii/a"\n[[known]]\nsignature = "pii/a"',
            "known[1].signature: 'pii/a' is there twice; remove one",
        ),
    ],
)
@pytest.mark.parametrize("command", ["run", "gate", "baseline"])
def test_a_bad_file_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    content: str | None,
    said: str,
) -> None:
    file = tmp_path / "known.toml"
    if content is not None:
        file.write_text(content)
    elif command == "baseline":
        pytest.skip("it writes the file")
    assert cli.main([command, "--baseline", str(file)]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"invariants: {file}: {said}")


def test_the_text_depends_on_what_is_found_and_on_nothing_else(tmp_path: Path) -> None:
    before = Baseline(tmp_path / "known.toml", {"pii/b": 'because of "that"\n', "ledger/x": ""})
    found = ["pii/b", "pii/a", "cross-tenant/\u2028'\"\\"]
    made = text(found, before, "schema.sql, revision head", ["pii", "cross-tenant"])
    assert made == text(reversed(found), before, "schema.sql, revision head", ["pii"])
    before.path.write_text(made)
    read_again = read(before.path)
    assert sorted(read_again.reasons) == sorted([*found, "ledger/x"])
    assert read_again.reasons["pii/b"] == 'because of "that"'


@WORKERS
def test_pytest_knows_them_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = pytester.path
    of_shops = wanted(folder, OPEN)
    assert cli.main(["baseline", "known.toml", *of_shops]) == EXIT_HELD
    with (folder / "known.toml").open("a") as file:
        file.write('[[known]]\nsignature = "cross-tenant/insert/orders/gone"\n')
    arguments = [
        f"--invariants-{option.removeprefix('--')}={value}"
        for option, value in zip(of_shops[::2], of_shops[1::2], strict=True)
    ]
    asked = ("-m", "invariants", "-p", "no:cacheprovider", "-k", "cross-tenant or liveness")
    result = pytester.runpytest_subprocess(
        *asked, *workers, *arguments, "--invariants-baseline=known.toml"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*= invariants: baseline =*",
            "known    cross-tenant/select/orders/*",
            "gone     cross-tenant/insert/orders/gone: not found; *takes it out of known.toml",
        ]
    )
    (folder / "known.toml").write_text("format = 1\n")
    result = pytester.runpytest_subprocess(
        *asked, *workers, *arguments, "--invariants-baseline=known.toml"
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["VIOLATED cross-tenant/select/orders/*"])
    result = pytester.runpytest_subprocess(*asked, *workers, *arguments, "--invariants-baseline=no")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*invariants: no: no such file; write it with*"])


def test_the_gate_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_shops = wanted(tmp_path / "shops", OPEN)
    file = tmp_path / "known.toml"
    assert cli.main(["baseline", str(file), *of_shops]) == EXIT_HELD
    (tmp_path / "kept").mkdir()
    kept = next(p for p in (tmp_path / "artifacts").glob("cross-tenant-select-*.json"))
    kept.rename(tmp_path / "kept" / kept.name)
    report = tmp_path / "report"
    gate = ["gate", *of_shops, "--profile", "dev", "--report", str(report)]
    gate += ["--counterexamples", str(tmp_path / "kept")]
    assert cli.main([*gate, "--baseline", str(file)]) == EXIT_HELD
    assert "gate passed: no new cause, " in capsys.readouterr().out
    said = json.loads((report / "gate.json").read_text())
    (check,) = [c for c in said["checks"] if c["group"] == "baseline"]
    assert any(d.startswith("cross-tenant/select/orders/") for d in check["details"])
    (replayed,) = [c for c in said["checks"] if c["group"] == "counterexamples"]
    assert replayed["status"] == "passed"
    assert replayed["line"].endswith("fails, which is known")
    assert cli.main(gate) == EXIT_VIOLATED
