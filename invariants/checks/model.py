"""What the contract says of an operation: whether it commits, and what it changes and reads.

Written from the contract and the structure of the tables (types, keys, NOT NULL), never from
policies, triggers or privileges. Where the contract leaves something open, the prediction is open
as well: `commits` is None, or there is no prediction at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from invariants.checks.outcome import Key, Prediction
from invariants.checks.refreshing import refreshable
from invariants.checks.ruled import Open, Refused, Rows, need, require
from invariants.checks.values import PLAIN, as_read, comparable, fits, matches
from invariants.contract.contract import Contract
from invariants.execution.history import State
from invariants.schema.catalog import Catalog, Relation, UniqueIndex
from invariants.workload.operations import (
    OPERATOR,
    Assignments,
    Attach,
    Comment,
    Conflict,
    Copy,
    Delete,
    Insert,
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

Values = dict[str, Any]

_PUBLIC = "public"


def predict(
    contract: Contract, catalog: Catalog, before: State, operation: Operation
) -> Prediction | None:
    """What the contract says must come of an operation in this state; None where it is silent."""
    model = _Model(contract, catalog, before, operation)
    try:
        return model.run()
    except Refused as refused:
        if model.rewritten and str(refused) != "privilege":
            # A trigger may have made of it what is permitted.
            return None
        return Prediction(False, str(refused), model.position)
    except Open:
        return None


class _Model(Rows):
    """The rows as the operation's statements change them one after the other."""

    def run(self) -> Prediction:
        need(self.known_as_it_is)
        need(self.role == OPERATOR or self.ownership.says_enough(self.operation.actor))
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
            open_columns=frozenset(self.open_columns),
            open_tables=frozenset(self.open_tables),
        )
        return replace(prediction, commits=None) if self._may_fail() else prediction

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Refresh():
                need(self.role == OPERATOR)
                need(refreshable(self.contract, self.catalog, statement))
            case Select():
                self._select(statement)
            case Insert():
                self._insert(statement)
            case Copy(relation, columns, rows):
                # COPY is open where rows are isolated by policies: PostgreSQL does not support it.
                self._insert(Insert(relation, columns, rows, overriding=True))
                self.open_end = self.open_end or relation in self.contract.tenancy.owned
            case Merge():
                self._merge(statement)
            case Update():
                self._update(statement)
            case Delete():
                self._delete(statement)
            case Comment():
                need(self._is_anybody())
                require(False, "ownership")
            case Attach(relation):
                borrowed = [r for r in self.catalog.routines if r.signature == relation]
                need(self._is_anybody() and any(r.security_definer for r in borrowed))
                # What everybody may run by default is no harm yet, if nobody has said otherwise.
                routine = self.catalog.definitions.routine.get(relation.removeprefix("public."))
                need(self.contract.rows or routine is None or _PUBLIC not in routine.executable_by)
                require(False, "execution")
            case Truncate():
                self._truncate(statement)
            case Shadow():
                # Who may not make it is refused, and what finds it may well be.
                self.open_end = True
            case _:
                raise Open

    def _truncate(self, statement: Truncate) -> None:
        """TRUNCATE takes the rows of every tenant, and may be of what the role repairs."""
        need(not self.contract.is_unplaced(statement.relation))
        if self.contract.repairs(self.role, statement.relation):
            emptied = self._emptied(statement.relation)
            # What is still to be checked about a table keeps it from being emptied.
            need(not self._touches(*emptied))
            require(statement.cascade or emptied == {statement.relation}, "reference")
            need(emptied <= {*self.contract.tenancy.owned})
            for table in emptied:
                self.touched |= {(table, key) for key in self._rows(table)}
                self.tables[table] = {}
            return
        special = {OPERATOR, self.contract.tenancy.erased_by, *self.contract.repair_roles}
        may = self.contract.may(self.role, "truncate", statement.relation)
        require(self.role in special or may, "privilege")
        raise Open

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
        """Whether an error is as good as an answer without rows: the session names no tenant."""
        if self.open_end or self.role == OPERATOR:
            return self.open_end
        actor = self.operation.actor
        if not self.ownership.by_setting or self.ownership.names_somebody(actor):
            return False
        # A contract that says what rows hold says as well that nobody gets an empty answer.
        return bool(actor.tenant or actor.said) or not self.contract.rows

    def _erasure(self) -> Prediction | None:
        root = self.contract.tenancy.root
        if root is None:
            return None
        key = self.catalog.tables[root].primary_key
        match self.operation.statements:
            case (Delete(relation, ((column, value),)),) if relation == root and (column,) == key:
                need(fits(self.catalog.tables[root].columns[column], value))
                there = self.before.find(root, (value,)) is not None
                return Prediction(True, erased=str(value) if there else None)
            case (Delete(relation),) if relation == root:
                # Several tenants at once, or found by something else than the key.
                raise Open
        return None

    def _relation(self, verb: str, name: str) -> Relation:
        """A relation the actor may use so; maintenance is bound where the contract speaks of it."""
        relation = self.catalog.relations.get(name)
        need(relation is not None)
        assert relation is not None
        need(relation.kind != "table" or not self.contract.is_unplaced(name))
        # Of the rows that all tenants share the contract does not say who sees which.
        need(name not in self.contract.tenancy.shared or not relation.row_security)
        if self.role == OPERATOR:
            root = name == self.contract.tenancy.root and verb == "insert"
            need(root or any(t.table == name for t in self.contract.taxonomies))
        elif not self.contract.may(self.role, verb, name):
            # Who erases tenants may as well look for them, and an owner may do anything.
            tenancy = self.contract.tenancy
            erasing = (self.role, name) == (tenancy.erased_by, tenancy.root)
            need(not (erasing and verb in ("select", "delete")))
            need(self._is_anybody() or relation.owner != self.role)
            require(False, "privilege")
        return relation

    def _writable(self, verb: str, name: str) -> Relation:
        relation = self._relation(verb, name)
        need(relation.kind == "table" and relation.primary_key)
        return relation

    def _select(self, statement: Select) -> None:
        relation = self._relation("select", statement.relation)
        if relation.kind != "table":
            # What a view shows is for the read path to say; that it can be read is said here.
            need(not statement.where and not statement.leak)
            need(set(statement.columns) <= relation.columns.keys())
            return
        need(not statement.leak)
        need(set(statement.columns) <= relation.columns.keys())
        if statement.columns and not set(relation.primary_key) <= set(statement.columns):
            return
        need(relation.primary_key)
        need(all(comparable(relation.columns[c]) for c in relation.primary_key))
        self.selected[self.position] = (
            relation.name,
            frozenset(key for key, _ in self._seen_by_actor(relation, statement.where)),
        )

    def _seen_by_actor(
        self, relation: Relation, where: Assignments, verb: str = "select"
    ) -> list[tuple[Key, Values]]:
        """The rows a condition finds among those of the actor's tenant, to do this with them."""
        need(not any(self._policies(relation, v) for v in {"select", verb}))
        need(all(self._comparable(relation, c, v) for c, v in where))
        scoped = self._scoped(relation)
        return [
            (key, row)
            for key, row in list(self._rows(relation.name).items())
            if matches(row, where) and (not scoped or self._mine(relation, row))
        ]

    def _comparable(self, relation: Relation, column: str, value: Value) -> bool:
        found = relation.columns.get(column)
        if found is None or found.type not in PLAIN or found.type == "jsonb":
            return False
        return value is None or bool(fits(found, value))

    def _insert(self, statement: Insert) -> None:
        relation = self._writable("insert", statement.relation)
        self._deciding(relation, "insert")
        conflict = statement.conflict
        if conflict is not None:
            # PostgreSQL has no ON CONFLICT, and no MERGE, for tables with rules.
            need(not self._has_rules(relation))
            # The rows that are in the way are read, and those that come have to be seen.
            self.open_end = self.open_end or bool(self._policies(relation, "select"))
        if conflict is not None and conflict.updates:
            self._deciding(relation, "update")
            require(self.contract.may(self.role, "update", relation.name), "privilege")
            need(conflict.target == relation.primary_key and not conflict.where)
            # What a row does not say is its default there.
            need(set(conflict.updates) <= set(statement.columns))
        elif conflict is not None:
            need(not conflict.target and not conflict.where)
        need(len(set(statement.columns)) == len(statement.columns))
        need(statement.overriding or not relation.overrides(statement.columns))
        for values in statement.rows:
            row = dict(zip(statement.columns, values, strict=True))
            self._new(relation, row)
            key = self._key(relation, row)
            if conflict is not None and conflict.updates and key in self._rows(relation.name):
                self._overwrite(relation, key, row, conflict)
            elif self._taken(relation, row, key):
                require(conflict is not None and not conflict.updates, "unique")
            else:
                self._add(relation, key, row)

    def _has_rules(self, relation: Relation) -> bool:
        return any(r.table == relation.name for r in self.catalog.definitions.rules)

    def _new(self, relation: Relation, row: Mapping[str, Value]) -> None:
        """A row as it would be inserted, before anything is known of others."""
        for name in row:
            need(name in relation.columns)
        for column in relation.columns.values():
            if column.name in row:
                self._typed(relation, column, row[column.name])
        if self._scoped(relation):
            need(self._says_whose(relation, row))
            require(self._mine(relation, self._as_read(relation, row)), "tenant")
        for column in relation.columns.values():
            if column.name in row:
                self._allowed(relation, column, row[column.name])
            else:
                require(not column.not_null or column.has_default or column.generated, "not null")
        self._left_out(relation, row)
        need(all(row.get(c) is not None for c in relation.primary_key))
        self._keyed(relation.name, row)

    def _says_whose(self, relation: Relation, row: Mapping[str, Value]) -> bool:
        """Whether a row says itself whose it is; else a default may do so."""
        columns = relation.columns
        return all(c in row or not columns[c].has_default for c in self._whose(relation))

    def _whose(self, relation: Relation) -> set[str]:
        """The columns that say whose a row is, and where it belongs within the tenant."""
        tenancy = self.contract.tenancy
        told = tenancy.scoped_by.get(relation.name, tenancy.column)
        if relation.name == tenancy.root:
            told = relation.id_column
        tied = {c for t, c in tenancy.tied if t == relation.name}
        return {told, *tied, *(w.column for w in tenancy.within)} & relation.columns.keys()

    def _add(self, relation: Relation, key: Key, row: Mapping[str, Value]) -> None:
        self._referring(relation, row, tuple(row))
        self._rows(relation.name)[key] = self._as_read(relation, row)
        self.touched.add((relation.name, key))

    def _overwrite(
        self, relation: Relation, key: Key, row: Mapping[str, Value], conflict: Conflict
    ) -> None:
        """ON CONFLICT DO UPDATE of a row that is there."""
        old = self._rows(relation.name)[key]
        if self._scoped(relation):
            require(self._mine(relation, old), "tenant")
        need((relation.name, key) not in self.touched)
        self._change(relation, key, old, {c: row.get(c) for c in conflict.updates})

    def _merge(self, statement: Merge) -> None:
        relation = self._writable("insert", statement.relation)
        for verb in ("select", *(("update",) if statement.updates else ())):
            require(self.contract.may(self.role, verb, relation.name), "privilege")
        need(not self._has_rules(relation))
        self._deciding(relation, "insert")
        if statement.updates:
            self._deciding(relation, "update")
        need(statement.on == relation.primary_key)
        need(len(set(statement.columns)) == len(statement.columns))
        need({*statement.on, *statement.updates} <= set(statement.columns))
        row = dict(zip(statement.columns, statement.row, strict=True))
        for name, value in row.items():
            need(name in relation.columns)
            self._typed(relation, relation.columns[name], value)
        need(statement.overriding or not relation.overrides(statement.columns))
        key = self._key(relation, row)
        matched = dict(self._seen_by_actor(relation, tuple(zip(statement.on, key, strict=True))))
        if key in matched:
            if statement.updates:
                self._change(relation, key, matched[key], {c: row[c] for c in statement.updates})
            return
        self._new(relation, row)
        require(not self._taken(relation, row, key), "unique")
        self._add(relation, key, row)

    def _taken(self, relation: Relation, row: Mapping[str, Any], key: Key) -> bool:
        """Whether a row with one of this row's keys is there already.

        A table that the contract gives keys has those, within its tenant, besides the primary key;
        one of which it says what a row holds has no other; any other has the unique indexes that
        the database has.
        """
        rows = self._rows(relation.name)
        need(not rows or not relation.exclusions)
        return key in rows or any(
            self._same(relation, row, other) for k, other in rows.items() if k != key
        )

    def _same(
        self,
        relation: Relation,
        row: Mapping[str, Any],
        other: Mapping[str, Any],
        changed: Collection[str] | None = None,
    ) -> bool:
        """Whether two rows have the same key; of those that the `changed` columns are part of."""
        if any(rule.table == relation.name for rule in self.contract.idempotency):
            tenant = self.contract.tenancy.column
            mine = self.contract.key_of(relation.name, row)
            return (
                mine is not None
                and row.get(tenant) == other.get(tenant)
                and mine == self.contract.key_of(relation.name, other)
            )
        for unique in () if relation.name in self.contract.rows else relation.uniques:
            part = {*unique.columns, *unique.within}
            if changed is not None and not (unique.predicate or part & set(changed)):
                continue
            if self._equal_by(unique, relation, row, other):
                return True
        return False

    def _equal_by(
        self,
        unique: UniqueIndex,
        relation: Relation,
        row: Mapping[str, Any],
        other: Mapping[str, Any],
    ) -> bool:
        """Whether two rows have the same key of a unique index, as far as that can be told."""
        columns = [relation.columns[c] for c in unique.columns]
        told = [c.name for c in columns if comparable(c)]
        # What a row does not say is its default, if it has one.
        open_ = [c.name for c in columns if c.has_default and c.name not in row]
        if any(row.get(c) != other.get(c) for c in told if c not in open_):
            return False
        empty = any(row.get(c.name) is None for c in columns if c.name not in open_)
        if empty and not unique.nulls_equal and not unique.expressions:
            return False
        plain = not unique.expressions and unique.predicate is None and unique.immediate
        need(plain and len(told) == len(columns) and not open_ and not empty)
        return bool(columns)

    def _key(self, relation: Relation, row: Mapping[str, Value]) -> Key:
        """The primary key as it is read back."""
        columns = [relation.columns[c] for c in relation.primary_key]
        need(all(comparable(c) for c in columns))
        return tuple(as_read(c, row.get(c.name)) for c in columns)

    def _as_read(self, relation: Relation, row: Mapping[str, Value]) -> Values:
        return {c: as_read(relation.columns[c], v) for c, v in row.items()}

    def _update(self, statement: Update) -> None:
        relation = self._writable("update", statement.relation)
        self._deciding(relation, "update")
        assign = dict(statement.assign)
        for name, value in assign.items():
            need(name in relation.columns)
            need(name not in relation.primary_key or self.role == OPERATOR)
            need(not relation.columns[name].generated)
            self._typed(relation, relation.columns[name], value)
        for key, row in self._seen_by_actor(relation, statement.where, "update"):
            self._change(relation, key, row, assign)

    def _change(
        self, relation: Relation, key: Key, row: Values, assign: Mapping[str, Value]
    ) -> None:
        changed = {**row, **self._as_read(relation, assign)}
        if self._scoped(relation) and self._whose(relation) & assign.keys():
            require(self._mine(relation, changed), "tenant")
        for name, value in assign.items():
            self._allowed(relation, relation.columns[name], value)
        self._keyed(relation.name, changed)
        new_key = tuple(changed[c] for c in relation.primary_key)
        if new_key != key:
            need(self.role == OPERATOR and all(isinstance(v, str) for v in new_key))
            require(new_key not in self._rows(relation.name), "unique")
            self._unreferenced(relation, key)
        need(not relation.exclusions)
        others = (o for k, o in self._rows(relation.name).items() if k != key)
        require(
            not any(
                self._same(relation, changed, o, assign) and not self._same(relation, row, o)
                for o in others
            ),
            "unique",
        )
        self._named_as_before(relation, key, [c for c in assign if changed[c] != row.get(c)])
        self._referring(relation, changed, tuple(assign))
        self._posted(relation, key, row, changed)
        del self._rows(relation.name)[key]
        self._rows(relation.name)[new_key] = changed
        self.touched |= {(relation.name, key), (relation.name, new_key)}

    def _delete(self, statement: Delete) -> None:
        relation = self._writable("delete", statement.relation)
        self._deciding(relation, "delete")
        found = [key for key, _ in self._seen_by_actor(relation, statement.where, "delete")]
        going = {(relation.name, key) for key in found}
        for key in found:
            self._remove(relation, key, going)

    def _remove(self, relation: Relation, key: Key, going: set[tuple[str, Key]]) -> None:
        """Remove a row and, where a foreign key says so, what refers to it.

        Those `going` are removed by the same statement; rows may refer to each other, or to
        themselves.
        """
        for reference, table, referrer in self._referrers(relation, key):
            if referrer not in self._rows(table) or (table, referrer) in going:
                continue
            going.add((table, referrer))
            require(not self.contract.appends_only(table), "reference")
            foreign = reference.key
            need(foreign is not None)
            assert foreign is not None
            need(not foreign.deferred or len(self.operation.statements) == 1)
            require(foreign.on_delete not in ("NO ACTION", "RESTRICT"), "reference")
            need(foreign.on_delete == "CASCADE")
            self._deciding(self.catalog.tables[table], "delete")
            self._remove(self.catalog.tables[table], referrer, going)
        del self._rows(relation.name)[key]
        self.touched.add((relation.name, key))
