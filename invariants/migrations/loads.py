"""Lawful data for a revision: rows of every table that are alike in all but one column.

What a migration trips over are rows that are nearly equal: two that become one, a value at the end
of its range, one that is not there. So each row is followed by others that differ from it in one
column, for each value worth trying there; where the column is part of a key, the rest of the key is
the same. What is kept of that is what the contract permits and the schema at that revision accepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import psycopg
from hypothesis import strategies as st

from invariants.checks.model import predict
from invariants.contract.contract import Contract
from invariants.errors import InfrastructureError
from invariants.execution.executor import Executor
from invariants.execution.history import Step as Executed
from invariants.execution.wire import Reply
from invariants.generation.columns import listed_values, valid_choices
from invariants.generation.derived import column_value
from invariants.generation.drawing import plainest
from invariants.generation.lawful import LawfulRow, key_of, lawful
from invariants.generation.loading import strategies_of
from invariants.generation.references import codes
from invariants.generation.tenants import tenants
from invariants.generation.world import Draw, World
from invariants.schema import candidates
from invariants.schema.catalog import Catalog, Column
from invariants.schema.reader import read_catalog
from invariants.servers.base import connect
from invariants.servers.environment import Scratch
from invariants.workload import sql
from invariants.workload.operations import (
    OPERATOR,
    Operation,
    Select,
    Update,
    Value,
    Workload,
    ident,
)

_LONG = 200
_OURS = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^invariants_[0-9a-f]{16}$'"
_INTEGERS = ("smallint", "integer", "bigint")
_TEXTS = ("text", "character varying", "character")


@dataclass(frozen=True)
class Ground:
    """The contract and the catalog at a revision: what the one says that is there in the other."""

    contract: Contract
    catalog: Catalog

    @property
    def bears_rows(self) -> bool:
        """Whether there are tenants yet, and something that is theirs."""
        tenancy = self.contract.tenancy
        listed = tenancy.root is None or tenancy.root in self.catalog.tables
        return listed and bool(tenancy.owned)


def ground_of(contract: Contract, applied: Sequence[str], known: Sequence[str], on: str) -> Ground:
    """What is there at a revision. `on` is the conninfo of a database at it."""
    try:
        with connect(on) as connection:
            catalog = read_catalog(connection)
            catalog = replace(catalog, samples=candidates.find(connection, catalog))
    except psycopg.Error as error:
        raise InfrastructureError(f"the catalog cannot be read: {error}") from error
    then = contract.at(applied, known).there(catalog)
    # Before a foreign key says so, a code is a text like any other.
    taxonomies = tuple(
        replace(
            t,
            used_by=tuple(
                (table, column)
                for table, column in t.used_by
                if any(
                    k.target == t.table and column in k.columns
                    for k in catalog.relations[table].foreign_keys
                )
            ),
        )
        for t in then.taxonomies
    )
    then = replace(then, taxonomies=taxonomies)
    return Ground(then, then.promised(catalog))


def load(ground: Ground, scratch: Scratch) -> Workload:
    """All that is tried, without what is not lawful. `scratch` is left without rows."""
    made = _all(ground)
    if not made.operations:
        return made
    with Executor(scratch.conninfo, ground.contract, ground.catalog, scratch.login) as executor:
        history = executor.run(made)
        kept = [s.operation for s in history.steps if _permitted(ground, s)]
    return replace(made, operations=tuple(kept))


def fill(ground: Ground, scratch: Scratch, workload: Workload) -> tuple[Reply, ...]:
    """Send a workload, and leave what it has written; returns what came of each operation."""
    with Executor(scratch.conninfo, ground.contract, ground.catalog, scratch.login) as executor:
        replies = executor.leave(workload)
    try:
        with connect(scratch.conninfo) as connection:
            # What the executor reads rows with is no part of the schema.
            for (name,) in connection.execute(_OURS).fetchall():
                statement = f"DROP SCHEMA {sql.name(name)} CASCADE"
                connection.execute(statement.encode())
    except psycopg.Error as error:
        raise InfrastructureError(f"the rows cannot be left: {error}") from error
    return replies


def _permitted(ground: Ground, step: Executed) -> bool:
    """Whether an operation was accepted, and nothing in the contract is against it."""
    if not step.committed:
        return False
    predicted = predict(ground.contract, ground.catalog, step.before, step.operation)
    return predicted is None or predicted.commits is not False


def _all(ground: Ground) -> Workload:
    contract, catalog = ground.contract, ground.catalog
    strategies = strategies_of(contract)

    @st.composite
    def build(draw: Draw[Workload]) -> Workload:
        world = World(contract, catalog, draw, strategies, plain=True)
        people = tenants(world, 2)
        maker = _Maker(world)
        made = [*world.given, *(o for table in _tables(ground) for o in maker.rows_of(table))]
        made += [o for table in _tables(ground) for o in maker.readings(table)]
        return Workload(people, tuple(_by_somebody(catalog, o) for o in made))

    return plainest(build())


def _by_somebody(catalog: Catalog, operation: Operation) -> Operation:
    """An operation of a role that is not there yet is the operator's."""
    if operation.actor.role in catalog.roles:
        return operation
    return replace(operation, actor=replace(operation.actor, role=OPERATOR))


