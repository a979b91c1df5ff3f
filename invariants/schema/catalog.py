"""What the database is made of, read once from the system catalogs and frozen.

Relations in `public` go by their bare name, others by `schema.name`. Nothing here judges;
strategies derive rows from it, checks name the guard concerned with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from invariants.schema.definitions import Definitions
from invariants.schema.routines import Routine, Sought
from invariants.schema.samples import Samples
from invariants.schema.standing import Standing
from invariants.workload.operations import CommentTarget, Insert, LeftoverTarget

RelationKind = Literal["table", "partition", "view", "matview"]
TypeKind = Literal["base", "enum", "domain", "composite", "range", "other"]

# Where tools for migrations keep their books: nobody's tables.
TOOLS_TABLES = (
    *("alembic_version", "schema_migrations", "schema_migration", "schema_version"),
    *("flyway_schema_history", "databasechangelog", "databasechangeloglock", "goose_db_version"),
    *("django_migrations", "knex_migrations", "knex_migrations_lock", "pgmigrations"),
    *("_prisma_migrations", "_sqlx_migrations", "__diesel_schema_migrations", "SequelizeMeta"),
    *("__drizzle_migrations", "atlas_schema_revisions", "typeorm_migrations", "gorp_migrations"),
)
TOOLS_SCHEMAS = ("sqitch", "supabase_migrations", "drizzle", "pgroll", "graphile_migrate")

# What pg_class.relkind and pg_constraint.confdeltype say, in words.
KINDS: Mapping[str, RelationKind] = {"r": "table", "p": "table", "v": "view", "m": "matview"}
# What COMMENT ON calls them.
COMMENTED: Mapping[RelationKind, CommentTarget] = {
    "table": "table",
    "partition": "table",
    "view": "view",
    "matview": "materialized view",
}
ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True)
class Column:
    """One column. `type` is the base type's SQL name; `length` in characters, -1 is unlimited.

    `scale` is the number of digits after the point, of a number or of a second; -1 is any number.
    `identity` is how it is numbered: `always` or `by default`. It is `constrained` by the CHECK or
    NOT NULL of a domain; one that `equates` has a collation by which different texts are equal.
    """

    name: str
    type: str
    not_null: bool
    has_default: bool
    default: str | None = None
    generated: bool = False
    length: int = -1
    enum: tuple[str, ...] = ()
    is_array: bool = False
    scale: int = -1
    identity: Literal["", "always", "by default"] = ""
    constrained: bool = False
    equates: bool = False

    @property
    def choosable(self) -> bool:
        """Whether a client can say what is in it: of generated ones those that are numbered."""
        return not self.generated or self.identity == "always"

    @property
    def counted(self) -> bool:
        """Whether a sequence fills it where the client says nothing."""
        return bool(self.identity) or "nextval(" in (self.default or "")


@dataclass(frozen=True)
class ForeignKey:
    """`table.columns` refers to `target.target_columns`; `on_delete` is SQL's word for it.

    With `full` either all columns are there or none is (MATCH FULL); `deferred` it is looked at
    when the transaction ends.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str
    on_update: str
    full: bool = False
    deferred: bool = False


@dataclass(frozen=True)
class UniqueIndex:
    """A unique index, with its predicate when it is partial.

    `expressions` are what it is of besides columns, as PostgreSQL prints them, and `within` the
    columns that these name. Empty values may be equal in it (`nulls_equal`), and unless it is
    `immediate` it is looked at when the transaction ends.
    """

    name: str
    columns: tuple[str, ...]
    predicate: str | None
    primary: bool
    expressions: str = ""
    nulls_equal: bool = False
    within: frozenset[str] = frozenset()
    immediate: bool = True


@dataclass(frozen=True)
class Check:
    """A CHECK constraint as PostgreSQL prints it."""

    name: str
    columns: tuple[str, ...]
    definition: str


@dataclass(frozen=True)
class Trigger:
    """A user trigger: when it fires and the function it calls.

    `columns` are those of UPDATE OF, none for all; `conditional` when it has a WHEN.
    """

    name: str
    function: str
    events: frozenset[str]
    timing: str
    for_each_row: bool
    enabled: bool
    columns: frozenset[str] = frozenset()
    conditional: bool = False


@dataclass(frozen=True)
class Lingering:
    """Something that a function of the user's may leave in the session that called it."""

    target: LeftoverTarget
    name: str
    function: str


