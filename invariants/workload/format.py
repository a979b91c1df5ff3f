"""Workloads as plain JSON values, and back: the format that counterexamples are kept in.

The classes are the format; renaming a field breaks files. What comes back has the shape of a
workload, and every row as many values as it has columns. Whether a schema has what it names is
another question (`counterexamples.fitting`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from invariants.reading import Misfit, Text, fit
from invariants.workload.operations import (
    SESSION_SETTINGS,
    STATEMENTS,
    Actor,
    CommentTarget,
    Conflict,
    Copy,
    HeldOn,
    Insert,
    Isolation,
    Json,
    LeftoverTarget,
    Merge,
    Operation,
    ShadowTarget,
    Statement,
    Tenant,
    Transaction,
    Truncate,
    Update,
    Value,
    Workload,
)

# More than any search makes. Each session is a connection, each statement up to some seconds.
SESSIONS_MAX = 8
STATEMENTS_MAX = 5_000
# What one message of PostgreSQL's protocol can carry.
VALUES_MAX = 65_535

Name = Annotated[Text, msgspec.Meta(min_length=1)]
Number = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON object that has these keys and no others."""


class _Json(_Document):
    json: Any


_Value: TypeAlias = bool | int | Text | _Json | None
_Values: TypeAlias = dict[Name, _Value]
_Row: TypeAlias = tuple[_Value, ...]
_Names: TypeAlias = tuple[Name, ...]


class _Conflict(_Document):
    target: _Names = ()
    where: Text = ""
    updates: _Names = ()


class _Statement(_Document, tag_field="kind"):
    relation: Name


class _Insert(_Statement, tag="insert"):
    columns: _Names
    rows: tuple[_Row, ...]
    conflict: _Conflict | None = None
    overriding: bool = False


class _Update(_Statement, tag="update"):
    assign: _Values
    where: _Values = {}


class _Delete(_Statement, tag="delete"):
    where: _Values = {}


class _Select(_Statement, tag="select"):
    where: _Values = {}
    columns: _Names = ()
    leak: Text = ""
    prepared: bool = False


class _Truncate(_Statement, tag="truncate"):
    cascade: bool = False


class _Merge(_Statement, tag="merge"):
    columns: _Names
    row: _Row
    on: _Names
    updates: _Names = ()
    overriding: bool = False


class _Copy(_Statement, tag="copy"):
    columns: _Names
    rows: tuple[_Row, ...]


class _Refresh(_Statement, tag="refresh"):
    concurrently: bool = False


class _Call(_Statement, tag="call"):
    arguments: _Row = ()
    procedure: bool = False


class _Comment(_Statement, tag="comment"):
    target: CommentTarget


class _Attach(_Statement, tag="attach"):
    pass


class _Shadow(_Statement, tag="shadow"):
    target: ShadowTarget


class _Set(_Statement, tag="set"):
    value: Text | None


class _Become(_Statement, tag="become"):
    pass


class _Inquire(_Statement, tag="inquire"):
    privilege: Text
    target: HeldOn


class _Leftover(_Statement, tag="leftover"):
    target: LeftoverTarget


_AnyStatement: TypeAlias = (
    _Insert
    | _Update
    | _Delete
    | _Select
    | _Truncate
    | _Merge
    | _Copy
    | _Refresh
    | _Call
    | _Comment
    | _Attach
    | _Shadow
    | _Set
    | _Become
    | _Inquire
    | _Leftover
)


class _Operation(_Document):
    role: Text
    tenant: Text | None
    statements: tuple[_AnyStatement, ...]
    delivery: Number | None = None
    said: dict[Name, Text] = {}
    settings: dict[Name, Text] = {}
    inherits: bool = False


class _Transaction(_Operation, kw_only=True):
    isolation: Isolation
    end: Literal["commit", "rollback"]


class _Tenant(_Document):
    id: Text
    row: _Values


class WorkloadFile(_Document):
    """A workload as it stands in a file."""

    tenants: tuple[_Tenant, ...]
    operations: tuple[_Operation, ...]
    premise: Text = ""
    sessions: tuple[tuple[_Transaction, ...], ...] | None = None
    schedule: tuple[Number, ...] | None = None


