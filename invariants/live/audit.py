"""audit: whether a database in use has leaked or gone wrong already, as its rows say.

Row by row what it asks goes through a table in batches, in the order of its primary key; what is
asked of groups is one statement each. What cannot be read is not judged, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import psycopg

from invariants.contract.binding import missing, named
from invariants.contract.contract import Contract, load
from invariants.errors import UsageError
from invariants.live.looking import checked, looking
from invariants.live.questions import Question, questions
from invariants.options import SchemaOptions
from invariants.schema.catalog import Catalog
from invariants.schema.reader import read_catalog
from invariants.servers.base import database_message

Say = Callable[[str], None]

BATCH = 20_000
"""So many rows of a table are looked at in one statement."""

_SHOWN_MAX = 5


@dataclass
class Answer:
    """What came of one question: how many rows are amiss, some of their keys, or why none knows."""

    question: Question
    count: int = 0
    keys: list[str] = field(default_factory=list)
    unjudged: str = ""


@dataclass(frozen=True)
class Audit:
    """All answers. `tables` is how many tables were looked at."""

    tables: int
    answers: tuple[Answer, ...]

    @property
    def amiss(self) -> tuple[Answer, ...]:
        """Those by which something has gone wrong."""
        return tuple(a for a in self.answers if a.count)

    @property
    def unjudged(self) -> tuple[Answer, ...]:
        """Those that could not be answered."""
        return tuple(a for a in self.answers if a.unjudged)


def audit(url: str, options: SchemaOptions, say: Say, *, batch: int = BATCH) -> Audit:
    """Ask. Raises `UsageError` for a contract that cannot be read, and `InfrastructureError`."""
    checked(url)
    contract = load(options.contract)
    with looking(url) as live:
        catalog = read_catalog(live)
        # Names of ours are looked up where PostgreSQL's own cannot be taken for others.
        live.execute("SET LOCAL search_path = pg_catalog, public")
        _require_all(contract, catalog)
        there = contract.there(catalog)
        asked = list(questions(there, catalog))
        answers = []
        for question in asked:
            say(f"asking: {question.name}")
            answers.append(_answer(live, catalog, question, batch))
    return Audit(len({q.table for q in asked}), tuple(answers))


def _require_all(contract: Contract, catalog: Catalog) -> None:
    """Nothing that the contract speaks of may be missing, but for what comes later (`introduced`).

    A rule without its table would be asked of nothing, and nothing would be amiss.
    """
    spoken_of = {table for table, _ in named(contract)} | {*contract.tenancy.rooted}
    for name in sorted(missing(contract, catalog) - contract.introduced.keys()):
        if {name, name.rpartition(".")[0]} & spoken_of:
            raise UsageError(
                f"{contract.path}: {name!r} is not in the database; correct the contract, or say "
                "in [introduced] which revision brings it"
            )


def _answer(
    live: psycopg.Connection[Any],
    catalog: Catalog,
    question: Question,
    batch: int,
) -> Answer:
    answer = Answer(question)
    try:
        with live.transaction():
            for count, keys in _found(live, catalog, question, batch):
                answer.count += count
                answer.keys += keys[: _SHOWN_MAX - len(answer.keys)]
    except psycopg.errors.InsufficientPrivilege as refused:
        answer.unjudged = (
            f"{database_message(refused)}; audit as a role that may read the table and, where it "
            "has row security, has BYPASSRLS or is a superuser"
        )
    except psycopg.errors.QueryCanceled:
        answer.unjudged = "it took too long and was given up; ask a replica, with less to do"
    except psycopg.OperationalError:
        raise
    except psycopg.Error as refused:
        answer.unjudged = database_message(refused)
    return answer


def _found(
    live: psycopg.Connection[Any], catalog: Catalog, question: Question, batch: int
) -> Iterator[tuple[int, list[str]]]:
    key = catalog.tables[question.table].primary_key
    if not question.by_row or not key:
        yield from _rows(live, question, question.statement(question.table_sql), ())
        return
    columns = ", ".join(question.column(c) for c in key)
    holders = ", ".join(["%s"] * len(key))
    bounds = _bounds(live, question.table_sql, columns, holders, batch)
    for low, high in pairwise([None, *bounds, None]):
        terms: list[str] = []
        values: list[Any] = []
        if low is not None:
            terms.append(f"({columns}) > ({holders})")
            values += low
        if high is not None:
            terms.append(f"({columns}) <= ({holders})")
            values += high
        part = f" WHERE {' AND '.join(terms)}" if terms else ""
        source = f"(SELECT * FROM {question.table_sql}{part})"
        yield from _rows(live, question, question.statement(source), tuple(values))


def _bounds(
    live: psycopg.Connection[Any], table: str, columns: str, holders: str, batch: int
) -> Iterator[tuple[Any, ...]]:
    """The key of each last row of a batch, one after the other."""
    last: tuple[Any, ...] | None = None
    while True:
        after = f" WHERE ({columns}) > ({holders})" if last is not None else ""
        query = (
            f"SELECT {columns} FROM {table}{after} ORDER BY {columns} OFFSET {batch - 1} LIMIT 1"
        )
        found = live.execute(query.encode(), last or ()).fetchone()
        if found is None:
            return
        yield (last := tuple(found))


def _rows(
    live: psycopg.Connection[Any], question: Question, query: str, values: tuple[Any, ...]
) -> Iterator[tuple[int, list[str]]]:
    found = live.execute(query.encode(), values).fetchall()
    if question.judge is not None:
        found = [row for row in found if question.judge(row[0])]
        yield from ((row[1], [f"{row[0]}: {k}" for k in row[2]]) for row in found)
        return
    yield from ((row[0], list(row[1] or ())) for row in found if row[0])
