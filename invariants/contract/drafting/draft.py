"""A drafted contract: read from a database, and written as TOML with the evidence beside it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import tomlkit

from invariants.contract.drafting import rules, tenancy
from invariants.contract.drafting.privileges import Role, read_roles, rows_brought
from invariants.contract.drafting.rules import Rule
from invariants.errors import UsageError
from invariants.schema.definitions import read_definitions
from invariants.schema.reach import Reach
from invariants.schema.reader import read_catalog

_CONFIRM = "nobody has confirmed this yet: "


@dataclass(frozen=True)
class Draft:
    """What a contract could say of a database, and what only a person can say."""

    tenancy: tenancy.Tenancy
    roles: tuple[Role, ...]
    rules: tuple[Rule, ...]
    written: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    accepted: Mapping[str, str] = field(default_factory=dict)
    erased_by: str | None = None
    questions: tuple[str, ...] = ()


def draft(conn: psycopg.Connection[Any]) -> Draft:
    """Read a migrated database. Raises `UsageError` when nothing in it tells tenants apart."""
    catalog, definitions = read_catalog(conn), read_definitions(conn)
    reach = Reach(catalog, definitions)
    granted = read_roles(conn, {r.signature: r.executable_by for r in definitions.routines})
    acting = [r for r in granted if not r.owner]
    brought = rows_brought(conn, tuple(catalog.tables))
    codes = rules.code_tables(catalog, brought)
    seen = frozenset(t for r in acting for t in r.relations)
    found = tenancy.find(reach, frozenset(codes), seen)
    if found is None:
        raise UsageError(
            "init: no policy compares a column with what a session says, and no two tables refer "
            "to one by the same column: write [tenancy] by hand (docs/contract.md)"
        )
    if found.root in codes:
        codes = {t: users for t, users in codes.items() if t != found.root}
    counters = rules.counters(catalog, found)
    accepted = {}
    if counters:
        accepted["sequence"] = (
            f"{_CONFIRM}{', '.join(counters)}: one counter for all tenants tells each how busy the "
            "others are"
        )
    accepted["primary-key-collision"] = (
        f"{_CONFIRM}whoever can name another tenant's id already knows that it exists"
        if not counters
        else f"{_CONFIRM}ids can be guessed, so one can ask which of them others have"
    )
    columns, tables = rules.written_by_triggers(reach, granted)
    return Draft(
        found,
        tuple(acting),
        (
            *rules.append_only(reach, found, acting),
            *rules.keys(catalog, found, acting),
            *rules.taxonomies(catalog, codes),
            *rules.proposals(reach, found, granted),
        ),
        (tuple(columns), tuple(tables)),
        accepted,
        rules.erasing(reach, found, acting),
        tuple(_questions(found, granted, reach)),
    )


def _questions(found: tenancy.Tenancy, roles: Sequence[Role], reach: Reach) -> Iterator[str]:
    yield from found.questions
    owners = [r.name for r in roles if r.owner]
    if owners:
        yield (
            f"{', '.join(owners)}: owns relations, which no policy binds unless it is forced; does "
            "the application act as it? Then give it a section [roles.NAME]"
        )
    for role in roles:
        if role.bypasses and not role.owner:
            yield f"{role.name} goes around all policies (BYPASSRLS): is it to act for tenants?"
    if not any(not r.owner for r in roles):
        yield "no role is granted anything: as which role does the application act?"
    if found.root and not rules.erasing(reach, found, roles):
        erasing = [r.name for r in roles if "delete" in r.relations.get(found.root, ())]
        who = f" ({', '.join(erasing)} may delete rows of {found.root})" if erasing else ""
        yield f"which role removes a tenant with all that it has{who}? tenancy.erased_by names it"
    opaque = [r.signature for r in reach.definitions.routines if r.effects.opaque]
    if opaque:
        yield (
            f"what do these reach? They cannot be read here: {', '.join(opaque[:10])}"
            f"{' and more' if len(opaque) > 10 else ''}"
        )


def _apart(roles: Sequence[Role], special: Collection[object]) -> frozenset[str]:
    """Roles that no policy binds and that are not to act for tenants, unless all are like that."""
    bypassing = frozenset(r.name for r in roles if r.bypasses and r.name not in special)
    return bypassing if len(bypassing) < len(roles) else frozenset()


def _inline(verbs: Sequence[str]) -> str:
    return f"[{', '.join(map(json.dumps, verbs))}]"


def toml(made: Draft, title: str) -> str:
    """The draft as the text of a contract."""
    return "\n".join(_lines(made, title)) + "\n"


def _setting(t: tenancy.Tenancy) -> str | None:
    """The one setting that names the tenant, where nothing else is said."""
    ((name, template), *more) = [*t.session.items(), ("", "")]
    return name if len(more) == 1 and template == "{tenant}" and name != "role" else None


def _lines(made: Draft, title: str) -> Iterator[str]:
    t = made.tenancy
    yield f"# What {title} promises, as drafted from the database by `invariants init`."
    yield "# Each entry has its evidence; what is commented out is a proposal. Read all of it once."
    yield "format = 1"
    yield ""
    yield "[tenancy]"
    if t.root:
        yield f"root = {_value(t.root)}"
    yield from _evidence(t.evidence.get("column", ""))
    yield f"column = {_value(t.column)}"
    yield from _evidence(t.evidence.get("session", ""))
    if setting := _setting(t):
        yield f"setting = {_value(setting)}"
    elif t.session:
        yield f"session = {_value(dict(t.session))}"
    else:
        yield '# setting = ""'
    yield f"tables = {_value(list(t.tables))}"
    if t.scoped_by:
        yield from _evidence(t.evidence.get("scoped_by", ""))
        yield f"scoped_by = {_value(dict(t.scoped_by))}"
    if t.shared:
        yield from _evidence(t.evidence.get("shared", ""))
        yield f"shared = {_value(list(t.shared))}"
    if t.tied:
        yield from _evidence("policies want these columns to be what the session says")
        yield f"tied = {_value(dict(t.tied))}"
    if made.erased_by:
        yield from _evidence(f"a trigger of {t.root} lets it remove tenants, by its name")
        yield f"erased_by = {_value(made.erased_by)}"
    if t.members:
        yield from _evidence(f"policies look up in {t.members.table} where the user belongs")
        members = {"table": t.members.table, "user": t.members.user, "tenant": t.members.tenant}
        yield f"members = {_value(members)}"
    special = {made.erased_by, *(r.values.get("repaired_by") for r in made.rules)}
    apart = _apart(made.roles, special)
    for role in made.roles:
        yield ""
        if role.name in apart:
            yield from _evidence("proposed, if it acts for tenants: it goes around all policies")
            yield f"# [roles.{_key(role.name)}]"
            yield from (f"# {_key(r)} = {_inline(vs)}" for r, vs in role.relations.items())
            yield from (f'# {_key(routine)} = ["execute"]' for routine in role.routines)
            continue
        yield f"[roles.{_key(role.name)}]"
        if role.name in special:
            granted = ", ".join(f"{v} on {r}" for r, vs in role.relations.items() for v in vs)
            yield from _evidence(
                f"repairs or removes: what it may do follows from that ({granted})"
            )
            continue
        yield from _evidence("granted today")
        for relation, verbs in role.relations.items():
            yield f"{_key(relation)} = {_value(list(verbs))}"
        for routine in role.routines:
            yield f'{_key(routine)} = ["execute"]'
    for rule in made.rules:
        yield ""
        yield from _rule(rule)
    columns, tables = made.written
    if columns or tables:
        yield ""
        yield from _evidence("what the client does not decide")
        yield "[written_by_triggers]"
        yield from ([f"columns = {_value(list(columns))}"] if columns else [])
        yield from ([f"tables = {_value(list(tables))}"] if tables else [])
    for channel, reason in made.accepted.items():
        yield ""
        yield "[[accepted]]"
        yield f"channel = {_value(channel)}"
        yield f"reason = {_value(reason)}"
    if made.questions:
        yield ""
        yield "# Questions that the database does not answer:"
        yield from (f"# - {question}" for question in made.questions)


def _rule(rule: Rule) -> Iterator[str]:
    single = rule.section in ("pii", "references")
    head = f"[{rule.section}]" if single else f"[[{rule.section}]]"
    lines = [head, *(f"{_key(k)} = {_value(v)}" for k, v in rule.values.items())]
    word = "proposed" if rule.proposed else "found"
    yield f"# {word}: {rule.evidence}"
    text = "\n".join(lines).splitlines()
    yield from (f"# {line}" if rule.proposed else line for line in text)


def _evidence(text: str) -> Iterator[str]:
    if text:
        yield f"# {text}"


def _key(name: str) -> str:
    return tomlkit.key(name).as_string()


def _value(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list) and len(", ".join(map(str, value))) > 70:
        return "[\n" + "".join(f"    {_value(v)},\n" for v in value) + "]"
    if isinstance(value, str) and '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return tomlkit.item(value).as_string()