def workload_to_json(workload: Workload) -> dict[str, Any]:
    """The workload as plain JSON values; `workload_from_json` reads it back unchanged.

    `sessions` and `schedule` are there only if it has sessions.
    """
    document: dict[str, Any] = {
        "premise": workload.premise,
        "tenants": [
            {"id": t.id, "row": _written(dict(zip(t.columns, t.row, strict=True)))}
            for t in workload.tenants
        ],
        "operations": [_operation_to_json(o) for o in workload.operations],
    }
    if workload.sessions:
        document["sessions"] = [
            [
                {
                    "isolation": t.isolation,
                    "end": "commit" if t.commits else "rollback",
                    **_operation_to_json(t.operation),
                }
                for t in session
            ]
            for session in workload.sessions
        ]
        document["schedule"] = list(workload.schedule)
    return document


def _operation_to_json(operation: Operation) -> dict[str, Any]:
    said = dict(operation.actor.said)
    document: dict[str, Any] = {
        "role": operation.actor.role,
        "tenant": operation.actor.tenant,
        **({"said": said} if said else {}),
        "delivery": operation.delivery,
        "statements": [_statement_to_json(s) for s in operation.statements],
    }
    # Only what is not as usual, so that files of before read the same.
    if operation.settings:
        document["settings"] = dict(operation.settings)
    if operation.inherits:
        document["inherits"] = True
    return document


def _statement_to_json(statement: Statement) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": statement.kind}
    for f in fields(statement):
        value = getattr(statement, f.name)
        if f.name == "overriding" and not value:
            continue
        out[f.name] = _written(dict(value) if f.name in ("where", "assign") else value)
    return out


def _written(value: Any) -> Any:
    match value:
        case Json():
            return {"json": value.document}
        case Conflict():
            return {f.name: _written(getattr(value, f.name)) for f in fields(value)}
        case dict():
            return {name: _written(v) for name, v in value.items()}
        case tuple():
            return [_written(v) for v in value]
    return value


def workload_from_json(data: object) -> Workload:
    """Read what `workload_to_json` wrote. Raises `Misfit` when it is not that."""
    return workload_from_file(fit(data, WorkloadFile))


def workload_from_file(file: WorkloadFile) -> Workload:
    """The workload that a file of the right shape holds. Raises `Misfit` for one that is none."""
    sessions = file.sessions or ()
    workload = Workload(
        premise=file.premise,
        tenants=tuple(
            Tenant(t.id, tuple(t.row), _read(tuple(t.row.values()), f"tenants[{i}].row"))
            for i, t in enumerate(file.tenants)
        ),
        operations=tuple(_operation(o, f"operations[{i}]") for i, o in enumerate(file.operations)),
        sessions=tuple(
            tuple(_transaction(t, f"sessions[{i}][{j}]") for j, t in enumerate(session))
            for i, session in enumerate(sessions)
        ),
        schedule=file.schedule or (),
    )
    _check_sessions(file)
    _check_size(workload)
    return workload


def _operation(file: _Operation, place: str) -> Operation:
    if not file.statements:
        raise Misfit(f"{place}.statements", "there are none", "write one, or leave the whole out")
    statements = tuple(
        _statement(s, f"{place}.statements[{i}]") for i, s in enumerate(file.statements)
    )
    if len(statements) > 1 and any(isinstance(s, Copy) for s in statements):
        raise Misfit(f"{place}.statements", "COPY is sent by itself", "write an operation for it")
    for name, value in file.settings.items():
        known = SESSION_SETTINGS.get(name, ())
        if value not in known:
            told = f"{name!r} is not known" if not known else f"{value!r} is no value for {name}"
            use = known or SESSION_SETTINGS
            raise Misfit(f"{place}.settings", told, f"use one of: {', '.join(use)}")
    return Operation(
        Actor(file.role, file.tenant, tuple(file.said.items())),
        statements,
        file.delivery,
        tuple(file.settings.items()),
        file.inherits,
    )


def _transaction(file: _Transaction, place: str) -> Transaction:
    operation = _operation(file, place)
    if operation.inherits:
        raise Misfit(
            f"{place}.inherits", "a session beside others has its own", "move it to operations"
        )
    for i, statement in enumerate(operation.statements):
        # The one cannot be sent in turns, the other keeps the rows from being read meanwhile.
        if isinstance(statement, Copy | Truncate):
            raise Misfit(
                f"{place}.statements[{i}]",
                f"{statement.kind.upper()} is not sent in a session beside others",
                "move it to operations",
            )
    return Transaction(operation, file.isolation, file.end == "commit")


