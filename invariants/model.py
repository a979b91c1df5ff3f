"""What the contract permits: predicts that an operation must be accepted, and what it must do.

Written from the contract and the structure of the tables (types, keys, NOT NULL), never from
policies, triggers or privileges. It speaks only where the contract is plain; about anything else it
says nothing (None), so that a refusal there is no violation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from invariants.catalog import Catalog, Column, Relation
from invariants.contract import Contract
from invariants.history import State
from invariants.operations import (
    OPERATOR,
    Assignments,
    Delete,
    Insert,
    Json,
    Operation,
    Refresh,
    Select,
    Update,
    Value,
)

Key = tuple[Any, ...]
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d+)?\+00)?\Z")
_RANGES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
# Types whose values compare in Python as they do in SQL.
_PLAIN = ("uuid", "text", "character varying", "integer", "bigint", "smallint", "boolean", "jsonb")


@dataclass(frozen=True)
class Expectation:
    """What must be so after a permitted operation.

    `present` rows exist with these values, `absent` keys do not, and each SELECT by its position
    returned exactly these keys. `erased` is the tenant of which nothing is left.
    """

    present: Mapping[tuple[str, Key], Mapping[str, Any]] = field(default_factory=dict)
    absent: frozenset[tuple[str, Key]] = frozenset()
    selected: Mapping[int, tuple[str, frozenset[Key]]] = field(default_factory=dict)
    erased: str | None = None


@dataclass(frozen=True)
class Disagreement:
    """A row that is not as expected: with the values `wanted`, or None when it should be gone."""

    table: str
    key: Key
    what: str
    wanted: Mapping[str, Any] | None


class _Unspecified(Exception):
    """The contract does not say."""


def expect(
    contract: Contract, catalog: Catalog, before: State, operation: Operation
) -> Expectation | None:
    """What to expect of an operation that the contract plainly permits in this state, else None."""
    try:
        return _Model(contract, catalog, before, operation).run()
    except _Unspecified:
        return None


class _Model:
    """The rows of one tenant, as the operation's statements change them one after the other."""

    def __init__(
        self, contract: Contract, catalog: Catalog, before: State, operation: Operation
    ) -> None:
        self.contract, self.catalog = contract, catalog
        self.before, self.operation = before, operation
        self.role, self.tenant = operation.actor.role, operation.actor.tenant
        self.tables: dict[str, dict[Key, dict[str, Any]]] = {}
        self.touched: set[tuple[str, Key]] = set()
        self.selected: dict[int, tuple[str, frozenset[Key]]] = {}

    def run(self) -> Expectation:
        statements = self.operation.statements
        if self.role == OPERATOR:
            if all(isinstance(s, Refresh) for s in statements):
                return Expectation()
            raise _Unspecified
        if self.role == self.contract.tenancy.erased_by and (erased := self._erasure()):
            return Expectation(erased=erased)
        for position, statement in enumerate(statements):
            match statement:
                case Select():
                    self._select(position, statement)
                case Insert():
                    self._insert(statement)
                case Update():
                    self._update(statement)
                case Delete():
                    self._delete(statement)
                case _:
                    raise _Unspecified
        self._balanced()
        present = {e: self.tables[e[0]][e[1]] for e in self.touched if e[1] in self.tables[e[0]]}
        return Expectation(present, frozenset(self.touched - present.keys()), self.selected)

    def _erasure(self) -> str | None:
        if len(self.operation.statements) != 1:
            return None
        (statement,) = self.operation.statements
        root = self.contract.tenancy.root
        key = self.catalog.tables[root].primary_key
        if (
            isinstance(statement, Delete)
            and statement.relation == root
            and len(statement.where) == 1
        ):
            ((column, value),) = statement.where
            if (column,) == key and self.before.find(root, (value,)) is not None:
                return str(value)
        return None

    def _rows(self, table: str) -> dict[Key, dict[str, Any]]:
        if table not in self.tables:
            self.tables[table] = {r.key: dict(r.values) for r in self.before.rows(table)}
        return self.tables[table]

    def _need(self, condition: object) -> None:
        if not condition:
            raise _Unspecified

    def _relation(self, verb: str, name: str) -> Relation:
        relation = self.catalog.tables.get(name)
        self._need(relation is not None and self.contract.may(self.role, verb, name))
        assert relation is not None
        return relation

    def _writable(self, verb: str, name: str) -> Relation:
        """A table of the actor's tenant that it may write, and the tenant exists."""
        relation = self._relation(verb, name)
        self._need(name in self.contract.tenancy.tables and relation.primary_key)
        self._need(self.before.find(self.contract.tenancy.root, (self.tenant,)))
        return relation

    def _select(self, position: int, statement: Select) -> None:
        relation = self._relation("select", statement.relation)
        tenant = self.tenant
        # No setting and an empty one see nothing; a malformed one may be refused.
        self._need(not tenant or _UUID.match(tenant))
        scoped = relation.name in self.contract.tenancy.tables
        self._need(
            relation.primary_key and all(self._comparable(relation, c) for c, _ in statement.where)
        )
        column = self.contract.tenancy.column
        self.selected[position] = (
            relation.name,
            frozenset(
                key
                for key, row in self._rows(relation.name).items()
                if (not scoped or row[column] == tenant) and _matches(row, statement.where)
            ),
        )

    def _comparable(self, relation: Relation, column: str) -> bool:
        found = relation.columns.get(column)
        return found is not None and found.type in _PLAIN and found.type != "jsonb"

    def _insert(self, statement: Insert) -> None:
        relation = self._writable("insert", statement.relation)
        conflict = statement.conflict
        self._need(conflict is None or not (conflict.updates or conflict.target))
        rows = self._rows(relation.name)
        for values in statement.rows:
            row = dict(zip(statement.columns, values, strict=True))
            self._need(row.get(self.contract.tenancy.column) == self.tenant)
            for column in relation.columns.values():
                if column.name in row:
                    self._valid(relation, column, row[column.name])
                else:
                    self._need(not column.not_null or column.has_default)
            self._need(all(c in row for c in relation.primary_key))
            key = tuple(row[c] for c in relation.primary_key)
            if self._taken(relation, row, key):
                self._need(conflict is not None)
                continue
            self._keyed(relation.name, row)
            self._referring(relation, row)
            rows[key] = {c: _seen(v) for c, v in row.items()}
            self.touched.add((relation.name, key))

    def _taken(self, relation: Relation, row: Mapping[str, Value], key: Key) -> bool:
        """Whether a row with one of this row's keys is there already, in any tenant."""
        rows = self._rows(relation.name)
        if key in rows:
            return True
        for unique in relation.uniques:
            values = [row.get(c) for c in unique.columns]
            if None in values or not values:
                continue
            if any([r.get(c) for c in unique.columns] == values for r in rows.values()):
                return True
        return False

    def _keyed(self, table: str, row: Mapping[str, Value]) -> None:
        """The contract wants a key by which a second delivery is recognised."""
        for rule in self.contract.idempotency:
            if rule.table == table:
                self._need(any(all(row.get(c) is not None for c in key) for key in rule.keys))

    def _update(self, statement: Update) -> None:
        relation = self._writable("update", statement.relation)
        assign = dict(statement.assign)
        self._need(not {self.contract.tenancy.column, *relation.primary_key} & assign.keys())
        for name, value in assign.items():
            self._need(name in relation.columns)
            self._valid(relation, relation.columns[name], value)
        for key, row in self._own(relation, statement.where):
            self._unposted(relation, key)
            changed = {**row, **{c: _seen(v) for c, v in assign.items()}}
            for unique in relation.uniques:
                if set(unique.columns) & assign.keys():
                    values = [changed.get(c) for c in unique.columns]
                    others = [r for k, r in self._rows(relation.name).items() if k != key]
                    self._need(all([r.get(c) for c in unique.columns] != values for r in others))
            self._keyed(relation.name, changed)
            self._referring(relation, {c: v for c, v in changed.items() if c in assign})
            self._rows(relation.name)[key] = changed
            self.touched.add((relation.name, key))

    def _delete(self, statement: Delete) -> None:
        relation = self._writable("delete", statement.relation)
        for key, _ in self._own(relation, statement.where):
            self._unposted(relation, key, any_referrer=True)
            del self._rows(relation.name)[key]
            self.touched.add((relation.name, key))

    def _own(self, relation: Relation, where: Assignments) -> list[tuple[Key, dict[str, Any]]]:
        self._need(all(self._comparable(relation, c) for c, _ in where))
        column = self.contract.tenancy.column
        return [
            (key, row)
            for key, row in list(self._rows(relation.name).items())
            if row[column] == self.tenant and _matches(row, where)
        ]

    def _unposted(self, relation: Relation, key: Key, *, any_referrer: bool = False) -> None:
        """Rows that an append-only table refers to are not free to change."""
        for foreign in self.catalog.referrers.get(relation.name, ()):
            if any_referrer or self.contract.appends_only(foreign.table):
                for row in self._rows(foreign.table).values():
                    self._need(tuple(row[c] for c in foreign.columns) != key)

    def _referring(self, relation: Relation, row: Mapping[str, Any]) -> None:
        """What the row refers to exists, in the same tenant, and a code is active."""
        tenancy = self.contract.tenancy
        for foreign in relation.foreign_keys:
            values = tuple(row.get(c) for c in foreign.columns)
            if None in values or foreign.target == tenancy.root:
                continue
            target = self._rows(foreign.target).get(values)
            self._need(target is not None)
            assert target is not None
            if foreign.target in tenancy.tables:
                self._need(target[tenancy.column] == self.tenant)
            for taxonomy in self.contract.taxonomies:
                if taxonomy.table == foreign.target and taxonomy.active:
                    self._need(target[taxonomy.active])

    def _valid(self, relation: Relation, column: Column, value: Value) -> None:
        """The value is one the column takes, as far as type and contract tell."""
        if value is None:
            self._need(not column.not_null)
            return
        domain = self.contract.domains.get((relation.name, column.name))
        self._need(domain is not None or not any(column.name in c.columns for c in relation.checks))
        self._need(not column.generated and not column.is_array)
        if domain is not None and domain.one_of is not None:
            self._need(value in domain.one_of)
            return
        self._need(_typed(column, value))
        if domain is not None:
            self._need(domain.min is None or float(value) >= domain.min)  # type: ignore[arg-type]
            self._need(domain.max is None or float(value) <= domain.max)  # type: ignore[arg-type]

    def _balanced(self) -> None:
        """The transaction ends with every group it touched adding up."""
        for rule in self.contract.sums:
            if not {rule.table, rule.total_table} & {t for t, _ in self.touched}:
                continue
            totals = self._rows(rule.total_table)
            sums: dict[Key, int] = {}
            for row in self._rows(rule.table).values():
                if row[self.contract.tenancy.column] == self.tenant:
                    self._need(row.get(rule.amount) is not None)
                    group = tuple(row.get(c) for c in rule.group_by)
                    self._need(None not in group)
                    sums[group] = sums.get(group, 0) + row[rule.amount]
            for group, actual in sums.items():
                total = totals.get((group[rule.group_by.index(rule.total_key)],))
                self._need(total is not None and total.get(rule.total_column) is not None)
                assert total is not None
                self._need(abs(actual - total[rule.total_column]) <= rule.tolerance)


