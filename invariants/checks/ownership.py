"""Whose a row is, and for whom a session acts: what the contract says of tenants, users and levels.

Ids are compared as text, as the server prints them: a session names its tenant by a text, whatever
the type of the tenants' key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from invariants.checks.spelling import meant
from invariants.contract.contract import Contract
from invariants.execution.history import Record, State
from invariants.schema.catalog import Catalog, Relation
from invariants.workload.operations import Actor
from invariants.workload.templates import TENANT, USER, filled

Values = Mapping[str, Any]
Find = Callable[[str, Values], Values | None]
"""Finds the row of a table that has these values; there may be none."""

# A parent's parent's parent, and so on: nobody has more of them than this.
_DEEP = 16


def printed(value: Any) -> str | None:
    """An id as the server prints it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value)


def find_in(*states: State) -> Find:
    """Finds rows among the committed ones, in the first of these states that has one."""

    def find(table: str, wanted: Values) -> Values | None:
        for state in states:
            for row in state.rows(table):
                if all(row.get(c) == v for c, v in wanted.items()):
                    return row.values
        return None

    return find


def key_type(contract: Contract, catalog: Catalog) -> str | None:
    """The type of the tenants' ids; None where the schema has no such column."""
    tenancy = contract.tenancy
    root = catalog.tables.get(tenancy.root) if tenancy.root else None
    if root is not None and len(root.primary_key) == 1:
        return root.columns[root.primary_key[0]].type
    for table in tenancy.tables:
        found = catalog.tables.get(table)
        if found is not None and tenancy.column in found.columns:
            return found.columns[tenancy.column].type
    return None


def link_of(
    contract: Contract, catalog: Catalog, table: str
) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """The table that a row's owner is looked up in, with the columns that lead there, by column.

    None where neither a foreign key nor the contract says where the column leads.
    """
    column = contract.tenancy.scoped_by[table]
    if (told := contract.references_to.get((table, column))) is not None:
        return told[0], ((column, told[1]),)
    relation = catalog.tables.get(table)
    key = relation.foreign_key_of(column) if relation else None
    if key is None:
        return None
    return key.target, tuple(zip(key.columns, key.target_columns, strict=True))


class Ownership:
    """Answers for one contract and catalog."""

    def __init__(self, contract: Contract, catalog: Catalog) -> None:
        self.contract, self.catalog = contract, catalog
        self.tenancy = contract.tenancy
        self.direct = frozenset(self.tenancy.tables)
        self._key_type = key_type(contract, catalog)

    def whole(self, table: str) -> str:
        """The table that rows of a partition belong to; else the table itself."""
        relation = self.catalog.relations.get(table)
        return relation.part_of or table if relation is not None else table

    def owned(self, table: str) -> bool:
        """Whether each row of the table belongs to a tenant, or is one."""
        return self.whole(table) in self.tenancy.rooted

    def owner(self, table: str, row: Values, find: Find, depth: int = 0) -> str | None:
        """The tenant that a row belongs to; None for a row of nobody, or without its parent."""
        table = self.whole(table)
        if table == self.tenancy.root:
            return printed(row.get(self.catalog.tables[table].id_column))
        if table in self.tenancy.scoped_by:
            parent = self.parent(table, row, find)
            return self.owner(*parent, find, depth + 1) if parent and depth < _DEEP else None
        return printed(row.get(self.tenancy.column))

    def parent(self, table: str, row: Values, find: Find) -> tuple[str, Values] | None:
        """The row through which one of a scoped table belongs to a tenant, with its table."""
        link = link_of(self.contract, self.catalog, table)
        if link is None:
            return None
        target, columns = link
        wanted = {to: row.get(c) for c, to in columns}
        if None in wanted.values():
            return None
        found = find(target, wanted)
        return None if found is None else (target, found)

    def meant(self, setting: str | None) -> str | None:
        """The tenant as its type prints it, where a setting is a spelling of one."""
        return meant(setting, self._key_type)

    @property
    def by_setting(self) -> bool:
        """Whether a session says by a setting for whom it acts."""
        return bool(self.tenancy.session.settings)

    def says_enough(self, actor: Actor) -> bool:
        """Whether a session that says anything says all that there is to say."""
        if actor.silent or not actor.tenant:
            return True
        return self.tenancy.session.names <= {TENANT, *(name for name, _ in actor.said)}

    def names_somebody(self, actor: Actor) -> bool:
        """Whether what a session says can be the id of a tenant, or user, there or not."""
        if self.tenancy.names_tenant:
            return actor.tenant is not None and readable(actor.tenant, self._key_type)
        user = dict(actor.said).get(USER)
        return user is not None and readable(user, self._user_type())

    def _user_type(self) -> str | None:
        members = self.tenancy.members
        found = self.catalog.tables.get(members.table) if members else None
        column = found.columns.get(members.user) if found and members else None
        return column.type if column else "uuid"

    def tenants_of(self, actor: Actor, states: Iterable[State]) -> frozenset[str | None]:
        """The tenants that a session acts for: one, none, or all those of its user.

        A session that names no tenant acts for `None`, as one does whose user is in none.
        """
        if (own := self.tenancy.tenant_of_role(actor.role)) is not None:
            return frozenset({own})
        members = self.tenancy.members
        if members is None:
            return frozenset({self.meant(actor.tenant)})
        user = dict(actor.said).get(USER)
        if user is None:
            return frozenset({None})
        told = self.meant(actor.tenant) if self.tenancy.names_tenant else None
        found: set[str | None] = set()
        for state in states:
            for row in state.rows(members.table):
                if printed(row.get(members.user)) == user:
                    found.add(printed(row.get(members.tenant)))
        if self.tenancy.names_tenant:
            found &= {told}
        return frozenset(found or {None})

    def beyond(self, relation: Relation, row: Values, actor: Actor) -> bool:
        """Whether a row of the actor's tenant is at another place within it than the session's."""
        said = dict(actor.said)
        return any(
            level.column in relation.columns
            and relation.name != level.root
            and level.name in said
            and row.get(level.column) is not None
            and printed(row[level.column]) != said[level.name]
            for level in self.tenancy.within
        )

    def tied(self, table: str, actor: Actor) -> dict[str, str]:
        """The columns of a table that carry what a session says, with what it says."""
        known = {**({} if actor.tenant is None else {TENANT: actor.tenant}), **dict(actor.said)}
        return {
            column: filled(template, known)
            for (name, column), template in self.tenancy.tied.items()
            if name == table
        }


def owner_in(ownership: Ownership, record: Record, *states: State) -> str | None:
    """The tenant of a committed row, its parents looked up in these states."""
    return ownership.owner(record.table, record.values, find_in(*states))


def readable(setting: str, kind: str | None) -> bool:
    """Whether a type certainly takes a text as an id."""
    from invariants.checks.values import UUID

    if kind == "uuid":
        return bool(UUID.match(setting))
    if kind in _INTEGERS:
        digits = setting.removeprefix("-")
        return digits.isascii() and digits.isdigit() and abs(int(setting)) < _INTEGERS[kind]
    # A policy may cast the text to what it looks like.
    return kind in ("text", "character varying", "name") and bool(_WORD.match(setting))


_WORD = re.compile(r"[\w-]+\Z")
_INTEGERS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
