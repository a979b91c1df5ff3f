"""`invariants.toml` as it is written: its keys, their types, and the contract that comes of them.

The classes are the format: msgspec reads a document by them, and makes of them the JSON Schema that
editors use. A section is added as a class here and one in `sections`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from invariants.contract.contract import Contract
from invariants.contract.migrating import MigrationsFile, migrating_of
from invariants.contract.sections import (
    LAYERS,
    SUMMARIES,
    AppendOnly,
    Channel,
    Deed,
    Domain,
    Idempotency,
    Layer,
    Ledger,
    Pii,
    ReadColumn,
    ReadPath,
    RowColumn,
    Sum,
    Taxonomy,
    WrittenByTriggers,
)
from invariants.contract.shapes import (
    LIKE,
    ColumnName,
    Name,
    Names,
    Number,
    Section,
    SomeNames,
    all_dotted,
    dotted,
    said,
)
from invariants.contract.tenancy import TenancyFile, tenancy_of
from invariants.reading import Misfit, fit, joined, key, quoted, read_toml

FORMAT = 1

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
    r"([a-z][a-z ]*?)\s*(?:\(([0-9]{1,9})(?:\s*,\s*([0-9]{1,9}))?\))?"
    r"( with(?:out)? time zone)?\Z"
)
_WORDS = re.compile(r"[a-z0-9]+( [a-z0-9]+)*\Z")


class _AppendOnly(Section):
    table: Name
    repaired_by: Annotated[Name | None, said("the role that may change rows")] = None
    layers: Annotated[
        tuple[Layer, ...],
        msgspec.Meta(min_length=1, description="what keeps the rows, each alone (default: both)"),
    ] = LAYERS


class _Sum(Section):
    table: Name
    amount: Annotated[Name, said("the column that is added up")]
    group_by: Names
    total: Annotated[ColumnName, said("what it adds up to, as table.column")]
    total_key: Annotated[Name, said("the column of group_by that names the row with the total")]
    tolerance: (
        Annotated[int, msgspec.Meta(ge=0)]
        | Annotated[str, said("a decimal", r"^[0-9]+(\.[0-9]+)?$")]
    ) = 0


class _Idempotency(Section):
    table: Name
    keys: Annotated[
        tuple[SomeNames, ...],
        msgspec.Meta(min_length=1, description="lists of columns: the first that is set counts"),
    ]


class _Taxonomy(Section):
    table: Name
    code: Annotated[Name, said("the column with the code")]
    used_by: Annotated[tuple[ColumnName, ...], said("columns that use codes, as table.column")]
    active: Annotated[Name | None, said("the column that says whether a code is in use")] = None
    mapping: Annotated[Name | None, said("a file, beside this one, whose codes must exist")] = None


class _Ledger(Section):
    table: Name
    amount: Name
    posts: Annotated[Name, said("the column that names what a row posts")]
    source: Annotated[ColumnName, said("the amount that is posted, as table.column")]
    corrects: Annotated[Name | None, said("the column that names what a row corrects")] = None
    partial: Annotated[bool, said("whether postings add up to at most the source")] = False


class _Pii(Section):
    columns: tuple[ColumnName, ...]
    last_words: Annotated[Names, said("words at the end of a key that name personal data")] = ()
    whole: Annotated[Names, said("words that name it where they are all of a key")] = ()


class _ReadColumn(Section):
    type: Name
    divided_by: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tenant: Annotated[bool | None, said("the column says whose rows they are")] = None
    sum: Name | None = None
    any: Name | None = None
    age: Name | None = None
    latest: Name | None = None


class _ReadPath(Section):
    view: Name
    filled_by: Annotated[Name, said("the materialized view that it reads")]
    rows_of: Name
    columns: dict[Name, _ReadColumn]
    latest_by: Names = ()


class _Domain(Section):
    min: Number | None = None
    max: Number | None = None
    one_of: SomeNames | None = None
    not_blank: bool = False


class _Clock(Section):
    columns: Annotated[tuple[ColumnName, ...], said("columns whose values follow the clock")] = ()


class _Accepted(Section):
    channel: Channel
    reason: Name


class _WrittenByTriggers(Section):
    columns: Annotated[tuple[ColumnName, ...], said("columns that triggers write")] = ()
    tables: Annotated[Names, said("tables that triggers write rows of")] = ()


class _Strategies(Section):
    modules: Annotated[Names, said("Python modules with rows and operations of one's own")] = ()


class ContractFile(Section, kw_only=True, rename={"ledgers": "ledger", "read_paths": "read_path"}):
    """What a multi-tenant PostgreSQL schema promises: docs/contract.md."""

    format: Literal[1]
    revisions: Annotated[dict[Name, Name], said("names for --revision")] = {}
    introduced: Annotated[
        dict[Name, Name], said("what is not there before a revision: table or table.column")
    ] = {}
    tenancy: TenancyFile
    roles: Annotated[
        dict[Name, dict[Name, tuple[Deed, ...]]],
        said("what each role may do with each relation, sequence, routine"),
    ]
    append_only: tuple[_AppendOnly, ...] = ()
    sums: tuple[_Sum, ...] = ()
    idempotency: tuple[_Idempotency, ...] = ()
    taxonomies: tuple[_Taxonomy, ...] = ()
    ledgers: tuple[_Ledger, ...] = ()
    pii: _Pii | None = None
    read_paths: tuple[_ReadPath, ...] = ()
    rows: Annotated[
        dict[Name, dict[Name, Name]],
        said('columns with their types, as "varchar(20), nullable"; also: key, cascade, restrict'),
    ] = {}
    domains: Annotated[dict[Name, _Domain], said("values that a column, table.column, takes")] = {}
    clock: _Clock | None = None
    accepted: tuple[_Accepted, ...] = ()
    strategies: _Strategies | None = None
    migrations: MigrationsFile | None = None
    references: Annotated[
        dict[ColumnName, ColumnName],
        said("columns that name a row of another table, where no foreign key says so"),
    ] = {}
    written_by_triggers: _WrittenByTriggers | None = None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the format, for editors."""
    made = msgspec.json.schema(ContractFile)
    definitions = {name.lstrip("_"): _plain(d) for name, d in made["$defs"].items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": "#/definitions/ContractFile",
        "definitions": definitions,
    }


