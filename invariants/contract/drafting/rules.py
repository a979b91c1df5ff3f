"""Finds rules that a database keeps: append-only tables, keys, codes, what triggers write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from invariants.contract.drafting.privileges import Role
from invariants.contract.drafting.tenancy import Tenancy
from invariants.schema.catalog import Catalog, Column, Relation
from invariants.schema.definitions import TriggerText
from invariants.schema.reach import Reach

_TEXTS = ("text", "character varying", "character", "name")
_NUMBERS = ("integer", "bigint", "numeric", "smallint")
_MONEY = ("cents", "amount", "total")
_ACTIVE = ("is_active", "active", "enabled", "is_enabled")


@dataclass(frozen=True)
class Rule:
    """An entry of a section: its keys and values, why, and whether it is only proposed."""

    section: str
    values: Mapping[str, object]
    evidence: str
    proposed: bool = False


def code_tables(
    catalog: Catalog, brought: Mapping[str, int]
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Tables of codes with the columns that use them.

    One has a key of one short column that a person can read, and others refer to it; where that is
    a number, rows must have come with the migrations.
    """
    found = {}
    for name, relation in catalog.tables.items():
        if len(relation.primary_key) != 1:
            continue
        column = relation.columns[relation.primary_key[0]]
        readable = column.type in _TEXTS or bool(column.enum)
        if not brought.get(name) or not (readable or column.type == "smallint"):
            continue
        users = tuple(
            (key.table, key.columns[0])
            for key in catalog.referrers.get(name, ())
            if len(key.columns) == 1 and key.target_columns == relation.primary_key
        )
        # Whoever has rows of other tables' own in it is no list of codes but a tenant or so.
        if users and not relation.foreign_keys:
            found[name] = users
    return found


def append_only(reach: Reach, tenancy: Tenancy, roles: Sequence[Role]) -> Iterator[Rule]:
    """Tables that take rows and never let an application role change one."""
    for table in (*tenancy.tables, *tenancy.scoped_by):
        verbs = {v for r in roles if not r.owner for v in r.relations.get(table, ())}
        guards = list(_guards(reach, table))
        repairing = _repairing(reach, guards, roles)
        acting = {
            v
            for r in roles
            if r.name != repairing and not r.owner
            for v in r.relations.get(table, ())
        }
        written = "insert" in verbs or table in _by_triggers(reach)
        ungranted = written and not acting & {"update", "delete"}
        if not ungranted and not guards:
            continue
        layers = [*(["privilege"] if ungranted else []), *(["trigger"] if guards else [])]
        why = [
            *(["no role is granted UPDATE or DELETE"] if ungranted else []),
            *([f"trigger {', '.join(t.name for t in guards)} raises"] if guards else []),
        ]
        values: dict[str, object] = {"table": table}
        if layers != ["privilege", "trigger"]:
            values["layers"] = layers
        if repairing:
            values["repaired_by"] = repairing
        yield Rule("append_only", values, "; ".join(why))


def erasing(reach: Reach, tenancy: Tenancy, roles: Sequence[Role]) -> str | None:
    """The role that removes tenants: the only one granted it, or the one that a guard lets pass."""
    if tenancy.root is None:
        return None
    able = [r for r in roles if "delete" in r.relations.get(tenancy.root, ())]
    for trigger in reach.definitions.triggers:
        if trigger.table == tenancy.root and "delete" in trigger.events and trigger.enabled:
            named = _repairing(reach, [trigger], able)
            if named:
                return named
    return None


def _guards(reach: Reach, table: str) -> Iterator[TriggerText]:
    """Triggers before UPDATE and DELETE whose function can refuse, and writes nothing."""
    for trigger in reach.definitions.triggers:
        routine = reach.definitions.routine.get(trigger.routine)
        if (
            trigger.table == table
            and trigger.enabled
            and trigger.before
            and routine is not None
            and routine.effects.raises
            and {"update", "delete"} <= trigger.events
            and not reach.of_call(trigger.routine).reads
        ):
            yield trigger


def _repairing(reach: Reach, guards: Sequence[TriggerText], roles: Sequence[Role]) -> str | None:
    """The role that a guard lets pass by its name."""
    for trigger in guards:
        effects = reach.definitions.routine[trigger.routine].effects
        for role in roles:
            if "current_user" in effects.identities and role.name in effects.literals:
                return role.name
    return None


