"""Who acts in workloads: ids of tenants, users and places, of whatever type they are.

All of them follow from contract and catalog, and are the same in every workload.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from invariants.checks.ownership import key_type, readable
from invariants.contract.contract import Contract
from invariants.contract.sections import Within
from invariants.schema.catalog import Catalog, Column
from invariants.schema.samples import Taken
from invariants.schema.spellings import ANY_TEXT
from invariants.workload.operations import OPERATOR, Actor, Said, Value, ident
from invariants.workload.templates import TENANT, USER, filled

_INTEGERS = ("smallint", "integer", "bigint")
# Numbers of tenants and users; what a sequence gives is smaller, and any integer type has them.
_FIRST, _UNKNOWN = 1000, 32_000
_MALFORMED = {
    "uuid": ("not-a-uuid", "' OR true --", "0"),
    **dict.fromkeys(_INTEGERS, ("not-a-number", "' OR true --", "1.5")),
}
# Of texts none is malformed; these are nobody's.
_NOBODY = ("' OR true --", "%", "_%")


@dataclass(frozen=True)
class Cast:
    """Names for everybody who acts under one contract."""

    contract: Contract
    catalog: Catalog

    @cached_property
    def kind(self) -> str | None:
        """The type of the tenants' ids."""
        return key_type(self.contract, self.catalog)

    @cached_property
    def malformed(self) -> tuple[str, ...]:
        """What no tenant can be called."""
        return _MALFORMED.get(self.kind or "uuid", _NOBODY)

    @cached_property
    def unknown(self) -> str:
        """The id of a tenant that is not there."""
        if self.kind in (None, "uuid"):
            return ident("unknown tenant", 0)
        if self.kind in _INTEGERS:
            return str(_UNKNOWN)
        return ident("unknown tenant", 0) if self._castable else self._filled_up("t0")

    def tenant(self, number: int) -> str:
        """The id of the `number`th tenant, from 1."""
        own = [t for t in map(self.contract.tenancy.tenant_of_role, self.contract.roles) if t]
        if own:
            return own[(number - 1) % len(own)]
        column = self._key_column()
        if column is not None and column.enum:
            return column.enum[(number - 1) % len(column.enum)]
        if self.kind in (None, "uuid"):
            return ident(self.contract.tenancy.root or self.contract.tenancy.column, number)
        if self.kind in _INTEGERS:
            return str(_FIRST + number)
        named = self.contract.tenancy.root or self.contract.tenancy.column
        return ident(named, number) if self._castable else self._text(number)

    @property
    def _castable(self) -> bool:
        """Whether ids that are texts are uuids: where any text will do, a policy may cast them."""
        found = self._key_samples
        return found is None or (found.uuids and found.series in ("", ANY_TEXT))

    def _text(self, number: int) -> str:
        """An id of the shape that is asked for."""
        column, found = self._key_column(), self._key_samples
        value = found.nth(column, number) if column is not None and found is not None else None
        return self._filled_up(f"t{number}" if value is None else str(value))

    def _filled_up(self, value: str) -> str:
        """An id without the blanks that its type would add."""
        length = column.length if (column := self._key_column()) is not None else -1
        return value.rjust(length, "0") if self.kind == "character" else value

    @cached_property
    def _key_samples(self) -> Taken | None:
        """What the tenants' key takes, as far as anybody has asked."""
        tenancy, column = self.contract.tenancy, self._key_column()
        tables = (tenancy.root,) if tenancy.root is not None else tenancy.tables
        asked = (self.catalog.samples.of(t, column.name) for t in tables if column is not None)
        return next((a for a in asked if a is not None), None)

    def _key_column(self) -> Column | None:
        tenancy, tables = self.contract.tenancy, self.catalog.tables
        if tenancy.root is not None and tenancy.root in tables:
            root = tables[tenancy.root]
            return root.columns[root.id_column]
        owned = (tables[t] for t in tenancy.tables if t in tables)
        return next((t.columns.get(tenancy.column) for t in owned), None)

    def value(self, tenant: str) -> Value:
        """A tenant as a row names it."""
        return typed(tenant, self.kind)

    def user_of(self, tenant: str, number: int = 1) -> str:
        """The user who acts for a tenant; nobody else does so under this number."""
        if not readable(tenant, self.kind) and tenant in self.malformed:
            return tenant
        kind = self._user_kind
        if kind in _INTEGERS:
            # One that a smallint holds, and that no other tenant's user has.
            digits = tenant.removeprefix("-")[-3:]
            return str(20_000 + 10 * (int(digits, 16) % 1000 if _hex(digits) else 0) + number)
        if kind in (None, "uuid"):
            return ident(f"user of {tenant}", number)
        return f"u{number}-{tenant[-12:]}"

    @cached_property
    def _user_kind(self) -> str | None:
        tenancy = self.contract.tenancy
        named = [(tenancy.members.table, tenancy.members.user)] if tenancy.members else []
        named += [c for c, template in tenancy.tied.items() if template == f"{{{USER}}}"]
        for table, column in named:
            if table in self.catalog.tables and column in self.catalog.tables[table].columns:
                return self.catalog.tables[table].columns[column].type
        return None

    def user_value(self, user: str) -> Value:
        """A user as a row names it."""
        return typed(user, self._user_kind)

    def place_of(self, level: Within, tenant: str, number: int = 1) -> str:
        """The id of a place within a tenant, where its sessions act."""
        root = self.catalog.tables.get(level.root)
        kind = root.columns[root.id_column].type if root else None
        if kind in _INTEGERS:
            digits = tenant.removeprefix("-")[-3:]
            return str(10_000 + 10 * (int(digits, 16) % 900 if _hex(digits) else 0) + number)
        if kind in (None, "uuid"):
            return ident(f"{level.root} of {tenant}", number)
        return f"p{number}-{tenant[-12:]}"

    def place_value(self, level: Within, place: str) -> Value:
        """A place within a tenant as a row names it."""
        root = self.catalog.tables.get(level.root)
        return typed(place, root.columns[root.id_column].type if root else None)

    def actor(self, role: str, tenant: str | None, place: int = 1) -> Actor:
        """Who acts in a role for a tenant, or with nothing, or what is none, in its place.

        Where each tenant has a role of its own, that of the tenant acts in place of another's.
        `place` is the number of the place within the tenant, where there are any.
        """
        if role == OPERATOR:
            return Actor(role)
        tenancy = self.contract.tenancy
        own = tenancy.tenant_of_role(role)
        if own is not None:
            asked = tenancy.role_of(tenant) if tenant else None
            if asked is None or asked not in self.contract.roles:
                return Actor(role, own)
            return Actor(asked, tenant)
        if not tenant:
            return Actor(role, tenant)
        return Actor(role, tenant, self.said(tenant, place))

    def strangers(self, role: str, owner: str, other: str) -> tuple[Actor, ...]:
        """Who must not reach the rows of a tenant, in this role.

        Those of another tenant, of none, of one that is not there, and of another place within it.
        """
        found = [self.actor(role, setting) for setting in (other, "", None, self.unknown)]
        if self.contract.tenancy.within:
            found.append(self.actor(role, owner, place=2))
        return tuple(dict.fromkeys(a for a in found if a != self.actor(role, owner)))

    def said(self, tenant: str, place: int = 1) -> Said:
        """What a session for a tenant says besides the tenant."""
        names = self.contract.tenancy.session.names
        said = [(USER, self.user_of(tenant))] if USER in names else []
        said += [
            (level.name, self.place_of(level, tenant, place))
            for level in self.contract.tenancy.within
            if level.name in names
        ]
        return tuple(said)

    def carried(self, table: str, tenant: str) -> Mapping[str, Value]:
        """What rows of a tenant carry because its sessions say so, by column."""
        relation, tenancy = self.catalog.tables.get(table), self.contract.tenancy
        if relation is None or not tenant:
            return {}
        known = {TENANT: tenant, **dict(self.said(tenant))}
        carried: dict[str, Value] = {
            level.column: self.place_value(level, self.place_of(level, tenant))
            for level in tenancy.within
            if level.column in relation.columns and table != level.root
        }
        for (name, column), template in tenancy.tied.items():
            if name == table and column in relation.columns:
                carried[column] = typed(filled(template, known), relation.columns[column].type)
        return carried


def typed(text: str, kind: str | None) -> Value:
    """An id as a value of its type."""
    if kind in _INTEGERS and text.removeprefix("-").isdigit():
        return int(text)
    return text


def _hex(digits: str) -> bool:
    return bool(digits) and all(d in "0123456789abcdef" for d in digits)


_CASTS: dict[tuple[int, int], Cast] = {}


def cast_of(contract: Contract, catalog: Catalog) -> Cast:
    """The cast of a contract and a catalog, made once for as long as both are in use."""
    key = id(contract), id(catalog)
    found = _CASTS.get(key)
    if found is None or found.contract is not contract or found.catalog is not catalog:
        if len(_CASTS) > 64:
            _CASTS.clear()
        found = _CASTS[key] = Cast(contract, catalog)
    return found
