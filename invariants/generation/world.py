"""What a strategy knows while it builds a workload: the tenants and the rows it has sent so far.

Generation never asks the database. A row that was sent counts as known whether or not the server
took it; references point back to recent rows, so any operation can be left out later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from invariants.contract.contract import Contract
from invariants.generation.cast import Cast, cast_of
from invariants.generation.registry import Strategies
from invariants.schema.catalog import Catalog, Relation
from invariants.workload.operations import (
    OPERATOR,
    Actor,
    Insert,
    Operation,
    Statement,
    Value,
)

T = TypeVar("T")
Draw = Callable[[SearchStrategy[T]], T]


# A draw costs some 50 microseconds whatever it draws, so one draw serves several choices.
_CHOICE_BYTES = 48
_CHOICES = st.binary(min_size=_CHOICE_BYTES, max_size=_CHOICE_BYTES)


@dataclass(frozen=True, slots=True)
class Known:
    """A row that was sent: whose it is, its primary key, its values."""

    tenant: str
    key: tuple[Value, ...]
    values: dict[str, Value]

    @property
    def id(self) -> Value:
        """The first column of the primary key."""
        return self.key[0]

    @property
    def named(self) -> bool:
        """Whether its key is known, or the server has made it."""
        return bool(self.key) and None not in self.key


@dataclass(slots=True)
class World:
    """Memory and choices of one workload under construction."""

    contract: Contract
    catalog: Catalog
    draw: Draw[Any]
    strategies: Strategies
    tenants: list[str] = field(default_factory=list)
    known: dict[str, list[Known]] = field(default_factory=dict)
    given: list[Operation] = field(default_factory=list)
    """What is sent before anything else: rows without which nobody can act."""
    messages: list[tuple[int, Actor, Insert]] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    sole: str | None = None
    first_number: int = 1
    plain: bool = False
    """Whether every choice is the plainest: there is then no end to how many there may be."""
    _pool: int = 0
    _pool_bits: int = 0

    def below(self, bound: int) -> int:
        """A number from 0 to `bound` - 1, each as likely as any other."""
        if self._pool_bits < bound.bit_length() + 8:
            self.refill()
        # Some spare bits keep every choice as likely as any other.
        bits = bound.bit_length() + 8
        choice = (self._pool & ((1 << bits) - 1)) % bound
        self._pool >>= bits
        self._pool_bits -= bits
        return choice

    def refill(self) -> None:
        """Draw anew: what follows does not depend on how many choices were made before."""
        self._pool = 0 if self.plain else int.from_bytes(self.draw(_CHOICES))
        self._pool_bits = 8 * _CHOICE_BYTES

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices."""
        return choices[self.below(len(choices))]

    def chance(self, percent: int) -> bool:
        """True in about `percent` of a hundred cases."""
        return self.below(100) >= 100 - percent

    def next(self, kind: str) -> int:
        """The next number of a kind, from 1."""
        number = self.counters.get(kind, self.first_number - 1) + 1
        self.counters[kind] = number
        return number

    def apart(self, number: int, rows: int) -> World:
        """A copy that goes its own way, and knows the last few rows of each table and tenant.

        What it numbers has numbers that no other copy gives.
        """
        first = number * 1000
        return replace(
            self,
            tenants=list(self.tenants),
            known={
                table: [
                    Known(k.tenant, k.key, dict(k.values))
                    for i, k in enumerate(known)
                    if sum(later.tenant == k.tenant for later in known[i + 1 :]) < rows
                ]
                for table, known in self.known.items()
            },
            messages=list(self.messages),
            counters={kind: first + last for kind, last in self.counters.items()},
            first_number=first + 1,
        )

    def id_column(self, table: str) -> str:
        """The column with the id: that part of the primary key which is not the tenant's."""
        relation = self.catalog.tables[table]
        whose = self.contract.tenancy.column
        own = [c for c in relation.primary_key if c != whose]
        free = [c for c in own if relation.foreign_key_of(c) is None]
        return next(iter((*free, *own, relation.id_column)))

    def new_id(self, table: str) -> Value:
        """An id that no row of the table has yet."""
        from invariants.generation.columns import nth

        return nth(self, table, self.id_column(table), self.next(table))

    def tenant(self) -> str:
        """One of the tenants; always the same while there is a `sole` one."""
        return self.sole or self.pick(self.tenants)

    def other(self, tenant: str) -> str:
        """Another tenant, or one that does not exist when there is only one."""
        others = [t for t in self.tenants if t != tenant]
        return self.pick(others) if others else self.cast.unknown

    @property
    def cast(self) -> Cast:
        """Who acts."""
        return cast_of(self.contract, self.catalog)

    def actor(self, role: str, tenant: str | None) -> Actor:
        """Who acts in a role for a tenant, or for nobody."""
        return self.cast.actor(role, tenant)

    def writer(self, verb: str, table: str) -> str:
        """A role that may do this; the first application role when the contract names none."""
        roles = [r for r in self.contract.application_roles if self.contract.may(r, verb, table)]
        return self.pick(roles) if roles else self.contract.application_roles[0]

    def any_role(self) -> str:
        """One of the application roles."""
        return self.pick(self.contract.application_roles)

    def any_setting(self) -> str | None:
        """A tenant setting of any kind: a tenant, none, an empty, a malformed, an unknown one."""
        choices: list[str | None] = [
            *self.tenants,
            *self.tenants,
            None,
            None,
            "",
            "",
            self.cast.unknown,
            self.pick(self.cast.malformed),
        ]
        return self.pick(choices)

    def remember(self, table: str, tenant: str, values: dict[str, Value]) -> None:
        """Keep a row that is about to be sent, for later references."""
        self.rows_of(table).append(self._known(table, tenant, values))

    def _known(self, table: str, tenant: str, values: dict[str, Value]) -> Known:
        key = tuple(values.get(c) for c in self.catalog.tables[table].primary_key)
        return Known(tenant, key, values)

    def rows_of(self, table: str) -> list[Known]:
        """All rows of a table that are known; of nobody's tables those that are there anyway."""
        rows = self.known.get(table)
        if rows is None:
            rows = self.known[table] = []
            if not self.is_owned(table):
                there = self.catalog.samples.there.get(table, ())
                rows += [self._known(table, "", dict(row)) for row in there]
        return rows

    def is_owned(self, table: str) -> bool:
        """Whether rows of the table belong to tenants, or are tenants."""
        return table in self.contract.tenancy.owned or table == self.contract.tenancy.root

    def names_another(self, relation: Relation, column: str) -> bool:
        """Whether a column says whose a row is, or names another row."""
        return column == self.contract.tenancy.column or (
            relation.foreign_key_of(column) is not None
        )

    def recent(
        self, table: str, tenant: str | None = None, fits: Callable[[Known], bool] | None = None
    ) -> Known | None:
        """A row of the table sent before, of this tenant or of anyone; recent ones more often."""
        rows = [
            k
            for k in self.rows_of(table)
            if (tenant is None or k.tenant == tenant) and (fits is None or fits(k))
        ]
        if not rows:
            return None
        back = min(self.below(len(rows)), self.below(len(rows)))
        return rows[-1 - back]

    def reference(
        self,
        table: str,
        tenant: str,
        hostile: int = 10,
        fits: Callable[[Known], bool] | None = None,
    ) -> Known | None:
        """A row to refer to: mostly one's own, in `hostile` percent another tenant's."""
        if len(self.tenants) > 1 and self.chance(hostile):
            other = self.recent(table, self.other(tenant), fits)
            return other or self.recent(table, tenant, fits)
        return self.recent(table, tenant, fits)

    def operation(self, role: str, tenant: str | None, *statements: Statement) -> Operation:
        """An operation of this actor."""
        return Operation(self.actor(role, tenant), statements)

    def maintenance(self, *statements: Statement) -> Operation:
        """An operation of the operator, who acts for no tenant."""
        return Operation(Actor(OPERATOR), statements)

    def deliver(self, role: str, tenant: str, insert: Insert) -> Operation:
        """An ingest that may be delivered again later."""
        actor, delivery = self.actor(role, tenant), self.next("delivery")
        self.messages.append((delivery, actor, insert))
        return Operation(actor, (insert,), delivery)