def disagreements(
    expectation: Expectation, catalog: Catalog, contract: Contract, after: State
) -> Iterator[Disagreement]:
    """Where the committed rows are not as expected."""
    for (table, key), values in expectation.present.items():
        row = after.find(table, key)
        if row is None:
            yield Disagreement(table, key, "is missing", {})
            continue
        for name, value in values.items():
            if catalog.tables[table].columns[name].type in _PLAIN and row[name] != value:
                what = f"has {name} = {row[name]!r} instead of {value!r}"
                yield Disagreement(table, key, what, {name: value})
    for table, key in expectation.absent:
        if after.find(table, key) is not None:
            yield Disagreement(table, key, "is still there", None)
    if expectation.erased is not None:
        for table in (contract.tenancy.root, *contract.tenancy.tables):
            for row in after.rows(table):
                owner = (
                    row.key[0] if table == contract.tenancy.root else row[contract.tenancy.column]
                )
                if owner == expectation.erased:
                    yield Disagreement(table, row.key, "is still there", None)


def _matches(row: Mapping[str, Any], where: Assignments) -> bool:
    return all(row.get(c) == v for c, v in where)


def _seen(value: Value) -> Any:
    return value.document if isinstance(value, Json) else value


def _typed(column: Column, value: Value) -> bool:
    kind = column.type
    if kind in _RANGES:
        return type(value) is int and -_RANGES[kind] <= value < _RANGES[kind]
    if kind in ("text", "character varying", "character"):
        return isinstance(value, str) and (column.length < 0 or len(value) <= column.length)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("json", "jsonb"):
        return isinstance(value, Json)
    if kind == "uuid":
        return isinstance(value, str) and bool(_UUID.match(value))
    if kind.startswith("timestamp"):
        return isinstance(value, str) and bool(_TIME.match(value))
    if column.enum:
        return value in column.enum
    return (
        kind == "numeric" and isinstance(value, str) and bool(re.match(r"\d(\.\d{1,5})?\Z", value))
    )
