"""A counterexample's file is data: what does not fit is one line with file, place and remedy."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from invariants.counterexamples.files import load
from invariants.errors import UsageError
from invariants.front.cli import main
from invariants.workload.format import SESSIONS_MAX, STATEMENTS_MAX
from tests.engine import A

INSERT = {
    "kind": "insert",
    "relation": "dead_events",
    "columns": ["id", "source"],
    "rows": [["1", None], ["2", {"json": [1.5]}]],
    "conflict": {"target": ["id"], "where": "", "updates": ["source"]},
}
MERGE = {"kind": "merge", "relation": "t", "columns": ["id"], "row": ["1"], "on": ["id"]}
COPY = {"kind": "copy", "relation": "t", "columns": ["id"], "rows": [["1"]]}
UPDATE = {"kind": "update", "relation": "t", "assign": {"id": "1"}, "where": {}}
SELECT = {"kind": "select", "relation": "t"}


def operation(*statements: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "app_rw", "tenant": A, "delivery": None, "statements": [*statements], **more}


def transaction(*statements: dict[str, Any], **more: Any) -> dict[str, Any]:
    return operation(*statements, isolation="read committed", end="commit", **more)


WHOLE: dict[str, Any] = {
    "format": 1,
    "invariant": "liveness",
    "signature": "liveness/insert/x/y",
    "summary": "what was seen",
    "seed": 5,
    "revision": "1",
    "workload": {
        "premise": "",
        "tenants": [{"id": A, "row": {"id": A, "name": "T"}}],
        "operations": [operation(INSERT), operation(MERGE, UPDATE, SELECT), operation(COPY)],
        "sessions": [[transaction(SELECT)], [transaction(UPDATE)]],
        "schedule": [0, 1, 1],
    },
}
FIRST = ("workload", "operations", 0, "statements", 0)
SECOND = ("workload", "operations", 1, "statements")
SESSIONS = ("workload", "sessions")
Path_ = tuple[str | int, ...]
_REMOVED = object()

# Where something else is put, what, and what is said of it.
FAULTS: dict[str, tuple[Path_, Any, str]] = {
    "format": (("format",), True, "format: True is not known; this version reads format 1"),
    "no workload": (("workload",), _REMOVED, "workload: missing; add this key"),
    "a key more": (("z",), 1, "z: unknown key; use one of: format, invariant, signature,"),
    "invariant": (("invariant",), [1], "invariant: [1] is not a name; write it in quotes"),
    "signature": (("signature",), {"a": 1}, "signature: {'a': 1} is not a name"),
    "revision": (("revision",), 7, "revision: 7 is not a name"),
    "premise": (("workload", "premise"), "nope", "workload.premise: 'nope' is not known; use one"),
    "premise's type": (("workload", "premise"), 5, "workload.premise: 5 is not a name"),
    "premise's list": (("workload", "premise"), ["a"], "workload.premise: ['a'] is not a name"),
    "tenants": (("workload", "tenants"), 7, "workload.tenants: is not a list of tables; write"),
    "no tenants": (
        ("workload", "tenants"),
        [],
        "workload.tenants: there are none, and operations[0] inserts rows; write them",
    ),
    "a tenant's row": (
        ("workload", "tenants", 0, "row", "na me"),
        1.5,
        'workload.tenants[0].row."na me": 1.5 does not fit; write one of: bool | int | str |',
    ),
    "role": (("workload", "operations", 0, "role"), 5, "workload.operations[0].role: 5 is not a"),
    "no role": (
        ("workload", "operations", 0, "role"),
        None,
        "workload.operations[0].role: None is not a name",
    ),
    "an operation's tenant": (
        ("workload", "operations", 0, "tenant"),
        7,
        "workload.operations[0].tenant: 7 is not a name",
    ),
    "delivery": (
        ("workload", "operations", 0, "delivery"),
        "1",
        "workload.operations[0].delivery: is not a whole number",
    ),
    "no statements": (
        ("workload", "operations", 0, "statements"),
        [],
        "workload.operations[0].statements: there are none; write one, or leave the whole out",
    ),
    "kind": (
        (*FIRST, "kind"),
        "vacuum",
        "workload.operations[0].statements[0].kind: 'vacuum' is not known; use one of: insert,",
    ),
    "half a kind": (
        (*FIRST, "kind"),
        "\ud800",
        r"workload.operations[0].statements[0].kind: '\ud800' holds what is no text",
    ),
    "no kind": ((*FIRST, "kind"), _REMOVED, "workload.operations[0].statements[0].kind: missing"),
    "a statement's key": (
        (*FIRST, "raw"),
        "DROP",
        "workload.operations[0].statements[0].raw: unknown key; use one of: kind, relation,",
    ),
    "relation": (
        (*FIRST, "relation"),
        None,
        "workload.operations[0].statements[0].relation: None is not a name",
    ),
    "a relation of no text": (
        (*FIRST, "relation"),
        "a\x00",
        r"workload.operations[0].statements[0].relation: 'a\x00' holds what is no text",
    ),
    "half a character": (
        (*FIRST, "rows", 0, 0),
        "\ud800",
        r"workload.operations[0].statements[0].rows[0][0]: '\ud800' holds what is no text",
    ),
    "half a character in a document": (
        (*FIRST, "rows", 1, 1, "json"),
        ["\ud800"],
        r"workload.operations[0].statements[0].rows[1][1].json[0]: '\ud800' holds what is no text",
    ),
    "columns": (
        (*FIRST, "columns"),
        "id",
        "workload.operations[0].statements[0].columns: 'id' is not a list",
    ),
    "a column": (
        (*FIRST, "columns", 0),
        5,
        "workload.operations[0].statements[0].columns[0]: 5 is not a name",
    ),
    "a column twice": (
        (*FIRST, "columns"),
        ["id", "id"],
        "workload.operations[0].statements[0].columns: 'id' is there 2 times; name it once",
    ),
    "a column less": (
        (*FIRST, "columns"),
        ["id"],
        "workload.operations[0].statements[0].rows[0]: 2 values for 1 columns; write one for each",
    ),
    "a value less": (
        (*FIRST, "rows", 1),
        ["2"],
        "workload.operations[0].statements[0].rows[1]: 1 values for 2 columns",
    ),
    "no rows": ((*FIRST, "rows"), [], "workload.operations[0].statements[0].rows: there are none"),
    "many rows": (
        (*FIRST, "rows"),
        [["1", None]] * 40_000,
        "workload.operations[0].statements[0].rows: more than 65,535 values",
    ),
    "a number": (
        (*FIRST, "rows", 0, 1),
        1.5,
        "workload.operations[0].statements[0].rows[0][1]: 1.5 does not fit",
    ),
    "a document": (
        (*FIRST, "rows", 1, 1),
        {"jsn": 1},
        "workload.operations[0].statements[0].rows[1][1].jsn: unknown key; use one of: json",
    ),
    "conflict": (
        (*FIRST, "conflict"),
        3,
        "workload.operations[0].statements[0].conflict: is not a table",
    ),
    "a conflict with nothing": (
        (*FIRST, "conflict", "target"),
        [],
        "workload.operations[0].statements[0].conflict.target: there is none; name the columns",
    ),
    "merge's row": (
        (*SECOND, 0, "row"),
        [],
        "workload.operations[1].statements[0].row: 0 values for 1 columns",
    ),
    "merge on nothing": (
        (*SECOND, 0, "on"),
        [],
        "workload.operations[1].statements[0].on: there are none; name the columns",
    ),
    "an update of nothing": (
        (*SECOND, 1, "assign"),
        {},
        "workload.operations[1].statements[1].assign: there is none",
    ),
    "a leak": ((*SECOND, 2, "leak"), 4, "workload.operations[1].statements[2].leak: 4 is not a"),
    "a copy beside others": (
        SECOND,
        [COPY, SELECT],
        "workload.operations[1].statements: COPY is sent by itself",
    ),
    "a target of one's own": (
        SECOND,
        [{"kind": "comment", "relation": "t", "target": "database"}],
        "workload.operations[1].statements[0].target: 'database' is not known; use one of: table,",
    ),
    "a shadow of one's own": (
        SECOND,
        [{"kind": "shadow", "relation": "t", "target": "server"}],
        "workload.operations[1].statements[0].target: 'server' is not known; use one of: type, rel",
    ),
    "no sessions": (SESSIONS, [], "workload.sessions: there are none; leave the key out"),
    "a session that does nothing": ((*SESSIONS, 0), [], "workload.sessions[0]: it does nothing"),
    "many sessions": (
        SESSIONS,
        [[transaction(SELECT)]] * (SESSIONS_MAX + 1),
        f"workload.sessions: more than {SESSIONS_MAX}",
    ),
    "an isolation": (
        (*SESSIONS, 0, 0, "isolation"),
        "none",
        "workload.sessions[0][0].isolation: 'none' is not known; use one of: read committed,",
    ),
    "an end": ((*SESSIONS, 0, 0, "end"), "quit", "workload.sessions[0][0].end: 'quit' is not kno"),
    "a copy in a session": (
        (*SESSIONS, 0, 0, "statements"),
        [COPY],
        "workload.sessions[0][0].statements[0]: COPY is not sent in a session beside others",
    ),
    "a turn of nobody": (
        ("workload", "schedule", 1),
        2,
        "workload.schedule[1]: there is no session 2; count from 0 to 1",
    ),
    "a schedule of nobody": (SESSIONS, _REMOVED, "workload.schedule: there are no sessions"),
    "more than anybody sends": (
        (*SECOND,),
        [SELECT] * (STATEMENTS_MAX + 1),
        f"workload.operations: more than {STATEMENTS_MAX:,} statements",
    ),
}


def changed(at: Path_, what: Any) -> dict[str, Any]:
    document = copy.deepcopy(WHOLE)
    inner: Any = document
    for step in at[:-1]:
        inner = inner[step]
    if what is _REMOVED:
        del inner[at[-1]]
    else:
        inner[at[-1]] = what
    return document


def test_the_whole_fits(tmp_path: Path) -> None:
    file = tmp_path / "whole.json"
    file.write_text(json.dumps(WHOLE))
    assert len(load(file).workload.all_operations) == 5


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_of_the_file(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    at, put, message = FAULTS[what]
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(changed(at, put)))
    with pytest.raises(UsageError) as raised:
        load(file)
    said = str(raised.value)
    prefix = f"{file}: " if what == "format" else f"{file}: not a counterexample: "
    assert said.startswith(prefix + message), said
    assert "\n" not in said
    # It is said before there is a server.
    assert main(["replay", "--server", "postgresql://nowhere.invalid", str(file)]) == 2
    assert capsys.readouterr() == ("", f"invariants: {said}\n")


TEXTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "not valid JSON: Expecting value"),
    "no text": (lambda: b"\xff\xfe", "not valid JSON: 'utf-8' codec can't decode byte"),
    "a list": (lambda: b"[]", "not a counterexample: is not a table"),
    "deep": (lambda: b"[" * 100_000, "not valid JSON: nested more than 200 deep"),
    "deep in a text": (lambda: json.dumps("[" * 1000).encode(), "not a counterexample: is not a"),
    "a key twice": (lambda: b'{"format": 1, "format": 1}', "not valid JSON: the key 'format' is"),
    "half a key": (
        lambda: rb'{"\ud800": 1}',
        r"not a counterexample: '\ud800' holds what",
    ),
    "no number": (lambda: b'{"format": NaN}', "not valid JSON: NaN is no number of JSON"),
    "beyond all": (lambda: b'{"format": 1e999}', "not valid JSON: '1e999' is too large a number"),
    "long": (lambda: b'{"format": ' + b"9" * 5000 + b"}", "not valid JSON: Exceeds the limit"),
    "large": (lambda: b" " * (8 * 1024**2 + 1), "larger than 8 MB; name a counterexample's .json"),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_text_that_is_none(tmp_path: Path, what: str) -> None:
    made, message = TEXTS[what]
    file = tmp_path / "wrong.json"
    file.write_bytes(made())
    with pytest.raises(UsageError) as raised:
        load(file)
    assert str(raised.value).startswith(f"{file}: {message}")
    assert "\n" not in str(raised.value)


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "cannot be read (Is a dir"), (tmp_path / "x", "no such file; ")):
        with pytest.raises(UsageError) as raised:
            load(path)
        assert str(raised.value).startswith(f"{path}: {why}")
        assert str(raised.value).endswith("; name a counterexample's .json that a run wrote")