def keys(catalog: Catalog, tenancy: Tenancy, roles: Sequence[Role]) -> Iterator[Rule]:
    """Unique indexes within a tenant: by what a second delivery can be recognised.

    Of tables into which some role delivers.
    """
    for table in (*tenancy.tables, *tenancy.scoped_by):
        if not any("insert" in role.relations.get(table, ()) for role in roles):
            continue
        relation = catalog.tables[table]
        parent = tenancy.scoped_by.get(table, tenancy.column)
        found = []
        for index in relation.uniques:
            rest = tuple(c for c in index.columns if c != parent)
            own = set(rest) & set(relation.primary_key)
            if index.primary or not rest or own or parent not in index.columns:
                continue
            if index.expressions:
                continue  # its columns alone need not be unique
            found.append((index.name, rest))
        if not found:
            continue
        sure = [(n, k) for n, k in found if all(relation.columns[c].not_null for c in k)]
        checked = any(
            check.columns and {c for _, k in found for c in k} <= set(check.columns)
            for check in relation.checks
        )
        names = ", ".join(dict.fromkeys(n for n, _ in found))
        ordered = sorted({k for _, k in found}, key=lambda k: (_optional(relation, k), k))
        yield Rule(
            "idempotency",
            {"table": table, "keys": [list(k) for k in ordered]},
            f"unique within the tenant: {names}",
            proposed=not sure and not checked,
        )


def _optional(relation: Relation, key: tuple[str, ...]) -> tuple[bool, bool]:
    """Keys that are always set first, then texts of the sender's before ids."""
    return (
        not all(relation.columns[c].not_null for c in key),
        any(relation.columns[c].type == "uuid" for c in key),
    )


def taxonomies(
    catalog: Catalog, codes: Mapping[str, tuple[tuple[str, str], ...]]
) -> Iterator[Rule]:
    """The tables of codes."""
    for table, users in codes.items():
        relation = catalog.tables[table]
        values: dict[str, object] = {"table": table, "code": relation.primary_key[0]}
        active = [c for c in _ACTIVE if c in relation.columns]
        if active and relation.columns[active[0]].type == "boolean":
            values["active"] = active[0]
        values["used_by"] = [f"{t}.{c}" for t, c in users]
        yield Rule("taxonomies", values, "its rows came with the schema, and others refer to them")


def written_by_triggers(reach: Reach, roles: Sequence[Role]) -> tuple[list[str], list[str]]:
    """Columns that triggers set, as `table.column`, and tables that only triggers write."""
    columns = set()
    for trigger in reach.definitions.triggers:
        routine = reach.definitions.routine.get(trigger.routine)
        relation = reach.catalog.tables.get(trigger.table)
        if routine is None or relation is None or not trigger.before or not trigger.enabled:
            continue
        assigned = routine.effects.assigns
        wanted = relation.columns if "*" in assigned else assigned & relation.columns.keys()
        columns |= {f"{trigger.table}.{c}" for c in wanted}
    tables = {
        t
        for t in _by_triggers(reach)
        if not any("insert" in r.relations.get(t, ()) for r in roles if not r.owner)
    }
    return sorted(columns), sorted(tables)


def _by_triggers(reach: Reach) -> set[str]:
    """Tables into which triggers of others insert."""
    found: set[str] = set()
    for trigger in reach.definitions.triggers:
        if trigger.enabled:
            found |= {t for t, verb in reach.of_call(trigger.routine).writes if verb == "insert"}
    return found & reach.catalog.tables.keys()


def counters(catalog: Catalog, tenancy: Tenancy) -> list[str]:
    """Columns numbered by a sequence that all tenants share, as `table.column`."""
    return [
        f"{table}.{column.name}"
        for table in (*tenancy.tables, *tenancy.scoped_by)
        for column in catalog.tables[table].columns.values()
        if _numbered(column)
    ]


def _numbered(column: Column) -> bool:
    """Whether a sequence gives its values, as an identity or by a default."""
    identity = column.has_default and column.default is None
    return column.type in _NUMBERS and (identity or "nextval(" in (column.default or ""))


def proposals(reach: Reach, tenancy: Tenancy, roles: Sequence[Role]) -> Iterator[Rule]:
    """What names and triggers suggest, for a person to decide."""
    catalog = reach.catalog
    yield from _sums(reach, tenancy)
    yield from _ledgers(catalog, tenancy)
    yield from _read_paths(reach, roles)
    documents = [
        f"{t}.{c.name}"
        for t in (*tenancy.tables, *tenancy.scoped_by)
        for c in catalog.tables[t].columns.values()
        if c.type in ("json", "jsonb")
    ]
    if documents:
        yield Rule(
            "pii",
            {"columns": documents, "last_words": ["email", "phone", "address", "first name"]},
            "JSON documents: must no key in them name a person?",
            proposed=True,
        )
    for table in (*tenancy.tables, *tenancy.scoped_by):
        relation = catalog.tables[table]
        for column in relation.columns.values():
            target = _meant(catalog, column.name)
            if target and target != table and relation.foreign_key_of(column.name) is None:
                key = catalog.tables[target].primary_key
                yield Rule(
                    "references",
                    {f"{table}.{column.name}": f"{target}.{key[0]}"},
                    "named like a reference, without a foreign key",
                    proposed=True,
                )