@dataclass(frozen=True)
class Relation:
    """A table, view or materialized view with all that guards it."""

    name: str
    kind: RelationKind
    owner: str
    columns: Mapping[str, Column]
    primary_key: tuple[str, ...] = ()
    uniques: tuple[UniqueIndex, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    checks: tuple[Check, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    policies: tuple[str, ...] = ()
    # For each policy the verbs it applies to.
    policy_verbs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # The table that a partition is part of, the topmost one.
    part_of: str | None = None
    # The columns that decide which partition takes a row.
    routed_by: frozenset[str] = frozenset()
    exclusions: tuple[Check, ...] = ()
    row_security: bool = False
    row_security_forced: bool = False
    # Of a view: the relations it reads, and the verbs that it takes as if it were a table.
    reads: tuple[str, ...] = ()
    takes: frozenset[str] = frozenset()

    @property
    def id_column(self) -> str:
        """The column with the id: the first of the primary key.

        A schema that lacks one is tried like any other: by a column that is never empty.
        """
        never_empty = (name for name, column in self.columns.items() if column.not_null)
        return next(iter((*self.primary_key, *never_empty, *self.columns)))

    def overrides(self, columns: Collection[str]) -> bool:
        """Whether who gives these columns chooses what the server would number always."""
        return any(c in self.columns and self.columns[c].identity == "always" for c in columns)

    @property
    def copied(self) -> tuple[str, ...]:
        """The columns that a copy of its rows gives; the others follow from them."""
        return tuple(c.name for c in self.columns.values() if c.choosable)

    def foreign_key_of(self, column: str) -> ForeignKey | None:
        """The foreign key this column takes part in, if any; single-column keys first."""
        keys = [k for k in self.foreign_keys if column in k.columns]
        return min(keys, key=lambda k: len(k.columns), default=None)


@dataclass(frozen=True)
class Catalog:
    """The user's part of a database. Build it with `read_catalog`."""

    relations: Mapping[str, Relation]
    functions: tuple[str, ...] = ()
    routines: tuple[Routine, ...] = ()
    definitions: Definitions = field(default_factory=Definitions)
    standing: Standing = field(default_factory=Standing)
    sought: tuple[Sought, ...] = ()
    lingering: tuple[Lingering, ...] = ()
    sequences: tuple[str, ...] = ()
    roles: frozenset[str] = field(default_factory=frozenset)
    server_version: int = 0
    # What the columns take (`candidates.find`); nothing where nobody has asked.
    samples: Samples = field(default_factory=Samples)

    @cached_property
    def tables(self) -> Mapping[str, Relation]:
        """Ordinary and partitioned tables, partitions apart."""
        return {n: r for n, r in self.relations.items() if r.kind == "table"}

    @cached_property
    def materialized_views(self) -> Mapping[str, Relation]:
        """Materialized views."""
        return {n: r for n, r in self.relations.items() if r.kind == "matview"}

    @cached_property
    def referrers(self) -> Mapping[str, tuple[ForeignKey, ...]]:
        """For each table the foreign keys that point at it."""
        found: dict[str, list[ForeignKey]] = {}
        for relation in self.relations.values():
            for key in relation.foreign_keys:
                found.setdefault(key.target, []).append(key)
        return {target: tuple(keys) for target, keys in found.items()}

    def behind(self, name: str) -> tuple[str, ...]:
        """The tables whose rows a relation shows: itself, or what a view reads."""
        found: list[str] = []
        queue, seen = [name], set()
        while queue:
            relation = self.relations.get(queue.pop(0))
            if relation is None or relation.name in seen:
                continue
            seen.add(relation.name)
            if relation.kind == "view":
                queue += relation.reads
            elif relation.name in self.tables:
                found.append(relation.name)
        return tuple(found)

    def identity(self, name: str) -> tuple[str, ...]:
        """The columns that tell rows of a relation apart: for a view, those of what it reads."""
        relation = self.relations.get(name)
        keys = (self.tables[t].primary_key for t in self.behind(name))
        return tuple(
            dict.fromkeys(c for k in keys for c in k if relation and c in relation.columns)
        )

    def chosen(self, insert: Insert) -> Insert:
        """The INSERT that brings just these rows, whatever the server would number always."""
        table = self.tables.get(insert.relation)
        if table is None or not table.overrides(insert.columns):
            return insert
        return replace(insert, overriding=True)

    def path(self, source: str, target: str) -> tuple[ForeignKey, ...]:
        """Foreign keys by which a deletion in `source` reaches `target`; empty when none does."""
        queue: list[tuple[str, tuple[ForeignKey, ...]]] = [(source, ())]
        seen = {source}
        while queue:
            table, path = queue.pop(0)
            for key in self.referrers.get(table, ()):
                if key.table == target:
                    return (*path, key)
                if key.table not in seen:
                    seen.add(key.table)
                    queue.append((key.table, (*path, key)))
        return ()
