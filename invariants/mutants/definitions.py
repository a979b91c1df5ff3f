"""Spells objects of the facts as statements that create them, and takes them out of the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from invariants.mutants.base import grantee, listed, quoted
from invariants.mutants.facts import Check, Column, Facts, Policy, Relation, Trigger
from invariants.mutants.tokens import tokens
from invariants.workload.sql import quote

_ENABLED = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


def create_policy(relation: Relation, policy: Policy) -> str:
    """CREATE POLICY."""
    return " ".join(
        [
            f"CREATE POLICY {quoted(policy.name)} ON {relation.sql}",
            f"AS {'PERMISSIVE' if policy.permissive else 'RESTRICTIVE'} FOR {policy.command}",
            f"TO {', '.join(map(grantee, policy.roles))}",
            *([f"USING ({policy.using})"] if policy.using else []),
            *([f"WITH CHECK ({policy.check})"] if policy.check else []),
        ]
    )


def drop_policy(relation: Relation, policy: Policy) -> str:
    """DROP POLICY."""
    return f"DROP POLICY {quoted(policy.name)} ON {relation.sql}"


def create_trigger(relation: Relation, trigger: Trigger) -> tuple[str, ...]:
    """CREATE TRIGGER, and switching it to what it was."""
    words = [
        f"CREATE {'CONSTRAINT ' if trigger.constraint else ''}TRIGGER {quoted(trigger.name)}",
        f"{trigger.timing} {' OR '.join(trigger.events)} ON {relation.sql}",
        trigger.deferral,
        trigger.referencing,
        f"FOR EACH {trigger.level}",
        f"WHEN ({trigger.condition})" if trigger.condition else "",
        f"EXECUTE FUNCTION {trigger.call}",
    ]
    created = " ".join(filter(None, words))
    if trigger.enabled not in _ENABLED:
        return (created,)
    switch = f"{_ENABLED[trigger.enabled]} TRIGGER {quoted(trigger.name)}"
    return created, f"ALTER TABLE {relation.sql} {switch}"


def drop_trigger(relation: Relation, trigger: Trigger) -> str:
    """DROP TRIGGER."""
    return f"DROP TRIGGER {quoted(trigger.name)} ON {relation.sql}"


def options(relation: Relation) -> str:
    """The WITH clause of a view."""
    return f" WITH ({', '.join(relation.options)})" if relation.options else ""


def create_view(view: Relation) -> tuple[str, ...]:
    """A view or materialized view with all that belongs to it."""
    data = "" if view.kind == "view" or view.populated else " WITH NO DATA"
    return (
        f"CREATE {view.keyword} {view.sql}{options(view)} AS {view.definition}{data}",
        f"ALTER {view.keyword} {view.sql} OWNER TO {quoted(view.owner)}",
        *view.indexes,
        *(f"GRANT {grant}" for grant in view.grants),
        *(
            [f"COMMENT ON {view.keyword} {view.sql} IS {quote(view.comment)}"]
            if view.comment
            else []
        ),
        *(s for trigger in view.triggers for s in create_trigger(view, trigger)),
    )


def change_view(facts: Facts, view: Relation, definition: str) -> tuple[str, ...]:
    """A view or materialized view with another definition of the same columns."""
    if view.kind == "view":
        return (f"CREATE OR REPLACE VIEW {view.sql}{options(view)} AS {definition}",)
    readers = _readers(facts, {(view.name, c) for c in (*view.columns, "")})
    return (
        *_drop_views([view, *readers]),
        *create_view(replace(view, definition=definition)),
        *_create_views(readers),
    )


def change_type(facts: Facts, table: Relation, column: Column, to: str) -> tuple[str, ...]:
    """ALTER COLUMN .. TYPE, with what forbids it taken away before and put back after."""
    computed = [
        c for c in table.columns.values() if c.expression and _mentions(c.expression, column)
    ]
    touched = [column, *computed]
    views = _readers(facts, {(table.name, c.name) for c in touched})
    triggers = [
        t
        for t in table.triggers
        if any(_mentions(" ".join([*t.events, t.condition]), c) for c in touched)
    ]
    policies = [
        p for p in table.policies if any(_mentions(f"{p.using} {p.check}", c) for c in touched)
    ]
    alter = f"ALTER TABLE {table.sql}"
    return (
        *_drop_views(views),
        *(drop_trigger(table, t) for t in triggers),
        *(drop_policy(table, p) for p in policies),
        # With it go its constraints and indexes.
        *(f"{alter} DROP COLUMN {quoted(c.name)}" for c in computed),
        f"{alter} ALTER COLUMN {quoted(column.name)} TYPE {to}",
        *(s for c in computed for s in _add_column(table, c)),
        *(create_policy(table, p) for p in policies),
        *(s for t in triggers for s in create_trigger(table, t)),
        *_create_views(views),
    )


def add_check(table: Relation, check: Check) -> str:
    """ALTER TABLE .. ADD CONSTRAINT of a CHECK."""
    added = f"ADD CONSTRAINT {quoted(check.name)} CHECK ({check.expression}){check.suffix}"
    return f"ALTER TABLE {table.sql} {added}"


def _add_column(table: Relation, column: Column) -> Iterable[str]:
    """A generated column with its constraints, indexes and privileges."""
    not_null = " NOT NULL" if column.not_null else ""
    generated = f"GENERATED ALWAYS AS ({column.expression}) {column.computed}{not_null}"
    yield f"ALTER TABLE {table.sql} ADD COLUMN {quoted(column.name)} {column.type} {generated}"
    constraints = {u.definition: u for u in table.uniques if u.constraint}
    for index in table.indexes:
        if _mentions(index, column):
            unique = constraints.get(index)
            yield (
                f"ALTER TABLE {table.sql} ADD CONSTRAINT {quoted(unique.name)} {unique.constraint}"
                if unique
                else index
            )
    for check in table.checks:
        if column.name in check.columns:
            yield add_check(table, check)
    for reference in table.references:
        if column.name in reference.columns:
            added = f"ADD CONSTRAINT {quoted(reference.name)} {reference.definition}"
            yield f"ALTER TABLE {table.sql} {added}"
    for grant in table.grants:
        if f"({listed((column.name,))}) ON " in grant:
            yield f"GRANT {grant}"


def _mentions(text: str, column: Column) -> bool:
    return any(t.text.strip('"') == column.name for t in tokens(text))


def _readers(facts: Facts, read: set[tuple[str, str]]) -> list[Relation]:
    """Views that read any of the columns, and views that read those; each after what it reads."""
    found: dict[str, Relation] = {}
    while True:
        more = [
            r
            for r in facts.relations.values()
            if r.name not in found and (r.reads & read or any(s in found for s, _ in r.reads))
        ]
        if not more:
            break
        found.update({r.name: r for r in more})
    placed: list[Relation] = []
    while len(placed) < len(found):
        waiting = found.keys() - {r.name for r in placed}
        placed += [
            found[name]
            for name in sorted(waiting)
            if not any(source in waiting for source, _ in found[name].reads)
        ]
    return placed


def _drop_views(views: list[Relation]) -> list[str]:
    return [f"DROP {view.keyword} {view.sql}" for view in reversed(views)]


def _create_views(views: list[Relation]) -> list[str]:
    return [statement for view in views for statement in create_view(view)]
