"""What must come of an operation as data, and where what came is not like it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from invariants.checks.ownership import Ownership, owner_in
from invariants.checks.values import PLAIN, differ
from invariants.contract.contract import Contract
from invariants.execution.history import Step
from invariants.schema.catalog import Catalog

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Prediction:
    """What must come of an operation.

    `commits` is None where it may be accepted or refused. `rule` says why it must be refused, and
    `position` for which statement.
    After acceptance `present` rows exist with these values, `absent` keys do not, and no other row
    has changed; each SELECT, by its position, returned exactly these keys. `erased` is the tenant
    of which nothing is left. Of `open_columns` (`*`: of all that a table has) and of rows of
    `open_tables` triggers decide.
    """

    commits: bool | None
    rule: str = ""
    position: int = -1
    present: Mapping[tuple[str, Key], Mapping[str, Any]] = field(default_factory=dict)
    absent: frozenset[tuple[str, Key]] = frozenset()
    selected: Mapping[int, tuple[str, frozenset[Key]]] = field(default_factory=dict)
    erased: str | None = None
    open_columns: frozenset[tuple[str, str]] = frozenset()
    open_tables: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Disagreement:
    """A row that is not as predicted: with the values `wanted`, or None when it should be gone."""

    table: str
    key: Key
    what: str
    wanted: Mapping[str, Any] | None


def disagreements(
    prediction: Prediction, catalog: Catalog, contract: Contract, step: Step
) -> Iterator[Disagreement]:
    """Where the committed rows are not as predicted: rows amiss, then rows that should not differ.

    The rows an erased tenant leaves come first.
    """
    ownership = Ownership(contract, catalog)
    open_columns, open_tables = prediction.open_columns, prediction.open_tables
    if prediction.erased is not None:
        for table in contract.tenancy.rooted:
            for row in step.after.rows(table):
                if owner_in(ownership, row, step.after) == prediction.erased:
                    yield Disagreement(table, row.key, "is still there", None)
    for (table, key), values in prediction.present.items():
        row_after = step.after.find(table, key)
        if row_after is None:
            yield Disagreement(table, key, "is missing", {})
            continue
        for name, value in values.items():
            if not {(table, name), (table, "*")} & open_columns and differ(
                catalog.tables[table].columns[name], row_after[name], value
            ):
                what = f"has {name} = {row_after[name]!r} instead of {value!r}"
                yield Disagreement(table, key, what, {name: value})
    for table, key in prediction.absent:
        if step.after.find(table, key) is not None:
            yield Disagreement(table, key, "is still there", None)
    for change in step.changes:
        key = change.record.key
        if (change.table, key) in prediction.present or (change.table, key) in prediction.absent:
            continue
        if change.table in open_tables:
            continue
        if prediction.erased is not None and change.after is None:
            owner = owner_in(ownership, change.record, step.before)
            if owner == prediction.erased:
                continue
        if change.before is None:
            yield Disagreement(change.table, key, "is new", None)
        else:
            now = {} if change.after is None else change.after.values
            wanted = {
                c: v
                for c, v in change.before.values.items()
                if c in catalog.tables[change.table].primary_key
                or (v != now.get(c) and catalog.tables[change.table].columns[c].type in PLAIN)
            }
            word = "is gone" if change.after is None else "has changed"
            yield Disagreement(change.table, key, word, wanted)
