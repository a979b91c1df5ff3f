"""The `[tenancy]` section as it is written, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from invariants.contract.sections import Members, Tenancy, Within
from invariants.contract.shapes import ColumnName, Name, Names, Section, dotted, said
from invariants.reading import Misfit, Text, joined, key
from invariants.workload.templates import TENANT, USER, Templates, names_in

# Not a setting that is made: who acts is the role itself.
_ROLE = "role"


class MembersFile(Section):
    """Who is a member of which tenants."""

    table: Name
    user: Annotated[Name, said("the column that names the user")]
    tenant: Annotated[Name, said("the column that names the tenant")]


class WithinFile(Section):
    """A level within the tenant."""

    column: Annotated[Name, said("the column that says to which one a row belongs")]
    root: Annotated[Name, said("the table with one row each")]
    session: Annotated[dict[Name, Text], said("settings that a session makes to name it")] = {}


class TenancyFile(Section, kw_only=True):
    """Who the tenants are and how a session says which one it acts for."""

    column: Annotated[Name, said("the column that says whose a row is")]
    tables: Annotated[Names, said("the tables whose rows belong to a tenant")]
    root: Annotated[Name | None, said("the table with one row a tenant, if there is one")] = None
    setting: Annotated[Name | None, said("what a session sets to say whom it acts for")] = None
    session: Annotated[
        dict[Name, Text],
        said("settings that a session makes, with {tenant}, {user} and names of within in them"),
    ] = {}
    erased_by: Annotated[Name | None, said("the role that may remove a tenant")] = None
    scoped_by: Annotated[
        dict[Name, Name], said("tables whose rows belong to whom the row that a column names does")
    ] = {}
    shared: Annotated[Names, said("tables whose rows belong to nobody")] = ()
    tied: Annotated[
        dict[ColumnName, Text], said("columns that carry what the session says, as {user}")
    ] = {}
    members: Annotated[MembersFile | None, said("who is a member of which tenants")] = None
    within: Annotated[tuple[WithinFile, ...], said("levels within the tenant")] = ()


def tenancy_of(file: TenancyFile) -> Tenancy:
    """What the section says. Raises `Misfit` where it makes no sense."""
    settings = _settings(file)
    role = settings.pop(_ROLE, None)
    within = _within(file, settings)
    known = {TENANT, USER, *(w.name for w in within)}
    for setting, template in settings.items():
        _check_names(joined("tenancy", "session", key(setting)), template, known)
    if role is not None and names_in(role) != {TENANT}:
        raise Misfit(
            "tenancy.session.role", f"{role!r} names no tenant", 'write a role as "{tenant}"'
        )
    tied = {}
    for name, template in file.tied.items():
        place = f"tenancy.tied.{key(name)}"
        _check_names(place, template, known)
        if not names_in(template):
            raise Misfit(place, f"{template!r} names nothing", 'write what it carries, as "{user}"')
        tied[dotted(place, name)] = template
    _check_said(file, settings, role, within)
    if file.erased_by is not None and file.root is None:
        raise Misfit("tenancy.erased_by", "needs a table of tenants", "add root, or remove it")
    _check_places(file)
    members = None
    if file.members is not None:
        members = Members(file.members.table, file.members.user, file.members.tenant)
    return Tenancy(
        root=file.root,
        column=file.column,
        session=Templates(tuple(settings.items())),
        tables=file.tables,
        erased_by=file.erased_by,
        role=role,
        scoped_by=file.scoped_by,
        shared=file.shared,
        tied=tied,
        members=members,
        within=within,
    )


def _settings(file: TenancyFile) -> dict[str, str]:
    if file.setting is None and not file.session:
        raise Misfit(
            "tenancy",
            "says no setting by which a session names its tenant",
            'add setting = "app.tenant", or session = { .. } with templates',
        )
    if file.setting is not None and file.setting in file.session:
        raise Misfit("tenancy.setting", "is also in tenancy.session", "say it once")
    first = {} if file.setting is None else {file.setting: f"{{{TENANT}}}"}
    return {**first, **file.session}


def _within(file: TenancyFile, settings: dict[str, str]) -> tuple[Within, ...]:
    """The levels; the settings by which sessions name them are added to the others."""
    found = []
    free = [n for t in settings.values() for n in sorted(names_in(t)) if n not in (TENANT, USER)]
    for i, level in enumerate(file.within):
        place = f"tenancy.within[{i}]"
        settings.update(level.session)
        asked = {n for t in level.session.values() for n in names_in(t)} - {TENANT, USER}
        names = sorted(asked) or free[:1]
        if len(names) != 1:
            raise Misfit(
                f"{place}.session",
                "does not say what a session calls it",
                'write a setting and a name, as { "app.project" = "{project}" }',
            )
        free = [n for n in free if n != names[0]]
        found.append(Within(level.column, level.root, names[0]))
    return tuple(found)


def _check_names(place: str, template: str, known: set[str]) -> None:
    for name in sorted(names_in(template) - known):
        told = ", ".join(f"{{{n}}}" for n in sorted(known))
        raise Misfit(place, f"{{{name}}} is not known", f"use one of: {told}")


def _check_said(
    file: TenancyFile, settings: Mapping[str, str], role: str | None, within: tuple[Within, ...]
) -> None:
    """That a session says enough to tell tenants apart."""
    names = {n for t in settings.values() for n in names_in(t)}
    if file.members is not None and USER not in names:
        raise Misfit(
            "tenancy.members", "no session names a user", 'add a setting with "{user}" to session'
        )
    if role is None and file.members is None and TENANT not in names:
        raise Misfit(
            "tenancy.session",
            "names no tenant",
            'write "{tenant}" into a template, or say with members whose tenants a user has',
        )
    for i, level in enumerate(within):
        if level.name not in names:
            raise Misfit(
                f"tenancy.within[{i}].session",
                f"{{{level.name}}} is in no template",
                "write it into one",
            )


def _check_places(file: TenancyFile) -> None:
    """That each table has one place."""
    seen: dict[str, str] = {} if file.root is None else {file.root: "tenancy.root"}
    for place, names in (
        ("tenancy.tables", file.tables),
        ("tenancy.scoped_by", tuple(file.scoped_by)),
        ("tenancy.shared", file.shared),
    ):
        for name in names:
            if name in seen and seen[name] != place:
                raise Misfit(place, f"{name!r} is also in {seen[name]}", "leave it in one of them")
            seen[name] = place
