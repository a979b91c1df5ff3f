"""read-path: what tenants read through the API's views is right, and refreshing never fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from invariants.checks import guards
from invariants.checks.base import Case, Condition, Evidence, Invariant, Violation, shown
from invariants.checks.refreshing import refreshable
from invariants.checks.spelling import moment
from invariants.contract.contract import Contract
from invariants.contract.sections import ReadColumn, ReadPath
from invariants.execution.history import Record, State, Step
from invariants.execution.wire import Answer
from invariants.schema.catalog import Catalog
from invariants.workload import sql
from invariants.workload.operations import OPERATOR, Operation, Refresh, Select, Statement

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_MAXIMA = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
# Refreshing, reading and our own clock are this far apart at most.
_CLOCK_TOLERANCE_SECONDS = 600

# What a column shows: NULL, or a text to compare in its canonical form.
Shown = str | None


class ReadPathTrue(Invariant):
    """Reads are compared with a recomputation from the rows at the time of the last refresh."""

    name = "read-path"
    promise = (
        "What a tenant reads through the API's views is what its rows were at the last refresh, in "
        "the columns and types of the API; a refresh never fails."
    )
    sweeps = ("refreshes",)
    examines = "a read through a view of the API"
    share = 6
    readings_percent = 25
    focus = {"refresh": 16, "read": 20, "erase": 2, "taxonomy": 0, "truncate": 0, "probe": 0}

    def check(self, case: Case) -> Iterator[Violation]:
        """Check every refresh, the shape of every view, and every read of one."""
        filled: dict[str, State | None] = dict.fromkeys(
            case.catalog.materialized_views, case.history.initial
        )
        paths = {path.view: path for path in case.contract.read_paths}
        for step in case.history.steps:
            if _is_refresh(step.operation):
                if step.error is not None:
                    failed = step.failed_statement
                    assert isinstance(failed, Refresh)
                    if refreshable(case.contract, case.catalog, failed):
                        yield self._unrefreshed(case, step)
                else:
                    filled |= {s.relation: step.before for s in step.operation.statements}
                continue
            for statement, answer in step.queries:
                path = paths.get(statement.relation)
                state = filled[path.filled_by] if path else None
                if path is None or state is None or not _is_read(statement):
                    continue
                if any(isinstance(s, Refresh) for s in step.operation.statements):
                    continue
                if case.is_application(step):
                    if wrong := self._misshapen(case, step, path):
                        yield wrong
                        return
                    yield from self._misread(case, step, path, answer, state)
            # Filled in the middle of something else: with what, is not known.
            filled |= {s.relation: None for s, _ in step.queries if isinstance(s, Refresh)}

    def examined(self, case: Case) -> int:
        """Reads of a read path; refreshes, where the contract has none yet."""
        views = {path.view for path in case.contract.read_paths}
        if not views:
            return sum(_is_refresh(step.operation) for step in case.history.steps)
        return sum(
            statement.relation in views and _is_read(statement)
            for step in case.history.steps
            if case.is_application(step)
            for statement, _ in step.queries
        )

    def unruled(self, contract: Contract, catalog: Catalog) -> str | None:
        """Without views to read or to refresh there is nothing to check."""
        there = contract.read_paths or catalog.materialized_views
        return None if there else "the contract has no [[read_path]]"

    def _unrefreshed(self, case: Case, step: Step) -> Violation:
        error, statement = step.error, step.failed_statement
        assert error is not None
        return Violation(
            signature=self.signature(
                "refresh",
                statement.relation,
                guards.refusing(error, statement, case.catalog),
            ),
            operation=step.index,
            summary=f"{statement.relation} cannot be refreshed: {error.message}",
            promise="A refresh, plain or concurrent, never fails on data.",
            proof=(Condition("refused", step.index),),
        )

    def _misshapen(self, case: Case, step: Step, path: ReadPath) -> Violation | None:
        found = [(c.name, c.type) for c in case.catalog.relations[path.view].columns.values()]
        wanted = [(c.name, c.type) for c in path.columns]
        if found == wanted:
            return None
        return Violation(
            signature=self.signature("select", path.view, "columns"),
            operation=step.index,
            summary=f"{path.view} has the columns {_listed(found)} instead of {_listed(wanted)}",
            promise="A view of the API has the columns and types of its response.",
            proof=(
                Condition(
                    "state",
                    step.index,
                    "(SELECT string_agg(attname || ' ' || format_type(CASE WHEN t.typtype = 'd' "
                    "THEN t.typbasetype ELSE t.oid END, NULL), ', ' ORDER BY attnum) "
                    "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
                    f"WHERE attrelid = '{sql.name(path.view)}'::regclass AND attnum > 0) "
                    f"IS DISTINCT FROM {sql.literal(_listed(wanted))}",
                ),
            ),
        )

    def _misread(
        self, case: Case, step: Step, path: ReadPath, answer: Answer, state: State
    ) -> Iterator[Violation]:
        tenant = step.operation.actor.tenant
        if tenant != case.acting_for(step):
            # Whether a schema knows a tenant that is spelled otherwise, the contract does not say.
            return
        rows = [r for r in state.rows(path.table) if case.tenant_of(r) == tenant]
        places = [answer.columns.index(c.name) for c in path.columns]
        got = [
            {
                c.name: None if row[p] is None else (row[p] or b"").decode()
                for c, p in zip(path.columns, places, strict=True)
            }
            for row in answer.rows
        ]
        if not rows or tenant is None or not _UUID.match(tenant):
            if got:
                yield self._violation(
                    step,
                    path,
                    "rows",
                    f"{len(got)} rows where the tenant has none",
                    got,
                    rows,
                    f"EXISTS (SELECT FROM {sql.name(path.view)})",
                )
            return
        if len(got) != 1:
            yield self._violation(
                step,
                path,
                "rows",
                f"{len(got)} rows instead of one",
                got,
                rows,
                f"(SELECT count(*) <> 1 FROM {sql.name(path.view)})",
            )
            return
        for column in path.columns:
            wanted = _expected(case, path, column, tenant, rows)
            if not _agrees(column, got[0][column.name], wanted):
                yield self._violation(
                    step,
                    path,
                    column.name,
                    f"{column.name} = {got[0][column.name]} instead of {wanted}",
                    got,
                    rows,
                    f"NOT EXISTS (SELECT FROM {sql.name(path.view)} "
                    f"WHERE {_condition(column, wanted, rows)})",
                )

    def _violation(
        self,
        step: Step,
        path: ReadPath,
        guard: str,
        what: str,
        got: list[dict[str, Shown]],
        rows: list[Record],
        proof: str,
    ) -> Violation:
        return Violation(
            signature=self.signature("select", path.view, guard),
            operation=step.index,
            summary=f"{step.operation.actor.role} reads {what} from {path.view}",
            promise="A tenant reads what its rows were at the last refresh, and of its own only.",
            proof=(Condition("seen", step.index, proof),),
            evidence=(
                Evidence("what it read", tuple(got)),
                Evidence(f"its rows of {path.table} at the last refresh", shown(*rows)),
            ),
        )


def _is_refresh(operation: Operation) -> bool:
    """Whether it is the maintenance of views and nothing else."""
    return operation.actor.role == OPERATOR and all(
        isinstance(s, Refresh) for s in operation.statements
    )


def _is_read(statement: Statement) -> bool:
    """Whether a client reads a view as the API does: all of it."""
    return isinstance(statement, Select) and statement == Select(statement.relation)


def _listed(columns: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns)


def _expected(
    case: Case, path: ReadPath, column: ReadColumn, tenant: str, rows: list[Record]
) -> Any:
    """What a column must show; for an age, the seconds at the time of the run."""
    values = [r[column.source] for r in rows] if column.source else []
    match column.summary:
        case "tenant":
            return tenant
        case "sum":
            return Decimal(sum(v for v in values if v is not None)) / column.divided_by
        case "any":
            return any(values)
        case "latest":
            kinds = {c: case.catalog.tables[path.table].columns[c].type for c in path.latest_by}
            latest = max(rows, key=lambda r: tuple(_order(k, r[c]) for c, k in kinds.items()))
            return latest[column.source]
        case "age":
            last = max(map(str, values), key=moment)
            return _age(case.history.clock, last, _MAXIMA.get(column.type))


def _order(kind: str, value: Any) -> Any:
    """A value to order rows by, as the server orders it."""
    known = 0 if value is None else moment(value) if kind.startswith("timestamp") else value
    return value is not None, known


def _age(now: float, last: str, maximum: int | None) -> float:
    """Seconds since a moment as row_to_json prints it, from 0 to what the type holds."""
    top = float("inf") if maximum is None else float(maximum)
    return min(max(now - moment(last) / 1_000_000, 0.0), top)


def _agrees(column: ReadColumn, got: Shown, wanted: Any) -> bool:
    if got is None or wanted is None:
        return got is None and wanted is None
    match column.summary:
        case "sum":
            return bool(Decimal(got) == wanted)
        case "any":
            return bool((got == "t") == wanted)
        case "age":
            return bool(abs(float(got) - wanted) <= _CLOCK_TOLERANCE_SECONDS)
        case _:
            return _canonical(column.type, got) == _canonical(column.type, str(wanted))


def _canonical(kind: str, text: str) -> str | float:
    """Times are spelled with a T and minutes of offset by row_to_json, without by a SELECT."""
    return moment(text) if kind.startswith("timestamp") else text


def _condition(column: ReadColumn, wanted: Any, rows: list[Record]) -> str:
    """An SQL condition: the column shows what it must."""
    name = sql.column(column.name)
    if column.summary == "age":
        last = sql.literal(max((str(r[column.source]) for r in rows), key=moment))
        seconds = (
            f"{wanted:.0f}"
            if "infinity" in last
            else f"greatest(0, least(extract(epoch FROM now() - {last}::timestamptz), "
            f"{_MAXIMA.get(column.type, 2**63 - 1)}))"
        )
        return f"abs({name} - {seconds}) <= {_CLOCK_TOLERANCE_SECONDS}"
    if wanted is None:
        return f"{name} IS NULL"
    if column.summary == "any":
        return name if wanted else f"NOT {name}"
    if column.summary == "sum":
        return f"{name} = {wanted}"
    return f"{name} = {sql.literal(str(wanted))}"