def _statement(file: _AnyStatement, place: str) -> Statement:
    kind = STATEMENTS[str(file.__struct_config__.tag)]
    statement = kind(
        **{name: _read(getattr(file, name), f"{place}.{name}") for name in file.__struct_fields__}
    )
    _check_statement(statement, place)
    return statement


def _read(value: Any, place: str) -> Any:
    match value:
        case _Json(document):
            return Json.of(document)
        case _Conflict():
            return Conflict(value.target, value.where, value.updates)
        case dict():
            return tuple((column, _read(v, f"{place}.{column}")) for column, v in value.items())
        case tuple():
            return tuple(_read(v, f"{place}[{i}]") for i, v in enumerate(value))
    return value


def _check_statement(statement: Statement, place: str) -> None:
    """That it can be written down as SQL with a value for each placeholder."""
    match statement:
        case Insert(_, columns, rows) | Copy(_, columns, rows):
            if not rows:
                raise Misfit(f"{place}.rows", "there are none", "write one")
            for i, row in enumerate(rows):
                _check_row(columns, row, f"{place}.rows[{i}]")
            if len(columns) * len(rows) > VALUES_MAX:
                raise Misfit(
                    f"{place}.rows", f"more than {VALUES_MAX:,} values", "write two statements"
                )
            if not columns and (isinstance(statement, Copy) or len(rows) > 1):
                raise Misfit(f"{place}.columns", "there are none", "name the columns")
            _check_once(columns, f"{place}.columns")
        case Merge(_, columns, row, on, updates):
            _check_row(columns, row, f"{place}.row")
            for name, listed in (("columns", columns), ("on", on)):
                if not listed:
                    raise Misfit(f"{place}.{name}", "there are none", "name the columns")
            _check_once(columns, f"{place}.columns")
            _check_once(updates, f"{place}.updates")
        case Update(_, assign):
            if not assign:
                raise Misfit(f"{place}.assign", "there is none", "write a column and its value")
    if isinstance(statement, Insert) and statement.conflict is not None:
        conflict = statement.conflict
        if not conflict.target and (conflict.updates or conflict.where):
            raise Misfit(f"{place}.conflict.target", "there is none", "name the columns of a key")
        _check_once(conflict.updates, f"{place}.conflict.updates")


def _check_row(columns: tuple[str, ...], row: tuple[Value, ...], place: str) -> None:
    if len(row) != len(columns):
        raise Misfit(
            place, f"{len(row)} values for {len(columns)} columns", "write one for each column"
        )


def _check_once(names: tuple[str, ...], place: str) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise Misfit(place, f"{name!r} is there {times} times", "name it once")


def _check_sessions(file: WorkloadFile) -> None:
    sessions, schedule = file.sessions, file.schedule
    if sessions is None:
        if schedule is not None:
            raise Misfit("schedule", "there are no sessions", "leave it out, or write sessions")
        return
    if not sessions:
        raise Misfit("sessions", "there are none", "leave the key out")
    if len(sessions) > SESSIONS_MAX:
        raise Misfit("sessions", f"more than {SESSIONS_MAX}", "write fewer")
    for i, session in enumerate(sessions):
        if not session:
            raise Misfit(f"sessions[{i}]", "it does nothing", "write an operation, or leave it out")
    for i, position in enumerate(schedule or ()):
        if not 0 <= position < len(sessions):
            raise Misfit(
                f"schedule[{i}]",
                f"there is no session {position}",
                f"count from 0 to {len(sessions) - 1}",
            )


def _check_size(workload: Workload) -> None:
    operations = workload.all_operations
    if sum(len(o.statements) for o in operations) + len(workload.tenants) > STATEMENTS_MAX:
        raise Misfit("operations", f"more than {STATEMENTS_MAX:,} statements", "write fewer")
    if not workload.tenants:
        # What only reads, or finds no row, needs no tenant. A row belongs to one.
        for i, operation in enumerate(operations):
            if any(isinstance(s, Insert | Copy | Merge) for s in operation.statements):
                where = f"operations[{i}]" if i < len(workload.operations) else "a session"
                raise Misfit("tenants", f"there are none, and {where} inserts rows", "write them")
