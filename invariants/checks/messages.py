"""Whether two operations deliver the same message: told from what they send, not from a label.

A label is what whoever made the workload believed; a file may have been cut down or edited since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from invariants.checks.ownership import printed
from invariants.contract.contract import Contract
from invariants.schema.catalog import Catalog
from invariants.workload.operations import Insert, Operation, Row, Statement, Value


def same(one: Operation, other: Operation, contract: Contract, catalog: Catalog) -> bool:
    """Whether both are one message: the same client's, with the same keys in the same order.

    What has no key is told by all that it says. Row ids are the sender's, who makes new ones.
    """
    return (
        one.delivery is not None
        and one.delivery == other.delivery
        and one.actor == other.actor
        and one.actor.tenant is not None
        and len(one.statements) == len(other.statements)
        and all(
            _identities(a, one.actor.tenant, contract, catalog)
            == _identities(b, one.actor.tenant, contract, catalog)
            is not None
            for a, b in zip(one.statements, other.statements, strict=True)
        )
    )


def identical(one: Operation, other: Operation, contract: Contract, catalog: Catalog) -> bool:
    """Whether both are one message and say the same, row ids apart."""
    return same(one, other, contract, catalog) and all(
        _content(a, catalog) == _content(b, catalog)
        for a, b in zip(one.statements, other.statements, strict=True)
    )


def ignores_what_is_there(operation: Operation) -> bool:
    """Whether it asks that what is there already be kept; without that a refusal is its due."""
    return all(
        isinstance(s, Insert) and s.conflict is not None and not s.conflict.updates
        for s in operation.statements
    )


def rows(statement: Insert) -> tuple[dict[str, Value], ...]:
    """The rows of a message, by column."""
    return tuple(dict(zip(statement.columns, row, strict=True)) for row in statement.rows)


def _identities(
    statement: Statement, tenant: str, contract: Contract, catalog: Catalog
) -> list[object] | None:
    """By what the contract recognises each row when it comes again; None where it cannot."""
    table = catalog.tables.get(statement.relation)
    named = {
        c
        for rule in contract.idempotency
        if rule.table == statement.relation
        for key in rule.keys
        for c in key
    }
    if table is None or not named or not isinstance(statement, Insert):
        return None
    if statement.conflict and statement.conflict.updates:
        return None
    if len(set(statement.columns)) < len(statement.columns):
        return None
    # What the database fills in is not known to be the same the next time.
    filled = {c for c in named if c in table.columns and table.columns[c].has_default}
    ledger = contract.ledger_of(statement.relation)
    found: list[object] = [statement.relation]
    for row in rows(statement):
        # A correction is told from others by its id alone.
        correction = ledger is not None and ledger.is_correction(row)
        if printed(row.get(contract.tenancy.column)) != tenant or correction:
            return None
        key = contract.key_of(statement.relation, row)
        if key is None and filled - row.keys():
            return None
        found.append(_said(row, table.primary_key) if key is None else key)
    return found


def _content(statement: Statement, catalog: Catalog) -> object:
    assert isinstance(statement, Insert)
    key = catalog.tables[statement.relation].primary_key
    return statement.columns, statement.conflict, [_said(r, key) for r in rows(statement)]


def _said(row: Mapping[str, Value], key: tuple[str, ...]) -> dict[str, tuple[type, Value]]:
    """What a row says besides its id; true and 1 are equal to Python alone."""
    return {c: (type(v), v) for c, v in row.items() if c not in key}


def renewed(
    message: Operation, original: Operation, again: Operation, catalog: Catalog
) -> Operation:
    """`message`, which `original` has become, with the row ids of another delivery of it."""
    ids: dict[tuple[str, str, Value], Value] = {}
    for one, other in zip(original.statements, again.statements, strict=True):
        if isinstance(one, Insert) and isinstance(other, Insert):
            key = catalog.tables[one.relation].primary_key
            for a, b in zip(rows(one), rows(other), strict=True):
                ids.update({(one.relation, c, a[c]): b[c] for c in key if c in a})

    def statement(s: Statement) -> Statement:
        if not isinstance(s, Insert):
            return s
        return replace(s, rows=tuple(row(s, r) for r in s.rows))

    def row(s: Insert, values: Row) -> Row:
        return tuple(ids.get((s.relation, c, v), v) for c, v in zip(s.columns, values, strict=True))

    return Operation(message.actor, tuple(map(statement, message.statements)), message.delivery)
