"""Files that nobody wrote on purpose: counterexamples and contracts, altered, through `main`.

No traceback, one line where the input is wrong, status 1 for nothing (head holds), and nothing sent
that reaches out of the scratch databases: every statement is looked at as it goes out, and what a
server has besides databases' insides (databases, roles, settings, comments on them) is compared.
One schema is opened and one scratch database used, so that thousands take minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import re
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.figures import brief
from invariants import options
from invariants.contract.contract import Contract, load
from invariants.execution.wire import Batch, Wire
from invariants.front import cli
from invariants.options import SchemaOptions
from invariants.reading import key
from invariants.search import run
from invariants.search.judge import Judge
from invariants.servers.environment import Environment

Document = dict[str, Any]
_EMPTY = '""'
_KEPT = Path("tests/counterexamples")
_HOSTILE = (
    "pg_catalog.pg_authid",
    "pg_catalog.pg_database",
    "information_schema.tables",
    "pg_temp.x",
    "postgres.public.tenants",
    "tenants; ALTER ROLE postgres NOLOGIN",
    "f(); COPY (SELECT 1) TO PROGRAM 'id'",
    'a" OR 1=1; --',
    "$$; DROP DATABASE postgres; $$",
    "database",
    "\ud800",
    "a\0b",
    "a\nb",
    "",
    "x" * 200,
    "pg_execute_server_program",
)
_JUNK: tuple[Any, ...] = (
    *_HOSTILE,
    *(None, True, 0, -1, 7, 2**70, 1.5, [], {}, [[]], ["a"], [1], {"a": 1}, {"json": {}}),
)
# What no statement of a workload is, and whose names none has.
_OUTSIDE = re.compile(
    r"\b(PROGRAM|pg_authid|pg_database|pg_db_role_setting|(ALTER|DROP|CREATE) (ROLE|USER|DATABASE|"
    r"SYSTEM|TABLESPACE|EXTENSION)|GRANT|REVOKE|COMMENT ON (DATABASE|ROLE)|information_schema)\b",
    re.IGNORECASE,
)
_LITERAL = re.compile(r"'(?:[^']|'')*'")
# What is granted to the logins that act, on what a scratch database has for them.
_OURS = re.compile(r"\binvariants_[0-9a-f]{16}\b")
# The logins that act are made when they are first needed, and are the run's.
_SERVER = """
WITH kept AS (SELECT * FROM pg_database WHERE datname <> ALL(%s)),
     role AS (SELECT * FROM pg_authid WHERE rolname !~ '^invariants_as_')
SELECT 'database ' || ROW(datname, datdba, datallowconn, datacl, datconnlimit, datistemplate)::text
FROM kept
UNION ALL SELECT 'role ' || r::text FROM role r
UNION ALL SELECT 'member ' || m::text FROM pg_auth_members m
WHERE member IN (SELECT oid FROM role)
UNION ALL SELECT 'setting ' || s::text FROM pg_db_role_setting s
WHERE (setdatabase = 0 OR setdatabase IN (SELECT oid FROM kept))
  AND (setrole = 0 OR setrole IN (SELECT oid FROM role))
UNION ALL SELECT 'comment ' || d::text FROM pg_shdescription d
WHERE (classoid = 'pg_database'::regclass AND objoid IN (SELECT oid FROM kept))
   OR (classoid = 'pg_authid'::regclass AND objoid IN (SELECT oid FROM role))
