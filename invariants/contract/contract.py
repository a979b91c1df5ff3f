"""The contract: what a schema promises, read from `invariants.toml` and checked for sense.

Loading checks keys and types; `bind` checks that every table, column and role named exists in the
database. Each fault is one line: file, key, remedy.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from invariants.errors import UsageError
from invariants.schema.catalog import Catalog, Column, ForeignKey, Relation

FORMAT = 1
VERBS = ("select", "insert", "update", "delete", "truncate")
CHANNELS = ("primary-key-collision",)

# What may be said of a column besides its type.
COLUMN_WORDS = ("key", "nullable", "cascade", "restrict")
# Spellings of types that people prefer to PostgreSQL's own.
_ALIASES = {
    "varchar": "character varying",
    "char": "character",
    "int": "integer",
    "bool": "boolean",
    "decimal": "numeric",
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
}
_TYPE = re.compile(
    r"([a-z][a-z ]*?)\s*(?:\(([0-9]+)(?:\s*,\s*([0-9]+))?\))?( with(?:out)? time zone)?\Z"
)

# A role that every server has and that owns nothing: what it may do, everybody may.
ANYBODY = "pg_signal_backend"

Key = tuple[Any, ...]
Summary = Literal["tenant", "sum", "any", "age", "latest"]
SUMMARIES: tuple[Summary, ...] = get_args(Summary)


@dataclass(frozen=True)
class Tenancy:
    """Who the tenants are and how a session says which one it acts for."""

    root: str
    column: str
    setting: str
    tables: tuple[str, ...]
    erased_by: str | None = None


@dataclass(frozen=True)
class AppendOnly:
    """A table whose committed rows stay as they are; only `repaired_by` may change one."""

    table: str
    repaired_by: str | None = None


@dataclass(frozen=True)
class Sum:
    """Rows of `table` grouped by tenant and `group_by` add up to a column of another table.

    `tolerance` is in the unit of the amount (cents here).
    """

    table: str
    amount: str
    group_by: tuple[str, ...]
    total_table: str
    total_column: str
    total_key: str
    tolerance: int


@dataclass(frozen=True)
class Idempotency:
    """The keys by which a second delivery is recognised, in order of precedence."""

    table: str
    keys: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Taxonomy:
    """A table of codes, the columns that use them, and a file whose codes must all exist."""

    table: str
    code: str
    active: str | None
    used_by: tuple[tuple[str, str], ...]
    mapping: Path | None


@dataclass(frozen=True)
class Domain:
    """Values a column takes: a numeric range, one of a list, or any text that is not blank."""

    min: float | None = None
    max: float | None = None
    one_of: tuple[str, ...] | None = None
    not_blank: bool = False


@dataclass(frozen=True)
class Ledger:
    """A table whose rows post amounts of another table, once each, and whose rows may be corrected.

    A posting names the row it posts in `posts` and carries that row's amount. A correction also
    names the posting it corrects, in `corrects`; a posting and its corrections together are never
    below zero. `corrects` is None where there are no corrections.
    """

    table: str
    amount: str
    posts: str
    source_table: str
    source_amount: str
    corrects: str | None = None

    def is_correction(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the table corrects another."""
        return self.corrects is not None and row.get(self.corrects) is not None


@dataclass(frozen=True)
class Pii:
    """JSON columns in which no key may name personal data, and the words that do.

    A key names it when its last words are one of `last_words`, or all of its words are one of
    `whole`. Words are runs of ASCII letters and digits, also divided before a capital that follows
    a lower-case letter or digit; case and numbers at the end do not matter.
    """

    columns: tuple[tuple[str, str], ...]
    last_words: tuple[str, ...]
    whole: tuple[str, ...]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        last, whole = (
            "|".join("_?".join(map(re.escape, words.split())) for words in listed) or "(?!)"
            for listed in (self.last_words, self.whole)
        )
        return re.compile(rf"(?:(?:.*_)?(?:{last})|(?:{whole}))[0-9_]*\Z")

    def names(self, key: str) -> bool:
        """Whether a key names personal data."""
        divided = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", key)
        words = re.sub(r"[^A-Za-z0-9]+", "_", divided).strip("_").lower()
        return bool(self._pattern.match(words))