def _tables(ground: Ground) -> tuple[str, ...]:
    contract = ground.contract
    codes = tuple(t.table for t in contract.taxonomies)
    return tuple(t for t in (*codes, *contract.tenancy.owned) if t in ground.catalog.tables)


class _Maker:
    """Makes the rows of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.written: dict[str, list[LawfulRow]] = {}

    def rows_of(self, table: str) -> Iterator[Operation]:
        """A row for each tenant, and its neighbours."""
        owners = self.world.tenants if table in self.world.contract.tenancy.owned else [""]
        for number, tenant in enumerate(owners):
            yield from self._neighbourhood(table, tenant, few=number > 0)

    def readings(self, table: str) -> Iterator[Operation]:
        """What a client reads, and changes, by the names of the columns that there are."""
        world = self.world
        relation = world.catalog.tables[table]
        for row in self.written.get(table, ())[:1]:
            where = key_of(world, row)
            for role in world.contract.application_roles:
                actor = world.actor(role, row.actor.tenant or world.tenants[0])
                if world.contract.may(role, "select", table):
                    yield Operation(actor, (Select(table, where, tuple(relation.columns)),))
                if not where or not world.contract.may(role, "update", table):
                    continue
                for column, value in row.values.items():
                    if column not in (*relation.primary_key, world.contract.tenancy.column):
                        yield Operation(actor, (Update(table, ((column, value),), where),))

    def _neighbourhood(self, table: str, tenant: str, *, few: bool) -> Iterator[Operation]:
        world = self.world
        relation = world.catalog.tables[table]
        *before, row = self._lawful(table, tenant)
        yield from (parent.inserted() for parent in before)
        self.written.setdefault(table, []).append(row)
        yield row.inserted()
        if few or row.actor.role == OPERATOR:
            return
        keyed = {c for u in relation.uniques if not u.primary for c in u.columns}
        own = world.contract.tenancy.column
        # Where a key is made of references alone, another row refers to others.
        bound = any(
            not u.primary and not any(self._is_free(row, c) for c in u.columns)
            for u in relation.uniques
        )
        for column in relation.columns.values():
            if column.generated or column.name in (*relation.primary_key, own):
                continue
            if relation.foreign_key_of(column.name) is not None and not self._is_code(
                table, column.name
            ):
                continue
            for value in self._values(table, column, row.values.get(column.name)):
                if column.name in keyed:
                    if self._is_listed(table, column):
                        # Each value once by itself, too.
                        yield self._renewed(row).inserted(**{column.name: value})
                    twin = self._with_new_id(row)
                elif bound:
                    *before, twin = self._lawful(table, tenant)
                    yield from (parent.inserted() for parent in before)
                else:
                    twin = self._renewed(row)
                yield twin.inserted(**{column.name: value})

    def _is_code(self, table: str, column: str) -> bool:
        return any((table, column) in t.used_by for t in self.world.contract.taxonomies)

    def _is_listed(self, table: str, column: Column) -> bool:
        """Whether a column takes some values only."""
        relation = self.world.catalog.tables[table]
        listed = bool(listed_values(relation, column))
        return listed or bool(column.enum) or self._is_code(table, column.name)

    def _values(self, table: str, column: Column, now: Value) -> list[Value]:
        """Values worth trying in the place of one: others, near ones, extreme ones, and none."""
        relation = self.world.catalog.tables[table]
        values: list[Value] = list(valid_choices(self.world, relation, column))
        listed = self._is_listed(table, column)
        if self._is_code(table, column.name):
            values = list(codes(self.world, 0))
        elif column.type in _TEXTS and not listed and isinstance(now, str):
            longest = column.length if column.length > 0 else _LONG
            values += [now.upper(), f"{now} ", "x" * longest]
        elif column.type == "numeric":
            digits = "123456789"[: column.scale] if column.scale >= 0 else "123456789"
            values += [f"10.{digits}", f"0.{digits}"] if digits else []
        elif column.type.startswith("timestamp"):
            values.append("2024-03-01 00:00:00.123456+00")
        if not column.not_null:
            values.append(None)
        return [v for v in dict.fromkeys(values) if v != now]

    def _adapted(self, row: LawfulRow) -> LawfulRow:
        """A row with the columns that there are, under the names that they have here.

        A strategy of the user's is written for the newest revision.
        """
        relation = self.world.catalog.tables[row.table]
        formerly = self.world.contract.formerly
        named = {
            formerly.get(f"{row.table}.{c}", f".{c}").rpartition(".")[2]: v
            for c, v in row.values.items()
        }
        values = {c: v for c, v in named.items() if c in relation.columns}
        for column in relation.columns.values():
            listed = listed_values(relation, column)
            needed = column.not_null and not (column.has_default or column.generated)
            if needed and values.get(column.name) is None:
                tenant = row.actor.tenant or ""
                made = column_value(self.world, row.table, column.name, tenant, hostile=0)
                values[column.name] = made
            if listed and values.get(column.name) not in listed and column.name in values:
                values[column.name] = listed[0]
        return replace(row, values=values)

    def _lawful(self, table: str, tenant: str) -> list[LawfulRow]:
        """A row that no other is like in any key, after those that it needs."""
        return self._all_renewed([self._adapted(r) for r in lawful(self.world, table, tenant)])

    def _all_renewed(self, rows: list[LawfulRow]) -> list[LawfulRow]:
        """Rows with new keys, which refer to each other as before."""
        made: list[LawfulRow] = []
        for old in rows:
            row = old
            for before, after in zip(rows, made, strict=False):
                row = self._referring(row, before, after)
            made.append(self._renewed(row))
        return made

    def _referring(self, row: LawfulRow, before: LawfulRow, after: LawfulRow) -> LawfulRow:
        """A row that refers to what another has become, if it did to what that was."""
        contract, tables = self.world.contract, self.world.catalog.tables
        pairs = [
            (column, target)
            for key in tables[row.table].foreign_keys
            if key.target == before.table
            for column, target in zip(key.columns, key.target_columns, strict=True)
        ]
        pairs += [
            (column, tables[target].id_column)
            for column, target in contract.references(row.table)
            if target == before.table
        ]
        changed = {
            column: after.values[target]
            for column, target in pairs
            if column != contract.tenancy.column
            and target in before.values
            and row.values.get(column) == before.values[target]
        }
        return row.having(**changed)

    def _renewed(self, row: LawfulRow) -> LawfulRow:
        """The same row, none of whose keys any other row has."""
        relation = self.world.catalog.tables[row.table]
        changed: dict[str, Value] = {}
        for unique in relation.uniques:
            if unique.primary or any(c in changed for c in unique.columns):
                continue
            for name in unique.columns:
                if self._is_free(row, name):
                    changed[name] = self._new(row, name)
                    break
        return self._with_new_id(row.having(**changed))

    def _with_new_id(self, row: LawfulRow) -> LawfulRow:
        """The same row with another primary key, where a client chooses that."""
        relation = self.world.catalog.tables[row.table]
        for name in relation.primary_key:
            if self._is_free(row, name):
                row = row.having(**{name: self._new(row, name)})
                break
        self.world.remember(row.table, row.actor.tenant or "", dict(row.values))
        return row

    def _is_free(self, row: LawfulRow, name: str) -> bool:
        """Whether a column may have any value of its type."""
        relation = self.world.catalog.tables[row.table]
        column = relation.columns.get(name)
        return (
            column is not None
            and name in row.values
            and name != self.world.contract.tenancy.column
            and relation.foreign_key_of(name) is None
            and not column.enum
            and not listed_values(relation, column)
            and column.type in (*_TEXTS, *_INTEGERS, "uuid")
        )

    def _new(self, row: LawfulRow, name: str) -> Value:
        column = self.world.catalog.tables[row.table].columns[name]
        number = self.world.next(f"{row.table}.{name}")
        if column.type == "uuid":
            return ident(f"{row.table}.{name}", number)
        if column.type in _INTEGERS:
            return 1000 + number
        return f"k{number}"
