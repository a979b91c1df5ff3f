"""What the contract says of an operation: whether it commits, and what it changes and reads.

Written from the contract and the structure of the tables (types, keys, NOT NULL), never from
policies, triggers or privileges. Where the contract leaves something open, the prediction is open
as well: `commits` is None, or there is no prediction at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from invariants.checks.spelling import tenant_meant
from invariants.contract.contract import ANYBODY, Contract
from invariants.contract.sections import Pii, Sum
from invariants.execution.history import State, Step
from invariants.schema.catalog import Catalog, Column, Relation
from invariants.workload.operations import (
    OPERATOR,
    Assignments,
    Attach,
    Comment,
    Conflict,
    Copy,
    Delete,
    Insert,
    Json,
    Merge,
    Operation,
    Refresh,
    Select,
    Shadow,
    Statement,
    Truncate,
    Update,
    Value,
)

Key = tuple[Any, ...]
Values = dict[str, Any]
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d+)?\+00)?|-?infinity)\Z")
_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,5})?\Z")
_RANGES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
# Types whose values compare in Python as they do in SQL.
_PLAIN = ("uuid", "text", "character varying", "integer", "bigint", "smallint", "boolean", "jsonb")


@dataclass(frozen=True)
class Prediction:
    """What must come of an operation.

    `commits` is None where it may be accepted or refused. `rule` says why it must be refused, and
    `position` for which statement.
    After acceptance `present` rows exist with these values, `absent` keys do not, and no other row
    has changed; each SELECT, by its position, returned exactly these keys. `erased` is the tenant
    of which nothing is left.
    """

    commits: bool | None
    rule: str = ""
    position: int = -1
    present: Mapping[tuple[str, Key], Mapping[str, Any]] = field(default_factory=dict)
    absent: frozenset[tuple[str, Key]] = frozenset()
    selected: Mapping[int, tuple[str, frozenset[Key]]] = field(default_factory=dict)
    erased: str | None = None


@dataclass(frozen=True)
class Disagreement:
    """A row that is not as predicted: with the values `wanted`, or None when it should be gone."""

    table: str
    key: Key
    what: str
    wanted: Mapping[str, Any] | None


class _Open(Exception):
    """The contract does not say."""


class _Refused(Exception):
    """The contract does not permit it, by the rule named."""


def predict(
    contract: Contract, catalog: Catalog, before: State, operation: Operation
) -> Prediction | None:
    """What the contract says must come of an operation in this state; None where it is silent."""
    model = _Model(contract, catalog, before, operation)
    try:
        return model.run()
    except _Refused as refused:
        return Prediction(False, str(refused), model.position)
    except _Open:
        return None


def _need(condition: object) -> None:
    """Without it the contract does not say what happens."""
    if not condition:
        raise _Open


def _require(condition: object, rule: str) -> None:
    """Without it the operation is to be refused."""
    if not condition:
        raise _Refused(rule)


class _Model:
    """The rows as the operation's statements change them one after the other."""

    def __init__(
        self, contract: Contract, catalog: Catalog, before: State, operation: Operation
    ) -> None:
        self.contract, self.catalog = contract, catalog
        self.before, self.operation = before, operation
        self.role, self.tenant = operation.actor.role, operation.actor.tenant
        # Whether the schema knows a tenant that is spelled otherwise is for the schema to say.
        self.known_as_it_is = tenant_meant(self.tenant, contract, catalog) == self.tenant
        self.tables: dict[str, dict[Key, Values]] = {}
        self.touched: set[tuple[str, Key]] = set()
        self.selected: dict[int, tuple[str, frozenset[Key]]] = {}
        self.position = -1
        self.open_end = False

    def run(self) -> Prediction:
        _need(self.known_as_it_is)
        if self.role == self.contract.tenancy.erased_by and (erased := self._erasure()):
            return erased
        for position, statement in enumerate(self.operation.statements):
            self.position = position
            self._statement(statement)
        self._sums()
        self._nets()
        present = {e: self.tables[e[0]][e[1]] for e in self.touched if e[1] in self.tables[e[0]]}
        prediction = Prediction(
            True,
            present=present,
            absent=frozenset(self.touched - present.keys()),
            selected=self.selected,
        )
        return replace(prediction, commits=None) if self._may_fail() else prediction

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Refresh():
                _need(self.role == OPERATOR)
            case Select():
                self._select(statement)
            case Insert():
                self._insert(statement)
            case Copy(relation, columns, rows):
                # COPY is open where rows are isolated by policies: PostgreSQL does not support it.
                self._insert(Insert(relation, columns, rows))
                self.open_end = self.open_end or relation in self.contract.tenancy.tables
            case Merge():
                self._merge(statement)
            case Update():
                self._update(statement)
            case Delete():
                self._delete(statement)
            case Comment():
                _need(self._is_anybody())
                _require(False, "ownership")
            case Attach(relation):
                borrowed = [r for r in self.catalog.routines if r.signature == relation]
                _need(self._is_anybody() and any(r.security_definer for r in borrowed))
                _require(False, "execution")
            case Truncate():
                self._truncate(statement)
            case Shadow():
                # Who may not make it is refused, and what finds it may well be.
                self.open_end = True
            case _:
                raise _Open

    def _is_anybody(self) -> bool:
        """Whether the role owns nothing, as far as the contract knows."""
        return self.role in (*self.contract.application_roles, ANYBODY)

    def _truncate(self, statement: Truncate) -> None:
        """TRUNCATE takes the rows of every tenant, and may be of what the role repairs."""
        if self.contract.repairs(self.role, statement.relation):
            emptied = self._emptied(statement.relation)
            # What is still to be checked about a table keeps it from being emptied.
            _need(not self._touches(*emptied))
            _require(statement.cascade or emptied == {statement.relation}, "reference")
            _need(emptied <= {*self.contract.tenancy.tables})
            for table in emptied:
                self.touched |= {(table, key) for key in self._rows(table)}
                self.tables[table] = {}
            return
        special = {OPERATOR, self.contract.tenancy.erased_by, *self.contract.repair_roles}
        may = self.contract.may(self.role, "truncate", statement.relation)
        _require(self.role in special or may, "privilege")
        raise _Open

    def _emptied(self, table: str) -> set[str]:
        """The table, and those that refer to it, directly or by way of others."""
        found, queue = {table}, [table]
        while queue:
            for foreign in self.catalog.referrers.get(queue.pop(), ()):
                if foreign.table not in found:
                    found.add(foreign.table)
                    queue.append(foreign.table)
        return found

    def _may_fail(self) -> bool:
        """Whether an error is as good as an answer without rows: the setting is malformed."""
        return self.open_end or bool(
            self.tenant and not _UUID.match(self.tenant) and self.role != OPERATOR
        )

    def _erasure(self) -> Prediction | None:
        root = self.contract.tenancy.root
        key = self.catalog.tables[root].primary_key
        match self.operation.statements:
            case (Delete(relation, ((column, value),)),) if relation == root and (column,) == key:
                _need(fits(self.catalog.tables[root].columns[column], value))
                there = self.before.find(root, (value,)) is not None
                return Prediction(True, erased=str(value) if there else None)
            case (Delete(relation),) if relation == root:
                # Several tenants at once, or found by something else than the key.
                raise _Open
        return None

    def _rows(self, table: str) -> dict[Key, Values]:
        if table not in self.tables:
            self.tables[table] = {r.key: dict(r.values) for r in self.before.rows(table)}
        return self.tables[table]

    def _relation(self, verb: str, name: str) -> Relation:
        """A relation the actor may use so; maintenance is bound where the contract speaks of it."""
        relation = self.catalog.relations.get(name)
        _need(relation is not None)
        assert relation is not None
        if self.role == OPERATOR:
            root = name == self.contract.tenancy.root and verb == "insert"
            _need(root or any(t.table == name for t in self.contract.taxonomies))
        elif not self.contract.may(self.role, verb, name):
            # Who erases tenants may as well look for them, and an owner may do anything.
            tenancy = self.contract.tenancy
            erasing = (self.role, name) == (tenancy.erased_by, tenancy.root)
            _need(not (erasing and verb in ("select", "delete")))
            _need(self._is_anybody() or relation.owner != self.role)
            _require(False, "privilege")
        return relation

    def _writable(self, verb: str, name: str) -> Relation:
        relation = self._relation(verb, name)
        _need(relation.kind == "table" and relation.primary_key)
        return relation

    def _scoped(self, relation: Relation) -> bool:
        return relation.name in self.contract.tenancy.tables

    def _select(self, statement: Select) -> None:
        relation = self._relation("select", statement.relation)
        if relation.kind != "table":
            # What a view shows is for the read path to say; that it can be read is said here.
            _need(not statement.where and not statement.leak)
            _need(set(statement.columns) <= relation.columns.keys())
            return
        _need(not statement.leak)
        _need(set(statement.columns) <= relation.columns.keys())
        if statement.columns and not set(relation.primary_key) <= set(statement.columns):
            return
        _need(relation.primary_key)
        self.selected[self.position] = (
            relation.name,
            frozenset(key for key, _ in self._seen_by_actor(relation, statement.where)),
        )

    def _seen_by_actor(self, relation: Relation, where: Assignments) -> list[tuple[Key, Values]]:
        """The rows a condition finds among those of the actor's tenant."""
        _need(all(self._comparable(relation, c, v) for c, v in where))
        column = self.contract.tenancy.column
        scoped = self._scoped(relation)
        return [
            (key, row)
            for key, row in list(self._rows(relation.name).items())
            if (not scoped or row[column] == self.tenant) and _matches(row, where)
        ]

    def _comparable(self, relation: Relation, column: str, value: Value) -> bool:
        found = relation.columns.get(column)
        if found is None or found.type not in _PLAIN or found.type == "jsonb":
            return False
        return value is None or bool(fits(found, value))

    def _insert(self, statement: Insert) -> None:
        relation = self._writable("insert", statement.relation)
        conflict = statement.conflict
        if conflict is not None and conflict.updates:
            _require(self.contract.may(self.role, "update", relation.name), "privilege")
            _need(conflict.target == relation.primary_key and not conflict.where)
            # What a row does not say is its default there.
            _need(set(conflict.updates) <= set(statement.columns))
        elif conflict is not None:
            _need(not conflict.target and not conflict.where)
        _need(len(set(statement.columns)) == len(statement.columns))
        for values in statement.rows:
            row = dict(zip(statement.columns, values, strict=True))
            self._new(relation, row)
            key = tuple(row[c] for c in relation.primary_key)
            if conflict is not None and conflict.updates and key in self._rows(relation.name):
                self._overwrite(relation, key, row, conflict)
            elif self._taken(relation, row, key):
                _require(conflict is not None and not conflict.updates, "unique")
            else:
                self._add(relation, key, row)

    def _new(self, relation: Relation, row: Mapping[str, Value]) -> None:
        """A row as it would be inserted, before anything is known of others."""
        tenancy = self.contract.tenancy
        for name in row:
            _need(name in relation.columns)
        for column in relation.columns.values():
            if column.name in row:
                self._typed(column, row[column.name])
        if self._scoped(relation):
            _require(self.tenant and row.get(tenancy.column) == self.tenant, "tenant")
        for column in relation.columns.values():
            if column.name in row:
                self._allowed(relation, column, row[column.name])
            else:
                _require(not column.not_null or column.has_default or column.generated, "not null")
        _need(all(row.get(c) is not None for c in relation.primary_key))
        self._keyed(relation.name, row)

    def _add(self, relation: Relation, key: Key, row: Mapping[str, Value]) -> None:
        self._referring(relation, row, tuple(row))
        self._rows(relation.name)[key] = {c: _seen(v) for c, v in row.items()}
        self.touched.add((relation.name, key))

    def _overwrite(
        self, relation: Relation, key: Key, row: Mapping[str, Value], conflict: Conflict
    ) -> None:
        """ON CONFLICT DO UPDATE of a row that is there."""
        old = self._rows(relation.name)[key]
        if self._scoped(relation):
            _require(old[self.contract.tenancy.column] == self.tenant, "tenant")
        _need((relation.name, key) not in self.touched)
        self._change(relation, key, old, {c: row.get(c) for c in conflict.updates})

    def _merge(self, statement: Merge) -> None:
        relation = self._writable("insert", statement.relation)
        for verb in ("select", *(("update",) if statement.updates else ())):
            _require(self.contract.may(self.role, verb, relation.name), "privilege")
        _need(statement.on == relation.primary_key)
        _need(len(set(statement.columns)) == len(statement.columns))
        _need({*statement.on, *statement.updates} <= set(statement.columns))
        row = dict(zip(statement.columns, statement.row, strict=True))
        for name, value in row.items():
            _need(name in relation.columns)
            self._typed(relation.columns[name], value)
        key = tuple(row.get(c) for c in relation.primary_key)
        matched = dict(self._seen_by_actor(relation, tuple(zip(statement.on, key, strict=True))))
        if key in matched:
            if statement.updates:
                self._change(relation, key, matched[key], {c: row[c] for c in statement.updates})
            return
        self._new(relation, row)
        _require(not self._taken(relation, row, key), "unique")
        self._add(relation, key, row)

    def _taken(self, relation: Relation, row: Mapping[str, Any], key: Key) -> bool:
        """Whether a row with one of this row's keys is there already.

        A table that the contract gives keys has those, within its tenant, besides the primary key;
        one of which it says what a row holds has no other; any other has the unique indexes that
        the database has.
        """
        rows = self._rows(relation.name)
        return key in rows or any(
            self._same(relation, row, other) for k, other in rows.items() if k != key
        )

    def _same(self, relation: Relation, row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        if any(rule.table == relation.name for rule in self.contract.idempotency):
            tenant = self.contract.tenancy.column
            mine = self.contract.key_of(relation.name, row)
            return (
                mine is not None
                and row.get(tenant) == other.get(tenant)
                and mine == self.contract.key_of(relation.name, other)
            )
        for unique in () if relation.name in self.contract.rows else relation.uniques:
            values = [row.get(c) for c in unique.columns]
            if values and None not in values and values == [other.get(c) for c in unique.columns]:
                _need(unique.predicate is None)
                return True
        return False

    def _keyed(self, table: str, row: Mapping[str, Any]) -> None:
        """The contract wants a key by which a second delivery is recognised."""
        ledger = self.contract.ledger_of(table)
        if ledger is not None and ledger.is_correction(row):
            return
        columns = self.catalog.tables[table].columns
        for rule in self.contract.idempotency:
            if rule.table == table:
                defaults = {c for key in rule.keys for c in key if columns[c].has_default}
                _need(defaults <= row.keys())
                _require(self.contract.key_of(table, row), "key")

    def _update(self, statement: Update) -> None:
        relation = self._writable("update", statement.relation)
        assign = dict(statement.assign)
        for name, value in assign.items():
            _need(name in relation.columns)
            _need(name not in relation.primary_key or self.role == OPERATOR)
            self._typed(relation.columns[name], value)
        for key, row in self._seen_by_actor(relation, statement.where):
            self._change(relation, key, row, assign)

    def _change(
        self, relation: Relation, key: Key, row: Values, assign: Mapping[str, Value]
    ) -> None:
        tenant = self.contract.tenancy.column
        if self._scoped(relation) and tenant in assign:
            _require(assign[tenant] == self.tenant, "tenant")
        for name, value in assign.items():
            self._allowed(relation, relation.columns[name], value)
        changed = {**row, **{c: _seen(v) for c, v in assign.items()}}
        self._keyed(relation.name, changed)
        new_key = tuple(changed[c] for c in relation.primary_key)
        if new_key != key:
            _need(self.role == OPERATOR and all(isinstance(v, str) for v in new_key))
            _require(new_key not in self._rows(relation.name), "unique")
            self._unreferenced(relation, key)
        others = (o for k, o in self._rows(relation.name).items() if k != key)
        _require(
            not any(
                self._same(relation, changed, o) and not self._same(relation, row, o)
                for o in others
            ),
            "unique",
        )
        self._referring(relation, changed, tuple(assign))
        self._posted(relation, key, row, changed)
        del self._rows(relation.name)[key]
        self._rows(relation.name)[new_key] = changed
        self.touched |= {(relation.name, key), (relation.name, new_key)}

    def _delete(self, statement: Delete) -> None:
        relation = self._writable("delete", statement.relation)
        going = {key for key, _ in self._seen_by_actor(relation, statement.where)}
        for key in going:
            self._remove(relation, key, going)

    def _remove(self, relation: Relation, key: Key, going: Collection[Key] = ()) -> None:
        """Remove a row and, where a foreign key says so, what refers to it.

        Those `going` are removed by the same statement.
        """
        for table, column, referrer in self._referrers(relation, key):
            if referrer not in self._rows(table) or (table == relation.name and referrer in going):
                continue
            _require(not self.contract.appends_only(table), "reference")
            foreign = self.catalog.tables[table].foreign_key_of(column)
            _need(foreign is not None)
            assert foreign is not None
            _require(foreign.on_delete not in ("NO ACTION", "RESTRICT"), "reference")
            _need(foreign.on_delete == "CASCADE")
            self._remove(self.catalog.tables[table], referrer)
        del self._rows(relation.name)[key]
        self.touched.add((relation.name, key))

    def _unreferenced(self, relation: Relation, key: Key) -> None:
        _require(next(self._referrers(relation, key), None) is None, "reference")

    def _referrers(self, relation: Relation, key: Key) -> Iterator[tuple[str, str, Key]]:
        """Rows that name this one by its key, with the table and the column they do it in."""
        for table in self.catalog.tables:
            for column, target in self._references(self.catalog.tables[table]):
                if target == relation.name:
                    for other, row in list(self._rows(table).items()):
                        if (row.get(column),) == key:
                            yield table, column, other

    def _references(self, relation: Relation) -> Iterator[tuple[str, str]]:
        """Columns that name a row of another table by its key: those of the contract, then others.

        A foreign key that also has the tenant in it names a row by what is left of it.
        """
        tenancy = self.contract.tenancy
        told = dict(self.contract.references(relation.name))
        yield from told.items()
        for foreign in relation.foreign_keys:
            columns = set(foreign.columns) - {tenancy.column}
            if columns & told.keys() or foreign.target == tenancy.root:
                continue
            named = tuple(
                (c, t)
                for c, t in zip(foreign.columns, foreign.target_columns, strict=True)
                if c != tenancy.column
            )
            target_key = self.catalog.tables[foreign.target].primary_key
            if len(named) == 1 and (named[0][1],) == target_key:
                yield named[0][0], foreign.target

    def _referring(
        self, relation: Relation, row: Mapping[str, Any], given: tuple[str, ...]
    ) -> None:
        """What the given columns refer to exists, in the same tenant; a code may have retired."""
        tenancy = self.contract.tenancy
        if self._scoped(relation):
            _require(self.before.find(tenancy.root, (row.get(tenancy.column),)), "reference")
        for column, table in self._references(relation):
            if column not in given or row.get(column) is None:
                continue
            target = self._rows(table).get((row[column],))
            _require(target is not None, "reference")
            assert target is not None
            if table in tenancy.tables:
                _require(target[tenancy.column] == row.get(tenancy.column), "reference")
            for taxonomy in self.contract.taxonomies:
                if taxonomy.table == table and taxonomy.active:
                    _need(target.get(taxonomy.active, True))
        self._ledger(relation, row, given)

    def _ledger(self, relation: Relation, row: Mapping[str, Any], given: tuple[str, ...]) -> None:
        """A posting carries the amount it posts, a correction names a posting of it."""
        rule = self.contract.ledger_of(relation.name)
        if rule is None or not {rule.amount, rule.posts, rule.corrects} & set(given):
            return
        amount = row.get(rule.amount)
        _need(amount is not None)
        if not rule.is_correction(row):
            source = self._rows(rule.source_table).get((row[rule.posts],))
            _require(source is not None, "reference")
            assert source is not None
            _require(source.get(rule.source_amount) == amount, "amount")
            return
        assert rule.corrects is not None
        posting = self._rows(rule.table).get((row[rule.corrects],))
        _require(posting is not None, "reference")
        assert posting is not None
        _require(not rule.is_correction(posting), "correction of a correction")
        _require(posting[rule.posts] == row[rule.posts], "reference")

    def _posted(self, relation: Relation, key: Key, row: Values, changed: Values) -> None:
        """What postings and corrections say of a row stays true when it changes."""
        for rule in self.contract.ledgers:
            ledger = self._rows(rule.table)
            if relation.name == rule.source_table and (
                row.get(rule.source_amount) != changed.get(rule.source_amount)
            ):
                posted = any(
                    (r.get(rule.posts),) == key and not rule.is_correction(r)
                    for r in ledger.values()
                )
                _require(not posted, "amount")
            if relation.name == rule.table and rule.corrects:
                corrected = any((r.get(rule.corrects),) == key for r in ledger.values())
                same = row.get(rule.posts) == changed.get(rule.posts)
                _require(not corrected or (same and not rule.is_correction(changed)), "reference")

    def _typed(self, column: Column, value: Value) -> None:
        """The type takes the value, whatever else is said of it."""
        _need(not column.generated and not column.is_array)
        if value is not None:
            taken = fits(column, value)
            _need(taken is not None)
            _require(taken, "type")

    def _allowed(self, relation: Relation, column: Column, value: Value) -> None:
        """The contract lets the column take a value of its type."""
        if value is None:
            _require(not column.not_null, "not null")
            return
        governed = self.contract.governs(relation.name, column.name)
        _need(governed or not any(column.name in c.columns for c in relation.checks))
        domain = self.contract.domains.get((relation.name, column.name))
        if domain is not None:
            if domain.one_of is not None:
                _require(value in domain.one_of, "domain")
            elif domain.not_blank and isinstance(value, str):
                _require(value.strip(" "), "domain")
            elif isinstance(value, int | str):
                _require(domain.min is None or float(value) >= domain.min, "domain")
                _require(domain.max is None or float(value) <= domain.max, "domain")
        pii = self.contract.pii_of(relation.name, column.name)
        if pii is not None:
            assert isinstance(value, Json)
            _require(not pii_keys(pii, value.document), "pii")

    def _sums(self) -> None:
        """The transaction ends with every group of what it touched adding up."""
        tenant = self.contract.tenancy.column
        for rule in self.contract.sums:
            if not self._touches(rule.table, rule.total_table):
                continue
            totals = self._rows(rule.total_table)
            sums: dict[Key, int] = {}
            for row in self._rows(rule.table).values():
                if row[tenant] == self.tenant:
                    group = tuple(row.get(c) for c in rule.group_by)
                    _need(row.get(rule.amount) is not None and None not in group)
                    sums[group] = sums.get(group, 0) + row[rule.amount]
            for group, actual in sums.items():
                total = totals.get((group[rule.group_by.index(rule.total_key)],))
                _need(total is not None and total.get(rule.total_column) is not None)
                assert total is not None
                difference = abs(actual - total[rule.total_column])
                _require(difference <= rule.tolerance or self._as_it_was(rule, group), "sum")

    def _touches(self, *tables: str) -> bool:
        return any(t in tables for t, _ in self.touched)

    def _as_it_was(self, rule: Sum, group: Key) -> bool:
        """Whether no row of a group was touched, so that its imbalance is older than this."""
        total = (rule.total_table, (group[rule.group_by.index(rule.total_key)],))
        for name, key in self.touched:
            if name == rule.table:
                for row in (self.before.find(name, key), self._rows(name).get(key)):
                    if row is not None and tuple(row.get(c) for c in rule.group_by) == group:
                        return False
        return total not in self.touched

    def _nets(self) -> None:
        """The transaction ends with no posting below zero, its corrections included."""
        for rule in self.contract.ledgers:
            if not rule.corrects or not self._touches(rule.table):
                continue
            rows = self._rows(rule.table)
            nets = {k: r[rule.amount] for k, r in rows.items() if not rule.is_correction(r)}
            changed = set()
            for key, row in rows.items():
                if rule.is_correction(row):
                    posting = (row[rule.corrects],)
                    nets[posting] = nets.get(posting, 0) + row[rule.amount]
                    if (rule.table, key) in self.touched:
                        changed.add(posting)
                elif (rule.table, key) in self.touched:
                    changed.add(key)
            for name, key in self.touched:
                old = self.before.find(name, key) if name == rule.table else None
                if old is not None and rule.is_correction(old.values):
                    changed.add((old[rule.corrects],))
            _require(all(nets[p] >= 0 for p in changed if p in nets), "net below zero")


def disagreements(
    prediction: Prediction, catalog: Catalog, contract: Contract, step: Step
) -> Iterator[Disagreement]:
    """Where the committed rows are not as predicted: rows amiss, then rows that should not differ.

    The rows an erased tenant leaves come first.
    """
    tenancy = contract.tenancy
    if prediction.erased is not None:
        for table in (tenancy.root, *tenancy.tables):
            for row in step.after.rows(table):
                owner = row.key[0] if table == tenancy.root else row[tenancy.column]
                if owner == prediction.erased:
                    yield Disagreement(table, row.key, "is still there", None)
    for (table, key), values in prediction.present.items():
        row_after = step.after.find(table, key)
        if row_after is None:
            yield Disagreement(table, key, "is missing", {})
            continue
        for name, value in values.items():
            if _differ(catalog.tables[table].columns[name], row_after[name], value):
                what = f"has {name} = {row_after[name]!r} instead of {value!r}"
                yield Disagreement(table, key, what, {name: value})
    for table, key in prediction.absent:
        if step.after.find(table, key) is not None:
            yield Disagreement(table, key, "is still there", None)
    for change in step.changes:
        key = change.record.key
        if (change.table, key) in prediction.present or (change.table, key) in prediction.absent:
            continue
        owner = key[0] if change.table == tenancy.root else change.record.get(tenancy.column)
        if prediction.erased is not None and owner == prediction.erased and change.after is None:
            continue
        if change.before is None:
            yield Disagreement(change.table, key, "is new", None)
        else:
            now = {} if change.after is None else change.after.values
            wanted = {
                c: v
                for c, v in change.before.values.items()
                if c in catalog.tables[change.table].primary_key
                or (v != now.get(c) and catalog.tables[change.table].columns[c].type in _PLAIN)
            }
            word = "is gone" if change.after is None else "has changed"
            yield Disagreement(change.table, key, word, wanted)


def pii_keys(pii: Pii, document: Any) -> list[str]:
    """The keys that name personal data, at any depth of a document."""
    found: list[str] = []
    stack = [document]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            found += [k for k in value if pii.names(k)]
            stack += value.values()
        elif isinstance(value, list):
            stack += value
    return found


def _matches(row: Mapping[str, Any], where: Assignments) -> bool:
    return all(row.get(c) == v for c, v in where)


def _seen(value: Value) -> Any:
    return value.document if isinstance(value, Json) else value


def _differ(column: Column, stored: Any, sent: Any) -> bool:
    """Whether a column certainly holds another value than the one it was given."""
    if stored == sent or column.type in _PLAIN:
        return bool(stored != sent)
    if stored is None or sent is None:
        return True
    try:
        if column.type == "timestamp with time zone":
            return _moment(stored) != _moment(sent)
        if column.type == "numeric" and column.scale >= 0:
            unit = Decimal(1).scaleb(-column.scale)
            # PostgreSQL rounds half away from zero.
            rounded = Decimal(str(sent)).quantize(unit, ROUND_HALF_UP)
            return Decimal(str(stored)) != rounded
    except (ValueError, InvalidOperation):
        # Infinities, say.
        return False
    return False


def _moment(value: Any) -> datetime:
    """A time as the server reads it, whose time zone is UTC."""
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def fits(column: Column, value: Value) -> bool | None:
    """Whether the column's type takes a value, and spells it so; None where that is not known."""
    kind = column.type
    if column.enum:
        return value in column.enum
    if kind in _RANGES:
        return -_RANGES[kind] <= value < _RANGES[kind] if type(value) is int else None
    if kind in ("text", "character varying", "character"):
        if not isinstance(value, str) or "\0" in value:
            return None
        return True if column.length < 0 or len(value) <= column.length else None
    if kind == "boolean":
        return True if isinstance(value, bool) else None
    if kind in ("json", "jsonb"):
        return True if isinstance(value, Json) and _storable(value) else None
    if kind == "uuid":
        return True if isinstance(value, str) and _UUID.match(value) else None
    if kind.startswith("timestamp"):
        return True if isinstance(value, str) and _is_time(value) else None
    if kind == "numeric":
        return True if isinstance(value, str) and _NUMBER.match(value) else None
    return None


def _is_time(value: str) -> bool:
    if not _TIME.match(value):
        return False
    if value.endswith("infinity"):
        return True
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _storable(value: Json) -> bool:
    """Whether jsonb certainly takes a document: it has no NUL, no half of a character, no NaN."""
    try:
        text = json.dumps(value.document, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        return False
    return "\\u0000" not in text
