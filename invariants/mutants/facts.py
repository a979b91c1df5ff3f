"""What mutants are derived from: guards of the live catalog with their definitions, frozen.

More than `read_catalog` tells: expressions, definitions and privileges. All text of the server is
fully qualified, so that it means the same whatever the search path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from invariants.schema.catalog import RelationKind

PUBLIC = "PUBLIC"

_KEYWORDS: Mapping[RelationKind, str] = {
    "table": "TABLE",
    "view": "VIEW",
    "matview": "MATERIALIZED VIEW",
}
COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}


@dataclass(frozen=True)
class Column:
    """One column. `type` has its modifier, `base` has not; `expression` is a generated column's."""

    name: str
    number: int
    type: str
    base: str
    modifier: int
    not_null: bool
    has_default: bool
    identity: bool
    expression: str | None
    # STORED or VIRTUAL.
    computed: str
    # A B-tree holds it and it is no document or list.
    scalar: bool

    @property
    def generated(self) -> bool:
        """Whether it is computed from other columns."""
        return self.expression is not None


@dataclass(frozen=True)
class Policy:
    """A row level security policy."""

    name: str
    permissive: bool
    command: str
    roles: tuple[str, ...]
    using: str | None
    check: str | None


@dataclass(frozen=True)
class Trigger:
    """A user trigger in the parts its definition has. `events` are `UPDATE OF a, b` and so on."""

    name: str
    function: str
    constraint: bool
    timing: str
    events: tuple[str, ...]
    deferral: str
    referencing: str
    level: str
    condition: str
    call: str
    enabled: str

    @property
    def deferred(self) -> bool:
        """Whether it fires at the end of the transaction."""
        return "INITIALLY DEFERRED" in self.deferral


@dataclass(frozen=True)
class Reference:
    """A foreign key."""

    name: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str
    validated: bool
    definition: str


@dataclass(frozen=True)
class Unique:
    """A unique index, or the constraint it is of. `columns` are those that are no expressions."""

    name: str
    columns: tuple[str, ...]
    primary: bool
    constraint: str | None
    predicate: str | None
    definition: str
    # Foreign keys and views depend on it.
    needed: bool


@dataclass(frozen=True)
class Check:
    """A CHECK constraint."""

    name: str
    columns: tuple[str, ...]
    expression: str
    suffix: str


@dataclass(frozen=True)
class Relation:
    """A table, view or materialized view. `sql` is its quoted name with its schema."""

    name: str
    sql: str
    schema: str
    kind: RelationKind
    owner: str
    row_security: bool
    row_security_forced: bool
    options: tuple[str, ...]
    definition: str
    populated: bool
    comment: str | None
    # What statements can do to it: SELECT, and more if it is a table or an updatable view.
    verbs: tuple[str, ...]
    columns: Mapping[str, Column]
    primary_key: tuple[str, ...]
    policies: tuple[Policy, ...]
    triggers: tuple[Trigger, ...]
    references: tuple[Reference, ...]
    uniques: tuple[Unique, ...]
    checks: tuple[Check, ...]
    # All indexes, as CREATE INDEX.
    indexes: tuple[str, ...]
    # Granted to a role by name, or to PUBLIC: GRANT statements without the word.
    grants: tuple[str, ...]
    granted: frozenset[tuple[str, str]]
    # What a role can do, whichever way it came to it: (role, verb) and (role, verb, column).
    held: frozenset[tuple[str, str]]
    held_columns: frozenset[tuple[str, str, str]]
    # Columns that a view reads, of which relation; '' when it reads only that there are rows.
    reads: frozenset[tuple[str, str]]

    @property
    def keyword(self) -> str:
        """What statements call its kind."""
        return _KEYWORDS[self.kind]

    @property
    def required(self) -> tuple[str, ...]:
        """Columns without which there is no new row."""
        return tuple(
            c.name
            for c in self.columns.values()
            if c.not_null and not c.has_default and not c.generated and not c.identity
        )


@dataclass(frozen=True)
class Function:
    """A function in SQL or PL/pgSQL. `sql` is its quoted name with schema and argument types."""

    name: str
    sql: str
    owner: str
    language: str
    result: str
    definition: str
    source: str
    security_definer: bool
    search_path: bool
    may_execute: frozenset[str]


@dataclass(frozen=True)
class Role:
    """A role of the contract, or one that owns relations."""

    name: str
    superuser: bool
    bypassrls: bool
    member_of: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """All that mutants are derived from. Build it with `read_facts`."""

    relations: Mapping[str, Relation]
    functions: tuple[Function, ...]
    roles: Mapping[str, Role]
    # Of each taxonomy: codes, and whether one is active.
    codes: Mapping[str, tuple[tuple[str, bool], ...]]
    server_version: int
    # By name, with their quoted names and schemas.
    sequences: tuple[tuple[str, str], ...] = ()
    partitions: tuple[tuple[str, str], ...] = ()

    @cached_property
    def tables(self) -> tuple[Relation, ...]:
        """Tables by name."""
        return tuple(r for r in self.relations.values() if r.kind == "table")

    @cached_property
    def owners(self) -> tuple[str, ...]:
        """Owners of relations, by name."""
        return tuple(sorted({r.owner for r in self.relations.values()}))
