"""What the rows of a database are asked, as SQL made of a contract and a catalog.

Each statement gives one row: how many are amiss, and the keys of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from invariants.checks.ownership import link_of
from invariants.checks.references import Reference, references
from invariants.contract.contract import Contract
from invariants.contract.sections import Ledger, Sum
from invariants.schema.catalog import Catalog
from invariants.workload import sql

_SHOWN_MAX = 5


@dataclass(frozen=True)
class Question:
    """One question about the rows of a table.

    `name` tells it from others, `says` is what is so of the rows that are amiss. `body` is SQL with
    the table as `t`, with `{}` where its rows come from, and a column `key`. `by_row` when each row
    answers for itself. With `judge` the statement gives texts instead, each with how many rows have
    it and the keys of some, and it says which are amiss.
    """

    kind: str
    name: str
    table: str
    says: str
    body: str
    by_row: bool = True
    judge: Callable[[str], bool] | None = None

    @property
    def table_sql(self) -> str:
        """The table as SQL with placeholders has it."""
        return sql.name(self.table).replace("%", "%%")

    def column(self, name: str) -> str:
        """A column as SQL with placeholders has it."""
        return sql.column(name).replace("%", "%%")

    def statement(self, source: str) -> str:
        """The statement, its rows taken from here; percent signs are those of placeholders."""
        body = self.body.replace("%", "%%").replace("{}", source)
        if self.judge is not None:
            return body
        return f"SELECT count(*), (array_agg(key))[1:{_SHOWN_MAX}] FROM ({body}) AS amiss"


def questions(contract: Contract, catalog: Catalog) -> Iterator[Question]:
    """All that a contract gives reason to ask."""
    yield from _references(contract, catalog)
    yield from _codes(contract, catalog)
    for rule in contract.sums:
        yield _sum(contract, catalog, rule)
    yield from _keys(contract, catalog)
    for ledger in contract.ledgers:
        yield from _ledger(catalog, ledger)
    yield from _personal(contract, catalog)


def _key(catalog: Catalog, table: str) -> str:
    """A row's primary key as a text; all of the row where it has none."""
    columns = catalog.tables[table].primary_key
    if not columns:
        return "t::text"
    return " || '/' || ".join(f"t.{sql.column(c)}::text" for c in columns)


def _owner(contract: Contract, catalog: Catalog, table: str, alias: str, depth: int = 0) -> str:
    """Whose a row is, as an expression; empty where nothing says so."""
    tenancy = contract.tenancy
    if table == tenancy.root:
        return f"{alias}.{sql.column(catalog.tables[table].id_column)}"
    if table in tenancy.tables:
        return f"{alias}.{sql.column(tenancy.column)}"
    if table not in tenancy.scoped_by or depth > 8:
        return ""
    link = link_of(contract, catalog, table)
    if link is None:
        return ""
    target, columns = link
    above = f"p{depth}"
    owner = _owner(contract, catalog, target, above, depth + 1)
    on = " AND ".join(f"{above}.{sql.column(to)} = {alias}.{sql.column(c)}" for c, to in columns)
    return owner and f"(SELECT {owner} FROM {sql.name(target)} {above} WHERE {on})"


def _references(contract: Contract, catalog: Catalog) -> Iterator[Question]:
    root = contract.tenancy.root
    for table in contract.tenancy.rooted:
        if table not in catalog.tables:
            continue
        row = f"SELECT {_key(catalog, table)} AS key FROM {{}} AS t"
        mine = _owner(contract, catalog, table, "t")
        if root is not None and table in contract.tenancy.tables:
            column = contract.tenancy.column
            whose = Reference((column,), root, (catalog.tables[root].id_column,))
            yield _not_there(table, f"{table}.{column}", whose, row)
        for reference in references(contract, catalog)[table]:
            key, target = reference.key, reference.target
            name = key.name if key else f"{table}.{', '.join(reference.columns)}"
            yield _not_there(table, name, reference, row)
            theirs = _owner(contract, catalog, target, "x")
            if mine and theirs and target != root:
                found = f"EXISTS ({_named(reference)} AND {theirs}"
                yield Question(
                    "cross-tenant",
                    f"cross-tenant {table}: {name}",
                    table,
                    f"refer to another tenant's row of {target}",
                    # A key that is one within a tenant only may be another's, too.
                    f"{row} WHERE {found} <> {mine}) AND NOT {found} = {mine})",
                )


def _not_there(table: str, name: str, reference: Reference, row: str) -> Question:
    given = " AND ".join(f"t.{sql.column(c)} IS NOT NULL" for c in reference.columns)
    return Question(
        "reference",
        f"reference {table}: {name}",
        table,
        f"refer to a row of {reference.target} that is not there",
        f"{row} WHERE {given} AND NOT EXISTS ({_named(reference)})",
    )


def _named(reference: Reference) -> str:
    """The rows that `t` names, as `x`."""
    pairs = zip(reference.columns, reference.target_columns, strict=True)
    on = " AND ".join(f"x.{sql.column(b)} = t.{sql.column(a)}" for a, b in pairs)
    return f"SELECT FROM {sql.name(reference.target)} x WHERE {on}"


def _codes(contract: Contract, catalog: Catalog) -> Iterator[Question]:
    for rule in contract.taxonomies:
        for table, column in rule.used_by:
            if table in catalog.tables:
                used, code = f"t.{sql.column(column)}", f"x.{sql.column(rule.code)}"
                yield Question(
                    "taxonomy",
                    f"taxonomy {table}.{column}",
                    table,
                    f"have a code that {rule.table} does not have",
                    f"SELECT {_key(catalog, table)} AS key FROM {{}} AS t WHERE {used} IS NOT NULL "
                    f"AND NOT EXISTS (SELECT FROM {sql.name(rule.table)} x WHERE {code} = {used})",
                )


