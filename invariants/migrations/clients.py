"""clients: what those of the revision before were permitted, on the schema after the step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import psycopg

from invariants.errors import UsageError
from invariants.execution.wire import Reply, ServerError
from invariants.migrations import loads
from invariants.migrations.finding import Finding
from invariants.migrations.stage import Side, Stage
from invariants.workload.operations import Operation, Select, Workload, inserted

_COLUMN = re.compile(r'column "?(?:\w+\.)?([^" ]+)"?')
_DEPENDS = "23503"


def broken(stage: Stage, workload: Workload | None = None) -> Iterator[Finding]:
    """Statements that were accepted before the step, and are not after it."""
    side = stage.before
    if side is None:
        return
    if workload is None:
        yield from _defaults(stage, side)
    wanted = side.workload if workload is None else workload
    known = dict(zip(side.workload.operations, side.replies, strict=True))
    with stage.shelf.scratch(stage.step.revision) as scratch:
        try:
            replies = loads.fill(side.ground, scratch, wanted)
        except UsageError as error:
            root = side.ground.contract.tenancy.root or ""
            if not _declared(stage, root, ""):
                yield _finding(stage, root, "insert", root, str(error), wanted)
            return
    told: set[str] = set()
    for position, (operation, reply) in enumerate(zip(wanted.operations, replies, strict=True)):
        statement = operation.statements[min(len(reply.answers), len(operation.statements) - 1)]
        what = _harm(operation, reply, known.get(operation), follows=bool(told))
        if what is None:
            continue
        cause, message, column = what
        told.add(statement.relation)
        if _declared(stage, statement.relation, column):
            continue
        only = Workload(wanted.tenants, wanted.operations[: position + 1])
        place = f"{statement.relation}.{column}" if column else f"{statement.relation}/{cause}"
        yield _finding(stage, place, statement.kind, statement.relation, message, only)


def _defaults(stage: Stage, side: Side) -> Iterator[Finding]:
    """Columns that mean something else where clients leave them out."""
    if stage.after is None:
        return
    then = stage.after.ground.catalog.tables
    written = {s.relation for o in side.workload.operations for s in o.statements if inserted(s)}
    for table in sorted(written & then.keys()):
        for name, column in side.ground.catalog.tables[table].columns.items():
            now = then[table].columns.get(name)
            if now is None or column.default is None or column.default == now.default:
                continue
            if now.type != column.type or _declared(stage, table, name):
                continue
            message = f"left out, {name} is {now.default or 'NULL'} and was {column.default}"
            made = _finding(stage, f"{table}.{name}", "default", table, message, side.workload)
            yield replace(made, summary=f"clients of the revision before: {message}", workload=None)


def _harm(
    operation: Operation, reply: Reply, before: Reply | None, *, follows: bool
) -> tuple[str, str, str] | None:
    """What became of an operation: a cause, in words, and the column that it is about, if any."""
    if reply.error is not None:
        if follows and reply.error.sqlstate == _DEPENDS:
            return None  # what it refers to is not there, because that was refused
        return reply.error.sqlstate, reply.error.message, _column(reply.error)
    if before is None or follows or not isinstance(operation.statements[-1], Select):
        return None
    now, then = (r.answers[-1].count or 0 for r in (reply, before))
    if now < then:
        return "unseen", f"{then} rows were found, and are {now}", ""
    return None


def _column(error: ServerError) -> str:
    if error.column:
        return error.column
    match = _COLUMN.search(error.message) if error.sqlstate == "42703" else None
    return match[1] if match else ""


def _declared(stage: Stage, table: str, column: str) -> bool:
    return any(s.covers(table, column) for s in stage.declared.breaks)


def _finding(
    stage: Stage, place: str, verb: str, relation: str, message: str, workload: Workload
) -> Finding:
    section = f"[migrations.revisions.{stage.step.revision}]"
    return Finding(
        "clients",
        stage.step.revision,
        f"{verb}/{place}",
        f"clients of the revision before can no longer {verb} {relation}: {message}",
        "go in steps that both take (expand, move the clients, contract); or say so in the "
        f'contract: {section} breaks = ["{place.partition("/")[0]}: why"]',
        workload=workload,
        loaded_at=stage.step.below,
    )


def again(stage: Stage, finding: Finding, workload: Workload) -> bool:
    """Whether fewer operations still show the same: accepted before, refused after."""
    assert stage.before is not None
    try:
        with stage.below() as scratch:
            replies = loads.fill(stage.before.ground, scratch, workload)
        if any(r.error for r in replies):
            return False
        return any(f.signature == finding.signature for f in broken(stage, workload))
    except (UsageError, psycopg.Error):
        return False