"""


@dataclass
class Tally:
    """What came of the files: how often which status, and everything that should not be."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)

    def look(self, arguments: Sequence[str], allowed: frozenset[int]) -> None:
        """Run the command and look at what it says."""
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = cli.main(arguments)
        except BaseException as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            raise
        self.statuses[status] += 1
        told = out.getvalue() + err.getvalue()
        lines = err.getvalue().strip("\n").count("\n") + 1
        if status not in allowed or "Traceback" in told or (status == 2 and lines != 1):
            self.wrong.append(f"status {status}: {told.strip()[:1000]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how many files ended in which status; 1 when one did what it must not."""
    parser = argparse.ArgumentParser("python -m benchmarks.hostile_files", description=__doc__)
    options.add_to(parser, options.SCHEMA)
    parser.add_argument("--counterexamples", type=int, default=20_000, metavar="N")
    parser.add_argument("--contracts", type=int, default=5_000, metavar="N")
    brief(parser, counterexamples=300, contracts=100)
    given_ = parser.parse_args(arguments)
    chosen = SchemaOptions(**options.values(options.SCHEMA, lambda o: getattr(given_, o.key)))
    with (
        run.schema(chosen, lambda line: print(line, file=sys.stderr)) as (environment, contract),
        tempfile.TemporaryDirectory() as folder,
    ):
        wrong = []
        for what, number, tried in (
            ("counterexamples", given_.counterexamples, counterexamples),
            ("contracts", given_.contracts, contracts),
        ):
            began = time.monotonic()
            with watched(environment) as tally:
                tried(environment, contract, chosen, Path(folder), number, tally)
            wrong += tally.wrong
            told = ", ".join(f"{n:,} status {s}" for s, n in sorted(tally.statuses.items()))
            print(
                f"{sum(tally.statuses.values()):,} {what}: {told}; {len(tally.sent):,} different "
                f"statements sent, {time.monotonic() - began:.0f} s"
            )
        # Of the same fault one: the files with tracebacks have names of their own.
        for line in {re.sub(r"traceback-\w+", "..", w): w for w in wrong}.values():
            print(f"WRONG {line}")
        print(f"{len(wrong):,} files did what they must not")
    return 1 if wrong else 0


@contextlib.contextmanager
def watched(environment: Environment) -> Iterator[Tally]:
    """Look at every statement that goes out, and at the server before and after."""
    tally, send = Tally(), Wire.send

    def seen(wire: Wire, transactions: Sequence[Batch]) -> None:
        for _, queries in transactions:
            tally.sent.update(query for query, _ in queries)
        send(wire, transactions)

    before = _state(environment)
    with mock.patch.object(Wire, "send", seen):
        yield tally
    differing = before ^ _state(environment)
    tally.wrong += [f"the server is not what it was: {d}" for d in sorted(differing)]
    bare = {_LITERAL.sub("''", s): s for s in sorted(tally.sent)}
    outside = [s for b, s in bare.items() if _OUTSIDE.search(b) and not _OURS.search(b)]
    tally.wrong += [f"sent: {s[:200]}" for s in outside]


def _state(environment: Environment) -> frozenset[str]:
    """All of the server but the scratch databases that are there just now."""
    handle = environment.handle()
    with psycopg.connect(handle["conninfo"], autocommit=True) as connection:
        names = [r[0] for r in connection.execute("SELECT datname FROM pg_database").fetchall()]
        scratch = [n for n in names if n.startswith(f"{handle['prefix']}s")]
        return frozenset(r[0] for r in connection.execute(_SERVER, (scratch,)).fetchall())


def counterexamples(
    environment: Environment,
    contract: Contract,
    chosen: SchemaOptions,
    folder: Path,
    number: int,
    tally: Tally,
) -> None:
    """Replay altered counterexamples, all on one scratch database."""
    kept = [json.loads(path.read_text()) for path in sorted(_KEPT.glob("*.json"))]
    file = folder / "altered.json"

    def one(document: Document) -> None:
        # Written as JSON writes what no text can hold.
        file.write_text(json.dumps(document))
        tally.look(("replay", "-q", "--server", chosen.server, str(file)), frozenset({0, 2}))

    with Judge(environment, contract) as judge, _opened(environment, contract):
        shared = contextlib.nullcontext(judge)
        with mock.patch.object(run, "Judge", return_value=shared):
            _each(_altered(kept), number, one)


def contracts(
    environment: Environment,
    contract: Contract,
    chosen: SchemaOptions,
    folder: Path,
    number: int,
    tally: Tally,
) -> None:
    """Replay a read, of which nothing can be said, under altered contracts."""
    original = tomllib.loads(contract.path.read_text())
    for taxonomy in original.get("taxonomies", ()):
        if "mapping" in taxonomy:
            taxonomy["mapping"] = str(contract.path.absolute().parent / taxonomy["mapping"])
    file, read = folder / "altered.toml", folder / "read.json"
    document = json.loads(next(_KEPT.glob("pii-*.json")).read_text())
    document["workload"]["operations"] = [
        {"role": "", "tenant": None, "delivery": None,
         "statements": [{"kind": "select", "relation": contract.tenancy.root}]}
    ]  # fmt: skip
    read.write_text(json.dumps(document))

    def one(altered: Document) -> None:
        with contextlib.suppress(UnicodeEncodeError):
            file.write_text(toml(altered))
            command = ("replay", "-q", "--server", chosen.server, "--contract", str(file))
            tally.look((*command, str(read)), frozenset({0, 2}))

    with _opened(environment, None):
        _each(_altered([original]), number, one)


@contextlib.contextmanager
def _opened(environment: Environment, contract: Contract | None) -> Iterator[None]:
    """The command finds the schema opened; the contract is read as it would be."""

    @contextlib.contextmanager
    def schema(asked: SchemaOptions, _: Any) -> Iterator[tuple[Environment, Contract]]:
        yield environment, contract or load(asked.contract)

    with mock.patch.object(run, "schema", schema):
        yield


def _each(
    documents: st.SearchStrategy[Document], number: int, one: Callable[[Document], None]
) -> None:
    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(documents)
    def tried(document: Document) -> None:
        one(document)

    tried()


def _altered(originals: Sequence[Document]) -> st.SearchStrategy[Document]:
    """One of the documents with a few things in it changed, removed, doubled or put elsewhere."""
    texts = [json.dumps(o) for o in originals]

    @st.composite
    def altered(draw: st.DrawFn) -> Document:
        document: Document = json.loads(draw(st.sampled_from(texts)))
        for _ in range(draw(st.integers(1, 4))):
            places = list(_places(document))
            if not places:
                break
            inside, at = places[draw(st.integers(0, len(places) - 1))]
            _alter(draw, inside, at, places)
        return document

    return altered()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for at, inner in parts:
        yield value, at
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _alter(draw: st.DrawFn, inside: Any, at: Any, places: list[tuple[Any, Any]]) -> None:
    value = inside[at]
    match draw(st.integers(0, 6)):
        case 0:
            # A copy: what is put in may be altered next.
            inside[at] = copy.deepcopy(draw(st.sampled_from(_JUNK)))
        case 1:
            del inside[at]
        case 2 if isinstance(value, list) and value:
            value.extend(json.loads(json.dumps(value)) * draw(st.sampled_from((1, 3, 50))))
        case 3 if isinstance(inside, dict):
            inside[draw(st.sampled_from(_HOSTILE))] = inside.pop(at)
        case 4:
            other, there = places[draw(st.integers(0, len(places) - 1))]
            inside[at] = json.loads(json.dumps(other[there]))
        case 5 if isinstance(value, str):
            inside[at] = draw(st.sampled_from((value + "x", value[:-1], value.upper(), "")))
        case _:
            inside[at] = draw(st.text(max_size=20) if isinstance(value, str) else st.integers())


def toml(value: Any) -> str:
    """A document as TOML, tables inline; JSON's texts are TOML's, but for halves of characters."""
    if isinstance(value, dict):
        return "\n".join(f"{key(k) if k else _EMPTY} = {_inline(v)}" for k, v in value.items())
    raise TypeError


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        parts = ", ".join(f"{key(k) if k else _EMPTY} = {_inline(v)}" for k, v in value.items())
        return f"{{ {parts} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return "nan" if value is None else json.dumps(value, ensure_ascii=False).replace("\x7f", "")


if __name__ == "__main__":
    sys.exit(main())
