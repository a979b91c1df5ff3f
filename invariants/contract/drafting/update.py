"""Brings a contract up to date with its database: adds what is new, and touches nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array, Table

from invariants.contract.drafting.draft import Draft, toml
from invariants.errors import UsageError

# Sections of which there may be several, told apart by these keys.
_SEVERAL = ("append_only", "idempotency", "taxonomies")


def updated(path: Path, made: Draft) -> tuple[str, tuple[str, ...]]:
    """The contract's text with what the draft has beside it, and what that is.

    Comments and order stay. Nothing that is there is changed or removed: a table that is gone is
    told by the next run. Raises `UsageError` where the file is no TOML.
    """
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise UsageError(
            f"{path}: cannot be read ({error}); mend it, or draft anew with --force"
        ) from None
    found = tomllib.loads(toml(made, ""))
    said = tuple(_added(document, found))
    return tomlkit.dumps(document), said


def _added(document: Any, found: Mapping[str, Any]) -> Iterator[str]:
    placed = _placed(document.unwrap())
    tenancy = document.setdefault("tenancy", tomlkit.table())
    for name in ("tables", "shared"):
        for table in found["tenancy"].get(name, ()):
            if table not in placed:
                _list(tenancy, name).append(table)
                yield f"tenancy.{name}: {table}"
    for table, column in found["tenancy"].get("scoped_by", {}).items():
        if table not in placed:
            _table(tenancy, "scoped_by")[table] = column
            yield f"tenancy.scoped_by: {table} = {column}"
    for column, template in found["tenancy"].get("tied", {}).items():
        if column.rpartition(".")[0] not in placed:
            _table(tenancy, "tied")[column] = template
            yield f"tenancy.tied: {column}"
    roles = document.setdefault("roles", tomlkit.table(is_super_table=True))
    known = {r for grants in roles.unwrap().values() for r in grants}
    for role, grants in found.get("roles", {}).items():
        new = role not in roles
        section = roles.setdefault(role, tomlkit.table())
        for relation, verbs in grants.items():
            # What a role was not promised on purpose stays so; only relations that are new count.
            unseen = relation not in placed and relation not in known
            if relation not in section and (new or unseen):
                section[relation] = verbs
                yield f"roles.{role}: {relation} = {', '.join(verbs)}"
    for name in _SEVERAL:
        for entry in found.get(name, ()):
            if entry["table"] not in placed:
                array = document.setdefault(name, tomlkit.aot())
                assert isinstance(array, AoT)
                array.append(tomlkit.item(entry))
                yield f"{name}: {entry['table']}"
    for kind, names in found.get("written_by_triggers", {}).items():
        for name in names:
            table = name if kind == "tables" else name.rpartition(".")[0]
            section = document.setdefault("written_by_triggers", tomlkit.table())
            if table not in placed and name not in section.get(kind, ()):
                _list(section, kind).append(name)
                yield f"written_by_triggers.{kind}: {name}"


def _placed(document: Mapping[str, Any]) -> set[str]:
    """The tables that the contract has a place for."""
    tenancy = document.get("tenancy", {})
    return {
        *tenancy.get("tables", ()),
        *tenancy.get("shared", ()),
        *tenancy.get("scoped_by", {}),
        *([tenancy["root"]] if "root" in tenancy else []),
        *(t.get("table", "") for t in document.get("taxonomies", ())),
    }


def _list(section: Any, name: str) -> Array:
    if name not in section:
        section[name] = tomlkit.array()
    array = section[name]
    assert isinstance(array, Array)
    return array


def _table(section: Any, name: str) -> Table:
    if name not in section:
        section[name] = tomlkit.inline_table()
    table: Table = section[name]
    return table
