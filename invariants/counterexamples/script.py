"""A counterexample as a script for psql alone.

Every operation is a transaction of its own, as it was when the violation was found. The last block
raises when the violation is there: psql then exits with status 3, and with 0 when the schema holds.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Sequence

from invariants.checks.base import Case, Condition, Violation
from invariants.checks.ownership import printed
from invariants.checks.sequences import CHANNEL, counted
from invariants.contract import premises
from invariants.counterexamples.wording import outcome
from invariants.escaping import shown
from invariants.workload import sql
from invariants.workload.operations import (
    Call,
    Copy,
    Insert,
    Leftover,
    Operation,
    Refresh,
    Select,
    Statement,
    Workload,
)

_SHOWN_ONLY = {"notice": "notice", "announcement": "notification"}


def script(case: Case, violation: Violation, title: str) -> str:
    """The whole script. `case` is the execution in which the violation was seen."""
    return "\n".join(Script(case, violation, title).lines()) + "\n"


class Script:
    """The lines of a script, in pieces that one for several sessions can use as well."""

    def __init__(self, case: Case, violation: Violation, title: str) -> None:
        self.case, self.violation, self.title = case, violation, shown(title)
        self.workload = case.history.workload
        self.templates = case.contract.tenancy.session
        self.setting_made = False
        # Of statements that are prepared, the names.
        self.kept: dict[str, str] = {}

    def lines(self) -> Iterator[str]:
        """All lines, in order."""
        worlds = [(self.workload, "")]
        differing = next((c for c in self.violation.proof if c.kind == "differs"), None)
        if differing is not None:
            worlds.append((self.workload.without_others(differing.query), "alone_"))
        yield from self.heading()
        yield "-- Run it as a superuser on a database that has the schema under test and no data:"
        yield "--   psql -X -q -d DATABASE -f THIS_FILE"
        yield "-- Exit status 3: the violation is there. 0: the schema holds."
        if self._unjudged:
            yield f"-- Exit status 2: it is in a {self._unjudged}, which psql shows and cannot"
            yield "-- compare; look at it, or let `invariants replay` judge."
        yield from self.settings()
        yield from self.beginning()
        for workload, prefix in worlds:
            if prefix:
                yield ""
                yield "-- Everything back to the start."
                yield from restoring(self.case)
            yield from self.world(workload, prefix)
        yield from self.verdict(self.term)

    @property
    def _unjudged(self) -> str:
        """The kind of text that it is about, where psql has no variable for it."""
        for condition in self.violation.proof:
            if condition.where in _SHOWN_ONLY:
                return _SHOWN_ONLY[condition.where]
        return ""

    def heading(self) -> Iterator[str]:
        """What is shown."""
        yield comment(self.title)
        yield comment(str(self.violation.signature))
        yield "--"

    def settings(self) -> Iterator[str]:
        """How psql and its session are to behave."""
        yield "\\set ON_ERROR_STOP on"
        yield "\\set QUIET on"
        yield "\\set VERBOSITY terse"
        yield "SET TimeZone = 'UTC';"
        for condition in self.violation.proof:
            if condition.where == "announcement":
                yield f"LISTEN {sql.column(condition.query.partition(chr(10))[0])};"
        if any(o.keeps_plans for o in self.workload.operations):
            yield "SET plan_cache_mode = 'force_generic_plan';"

    def beginning(self) -> Iterator[str]:
        """Refuse a database with tenants; make the premise true."""
        yield from refusal_of_tenants(self.case)
        changes = premises.statements(self.workload.premise, self.case.contract, self.case.catalog)
        if changes:
            yield ""
            yield comment(premises.DESCRIPTIONS[self.workload.premise])
            yield from (f"{c};" for c in changes)

    def world(self, workload: Workload, prefix: str = "") -> Iterator[str]:
        """Make the tenants, then send the operations one after the other."""
        yield ""
        if prefix:
            yield "-- The same once more, without the other tenants."
        yield from tenants(self.case, workload)
        yield from self._states(-1, prefix)
        index = -1
        for operation in workload.operations:
            # A world leaves operations out and keeps their order; one may be in it twice.
            index = next(
                i for i, o in enumerate(self.workload.operations) if i > index and o is operation
            )
            yield from self._operation(index, operation, prefix)

    def _operation(self, index: int, operation: Operation, prefix: str) -> Iterator[str]:
        actor = operation.actor
        conditions = [c for c in self.violation.proof if c.operation == index]
        yield ""
        step = self.case.history.steps[index]
        answered = "" if prefix else f"; answered: {' '.join(outcome(step).split())}"
        yield comment(f"operation {index + 1}: {actor.role or 'the operator'}{answered}")
        if operation.shadows:
            yield from reconnecting("where no function has been called yet")
            self._begin_anew()
        elif self.setting_made and operation.lacks_setting:
            yield from reconnecting()
            self._begin_anew()
        refusals = [
            i
            for i, c in enumerate(self.violation.proof)
            if c.operation == index and ((c.kind == "refused" and c.query) or c.kind == "returned")
        ]
        yield "\\set ON_ERROR_STOP off"
        yield "\\set ok true"
        yield from (f"\\set c{i} ''" for i in refusals)
        by_text = any(c.where == "error" for c in conditions)
        if by_text:
            yield from _saying(self.workload)
            yield f"\\set {prefix}said ''"
        yield "BEGIN;"
        yield from (f"{line};" for line in sql.acting(operation, self.templates))
        self.setting_made = self.setting_made or not actor.silent
        differs = any(c.kind == "differs" for c in conditions)
        for position, statement in enumerate(operation.statements):
            yield "\\if :ok"
            if by_text:
                yield from _asking_what_is_said(sql.spelled(without_copy(statement)), prefix)
            else:
                called = self._called(statement, f"{prefix}answer{position}")
                yield from called if differs else self.statement(statement)
            yield from _noting_refusal(refusals)
            if statement is operation.statements[-1]:
                yield from (
                    f"\\set c{i} :ROW_COUNT"
                    for i, c in enumerate(self.violation.proof)
                    if c.kind == "returned" and c.operation == index
                )
            if differs and not by_text:
                yield from self._answer(statement, f"{prefix}answer{position}")
            yield "\\endif"
        for i, condition in enumerate(self.violation.proof):
            if condition.kind == "seen" and condition.operation == index:
                yield f"\\set c{i} false"
                yield "\\if :ok"
                yield f"SELECT coalesce({condition.query}, false) AS c{i} \\gset"
                yield "\\endif"
        if by_text:
            yield "\\if :ok"
            yield from _asking_what_is_said("SET CONSTRAINTS ALL IMMEDIATE", prefix)
            yield "\\endif"
        yield "COMMIT;"
        yield from _noting_refusal(refusals)
        yield f"\\set {prefix}op{index + 1} :ok"
        yield "\\set ON_ERROR_STOP on"
        if operation.shadows:
            yield from reconnecting("without what was temporary")
            self._begin_anew()
        yield from self._states(index, prefix)

    def _begin_anew(self) -> None:
        """A session that was just begun has made no setting, and keeps nothing."""
        self.setting_made = False
        self.kept.clear()

    def statement(self, statement: Statement) -> Iterator[str]:
        """What sends a statement."""
        if isinstance(statement, Select) and statement.prepared:
            query = sql.spelled(statement)
            if query not in self.kept:
                self.kept[query] = f"kept_{len(self.kept) + 1}"
                yield f"PREPARE {self.kept[query]} AS {query};"
            yield f"EXECUTE {self.kept[query]};"
            return
        if isinstance(statement, Copy) and sql.spelled(statement).isprintable():
            # Not inline: after a refusal psql would take the data for SQL.
            target = sql.spelled(statement).removeprefix("COPY ").removesuffix(" FROM STDIN")
            yield f"\\copy {target} FROM PROGRAM '{_printing(sql.copy_data(statement.rows))}'"
        else:
            yield f"{sql.spelled(without_copy(statement))};"

    def _called(self, statement: Statement, variable: str) -> Iterator[str]:
        """What sends a statement of whose answer more than the number of rows is to be kept."""
        if isinstance(statement, Call) and statement.procedure and self._given(statement):
            yield f"{sql.spelled(statement)} \\gset {variable}_"
        else:
            yield from self.statement(statement)

    def _given(self, call: Call) -> tuple[str, ...]:
        """The columns that a procedure gives back, where psql can have variables of the name."""
        answers = (a for s in self.case.history.steps for t, a in s.queries if t == call)
        given = next((a.columns for a in answers), ())
        return tuple(c for c in given if c.isidentifier() and c.isascii())

    def _states(self, index: int, prefix: str) -> Iterator[str]:
        if prefix:
            return
        for i, condition in enumerate(self.violation.proof):
            if condition.kind == "state" and condition.operation == index:
                yield f"SELECT coalesce({condition.query}, false) AS c{i} \\gset"

    def _answer(self, statement: Statement, variable: str) -> Iterator[str]:
        """Keep what the statement returned, as text that two runs of the same world agree on."""
        if isinstance(statement, Call) and statement.procedure:
            # Kept by its columns when it was sent: it is no part of a query.
            kept = (f":{variable}_{c}" for c in self._given(statement))
            yield f"\\set {variable} {' '.join(kept)}".rstrip()
            return
        prepared = isinstance(statement, Select) and statement.prepared
        if prepared or not isinstance(statement, Select | Call | Leftover):
            yield f"\\set {variable} :ROW_COUNT"
            return
        if isinstance(statement, Call | Leftover):
            source = f"({sql.spelled(statement)}) q"
        else:
            read = statement.columns or self.case.catalog.relations[statement.relation].columns
            columns = sql.names(tuple(c for c in self._stable(statement.relation) if c in read))
            clause = sql.spelled(statement).partition(" WHERE ")
            where = f" WHERE {clause[2]}" if clause[1] else ""
            source = f"(SELECT {columns} FROM {sql.name(statement.relation)}{where}) q"
        yield f"\\set {variable} ''"
        yield (
            "SELECT count(*) || ' ' || coalesce(string_agg(q::text, ' ' ORDER BY q::text), '') "
            f"AS {variable} FROM {source} \\gset"
        )

    def _stable(self, relation: str) -> Sequence[str]:
        """Columns whose values do not follow the clock or chance."""
        found = self.case.catalog.relations[relation]
        accepted = CHANNEL in self.case.contract.accepted
        sent: set[str] = set()
        for operation in self.workload.operations:
            for s in operation.statements:
                if isinstance(s, Insert) and s.relation == relation:
                    sent.update(s.columns)
        return [
            c.name
            for c in found.columns.values()
            if (relation, c.name) not in self.case.contract.clock_columns
            and not (accepted and c.name in counted(self.case.catalog, relation))
            and (
                c.name in sent
                or not c.has_default
                or c.type not in ("uuid", "timestamp with time zone")
            )
        ]

    def verdict(self, term: Callable[[int, Condition], str]) -> Iterator[str]:
        """Raise if all terms are true, each what has come of a condition."""
        summary = f"violated: {self.title}"
        yield ""
        yield comment(f"promised: {self.violation.promise}")
        if self._unjudged:
            yield f"\\echo 'not judged: compare the {self._unjudged}s above'"
            yield "SELECT pg_terminate_backend(pg_backend_pid());"
            return
        terms = " AND ".join(term(i, c) for i, c in enumerate(self.violation.proof))
        yield f"SELECT ({terms})::text AS violated \\gset"
        yield "SELECT set_config('invariants.violated', :'violated', false) AS verdict \\gset"
        yield from block(
            "  IF current_setting('invariants.violated')::boolean THEN",
            f"    RAISE EXCEPTION USING MESSAGE = {sql.quote(summary)};",
            "  END IF;",
        )
        yield "\\echo 'holds: the violation is not there'"

    def term(self, position: int, condition: Condition) -> str:
        """Whether a condition held, as psql's variables say."""
        ok = f":'op{condition.operation + 1}'::boolean"
        if condition.where == "error":
            if condition.kind == "told":
                return f"strpos(:'said', {sql.quote(condition.query)}) > 0"
            return "(:'said' <> '' AND :'alone_said' <> '' AND :'said' <> :'alone_said')"
        match condition.kind:
            case "accepted":
                return ok
            case "refused":
                with_state = f" AND :'c{position}' = {sql.quote(condition.query)}"
                return f"NOT {ok}{with_state if condition.query else ''}"
            case "differs":
                count = len(self.workload.operations[condition.operation].statements)
                answers = [
                    f":'answer{i}' IS DISTINCT FROM :'alone_answer{i}'" for i in range(count)
                ]
                alone = f":'alone_op{condition.operation + 1}'::boolean"
                return f"({ok} <> {alone} OR ({ok} AND ({' OR '.join(answers)})))"
            case "returned":
                return f":'c{position}' = {sql.quote(condition.query)}"
        return f":'c{position}'::boolean"


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _saying(workload: Workload) -> Iterator[str]:
    """A function that says what an error says, DETAIL and HINT included: psql has them nowhere.

    Times are masked, and ids that the workload does not name.
    """
    texts = [sql.spelled(s) for o in workload.all_operations for s in o.statements]
    named = {i for t in texts for i in _UUID.findall(t)} | {t.id for t in workload.tenants}
    known = "|".join(sorted(i for i in named if _UUID.fullmatch(i)))
    volatile = rf"(?!(?:{known})\y){_UUID.pattern}|\d{{4}}-\d\d-\d\d[ T]\d\d:\d\d[^ ,)]*"
    yield "CREATE OR REPLACE FUNCTION pg_temp.said(query text) RETURNS text"
    yield "LANGUAGE plpgsql AS $said$"
    yield "DECLARE m text; d text; h text; BEGIN EXECUTE query; RETURN ''; EXCEPTION WHEN OTHERS"
    yield "THEN GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL,"
    yield "h = PG_EXCEPTION_HINT; RETURN regexp_replace(concat_ws(' ', SQLSTATE, m, d, h),"
    yield f"{sql.quote(volatile)}, '~', 'g'); END $said$;"