@dataclass(frozen=True)
class ReadColumn:
    """A column of a read path: its SQL type, and what it says of the tenant's rows.

    tenant: whose rows they are. sum: of `source`, divided by `divided_by`. any: whether `source` is
    true in some row. age: seconds since the latest `source`, from 0 to what the type holds.
    latest: `source` of the latest row.
    """

    name: str
    type: str
    summary: Summary
    source: str = ""
    divided_by: int = 1


@dataclass(frozen=True)
class ReadPath:
    """A view through which a tenant reads one row about its rows of `table`.

    It shows what they were when `filled_by`, a materialized view, was last refreshed. The latest
    row is the last by `latest_by`.
    """

    view: str
    filled_by: str
    table: str
    columns: tuple[ReadColumn, ...]
    latest_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowColumn:
    """What a column holds: values of a type, of a length in characters where it has one.

    `scale` is the number of digits after the point, of a number or of a second; -1 where the type
    says nothing. `gone_with` is CASCADE when a row goes with what this column refers to, NO ACTION
    when it keeps it from going, and empty where nothing is said.
    """

    name: str
    type: str
    length: int = -1
    scale: int = -1
    key: bool = False
    nullable: bool = False
    gone_with: str = ""


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
    strategies: tuple[str, ...] = ()
    """Python modules with the user's own rows and operations, looked up beside the file."""
    later: frozenset[str] = frozenset()
    """Of `introduced`, what is not there yet at the revision at hand: see `at`."""

    def at(self, lineage: Collection[str], known: Collection[str]) -> Contract:
        """What the contract says at a revision: without what later revisions introduce.

        `lineage` are the revisions from base to that one, `known` those of the whole chain. Raises
        `UsageError` when `introduced` names a revision that does not exist.
        """
        for name, revision in self.introduced.items():
            if revision not in known:
                raise self._fault(
                    f'introduced."{name}"',
                    f"there is no revision {revision!r}",
                    "name one by its full id",
                )
        later = {n for n, revision in self.introduced.items() if revision not in lineage}
        now = {n: revision for n, revision in self.introduced.items() if n not in later}

        def there(table: str, *columns: str) -> bool:
            return table not in later and not any(f"{table}.{c}" in later for c in columns)

        return replace(
            self,
            introduced=now,
            later=frozenset(later),
            tenancy=replace(self.tenancy, tables=tuple(t for t in self.tenancy.tables if there(t))),
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

    def promised(self, catalog: Catalog) -> Catalog:
        """The catalog with what the contract says of rows in place of what the database does.

        Rows are made, and outcomes predicted, from it: a column that has lost its NOT NULL, its
        length or its key is judged by what was promised of it.
        """
        relations = dict(catalog.relations)
        for table, columns in self.rows.items():
            if table in relations:
                relations[table] = _as_promised(relations[table], columns, self.tenancy.column)
        return replace(catalog, relations=relations)

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

        Raises `UsageError` for the first table, column or role that is missing, and for a table of
        the database that has the tenant column and is not listed.
        """
        for key, table in self._tables():
            if table not in catalog.tables:
                raise self._fault(
                    key, f"the database has no table {table!r}", _close(catalog, table)
                )
        for key, table, column in self._columns():
            relation = catalog.relations.get(table)
            if relation is None:
                raise self._fault(
                    key, f"the database has no relation {table!r}", _close(catalog, table)
                )
            if column not in relation.columns:
                known = ", ".join(relation.columns)
                raise self._fault(
                    key, f"table {table!r} has no column {column!r}", f"use one of: {known}"
                )
        for name in self.introduced:
            table, _, column = name.rpartition(".")
            owner = catalog.relations.get(table)
            if name not in catalog.relations and (owner is None or column not in owner.columns):
                raise self._fault(
                    f'introduced."{name}"',
                    "the database has no such relation or column",
                    _close(catalog, table or name),
                )
        for table, column in self.pii.columns if self.pii else ():
            kind = catalog.tables[table].columns[column].type
            if kind not in ("json", "jsonb"):
                raise self._fault(
                    "pii.columns", f"{table}.{column} is of type {kind}", "name JSON columns only"
                )
        for role, grants in self.roles.items():
            if role not in catalog.roles:
                raise self._fault(
                    f"roles.{role}",
                    f"the server has no role {role!r}",
                    "create it in a migration or remove it",
                )
            for relation_name in grants:
                if relation_name not in catalog.relations:
                    raise self._fault(
                        f"roles.{role}.{relation_name}",
                        f"the database has no relation {relation_name!r}",
                        _close(catalog, relation_name),
                    )
        for i, path in enumerate(self.read_paths):
            for name, relation_name, kind in (
                ("view", path.view, "view"),
                ("filled_by", path.filled_by, "matview"),
            ):
                there = catalog.relations.get(relation_name)
                if there is None or there.kind != kind:
                    word = "materialized view" if kind == "matview" else kind
                    raise self._fault(
                        f"read_path[{i}].{name}",
                        f"the database has no {word} {relation_name!r}",
                        _close(catalog, relation_name),
                    )
        for found in catalog.tables.values():
            scoped = self.tenancy.column in found.columns and found.name != self.tenancy.root
            if scoped and found.name not in self.tenancy.tables:
                raise self._fault(
                    "tenancy.tables",
                    f"table {found.name!r} has a column {self.tenancy.column!r} and is not listed",
                    "add it, so that its isolation is checked",
                )

    def _tables(self) -> Iterable[tuple[str, str]]:
        yield "tenancy.root", self.tenancy.root
        for table in self.tenancy.tables:
            yield "tenancy.tables", table
        for i, append in enumerate(self.append_only):
            yield f"append_only[{i}].table", append.table
        for i, total in enumerate(self.sums):
            yield f"sums[{i}].table", total.table
            yield f"sums[{i}].total", total.total_table
        for i, rule in enumerate(self.idempotency):
            yield f"idempotency[{i}].table", rule.table
        for i, taxonomy in enumerate(self.taxonomies):
            yield f"taxonomies[{i}].table", taxonomy.table
        for i, ledger in enumerate(self.ledgers):
            yield f"ledger[{i}].table", ledger.table
            yield f"ledger[{i}].source", ledger.source_table
        for i, path in enumerate(self.read_paths):
            yield f"read_path[{i}].rows_of", path.table
        for table in self.rows:
            yield f"rows.{table}", table

    def _columns(self) -> Iterable[tuple[str, str, str]]:
        for table in self.tenancy.tables:
            yield "tenancy.column", table, self.tenancy.column
        for i, total in enumerate(self.sums):
            yield f"sums[{i}].amount", total.table, total.amount
            yield f"sums[{i}].total", total.total_table, total.total_column
            for column in total.group_by:
                yield f"sums[{i}].group_by", total.table, column
        for i, rule in enumerate(self.idempotency):
            for key in rule.keys:
                for column in key:
                    yield f"idempotency[{i}].keys", rule.table, column
        for i, taxonomy in enumerate(self.taxonomies):
            yield f"taxonomies[{i}].code", taxonomy.table, taxonomy.code
            if taxonomy.active:
                yield f"taxonomies[{i}].active", taxonomy.table, taxonomy.active
            for table, column in taxonomy.used_by:
                yield f"taxonomies[{i}].used_by", table, column
        for i, ledger in enumerate(self.ledgers):
            yield f"ledger[{i}].amount", ledger.table, ledger.amount
            yield f"ledger[{i}].posts", ledger.table, ledger.posts
            yield f"ledger[{i}].source", ledger.source_table, ledger.source_amount
            if ledger.corrects:
                yield f"ledger[{i}].corrects", ledger.table, ledger.corrects
        for table, column in self.pii.columns if self.pii else ():
            yield "pii.columns", table, column
        for i, path in enumerate(self.read_paths):
            for read in path.columns:
                if read.source:
                    told = f"read_path[{i}].columns.{read.name}.{read.summary}"
                    yield told, path.table, read.source
            for column in path.latest_by:
                yield f"read_path[{i}].latest_by", path.table, column
        for table, columns in self.rows.items():
            for promised in columns:
                yield f"rows.{table}", table, promised.name
        for table, column in self.domains:
            yield f'domains."{table}.{column}"', table, column
        for table, column in self.clock_columns:
            yield "clock.columns", table, column

    def _fault(self, key: str, what: str, remedy: str) -> UsageError:
        return UsageError(f"{self.path}: {key}: {what}; {remedy}")


def load(path: Path) -> Contract:
    """Read and check a contract file. Raises `UsageError` with file, key and remedy."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; name the contract with --contract FILE") from None
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); check the path given to --contract"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}; mend that line") from None
    return _Reader(path).contract(document)