def _meant(catalog: Catalog, column: str) -> str | None:
    """The table that a column's name speaks of: `order_id`, `reconciliation_run_id`."""
    if not column.endswith("_id"):
        return None
    stem = column.removesuffix("_id")
    named = (stem, f"{stem}s", f"{stem}es", f"{stem.removesuffix('y')}ies")
    found = [t for t in catalog.tables if t.rpartition(".")[2] in named]
    return found[0] if len(found) == 1 and len(catalog.tables[found[0]].primary_key) == 1 else None


def _sums(reach: Reach, tenancy: Tenancy) -> Iterator[Rule]:
    """A trigger that compares a sum with a column of the row referred to."""
    catalog, owned = reach.catalog, {*tenancy.tables, *tenancy.scoped_by}
    for trigger in reach.definitions.triggers:
        routine = reach.definitions.routine.get(trigger.routine)
        if routine is None or trigger.table not in owned or ("sum",) not in routine.effects.calls:
            continue
        if not (routine.effects.raises or reach.of_call(trigger.routine).writes):
            continue
        relation = catalog.tables[trigger.table]
        read = reach.of_call(trigger.routine).reads
        for key in relation.foreign_keys:
            if key.target not in read or key.target not in owned or key.target == trigger.table:
                continue
            amount = _amount(relation, routine.effects.columns)
            total = _amount(catalog.tables[key.target], routine.effects.columns)
            if amount and total:
                source = [c for c in key.columns if c != tenancy.column]
                yield Rule(
                    "sums",
                    {
                        "table": trigger.table,
                        "amount": amount,
                        "group_by": source,
                        "total": f"{key.target}.{total}",
                        "total_key": source[0],
                        "tolerance": 0,
                    },
                    f"trigger {trigger.name} adds up {amount}",
                    proposed=True,
                )
                return


def _amount(relation: Relation, named: frozenset[tuple[str, ...]]) -> str | None:
    """The column of an amount that a definition names."""
    words = {part for c in named for part in c}
    found = [
        c.name
        for c in relation.columns.values()
        if c.type in _NUMBERS and c.name in words and not c.name.endswith("_id")
    ]
    money = [c for c in found if any(word in c for word in _MONEY)]
    return next(iter(money or found), None)


def _ledgers(catalog: Catalog, tenancy: Tenancy) -> Iterator[Rule]:
    """A table called a ledger, or that has one row for each row with an amount."""
    owned = {*tenancy.tables, *tenancy.scoped_by}
    for table in tenancy.tables:
        relation = catalog.tables[table]
        if not any(w in table for w in ("ledger", "posting", "journal")):
            continue
        for key in relation.foreign_keys:
            columns = [
                c
                for c in key.columns
                if c != tenancy.column and not any(word in c for word in _MONEY)
            ]
            if key.target not in owned or key.target == table or len(columns) != 1:
                continue
            amounts = _money(relation), _money(catalog.tables[key.target])
            if all(amounts):
                values: dict[str, object] = {
                    "table": table,
                    "amount": amounts[0],
                    "posts": columns[0],
                    "source": f"{key.target}.{amounts[1]}",
                }
                own = [k for k in relation.foreign_keys if k.target == table]
                named = [c for k in own for c in k.columns]
                corrects = [c for c in named if c.startswith(("corrects", "reverses"))]
                if corrects:
                    values["corrects"] = corrects[0]
                why = "named like a ledger, with an amount in either table"
                yield Rule("ledger", values, why, proposed=True)
                break


def _money(relation: Relation) -> str | None:
    for column in relation.columns.values():
        if column.type in _NUMBERS and any(word in column.name for word in _MONEY):
            return column.name
    return None


def _read_paths(reach: Reach, roles: Sequence[Role]) -> Iterator[Rule]:
    """Views that roles may read over materialized views that they may not."""
    for view in reach.definitions.views:
        if view.name not in reach.catalog.relations:
            continue
        below = reach.of_effects(view.effects).reads & reach.catalog.materialized_views.keys()
        readable = any("select" in r.relations.get(view.name, ()) for r in roles if not r.owner)
        if below and readable and view.name not in reach.catalog.materialized_views:
            filled = sorted(below)[0]
            tables = reach.of_read(filled).reads & reach.catalog.tables.keys()
            yield Rule(
                "read_path",
                {"view": view.name, "filled_by": filled, "rows_of": sorted(tables)[0]},
                f"{view.name} reads {filled}: say what its columns are in [read_path.columns]",
                proposed=True,
            )