def _plain(schema: Any) -> Any:
    """Without what says something of the classes alone, or only that a text is text."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _plain(part) for name, part in schema.items()}
    if "\0" in str(made.get("pattern", "")):
        del made["pattern"]
    if LIKE in made:
        made["pattern"] = made.pop(LIKE)
    if isinstance(made.get("title"), str) and made["title"].startswith("_"):
        del made["title"]
        made.pop("description", None)
    if isinstance(made.get("$ref"), str):
        made["$ref"] = (
            made["$ref"].replace("#/$defs/_", "#/definitions/").replace("#/$defs", "#/definitions")
        )
    return made


def read(path: Path) -> Contract:
    """Read and check a contract file. Raises `UsageError` with file, key and remedy."""
    missing = "name the contract with --contract FILE"
    document = read_toml(path, missing)
    try:
        if "format" in document and (type(document["format"]), document["format"]) != (int, FORMAT):
            told = quoted(document["format"])
            raise Misfit("format", f"{told} is not known", f"this version reads format {FORMAT}")
        return _contract(path, fit(document, ContractFile))
    except Misfit as misfit:
        raise misfit.of(path) from None


def _contract(path: Path, file: ContractFile) -> Contract:
    tenancy, clock = file.tenancy, file.clock or _Clock()
    written = file.written_by_triggers or _WrittenByTriggers()
    _check_role("tenancy.erased_by", tenancy.erased_by, file.roles)
    for i, entry in enumerate(file.append_only):
        _check_role(f"append_only[{i}].repaired_by", entry.repaired_by, file.roles)
    return Contract(
        path=path,
        tenancy=tenancy_of(tenancy),
        roles={
            role: {relation: frozenset(verbs) for relation, verbs in grants.items()}
            for role, grants in file.roles.items()
        },
        append_only=tuple(AppendOnly(a.table, a.repaired_by, a.layers) for a in file.append_only),
        sums=tuple(_sum(f"sums[{i}]", s) for i, s in enumerate(file.sums)),
        idempotency=tuple(Idempotency(i.table, i.keys) for i in file.idempotency),
        taxonomies=tuple(
            _taxonomy(f"taxonomies[{i}]", t, path) for i, t in enumerate(file.taxonomies)
        ),
        domains={
            dotted(place, name): _domain(place, domain)
            for name, domain in file.domains.items()
            for place in (f"domains.{key(name)}",)
        },
        clock_columns=frozenset(all_dotted("clock.columns", clock.columns)),
        accepted={a.channel: a.reason for a in file.accepted},
        revisions=file.revisions,
        ledgers=tuple(_ledger(f"ledger[{i}]", entry) for i, entry in enumerate(file.ledgers)),
        pii=_pii(file.pii) if file.pii else None,
        read_paths=tuple(_read_path(f"read_path[{i}]", p) for i, p in enumerate(file.read_paths)),
        rows={
            table: tuple(
                _row_column(joined("rows", key(table), key(name)), name, told)
                for name, told in columns.items()
            )
            for table, columns in file.rows.items()
        },
        introduced=file.introduced,
        migrations=migrating_of(file.migrations),
        strategies=_modules(file.strategies.modules if file.strategies else ()),
        references_to={
            dotted(place, name): dotted(place, target)
            for name, target in file.references.items()
            for place in (f"references.{key(name)}",)
        },
        written_by_triggers=WrittenByTriggers(
            frozenset(all_dotted("written_by_triggers.columns", written.columns)),
            frozenset(written.tables),
        ),
    )


def _check_role(place: str, role: str | None, roles: Collection[str]) -> None:
    if role is not None and role not in roles:
        raise Misfit(place, f"{role!r} is not among [roles]", "add it there")


def _sum(place: str, entry: _Sum) -> Sum:
    table, column = dotted(f"{place}.total", entry.total)
    if entry.total_key not in entry.group_by:
        raise Misfit(
            f"{place}.total_key", f"{entry.total_key!r} is not in group_by", "add it there"
        )
    return Sum(
        table=entry.table,
        amount=entry.amount,
        group_by=entry.group_by,
        total_table=table,
        total_column=column,
        total_key=entry.total_key,
        tolerance=_tolerance(f"{place}.tolerance", entry.tolerance),
    )


def _tolerance(place: str, told: int | str) -> int | Decimal:
    if isinstance(told, int):
        return told
    if not re.fullmatch(r"\d{1,30}(\.\d{1,30})?", told, re.ASCII):
        raise Misfit(place, f"{told!r} is not a decimal of at least 0", 'write one, as "0.01"')
    amount = Decimal(told)
    return int(amount) if amount == amount.to_integral_value() else amount


def _taxonomy(place: str, entry: _Taxonomy, contract: Path) -> Taxonomy:
    mapping = None
    if entry.mapping is not None:
        mapping = contract.parent / entry.mapping
        if not mapping.is_file():
            raise Misfit(
                f"{place}.mapping",
                f"no such file {mapping}",
                "correct the path, relative to the contract",
            )
    used_by = all_dotted(f"{place}.used_by", entry.used_by)
    return Taxonomy(entry.table, entry.code, entry.active, used_by, mapping)


def _ledger(place: str, entry: _Ledger) -> Ledger:
    table, amount = dotted(f"{place}.source", entry.source)
    return Ledger(
        entry.table, entry.amount, entry.posts, table, amount, entry.corrects, entry.partial
    )


def _pii(entry: _Pii) -> Pii:
    for name, listed in (("last_words", entry.last_words), ("whole", entry.whole)):
        for i, words in enumerate(listed):
            if not _WORDS.match(words):
                raise Misfit(
                    f"pii.{name}[{i}]",
                    f"{words!r} is not words",
                    'write lower-case words with spaces between, as in "phone number"',
                )
    if not (entry.last_words or entry.whole):
        raise Misfit("pii", "names no words", "add last_words or whole")
    return Pii(all_dotted("pii.columns", entry.columns), entry.last_words, entry.whole)


def _read_path(place: str, entry: _ReadPath) -> ReadPath:
    columns = tuple(
        _read_column(joined(place, "columns", key(name)), name, column)
        for name, column in entry.columns.items()
    )
    if not entry.latest_by and any(c.summary == "latest" for c in columns):
        raise Misfit(
            f"{place}.latest_by", "missing", "name the columns that say which row is the latest"
        )
    return ReadPath(entry.view, entry.filled_by, entry.rows_of, columns, entry.latest_by)


def _read_column(place: str, name: str, entry: _ReadColumn) -> ReadColumn:
    told = [s for s in SUMMARIES if getattr(entry, s) is not None]
    if len(told) != 1:
        raise Misfit(
            place, f"says {len(told)} things of the rows", f"use one of: {', '.join(SUMMARIES)}"
        )
    if entry.divided_by is not None and told[0] != "sum":
        raise Misfit(f"{place}.divided_by", "divides a sum only", "remove it")
    if entry.tenant is False:
        raise Misfit(f"{place}.tenant", "is not true", "write tenant = true")
    source = "" if told[0] == "tenant" else getattr(entry, told[0])
    return ReadColumn(name, entry.type, told[0], source, entry.divided_by or 1)


def _domain(place: str, entry: _Domain) -> Domain:
    for name, bound in (("min", entry.min), ("max", entry.max)):
        if bound is not None and not math.isfinite(bound):
            raise Misfit(f"{place}.{name}", f"{bound!r} is not a number", "write one")
    if entry.min is not None and entry.max is not None and entry.min > entry.max:
        raise Misfit(place, f"min {entry.min} is more than max {entry.max}", "swap them")
    return Domain(entry.min, entry.max, entry.one_of, entry.not_blank)


def _row_column(place: str, name: str, told: str) -> RowColumn:
    text, words = told, []
    while (split := text.rpartition(","))[2].strip() in COLUMN_WORDS:
        words.append(split[2].strip())
        text = split[0].strip()
    match = _TYPE.match(text)
    if match is None:
        raise Misfit(
            place,
            f"{told!r} is not a type followed by some of: {', '.join(COLUMN_WORDS)}",
            'write "uuid, key" or "varchar(20), nullable"',
        )
    base = (match[1] + (match[4] or "")).strip()
    kind = _ALIASES.get(base, base)
    first, second = (None if n is None else int(n) for n in (match[2], match[3]))
    timed = kind.startswith("time")
    scale = (6 if first is None else first) if timed else -1 if second is None else second
    actions: Mapping[str, str] = {"cascade": "CASCADE", "restrict": "NO ACTION"}
    return RowColumn(
        name,
        kind,
        length=first if first is not None and kind.startswith("character") else -1,
        scale=scale,
        key="key" in words,
        nullable="nullable" in words,
        gone_with=next((action for word, action in actions.items() if word in words), ""),
    )


def _modules(names: Names) -> Names:
    for i, name in enumerate(names):
        if not all(part.isidentifier() for part in name.split(".")):
            raise Misfit(
                f"strategies.modules[{i}]",
                f"{name!r} is not a module's name",
                'write it as in an import, for example ["strategies"]',
            )
        if name.partition(".")[0] in {*sys.stdlib_module_names, "invariants"}:
            raise Misfit(
                f"strategies.modules[{i}]",
                f"{name!r} is a module of Python's or of this program",
                "give yours another name",
            )
    return names
