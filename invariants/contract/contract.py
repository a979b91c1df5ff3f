"""The contract: what a schema promises, and what follows from it for a table, a row or a role.

`load` reads it from `invariants.toml`, `at` is what it says at a revision, `bind` checks that what
it names exists in a database.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from invariants.contract import chain
from invariants.contract.binding import bind, missing, named
from invariants.contract.chain import Migrating
from invariants.contract.placing import placed
from invariants.contract.promised import promised
from invariants.contract.sections import (
    AppendOnly,
    Domain,
    Idempotency,
    Ledger,
    Pii,
    ReadPath,
    RowColumn,
    Sum,
    Taxonomy,
    Tenancy,
    WrittenByTriggers,
)
from invariants.errors import UsageError
from invariants.schema.catalog import Catalog

# A role that every server has and that owns nothing: what it may do, everybody may.
ANYBODY = "pg_signal_backend"

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Contract:
    """Everything a schema promises. Build it with `load`, check it with `bind` to a database."""

    path: Path
    tenancy: Tenancy
    roles: Mapping[str, Mapping[str, frozenset[str]]]
    append_only: tuple[AppendOnly, ...] = ()
    sums: tuple[Sum, ...] = ()
    idempotency: tuple[Idempotency, ...] = ()
    taxonomies: tuple[Taxonomy, ...] = ()
    domains: Mapping[tuple[str, str], Domain] = field(default_factory=dict)
    clock_columns: frozenset[tuple[str, str]] = frozenset()
    accepted: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    ledgers: tuple[Ledger, ...] = ()
    pii: Pii | None = None
    read_paths: tuple[ReadPath, ...] = ()
    rows: Mapping[str, tuple[RowColumn, ...]] = field(default_factory=dict)
    introduced: Mapping[str, str] = field(default_factory=dict)
    migrations: Migrating = field(default_factory=Migrating)
    strategies: tuple[str, ...] = ()
    """Python modules with the user's own rows and operations, looked up beside the file."""
    references_to: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """Columns that name a row of another table, where no foreign key says so: of which column."""
    written_by_triggers: WrittenByTriggers = field(default_factory=WrittenByTriggers)
    formerly: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What later revisions rename, `table.column`: to what it is called at the one at hand."""
    later: frozenset[str] = field(default=frozenset(), compare=False)
    """Of `introduced`, what is not there yet at the revision at hand: see `at`."""
    anywhere: frozenset[str] = field(default=frozenset(), compare=False)
    """The relations that the contract places at some revision: see `placing`."""
    unplaced: frozenset[str] | None = field(default=None, compare=False)
    """Those that roles reach and it does not place; None until a database has been asked."""

    def at(self, lineage: Collection[str], known: Collection[str]) -> Contract:
        """What the contract says at a revision: without what later revisions introduce.

        What they rename goes by its old name. `lineage` are the revisions from base to that one,
        `known` those of the whole chain. Raises `UsageError` when `introduced` names a revision
        that does not exist.
        """
        newest_first = [r for r in known if r not in lineage][::-1]
        then = self
        for revision in newest_first:
            then = chain.before(then, self.migrations.of(revision).renames)
        return then._introduced_by(lineage, known)

    def _introduced_by(self, lineage: Collection[str], known: Collection[str]) -> Contract:
        for name, revision in self.introduced.items():
            if revision not in known:
                raise self.fault(
                    f'introduced."{name}"',
                    f"there is no revision {revision!r}",
                    "name one by its full id",
                )
        return self.without(n for n, r in self.introduced.items() if r not in lineage)

    def there(self, catalog: Catalog) -> Contract:
        """What the contract says where only what the catalog has is there."""
        return self.without(missing(self, catalog))

    def without(self, names: Iterable[str]) -> Contract:
        """What the contract says where some tables and columns, `table.column`, are not there."""
        later = frozenset(names)
        now = {n: revision for n, revision in self.introduced.items() if n not in later}

        def there(table: str, *columns: str) -> bool:
            return table not in later and not any(f"{table}.{c}" in later for c in columns)

        return replace(
            self,
            introduced=now,
            later=self.later | later,
            anywhere=self.anywhere | placed(self),
            tenancy=self._tenancy_at(there),
            roles={
                role: {r: verbs for r, verbs in grants.items() if there(r)}
                for role, grants in self.roles.items()
            },
            append_only=tuple(a for a in self.append_only if there(a.table)),
            sums=tuple(
                s
                for s in self.sums
                if there(s.table, s.amount, *s.group_by) and there(s.total_table, s.total_column)
            ),
            idempotency=tuple(
                i for i in self.idempotency if there(i.table, *(c for k in i.keys for c in k))
            ),
            taxonomies=tuple(
                replace(
                    t,
                    active=t.active if t.active and there(t.table, t.active) else None,
                    used_by=tuple(c for c in t.used_by if there(*c)),
                )
                for t in self.taxonomies
                if there(t.table, t.code)
            ),
            domains={c: d for c, d in self.domains.items() if there(*c)},
            rows={
                table: tuple(c for c in columns if there(table, c.name))
                for table, columns in self.rows.items()
                if there(table)
            },
            clock_columns=frozenset(c for c in self.clock_columns if there(*c)),
            references_to={
                c: target
                for c, target in self.references_to.items()
                if there(*c) and there(*target)
            },
            written_by_triggers=WrittenByTriggers(
                frozenset(c for c in self.written_by_triggers.columns if there(*c)),
                frozenset(t for t in self.written_by_triggers.tables if there(t)),
            ),
            ledgers=tuple(
                rule
                if rule.corrects and there(rule.table, rule.corrects)
                # Before there is a column for them there are no corrections.
                else replace(rule, corrects=None)
                for rule in self.ledgers
                if there(rule.table, rule.amount, rule.posts)
                and there(rule.source_table, rule.source_amount)
            ),
            pii=self.pii
            and replace(self.pii, columns=tuple(c for c in self.pii.columns if there(*c))),
            read_paths=tuple(
                r
                for r in self.read_paths
                if there(r.view, *(c.name for c in r.columns))
                and there(r.filled_by)
                and there(r.table, *r.latest_by, *(c.source for c in r.columns))
            ),
        )

    @property
    def columns_named(self) -> frozenset[tuple[str, str]]:
        """The columns that the contract speaks of, each with its table."""
        return frozenset(named(self))

    def _tenancy_at(self, there: Callable[..., bool]) -> Tenancy:
        tenancy = self.tenancy
        return replace(
            tenancy,
            tables=tuple(t for t in tenancy.tables if there(t)),
            scoped_by={t: c for t, c in tenancy.scoped_by.items() if there(t, c)},
            shared=tuple(t for t in tenancy.shared if there(t)),
            tied={c: template for c, template in tenancy.tied.items() if there(*c)},
        )

    def promised(self, catalog: Catalog) -> Catalog:
        """The catalog with what the contract says of rows in place of what the database does.

        Rows are made, and outcomes predicted, from it: a column that has lost its NOT NULL, its
        length or its key is judged by what was promised of it.
        """
        return promised(self.rows, self.tenancy.column, catalog)

    def pii_of(self, table: str, column: str) -> Pii | None:
        """What names personal data, for a column whose documents must not."""
        return self.pii if self.pii and (table, column) in self.pii.columns else None

    def ledger_of(self, table: str) -> Ledger | None:
        """The rule for a table that is a ledger."""
        return next((rule for rule in self.ledgers if rule.table == table), None)

    def key_of(self, table: str, row: Mapping[str, Any]) -> tuple[tuple[str, ...], Key] | None:
        """The columns and values by which a second delivery of a row is recognised, if any are set.

        A correction has none: what it posts is the posting's.
        """
        ledger = self.ledger_of(table)
        if ledger is not None and ledger.is_correction(row):
            return None
        for rule in self.idempotency:
            if rule.table == table:
                for columns in rule.keys:
                    values = tuple(row.get(c) for c in columns)
                    if None not in values:
                        return columns, values
        return None

    def is_unplaced(self, relation: str) -> bool:
        """Whether the contract says nothing of a relation that roles reach."""
        return self.unplaced is not None and relation in self.unplaced

    def references(self, table: str) -> Iterable[tuple[str, str]]:
        """Columns of a table that name a row of another, or of itself, by its key: with that table.

        Those that the contract speaks of; the database may know more.
        """
        for total in self.sums:
            if total.table == table:
                yield total.total_key, total.total_table
        for rule in self.ledgers:
            if rule.table == table:
                yield rule.posts, rule.source_table
                if rule.corrects:
                    yield rule.corrects, rule.table
        for taxonomy in self.taxonomies:
            for user, column in taxonomy.used_by:
                if user == table:
                    yield column, taxonomy.table
        for (referring, column), (target, _) in self.references_to.items():
            if referring == table:
                yield column, target

    def governs(self, table: str, column: str) -> bool:
        """Whether the contract says which values a column takes, alone or with others."""
        if (table, column) in self.domains:
            return True
        if self.pii is not None and (table, column) in self.pii.columns:
            return True
        ledger = self.ledger_of(table)
        if ledger is not None and column in (ledger.amount, ledger.corrects):
            return True
        return any(
            rule.table == table and column in key for rule in self.idempotency for key in rule.keys
        )

    @cached_property
    def repair_roles(self) -> frozenset[str]:
        """Roles that may change rows of append-only tables."""
        return frozenset(a.repaired_by for a in self.append_only if a.repaired_by)

    @cached_property
    def application_roles(self) -> tuple[str, ...]:
        """Roles that act for one tenant at a time, in the order of the file."""
        special = self.repair_roles | {self.tenancy.erased_by}
        return tuple(role for role in self.roles if role not in special)

    def may(self, role: str, verb: str, relation: str) -> bool:
        """Whether the contract promises `role` this verb on this relation."""
        if verb in self.roles.get(role, {}).get(relation, frozenset()):
            return True
        return verb in ("select", "update", "delete") and self.repairs(role, relation)

    def repairs(self, role: str, table: str) -> bool:
        """Whether the role may change and remove rows of this append-only table."""
        return any(a.table == table and a.repaired_by == role for a in self.append_only)

    def appends_only(self, table: str) -> bool:
        """Whether rows of this table are never changed by an application role."""
        return any(a.table == table for a in self.append_only)

    def bind(self, catalog: Catalog) -> None:
        """Check that all the contract names exists in the database.

        Raises `UsageError` for the first table, column or role that is missing.
        """
        bind(self, catalog)

    def fault(self, key: str, what: str, remedy: str) -> UsageError:
        """What is wrong with the file, in one line."""
        return UsageError(f"{self.path}: {key}: {what}; {remedy}")


def load(path: Path) -> Contract:
    """Read and check a contract file. Raises `UsageError` with file, key and remedy."""
    # Late: who only asks what a contract is need not know how one is written.
    from invariants.contract.file import read

    return read(path)