def _asking_what_is_said(statement: str, prefix: str) -> Iterator[str]:
    """Have a statement run by who keeps what its error says."""
    yield f"SELECT pg_temp.said({sql.quote(statement)}) AS {prefix}said \\gset"
    yield f"SELECT :'{prefix}said' = '' AS ok \\gset"


def _noting_refusal(refusals: Sequence[int]) -> Iterator[str]:
    """Keep whether the server refused, and for these conditions with which SQLSTATE."""
    yield "\\if :ERROR"
    yield "\\set ok false"
    yield from (f"\\set c{i} :LAST_ERROR_SQLSTATE" for i in refusals)
    yield "\\endif"


def comment(text: str) -> str:
    """A comment, which ends where its line does: psql runs what is on the next."""
    return f"-- {shown(text)}"


def block(*lines: str) -> Iterator[str]:
    """A DO statement with these lines."""
    yield from (sql.block("\n".join(["BEGIN", *lines, "END"])) + ";").split("\n")


def without_copy(statement: Statement) -> Statement:
    """An INSERT in the place of a COPY, for whoever has no data to copy from."""
    if not isinstance(statement, Copy):
        return statement
    return Insert(statement.relation, statement.columns, statement.rows)


def reconnecting(why: str = "where the tenant setting was never made") -> Iterator[str]:
    """A new session."""
    yield comment(f"in a new session, {why}")
    yield "\\connect"
    yield "SET TimeZone = 'UTC';"


