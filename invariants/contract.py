"""The contract: what a schema promises, read from `invariants.toml` and checked for sense.

Loading checks keys and types; `bind` checks that every table, column and role named exists in the
database. Each fault is one line: file, key, remedy.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from invariants.catalog import Catalog
from invariants.errors import UsageError

FORMAT = 1
VERBS = ("select", "insert", "update", "delete", "truncate")
CHANNELS = ("primary-key-collision",)


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
    """Values a column takes: a numeric range, or one of a list."""

    min: float | None = None
    max: float | None = None
    one_of: tuple[str, ...] | None = None


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
        return verb in ("select", "update", "delete") and any(
            a.table == relation and a.repaired_by == role for a in self.append_only
        )

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


class _Reader:
    """Turns a TOML document into a contract and says where it does not fit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def contract(self, doc: dict[str, Any]) -> Contract:
        self.keys(
            "",
            doc,
            "format revisions tenancy roles append_only sums idempotency taxonomies domains clock "
            "accepted",
            required="format tenancy roles",
        )
        if doc["format"] != FORMAT:
            raise self.fault(
                "format", f"{doc['format']!r} is not known", f"this version reads format {FORMAT}"
            )
        tenancy = self.table("tenancy", doc["tenancy"])
        self.keys(
            "tenancy", tenancy, "root column setting tables erased_by", "root column setting tables"
        )
        roles = self.roles(self.table("roles", doc["roles"]))
        erased_by = tenancy.get("erased_by")
        if erased_by is not None and erased_by not in roles:
            raise self.fault(
                "tenancy.erased_by", f"{erased_by!r} is not among [roles]", "add it there"
            )
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

    def append_only(
        self, key: str, table: dict[str, Any], roles: Mapping[str, object]
    ) -> AppendOnly:
        self.keys(key, table, "table repaired_by", "table")
        repaired_by = table.get("repaired_by")
        if repaired_by is not None and repaired_by not in roles:
            raise self.fault(
                f"{key}.repaired_by", f"{repaired_by!r} is not among [roles]", "add it there"
            )
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
        if not isinstance(table["keys"], list) or not table["keys"]:
            raise self.fault(
                f"{key}.keys", "is not a list of lists of columns", 'for example [["order_id"]]'
            )
        keys = tuple(self.texts(f"{key}.keys", k) for k in table["keys"])
        return Idempotency(self.text(f"{key}.table", table["table"]), keys)

    def taxonomy(self, key: str, table: dict[str, Any]) -> Taxonomy:
        self.keys(key, table, "table code active used_by mapping", "table code used_by")
        mapping = table.get("mapping")
        path = self.path.parent / self.text(f"{key}.mapping", mapping) if mapping else None
        if path is not None and not path.is_file():
            raise self.fault(
                f"{key}.mapping",
                f"no such file {path}",
                "correct the path, relative to the contract",
            )
        return Taxonomy(
            table=self.text(f"{key}.table", table["table"]),
            code=self.text(f"{key}.code", table["code"]),
            active=table.get("active"),
            used_by=tuple(
                self.dotted(f"{key}.used_by", u)
                for u in self.texts(f"{key}.used_by", table["used_by"])
            ),
            mapping=path,
        )

    def domains(self, table: dict[str, Any]) -> dict[tuple[str, str], Domain]:
        domains = {}
        for name, spec in table.items():
            key = f'domains."{name}"'
            self.keys(key, self.table(key, spec), "min max one_of")
            one_of = self.texts(f"{key}.one_of", spec["one_of"]) if "one_of" in spec else None
            domains[self.dotted(key, name)] = Domain(spec.get("min"), spec.get("max"), one_of)
        return domains

    def clock(self, table: dict[str, Any]) -> frozenset[tuple[str, str]]:
        self.keys("clock", table, "columns")
        return frozenset(
            self.dotted("clock.columns", c)
            for c in self.texts("clock.columns", table.get("columns", []))
        )

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
