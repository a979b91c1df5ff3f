"""Whether a database has all that a contract names. Each fault is one line: file, key, remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from invariants.contract.deeds import DEEDS, kind_of
from invariants.schema.catalog import Catalog

if TYPE_CHECKING:
    from invariants.contract.contract import Contract


def bind(contract: Contract, catalog: Catalog) -> None:
    """Check that all the contract names exists in the database.

    Raises `UsageError` for the first table, column or role that is missing.
    """
    for key, table in _tables(contract):
        if table not in catalog.tables:
            raise contract.fault(
                key, f"the database has no table {table!r}", _close(catalog, table)
            )
    for key, table, column in _columns(contract):
        relation = catalog.relations.get(table)
        if relation is None:
            raise contract.fault(
                key, f"the database has no relation {table!r}", _close(catalog, table)
            )
        if column not in relation.columns:
            known = ", ".join(relation.columns)
            raise contract.fault(
                key, f"table {table!r} has no column {column!r}", f"use one of: {known}"
            )
    for name in contract.introduced:
        if not _is_there(catalog, name):
            raise contract.fault(
                f'introduced."{name}"',
                "the database has no such relation or column",
                _close(catalog, name.rpartition(".")[0] or name),
            )
    for table, column in contract.pii.columns if contract.pii else ():
        kind = catalog.tables[table].columns[column].type
        if kind not in ("json", "jsonb"):
            raise contract.fault(
                "pii.columns", f"{table}.{column} is of type {kind}", "name JSON columns only"
            )
    for role, grants in contract.roles.items():
        if role not in catalog.roles:
            raise contract.fault(
                f"roles.{role}",
                f"the server has no role {role!r}",
                "create it in a migration or remove it",
            )
        for relation_name, verbs in grants.items():
            place = f"roles.{role}.{relation_name}"
            named = kind_of(relation_name, catalog)
            if named is None:
                word = "routine" if "(" in relation_name else "relation"
                raise contract.fault(
                    place,
                    f"the database has no {word} {relation_name!r}",
                    _close(catalog, relation_name),
                )
            for verb in sorted(verbs - {*DEEDS[named]}):
                raise contract.fault(
                    place, f"nobody can {verb} a {named}", f"use one of: {', '.join(DEEDS[named])}"
                )
    for i, path in enumerate(contract.read_paths):
        for name, relation_name, kind in (
            ("view", path.view, "view"),
            ("filled_by", path.filled_by, "matview"),
        ):
            there = catalog.relations.get(relation_name)
            if there is None or there.kind != kind:
                word = "materialized view" if kind == "matview" else kind
                raise contract.fault(
                    f"read_path[{i}].{name}",
                    f"the database has no {word} {relation_name!r}",
                    _close(catalog, relation_name),
                )


def missing(contract: Contract, catalog: Catalog) -> frozenset[str]:
    """What the contract names, tables and `table.column`, and a database has not."""
    relations = {table for _, table in _tables(contract)}
    relations |= {relation for grants in contract.roles.values() for relation in grants}
    relations |= {name for path in contract.read_paths for name in (path.view, path.filled_by)}
    gone = {name for name in relations if kind_of(name, catalog) is None}
    for table, column in named(contract):
        if table not in catalog.relations:
            gone.add(table)
        elif column not in catalog.relations[table].columns:
            gone.add(f"{table}.{column}")
    gone |= {name for name in contract.introduced if not _is_there(catalog, name)}
    return frozenset(gone)


def _is_there(catalog: Catalog, name: str) -> bool:
    """Whether a database has a relation, or a column named as `table.column`."""
    table, _, column = name.rpartition(".")
    owner = catalog.relations.get(table)
    return name in catalog.relations or (owner is not None and column in owner.columns)


def named(contract: Contract) -> Iterable[tuple[str, str]]:
    """The columns that a contract speaks of, each with its table."""
    for _, table, column in _columns(contract):
        yield table, column


def _tables(contract: Contract) -> Iterable[tuple[str, str]]:
    tenancy = contract.tenancy
    if tenancy.root is not None:
        yield "tenancy.root", tenancy.root
    for table in tenancy.tables:
        yield "tenancy.tables", table
    for table in tenancy.scoped_by:
        yield "tenancy.scoped_by", table
    for table in tenancy.shared:
        yield "tenancy.shared", table
    if tenancy.members is not None:
        yield "tenancy.members.table", tenancy.members.table
    for i, level in enumerate(tenancy.within):
        yield f"tenancy.within[{i}].root", level.root
    for table in contract.written_by_triggers.tables:
        yield "written_by_triggers.tables", table
    for i, append in enumerate(contract.append_only):
        yield f"append_only[{i}].table", append.table
    for i, total in enumerate(contract.sums):
        yield f"sums[{i}].table", total.table
        yield f"sums[{i}].total", total.total_table
    for i, rule in enumerate(contract.idempotency):
        yield f"idempotency[{i}].table", rule.table
    for i, taxonomy in enumerate(contract.taxonomies):
        yield f"taxonomies[{i}].table", taxonomy.table
    for i, ledger in enumerate(contract.ledgers):
        yield f"ledger[{i}].table", ledger.table
        yield f"ledger[{i}].source", ledger.source_table
    for i, path in enumerate(contract.read_paths):
        yield f"read_path[{i}].rows_of", path.table
    for table in contract.rows:
        yield f"rows.{table}", table


def _columns(contract: Contract) -> Iterable[tuple[str, str, str]]:
    tenancy = contract.tenancy
    for table in tenancy.tables:
        yield "tenancy.column", table, tenancy.column
    for table, column in tenancy.scoped_by.items():
        yield "tenancy.scoped_by", table, column
    for table, column in tenancy.tied:
        yield "tenancy.tied", table, column
    if tenancy.members is not None:
        yield "tenancy.members.user", tenancy.members.table, tenancy.members.user
        yield "tenancy.members.tenant", tenancy.members.table, tenancy.members.tenant
    for (table, column), target in contract.references_to.items():
        yield "references", table, column
        yield "references", *target
    for table, column in contract.written_by_triggers.columns:
        yield "written_by_triggers.columns", table, column
    for i, total in enumerate(contract.sums):
        yield f"sums[{i}].amount", total.table, total.amount
        yield f"sums[{i}].total", total.total_table, total.total_column
        for column in total.group_by:
            yield f"sums[{i}].group_by", total.table, column
    for i, rule in enumerate(contract.idempotency):
        for key in rule.keys:
            for column in key:
                yield f"idempotency[{i}].keys", rule.table, column
    for i, taxonomy in enumerate(contract.taxonomies):
        yield f"taxonomies[{i}].code", taxonomy.table, taxonomy.code
        if taxonomy.active:
            yield f"taxonomies[{i}].active", taxonomy.table, taxonomy.active
        for table, column in taxonomy.used_by:
            yield f"taxonomies[{i}].used_by", table, column
    for i, ledger in enumerate(contract.ledgers):
        yield f"ledger[{i}].amount", ledger.table, ledger.amount
        yield f"ledger[{i}].posts", ledger.table, ledger.posts
        yield f"ledger[{i}].source", ledger.source_table, ledger.source_amount
        if ledger.corrects:
            yield f"ledger[{i}].corrects", ledger.table, ledger.corrects
    for table, column in contract.pii.columns if contract.pii else ():
        yield "pii.columns", table, column
    for i, path in enumerate(contract.read_paths):
        for read in path.columns:
            if read.source:
                told = f"read_path[{i}].columns.{read.name}.{read.summary}"
                yield told, path.table, read.source
        for column in path.latest_by:
            yield f"read_path[{i}].latest_by", path.table, column
    for table, columns in contract.rows.items():
        for promised in columns:
            yield f"rows.{table}", table, promised.name
    for table, column in contract.domains:
        yield f'domains."{table}.{column}"', table, column
    for table, column in contract.clock_columns:
        yield "clock.columns", table, column


def _close(catalog: Catalog, name: str) -> str:
    near = difflib.get_close_matches(name, list(catalog.relations), n=1)
    return f"did you mean {near[0]!r}?" if near else "remove it, or create the table in a migration"