def refusal_of_tenants(case: Case) -> Iterator[str]:
    """Raise where there are other tenants than those that the migrations bring."""
    root = case.contract.tenancy.root
    if root is None:
        return
    made = {t.id for t in case.history.workload.tenants if t.columns}
    brought = [printed(key) for r in case.history.initial.rows(root) for key in r.key[:1]]
    known = ", ".join(sql.literal(k) for k in brought if k is not None and k not in made)
    column = sql.column(case.catalog.tables[root].id_column)
    besides = f" WHERE {column}::text NOT IN ({known})" if known else ""
    yield from block(
        f"  IF EXISTS (SELECT FROM {sql.name(root)}{besides}) THEN",
        "    RAISE EXCEPTION 'nothing was done: this database has tenants,"
        " and the script needs an empty one';",
        "  END IF;",
    )


def tenants(case: Case, workload: Workload) -> Iterator[str]:
    """Make the tenants."""
    for tenant in workload.tenants:
        if (insert := tenant.made(case.contract.tenancy.root)) is not None:
            yield f"{sql.spelled(case.catalog.chosen(insert))};"


def restoring(case: Case) -> Iterator[str]:
    """Back to the tables as they were: all rows go, those of the migrations come back."""
    yield "SET session_replication_role = replica;"
    tenancy = case.contract.tenancy
    statements = [s for o in case.history.workload.all_operations for s in o.statements]
    for table in case.catalog.tables:
        tenanted = table in tenancy.rooted
        written = any(s.relation == table for s in statements if not isinstance(s, Select))
        if not tenanted and not written:
            continue
        yield f"DELETE FROM {sql.name(table)};"
        made = {t.id for t in case.history.workload.tenants if t.columns}
        rows = [
            r
            for r in case.history.initial.rows(table)
            if table != tenancy.root or printed(r.key[0]) not in made
        ]
        for row in rows:
            target, data = sql.name(table), sql.quote(row.raw.decode())
            columns = sql.names(case.catalog.tables[table].copied)
            yield (
                f"INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} "
                f"FROM json_populate_record(NULL::{target}, {data});"
            )
    yield "SET session_replication_role = DEFAULT;"
    for view in sorted({s.relation for s in statements if isinstance(s, Refresh)}):
        yield f"REFRESH MATERIALIZED VIEW {sql.name(view)};"


def _printing(text: str) -> str:
    """A shell command that prints the text; everything a shell could misread is in octal."""
    printed = "".join(
        chr(byte) if chr(byte) in _SAFE else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'printf -- "{printed}"'


_SAFE = frozenset(string.ascii_letters + string.digits + " -_.,:")