def _close(catalog: Catalog, name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(catalog.relations), n=1)
    return f"did you mean {near[0]!r}?" if near else "remove it, or create the table in a migration"


def _as_promised(relation: Relation, promised: tuple[RowColumn, ...], tenant: str) -> Relation:
    columns = dict(relation.columns)
    for column in promised:
        if column.name in columns:
            columns[column.name] = _column_as_promised(columns[column.name], column)
    told = {c.name: c.gone_with for c in promised if c.gone_with}

    def key_as_promised(key: ForeignKey) -> ForeignKey:
        # The tenant is only there to keep a reference to a row within it.
        naming = [c for c in key.columns if c != tenant] or key.columns
        actions = {told[c] for c in naming if c in told}
        return replace(key, on_delete=actions.pop()) if len(actions) == 1 else key

    return replace(
        relation,
        columns=columns,
        primary_key=tuple(c.name for c in promised if c.key) or relation.primary_key,
        foreign_keys=tuple(map(key_as_promised, relation.foreign_keys)),
    )


def _column_as_promised(column: Column, promised: RowColumn) -> Column:
    return replace(
        column,
        type=promised.type,
        length=promised.length,
        scale=promised.scale,
        not_null=promised.key or not promised.nullable,
    )


class _Reader:
    """Turns a TOML document into a contract and says where it does not fit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def contract(self, doc: dict[str, Any]) -> Contract:
        self.keys(
            "",
            doc,
            "format revisions introduced tenancy roles append_only sums idempotency taxonomies "
            "ledger pii read_path rows domains clock accepted strategies",
            required="format tenancy roles",
        )
        if type(doc["format"]) is not int or doc["format"] != FORMAT:
            raise self.fault(
                "format", f"{doc['format']!r} is not known", f"this version reads format {FORMAT}"
            )
        tenancy = self.table("tenancy", doc["tenancy"])
        self.keys(
            "tenancy", tenancy, "root column setting tables erased_by", "root column setting tables"
        )
        roles = self.roles(self.table("roles", doc["roles"]))
        erased_by = self.role("tenancy.erased_by", tenancy.get("erased_by"), roles)
        return Contract(
            path=self.path,
            tenancy=Tenancy(
                root=self.text("tenancy.root", tenancy["root"]),
                column=self.text("tenancy.column", tenancy["column"]),
                setting=self.text("tenancy.setting", tenancy["setting"]),
                tables=self.texts("tenancy.tables", tenancy["tables"]),
                erased_by=erased_by,
            ),
            roles=roles,
            append_only=tuple(
                self.append_only(k, t, roles) for k, t in self.each("append_only", doc)
            ),
            sums=tuple(self.sum(k, t) for k, t in self.each("sums", doc)),
            idempotency=tuple(self.idempotency(k, t) for k, t in self.each("idempotency", doc)),
            taxonomies=tuple(self.taxonomy(k, t) for k, t in self.each("taxonomies", doc)),
            domains=self.domains(self.table("domains", doc.get("domains", {}))),
            clock_columns=self.clock(self.table("clock", doc.get("clock", {}))),
            accepted=self.accepted(doc),
            revisions={
                k: self.text(f"revisions.{k}", v)
                for k, v in self.table("revisions", doc.get("revisions", {})).items()
            },
            ledgers=tuple(self.ledger(k, t) for k, t in self.each("ledger", doc)),
            pii=self.pii(self.table("pii", doc["pii"])) if "pii" in doc else None,
            read_paths=tuple(self.read_path(k, t) for k, t in self.each("read_path", doc)),
            rows={
                t: tuple(self.row_column(f"rows.{t}.{c}", c, spec) for c, spec in columns.items())
                for t, columns in self.each_of("rows", doc)
            },
            introduced={
                k: self.text(f'introduced."{k}"', v)
                for k, v in self.table("introduced", doc.get("introduced", {})).items()
            },
            strategies=self.modules(self.table("strategies", doc.get("strategies", {}))),
        )

    def roles(self, table: dict[str, Any]) -> dict[str, dict[str, frozenset[str]]]:
        roles: dict[str, dict[str, frozenset[str]]] = {}
        for role, grants in table.items():
            roles[role] = {}
            for relation, verbs in self.table(f"roles.{role}", grants).items():
                key = f"roles.{role}.{relation}"
                for verb in self.texts(key, verbs):
                    if verb not in VERBS:
                        raise self.fault(
                            key, f"{verb!r} is not a privilege", f"use some of: {', '.join(VERBS)}"
                        )
                roles[role][relation] = frozenset(verbs)
        return roles

    def append_only(self, key: str, table: dict[str, Any], roles: Collection[str]) -> AppendOnly:
        self.keys(key, table, "table repaired_by", "table")
        repaired_by = self.role(f"{key}.repaired_by", table.get("repaired_by"), roles)
        return AppendOnly(self.text(f"{key}.table", table["table"]), repaired_by)

    def sum(self, key: str, table: dict[str, Any]) -> Sum:
        names = "table amount group_by total total_key tolerance"
        self.keys(key, table, names, names)
        total_table, total_column = self.dotted(f"{key}.total", table["total"])
        group_by = self.texts(f"{key}.group_by", table["group_by"])
        if table["total_key"] not in group_by:
            raise self.fault(
                f"{key}.total_key", f"{table['total_key']!r} is not in group_by", "add it there"
            )
        if type(table["tolerance"]) is not int or table["tolerance"] < 0:
            raise self.fault(
                f"{key}.tolerance", "is not a whole number of at least 0", "for example 1"
            )
        return Sum(
            table=self.text(f"{key}.table", table["table"]),
            amount=self.text(f"{key}.amount", table["amount"]),
            group_by=group_by,
            total_table=total_table,
            total_column=total_column,
            total_key=table["total_key"],
            tolerance=table["tolerance"],
        )

    def idempotency(self, key: str, table: dict[str, Any]) -> Idempotency:
        self.keys(key, table, "table keys", "table keys")
        if not isinstance(table["keys"], list) or not all([table["keys"], *table["keys"]]):
            raise self.fault(
                f"{key}.keys", "is not a list of lists of columns", 'for example [["order_id"]]'
            )
        keys = tuple(self.texts(f"{key}.keys", k) for k in table["keys"])
        return Idempotency(self.text(f"{key}.table", table["table"]), keys)

    def taxonomy(self, key: str, table: dict[str, Any]) -> Taxonomy:
        self.keys(key, table, "table code active used_by mapping", "table code used_by")
        mapping, active = table.get("mapping"), table.get("active")
        path = None
        if mapping is not None:
            path = self.path.parent / self.text(f"{key}.mapping", mapping)
        if path is not None and not path.is_file():
            raise self.fault(
                f"{key}.mapping",
                f"no such file {path}",
                "correct the path, relative to the contract",
            )
        return Taxonomy(
            table=self.text(f"{key}.table", table["table"]),
            code=self.text(f"{key}.code", table["code"]),
            active=None if active is None else self.text(f"{key}.active", active),
            used_by=tuple(
                self.dotted(f"{key}.used_by", u)
                for u in self.texts(f"{key}.used_by", table["used_by"])
            ),
            mapping=path,
        )

    def ledger(self, key: str, table: dict[str, Any]) -> Ledger:
        self.keys(key, table, "table amount posts source corrects", "table amount posts source")
        source_table, source_amount = self.dotted(f"{key}.source", table["source"])
        corrects = table.get("corrects")
        return Ledger(
            table=self.text(f"{key}.table", table["table"]),
            amount=self.text(f"{key}.amount", table["amount"]),
            posts=self.text(f"{key}.posts", table["posts"]),
            source_table=source_table,
            source_amount=source_amount,
            corrects=None if corrects is None else self.text(f"{key}.corrects", corrects),
        )

    def pii(self, table: dict[str, Any]) -> Pii:
        self.keys("pii", table, "columns last_words whole", "columns")
        words = {k: self.texts(f"pii.{k}", table.get(k, [])) for k in ("last_words", "whole")}
        for name, listed in words.items():
            for entry in listed:
                if not re.fullmatch(r"[a-z0-9]+( [a-z0-9]+)*", entry):
                    raise self.fault(
                        f"pii.{name}",
                        f"{entry!r} is not words",
                        'write lower-case words with spaces between, as in "phone number"',
                    )
        if not any(words.values()):
            raise self.fault("pii", "names no words", "add last_words or whole")
        return Pii(
            columns=tuple(
                self.dotted("pii.columns", c) for c in self.texts("pii.columns", table["columns"])
            ),
            **words,
        )

    def read_path(self, key: str, table: dict[str, Any]) -> ReadPath:
        self.keys(
            key, table, "view filled_by rows_of columns latest_by", "view filled_by rows_of columns"
        )
        columns = self.table(f"{key}.columns", table["columns"])
        read = tuple(
            self.read_column(f"{key}.columns.{name}", name, spec) for name, spec in columns.items()
        )
        latest_by = self.texts(f"{key}.latest_by", table.get("latest_by", []))
        if not latest_by and any(c.summary == "latest" for c in read):
            raise self.fault(
                f"{key}.latest_by", "missing", "name the columns that say which row is the latest"
            )
        return ReadPath(
            view=self.text(f"{key}.view", table["view"]),
            filled_by=self.text(f"{key}.filled_by", table["filled_by"]),
            table=self.text(f"{key}.rows_of", table["rows_of"]),
            columns=read,
            latest_by=latest_by,
        )

    def read_column(self, key: str, name: str, spec: object) -> ReadColumn:
        table = self.table(key, spec)
        self.keys(key, table, f"type divided_by {' '.join(SUMMARIES)}", "type")
        told = [s for s in SUMMARIES if s in table]
        if len(told) != 1:
            raise self.fault(
                key, f"says {len(told)} things of the rows", f"use one of: {', '.join(SUMMARIES)}"
            )
        divided_by = table.get("divided_by", 1)
        if type(divided_by) is not int or divided_by < 1:
            raise self.fault(
                f"{key}.divided_by", "is not a whole number of at least 1", "for example 100"
            )
        if "divided_by" in table and told[0] != "sum":
            raise self.fault(f"{key}.divided_by", "divides a sum only", "remove it")
        if told[0] == "tenant":
            if table["tenant"] is not True:
                raise self.fault(f"{key}.tenant", "is not true", "write tenant = true")
            source = ""
        else:
            source = self.text(f"{key}.{told[0]}", table[told[0]])
        return ReadColumn(
            name, self.text(f"{key}.type", table["type"]), told[0], source, divided_by
        )

    def domains(self, table: dict[str, Any]) -> dict[tuple[str, str], Domain]:
        domains = {}
        for name, spec in table.items():
            key = f'domains."{name}"'
            self.keys(key, self.table(key, spec), "min max one_of not_blank")
            one_of = self.texts(f"{key}.one_of", spec["one_of"]) if "one_of" in spec else None
            if one_of == ():
                raise self.fault(f"{key}.one_of", "is empty", "list the values, or remove it")
            low, high = (spec.get(bound) for bound in ("min", "max"))
            for bound, value in (("min", low), ("max", high)):
                if value is not None and type(value) not in (int, float):
                    raise self.fault(f"{key}.{bound}", f"{value!r} is not a number", "write one")
            if low is not None and high is not None and low > high:
                raise self.fault(key, f"min {low} is more than max {high}", "swap them")
            blank = spec.get("not_blank", False)
            if type(blank) is not bool:
                raise self.fault(f"{key}.not_blank", f"{blank!r} is not true or false", "write one")
            domains[self.dotted(key, name)] = Domain(low, high, one_of, blank)
        return domains

    def row_column(self, key: str, name: str, value: object) -> RowColumn:
        text, words = self.text(key, value), []
        while (split := text.rpartition(","))[2].strip() in COLUMN_WORDS:
            words.append(split[2].strip())
            text = split[0].strip()
        match = _TYPE.match(text)
        if match is None:
            raise self.fault(
                key,
                f"{value!r} is not a type followed by some of: {', '.join(COLUMN_WORDS)}",
                'write "uuid, key" or "varchar(20), nullable"',
            )
        base = (match[1] + (match[4] or "")).strip()
        kind = _ALIASES.get(base, base)
        first, second = (None if n is None else int(n) for n in (match[2], match[3]))
        timed = kind.startswith("time")
        return RowColumn(
            name,
            kind,
            length=first if first is not None and kind.startswith("character") else -1,
            scale=(first if first is not None else 6)
            if timed
            else -1
            if second is None
            else second,
            key="key" in words,
            nullable="nullable" in words,
            gone_with="CASCADE"
            if "cascade" in words
            else "NO ACTION"
            if "restrict" in words
            else "",
        )

    def each_of(self, key: str, doc: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
        for name, table in self.table(key, doc.get(key, {})).items():
            yield name, self.table(f"{key}.{name}", table)

    def clock(self, table: dict[str, Any]) -> frozenset[tuple[str, str]]:
        self.keys("clock", table, "columns")
        return frozenset(
            self.dotted("clock.columns", c)
            for c in self.texts("clock.columns", table.get("columns", []))
        )

    def modules(self, table: dict[str, Any]) -> tuple[str, ...]:
        self.keys("strategies", table, "modules")
        names = self.texts("strategies.modules", table.get("modules", []))
        for name in names:
            if not all(part.isidentifier() for part in name.split(".")):
                raise self.fault(
                    "strategies.modules",
                    f"{name!r} is not a module's name",
                    'write it as in an import, for example ["strategies"]',
                )
            if name.partition(".")[0] in {*sys.stdlib_module_names, "invariants"}:
                raise self.fault(
                    "strategies.modules",
                    f"{name!r} is a module of Python's or of this program",
                    "give yours another name",
                )
        return names

    def accepted(self, doc: dict[str, Any]) -> dict[str, str]:
        accepted = {}
        for key, table in self.each("accepted", doc):
            self.keys(key, table, "channel reason", "channel reason")
            if table["channel"] not in CHANNELS:
                raise self.fault(
                    f"{key}.channel",
                    f"{table['channel']!r} is not known",
                    f"use one of: {', '.join(CHANNELS)}",
                )
            accepted[table["channel"]] = self.text(f"{key}.reason", table["reason"])
        return accepted

    def each(self, key: str, doc: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
        entries = doc.get(key, [])
        if not isinstance(entries, list):
            raise self.fault(key, "is not a list of tables", f"write [[{key}]]")
        for i, entry in enumerate(entries):
            yield f"{key}[{i}]", self.table(f"{key}[{i}]", entry)

    def keys(self, key: str, table: dict[str, Any], known: str, required: str = "") -> None:
        prefix = f"{key}." if key else ""
        for name in table:
            if name not in known.split():
                raise self.fault(
                    f"{prefix}{name}", "unknown key", f"use one of: {', '.join(known.split())}"
                )
        for name in required.split():
            if name not in table:
                raise self.fault(f"{prefix}{name}", "missing", "add this key")

    def table(self, key: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fault(key, "is not a table", f"write [{key}]")
        return value

    def text(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not value:
            raise self.fault(key, f"{value!r} is not a name", "write it in quotes")
        return value

    def role(self, key: str, value: object, roles: Collection[str]) -> str | None:
        if value is None:
            return None
        name = self.text(key, value)
        if name not in roles:
            raise self.fault(key, f"{name!r} is not among [roles]", "add it there")
        return name

    def texts(self, key: str, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self.fault(key, f"{value!r} is not a list", 'write ["a", "b"]')
        return tuple(self.text(key, v) for v in value)

    def dotted(self, key: str, value: object) -> tuple[str, str]:
        table, dot, column = self.text(key, value).rpartition(".")
        if not (table and dot and column):
            raise self.fault(key, f"{value!r} does not name a column", "write table.column")
        return table, column

    def fault(self, key: str, what: str, remedy: str) -> UsageError:
        return UsageError(f"{self.path}: {key}: {what}; {remedy}")
