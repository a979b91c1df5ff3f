"""Texts that a client receives besides rows: of errors and notices.

So that two runs can be compared, what follows the clock or chance is masked: times, ids that the
workload did not send, numbers of processes and transactions, names of temporary schemas. Left out
is what only PostgreSQL says and says of the row that was sent (`Failing row contains`), and where
in a function a text was made (CONTEXT): the same words at two places are the same words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Literal

from invariants.checks.base import Case
from invariants.checks.values import UUID
from invariants.execution.history import Change, Record, Step
from invariants.execution.wire import Announcement, Notice, ServerError
from invariants.workload.operations import (
    Assignments,
    Call,
    Delete,
    Json,
    Operation,
    Select,
    Update,
    inserted,
)

Texts = tuple[str, ...]

_VOLATILE = re.compile(
    r"\b\d{4,}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[+-]\d\d(?::?\d\d)?|Z)?)?"
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\bpg_(?:toast_)?temp_\d+\b"
    r"|(?<=\bprocess )\d+|(?<=\btransaction )\d+|(?<=\bPID )\d+|(?<=\bOID )\d+"
    r"|\b\d{10,}(?:\.\d+)?\b"
)
_SENT_ROW = "Failing row contains "
# Shorter ones are part of many words.
_TELLING_LENGTH = 6


def of_error(error: ServerError, known: Collection[bytes]) -> Texts:
    """What an error says, comparable."""
    detail = "" if error.detail.startswith(_SENT_ROW) else error.detail
    return (error.sqlstate, *(masked(t, known) for t in (error.message, detail, error.hint)))


def of_notices(notices: tuple[Notice, ...], known: Collection[bytes]) -> Texts:
    """What notices say, each in one text, comparable."""
    return tuple(
        " ".join(
            filter(
                None,
                (
                    n.severity,
                    n.sqlstate,
                    *(masked(t, known) for t in (n.message, n.detail, n.hint)),
                ),
            )
        )
        for n in notices
    )


def masked(text: str, known: Collection[bytes]) -> str:
    """The text with `~` for what follows the clock or chance, and the workload did not send."""
    return _VOLATILE.sub(lambda m: m[0] if m[0].encode() in known else "~", text)


def received(step: Step) -> Texts:
    """Every text that a client got with its answer, as it is."""
    said = [n for n in (step.error, *step.notices) if n is not None]
    return tuple(t for n in said for t in (n.message, n.detail, n.hint) if t)


def where(step: Step, value: str) -> Literal["error", "notice"]:
    """Whether it is the error that has the value in it, or a notice."""
    error = step.error
    told = error is not None and value in " ".join((error.message, error.detail, error.hint))
    return "error" if told else "notice"


def betrayed(case: Case, step: Step) -> tuple[str, Record] | None:
    """A value of another tenant's row in a text that an actor got, and that row.

    It is one that somebody sent or that was made by chance: what a trigger or a default writes in
    every row tells nothing. Not one that the actor's tenant has sent itself or has in rows of its
    own, or that is nobody's.
    """
    texts = " ".join(received(step))
    if not texts:
        return None
    mine = case.acting_for(step)
    own: set[str] | None = None
    others: set[str] | None = None
    for record in step.before.records:
        owner = case.tenant_of(record)
        if owner is None or owner == mine:
            continue
        for value in record.values.values():
            if not isinstance(value, str) or len(value) < _TELLING_LENGTH or value not in texts:
                continue
            own = _own(case, step) if own is None else own
            if any(value in o for o in own) or not _stands_in(value, texts):
                continue
            others = _others(case, step) if others is None else others
            if not UUID.match(value) and not any(o in value for o in others):
                continue
            return value, record
    return None


def announced(case: Case, step: Step) -> tuple[Announcement, str, Change] | None:
    """What a change of a tenant's row told everybody who listens, with the value that it has of it.

    Ids tell nobody anything that row security would not let him look up; other values do.
    """
    if not step.announced:
        return None
    changed = [c for c in step.changes if case.tenant_of(c.record) is not None]
    for told in step.announced:
        said = list(_scalars(told.payload))
        for change in changed:
            relation = case.catalog.tables[change.table]
            ids = {*relation.primary_key, *(c for k in relation.foreign_keys for c in k.columns)}
            ids.add(case.contract.tenancy.column)
            for column, value in change.record.values.items():
                if column in ids or value is None or isinstance(value, bool):
                    continue
                text = _plain(value)
                long = len(text) >= _TELLING_LENGTH and _sent_by(step, text)
                if (column, text) in said or (long and _stands_in(text, told.payload)):
                    return told, text, change
    return None


def _sent_by(step: Step, text: str) -> bool:
    return any(sent and sent in text for sent in _sent(step.operation))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _scalars(payload: str) -> Iterator[tuple[str, str]]:
    """The values of a document with their keys, as texts, at any depth."""
    try:
        document = json.loads(payload)
    except ValueError:
        return
    stack = [document]
    while stack:
        found = stack.pop()
        if isinstance(found, dict):
            yield from ((k, _plain(v)) for k, v in found.items() if v is not None)
            stack += found.values()
        elif isinstance(found, list):
            stack += found


def _stands_in(value: str, texts: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", texts) is not None


def _own(case: Case, step: Step) -> set[str]:
    """Texts that tell an actor nothing: its tenant's own, everybody's, and names of the schema."""
    mine = case.acting_for(step)
    actor = step.operation.actor
    own = {
        value
        for record in step.before.records
        if case.tenant_of(record) in (None, mine)
        for value in record.values.values()
        if isinstance(value, str)
    }
    for operation in case.history.workload.all_operations:
        if operation.actor == actor or operation.actor.tenant == actor.tenant:
            own |= set(_sent(operation))
    own |= {actor.role, actor.tenant or ""}
    for relation in case.catalog.relations.values():
        own |= {relation.name, *relation.columns, *relation.policies}
        own |= {k.name for k in relation.foreign_keys}
        own |= {u.name for u in relation.uniques} | {c.name for c in relation.checks}
    return own


def _others(case: Case, step: Step) -> set[str]:
    """What others have sent before, without the words that the schema has itself."""
    actor, earlier = step.operation.actor, case.history.steps[: step.index]
    sent = {t for s in earlier if s.operation.actor != actor for t in _sent(s.operation)}
    long = {t for t in sent if len(t) >= _TELLING_LENGTH}
    definitions = case.catalog.definitions
    words = [r.definition for r in definitions.routines]
    words += [c.definition for r in case.catalog.relations.values() for c in r.checks]
    return {t for t in long if not any(t in w for w in words)}


def _sent(operation: Operation) -> Iterator[str]:
    for statement in operation.statements:
        pairs: Assignments = ()
        if isinstance(statement, Update | Delete | Select):
            pairs = (*getattr(statement, "assign", ()), *statement.where)
        if isinstance(statement, Call):
            pairs = tuple(("", value) for value in statement.arguments)
        for _, value in (*pairs, *(p for row in inserted(statement) for p in row.items())):
            if isinstance(value, str):
                yield value
            elif isinstance(value, Json):
                yield value.text