def _sum(contract: Contract, catalog: Catalog, rule: Sum) -> Question:
    groups = [
        _owner(contract, catalog, rule.table, "t"),
        *(f"t.{sql.column(c)}" for c in rule.group_by),
    ]
    by = ", ".join(filter(None, groups))
    key = " || '/' || ".join(f"({g})::text" for g in groups if g)
    total, amount = f"x.{sql.column(rule.total_column)}", f"t.{sql.column(rule.amount)}"
    of = catalog.tables[rule.total_table].id_column
    on = f"x.{sql.column(of)} = t.{sql.column(rule.total_key)}"
    return Question(
        "allocation-sum",
        f"allocation-sum {rule.table}.{rule.amount}",
        rule.table,
        f"are groups that do not add up to {rule.total_table}.{rule.total_column}",
        f"SELECT {key} AS key FROM {{}} AS t LEFT JOIN {sql.name(rule.total_table)} x "
        f"ON {on} GROUP BY {by}, {total} "
        f"HAVING (abs(sum({amount}) - {total}) <= {rule.tolerance}) IS NOT TRUE",
        by_row=False,
    )


def _keys(contract: Contract, catalog: Catalog) -> Iterator[Question]:
    for rule in contract.idempotency:
        ledger = next((r for r in contract.ledgers if r.table == rule.table), None)
        owner = _owner(contract, catalog, rule.table, "t")
        if not owner:
            continue
        for position, columns in enumerate(rule.keys):
            # The first key of which nothing is missing is the one that counts.
            terms = [f"t.{sql.column(c)} IS NOT NULL" for c in columns]
            for earlier in rule.keys[:position]:
                missing = " OR ".join(f"t.{sql.column(c)} IS NULL" for c in earlier)
                terms.append(f"({missing})")
            if ledger is not None and ledger.corrects:
                terms.append(f"t.{sql.column(ledger.corrects)} IS NULL")
            parts = [owner, *(f"t.{sql.column(c)}" for c in columns)]
            key = " || '/' || ".join(f"({p})::text" for p in parts)
            yield Question(
                "idempotent-ingest",
                f"idempotent-ingest {rule.table} ({', '.join(columns)})",
                rule.table,
                "are keys that stand more than once within a tenant",
                f"SELECT {key} AS key FROM {{}} AS t WHERE {' AND '.join(terms)} "
                f"GROUP BY {', '.join(parts)} HAVING count(*) > 1",
                by_row=False,
            )


def _ledger(catalog: Catalog, rule: Ledger) -> Iterator[Question]:
    amount, posts = f"t.{sql.column(rule.amount)}", f"t.{sql.column(rule.posts)}"
    of = catalog.tables[rule.source_table].id_column
    source = f"x.{sql.column(rule.source_amount)}"
    joined = f"{{}} AS t JOIN {sql.name(rule.source_table)} x ON x.{sql.column(of)} = {posts}"
    posting = f"t.{sql.column(rule.corrects)} IS NULL" if rule.corrects else "true"
    key = _key(catalog, rule.table)
    if rule.partial:
        yield Question(
            "ledger",
            f"ledger {rule.table}.{rule.amount}",
            rule.table,
            f"are rows of {rule.source_table} of which more is posted than there is",
            f"SELECT {posts}::text AS key FROM {joined} WHERE {posting} GROUP BY {posts}, {source} "
            f"HAVING sum({amount}) > {source}",
            by_row=False,
        )
    else:
        yield Question(
            "ledger",
            f"ledger {rule.table}.{rule.amount}",
            rule.table,
            f"post another amount than that of their row of {rule.source_table}",
            f"SELECT {key} AS key FROM {joined} WHERE {posting} AND {amount} <> {source}",
        )
    if rule.corrects:
        corrects, own = f"t.{sql.column(rule.corrects)}", f"x.{sql.column(rule.amount)}"
        own_key = catalog.tables[rule.table].id_column
        yield Question(
            "ledger",
            f"ledger {rule.table}.{rule.corrects}",
            rule.table,
            "are postings that corrections take below zero",
            f"SELECT {corrects}::text AS key FROM {{}} AS t JOIN {sql.name(rule.table)} x "
            f"ON x.{sql.column(own_key)} = {corrects} GROUP BY {corrects}, {own} "
            f"HAVING {own} + sum({amount}) < 0",
            by_row=False,
        )


def _personal(contract: Contract, catalog: Catalog) -> Iterator[Question]:
    pii = contract.pii
    if pii is None:
        return
    for table, column in pii.columns:
        if table not in catalog.tables:
            continue
        key, document = _key(catalog, table), f"t.{sql.column(column)}::jsonb"
        yield Question(
            "pii",
            f"pii {table}.{column}",
            table,
            "have a key that names personal data",
            "WITH RECURSIVE inner_of (key, name, value) AS ("
            f"SELECT {key}, NULL::text, {document} FROM {{}} AS t UNION ALL "
            "SELECT i.key, e.name, e.value FROM inner_of i, LATERAL ("
            "SELECT o.key AS name, o.value FROM jsonb_each(CASE jsonb_typeof(i.value) "
            "WHEN 'object' THEN i.value ELSE jsonb_build_object() END) o UNION ALL "
            "SELECT NULL, a.value FROM jsonb_array_elements(CASE jsonb_typeof(i.value) "
            "WHEN 'array' THEN i.value ELSE '[]' END) a) e) "
            "SELECT name, count(DISTINCT key), (array_agg(DISTINCT key))"
            f"[1:{_SHOWN_MAX}] FROM inner_of WHERE name IS NOT NULL GROUP BY name",
            judge=pii.names,
        )
