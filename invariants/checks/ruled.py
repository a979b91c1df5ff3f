"""What the contract's rules say of rows as an operation changes them, one after the other."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any

from invariants.checks.decided import NOTHING, decided
from invariants.checks.outcome import Key
from invariants.checks.ownership import Ownership, printed
from invariants.checks.references import Reference, references
from invariants.checks.values import comparable, exact, fits, pii_keys
from invariants.checks.visibility import deciding
from invariants.contract.contract import ANYBODY, Contract
from invariants.contract.sections import Ledger, Sum
from invariants.execution.history import State
from invariants.schema.catalog import Catalog, Check, Column, Relation
from invariants.workload.operations import OPERATOR, Json, Operation, Value

Values = dict[str, Any]

# What a CHECK says that may be false of columns in which there is nothing.
_OF_NOTHING = re.compile(r"\bNOT NULL\b|\bnum_n|\bDISTINCT\b|coalesce", re.IGNORECASE)


class Open(Exception):
    """The contract does not say."""


class Refused(Exception):
    """The contract does not permit it, by the rule named."""


def need(condition: object) -> None:
    """Without it the contract does not say what happens."""
    if not condition:
        raise Open


def require(condition: object, rule: str) -> None:
    """Without it the operation is to be refused."""
    if not condition:
        raise Refused(rule)


class Rows:
    """The rows as they change, with the rules that bind them."""

    def __init__(
        self, contract: Contract, catalog: Catalog, before: State, operation: Operation
    ) -> None:
        self.contract, self.catalog = contract, catalog
        self.before, self.operation = before, operation
        self.role, self.tenant = operation.actor.role, operation.actor.tenant
        # Whether the schema knows a tenant that is spelled otherwise is for the schema to say.
        self.ownership = Ownership(contract, catalog)
        self.known_as_it_is = self.ownership.meant(self.tenant) == self.tenant
        self.acting = self.ownership.tenants_of(operation.actor, (before,)) - {None}
        self._references = references(contract, catalog)
        self.tables: dict[str, dict[Key, Values]] = {}
        self.touched: set[tuple[str, Key]] = set()
        self.selected: dict[int, tuple[str, frozenset[Key]]] = {}
        self.position = -1
        self.open_end = False
        # What triggers decide, and whether the rows that are judged may be others than were sent.
        self.open_columns: set[tuple[str, str]] = set()
        self.open_tables: set[str] = set(contract.written_by_triggers.tables)
        self.rewritten = False

    def _deciding(self, relation: Relation, verb: str) -> None:
        """Take note of what policies, triggers and rules decide when a relation is written so."""
        self.open_end = self.open_end or bool(self._policies(relation, verb))
        found = decided(self.contract, self.catalog, relation.name, verb)
        if found is NOTHING:
            return
        # A row that triggers write again is none of which anything could be said.
        need(relation.name not in found.tables or relation.name in self.open_tables)
        need(not found.skips)
        self.open_end = self.open_end or found.refuses
        self.open_columns |= {(relation.name, c) for c in found.columns}
        self.open_tables |= found.tables
        self.rewritten = self.rewritten or found.rewrites

    def _policies(self, relation: Relation, verb: str) -> tuple[str, ...]:
        """The policies that ask this actor for more than the contract speaks of."""
        if self.role == OPERATOR:
            return ()
        return deciding(self.contract, self.catalog, relation.name, verb)

    def _is_anybody(self) -> bool:
        """Whether the role owns nothing, as far as the contract knows."""
        return self.role in (*self.contract.application_roles, ANYBODY)

    def _rows(self, table: str) -> dict[Key, Values]:
        if table not in self.tables:
            self.tables[table] = {r.key: dict(r.values) for r in self.before.rows(table)}
        return self.tables[table]

    def _scoped(self, relation: Relation) -> bool:
        """Whether rows of the relation belong to tenants."""
        return self.ownership.owned(relation.name)

    def _owner(self, table: str, row: Mapping[str, Any]) -> str | None:
        return self.ownership.owner(table, row, self._find)

    def _find(self, table: str, wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return next((r for r in self._rows(table).values() if wanted.items() <= r.items()), None)

    def _mine(self, relation: Relation, row: Mapping[str, Any]) -> bool:
        """Whether a row belongs to a tenant that the session acts for, where it acts within it."""
        actor = self.operation.actor
        if self.role == OPERATOR:
            return True
        if self._owner(relation.name, row) not in self.acting:
            return False
        if self.ownership.beyond(relation, row, actor):
            return False
        # Whether the rows of another user of one's own tenant are one's own is not said.
        tied = self.ownership.tied(relation.name, actor)
        need(all(printed(row.get(c)) == value for c, value in tied.items()))
        return True

    def _keyed(self, table: str, row: Mapping[str, Any]) -> None:
        """The contract wants a key by which a second delivery is recognised."""
        ledger = self.contract.ledger_of(table)
        if ledger is not None and ledger.is_correction(row):
            return
        columns = self.catalog.tables[table].columns
        for rule in self.contract.idempotency:
            if rule.table == table:
                defaults = {c for key in rule.keys for c in key if columns[c].has_default}
                need(defaults <= row.keys())
                require(self.contract.key_of(table, row), "key")

    def _unreferenced(self, relation: Relation, key: Key) -> None:
        require(next(self._referrers(relation, key), None) is None, "reference")

    def _named_as_before(self, relation: Relation, key: Key, changed: Collection[str]) -> None:
        """What rows are named by, besides their key, is not said to change while they are."""
        for reference, _, _ in self._referrers(relation, key):
            need(not set(reference.target_columns) & set(changed) - {*relation.primary_key})

    def _referrers(self, relation: Relation, key: Key) -> Iterator[tuple[Reference, str, Key]]:
        """Rows that name this one, with the reference by which and the table in which they do."""
        named = self._rows(relation.name)[key]
        for table, known in self._references.items():
            for reference in known:
                if reference.target == relation.name:
                    for other, row in list(self._rows(table).items()):
                        if reference.names(row, named):
                            yield reference, table, other

    def _referring(
        self, relation: Relation, row: Mapping[str, Any], given: tuple[str, ...]
    ) -> None:
        """What the given columns refer to exists, in the same tenant; a code may have retired."""
        tenancy = self.contract.tenancy
        if relation.name in self.ownership.direct and tenancy.root:
            owner, key = printed(row.get(tenancy.column)), self._id_of(tenancy.root)
            there = (printed(r[key]) for r in self.before.rows(tenancy.root))
            require(owner in there, "reference")
        for reference in self._references[relation.name]:
            if not set(reference.columns) & set(given):
                continue
            # What is not said is its default, if it has one.
            columns = [relation.columns[c] for c in reference.columns]
            need(not any(c.has_default and c.name not in row for c in columns))
            empty = [row.get(c.name) is None for c in columns]
            if any(empty):
                need(all(empty) or reference.key is None or not reference.key.full)
                continue
            target = self._referred(relation, reference, row)
            for taxonomy in self.contract.taxonomies:
                if taxonomy.table == reference.target and taxonomy.active:
                    need(target.get(taxonomy.active, True))
        self._ledger(relation, row, given)

    def _referred(
        self, relation: Relation, reference: Reference, row: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The row that is named, of the same tenant where it is anybody's.

        A row may name itself, or one that the same statement brings.
        """
        table = self.catalog.tables[reference.target]
        if table.name == relation.name:
            if reference.names(row, row):
                return row
            need(len(getattr(self.operation.statements[self.position], "rows", "1")) == 1)
        need(all(comparable(table.columns[c]) for c in reference.target_columns))
        rows, wanted = self._rows(table.name), tuple(row[c] for c in reference.columns)
        if reference.target_columns == table.primary_key:
            found = [rows[wanted]] if wanted in rows else []
        else:
            named = reference.target_columns
            found = [r for r in rows.values() if tuple(r.get(c) for c in named) == wanted]
        if reference.target in self.contract.tenancy.owned and self._scoped(relation):
            owner = self._owner(relation.name, row)
            found = [r for r in found if self._owner(table.name, r) == owner]
        later = reference.key is not None and reference.key.deferred
        need(found or not later or len(self.operation.statements) == 1)
        require(found, "reference")
        return found[0]

    def _id_of(self, table: str) -> str:
        return self.catalog.tables[table].id_column

    def _ledger(self, relation: Relation, row: Mapping[str, Any], given: tuple[str, ...]) -> None:
        """A posting carries the amount it posts, a correction names a posting of it."""
        rule = self.contract.ledger_of(relation.name)
        if rule is None or not {rule.amount, rule.posts, rule.corrects} & set(given):
            return
        amount = row.get(rule.amount)
        need(amount is not None)
        if not rule.is_correction(row):
            source = self._rows(rule.source_table).get((row[rule.posts],))
            require(source is not None, "reference")
            assert source is not None
            if rule.partial:
                need(source.get(rule.source_amount) is not None)
                posted = self._parts(rule, row[rule.posts], row) + exact(amount)
                require(posted <= exact(source[rule.source_amount]), "amount")
                return
            require(source.get(rule.source_amount) == amount, "amount")
            return
        assert rule.corrects is not None
        posting = self._rows(rule.table).get((row[rule.corrects],))
        require(posting is not None, "reference")
        assert posting is not None
        require(not rule.is_correction(posting), "correction of a correction")
        require(posting[rule.posts] == row[rule.posts], "reference")

    def _parts(self, rule: Ledger, posts: Any, besides: Mapping[str, Any] | None = None) -> Decimal:
        """What is posted of a row in parts, besides one posting."""
        key = self.catalog.tables[rule.table].primary_key
        left_out = None if besides is None else tuple(besides.get(c) for c in key)
        postings = [
            row
            for k, row in self._rows(rule.table).items()
            if k != left_out and row.get(rule.posts) == posts and not rule.is_correction(row)
        ]
        need(all(row.get(rule.amount) is not None for row in postings))
        return sum((exact(row[rule.amount]) for row in postings), Decimal(0))

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
                if rule.partial and posted:
                    need(changed.get(rule.source_amount) is not None)
                    parts = self._parts(rule, key[0])
                    require(parts <= exact(changed[rule.source_amount]), "amount")
                else:
                    require(not posted, "amount")
            if relation.name == rule.table and rule.corrects:
                corrected = any((r.get(rule.corrects),) == key for r in ledger.values())
                same = row.get(rule.posts) == changed.get(rule.posts)
                require(not corrected or (same and not rule.is_correction(changed)), "reference")

    def _typed(self, relation: Relation, column: Column, value: Value) -> None:
        """The type takes the value, whatever else is said of it."""
        need(column.choosable and not column.is_array)
        # A domain refuses a value, or none, before there is a row.
        need(value is not None or not (column.constrained and column.not_null))
        if value is not None:
            taken = fits(column, value)
            need(taken is not None)
            require(taken, "type")
            promised = (relation.name, column.name) in self.contract.domains
            need(promised or not column.constrained or self._tried(relation, column, value))

    def _allowed(self, relation: Relation, column: Column, value: Value) -> None:
        """The contract lets the column take a value of its type."""
        if value is None:
            require(not column.not_null, "not null")
            need(not any(self._asks_for(relation, c, column.name) for c in relation.checks))
            return
        domain = self.contract.domains.get((relation.name, column.name))
        governed = self.contract.governs(relation.name, column.name)
        need(governed or self._let_in(relation, column, value))
        if domain is not None:
            if domain.one_of is not None:
                require(value in domain.one_of, "domain")
            elif domain.not_blank and isinstance(value, str):
                require(value.strip(" "), "domain")
            elif isinstance(value, int | str):
                require(domain.min is None or float(value) >= domain.min, "domain")
                require(domain.max is None or float(value) <= domain.max, "domain")
        pii = self.contract.pii_of(relation.name, column.name)
        if pii is not None:
            assert isinstance(value, Json)
            require(not pii_keys(pii, value.document), "pii")

    def _asks_for(self, relation: Relation, check: Check, column: str) -> bool:
        """Whether a CHECK may refuse that there is nothing in a column."""
        if column not in check.columns:
            return False
        if all(self.contract.governs(relation.name, c) for c in check.columns):
            return False
        return len(check.columns) > 1 or bool(_OF_NOTHING.search(check.definition))

    def _left_out(self, relation: Relation, given: Collection[str]) -> None:
        """No CHECK may ask for columns of which a row says nothing and that have no defaults."""
        for check in relation.checks:
            plain = all(not relation.columns[c].has_default for c in check.columns)
            asks = any(self._asks_for(relation, check, c) for c in check.columns)
            out = plain and asks and not {*check.columns} & set(given)
            need(not out or not _OF_NOTHING.search(check.definition))

    def _let_in(self, relation: Relation, column: Column, value: Value) -> bool:
        """Whether no CHECK and no partition keeps a value out, as far as that was tried."""
        bound = [c for c in relation.checks if column.name in c.columns]
        alone = all(c.columns == (column.name,) for c in bound)
        routed = column.name in relation.routed_by
        alone = alone and (not routed or len(relation.routed_by) == 1)
        return not (bound or routed) or (alone and self._tried(relation, column, value))

    def _tried(self, relation: Relation, column: Column, value: Value) -> bool:
        found = self.catalog.samples.of(relation.name, column.name)
        return found is not None and value in found.known

    def _sums(self) -> None:
        """The transaction ends with every group of what it touched adding up."""
        tenant = self.contract.tenancy.column
        for rule in self.contract.sums:
            if not self._touches(rule.table, rule.total_table):
                continue
            totals = self._rows(rule.total_table)
            sums: dict[Key, Decimal] = {}
            for row in self._rows(rule.table).values():
                if printed(row[tenant]) == self.tenant:
                    group = tuple(row.get(c) for c in rule.group_by)
                    need(row.get(rule.amount) is not None and None not in group)
                    sums[group] = sums.get(group, Decimal(0)) + exact(row[rule.amount])
            for group, actual in sums.items():
                total = totals.get((group[rule.group_by.index(rule.total_key)],))
                need(total is not None and total.get(rule.total_column) is not None)
                assert total is not None
                difference = abs(actual - exact(total[rule.total_column]))
                require(difference <= rule.tolerance or self._as_it_was(rule, group), "sum")

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
            require(all(nets[p] >= 0 for p in changed if p in nets), "net below zero")
