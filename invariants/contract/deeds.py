"""What a role may be promised besides rows, and what it is promised it on.

Routines go by their names and types, `f(uuid)`; sequences, like relations, by their names; what is
no object of a schema by SQL's word for it: `schema app`, `database`, `parameter work_mem`,
`role pg_monitor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from invariants.contract.sections import VERBS
from invariants.schema.catalog import Catalog
from invariants.schema.routines import Routine

Kind = Literal["relation", "sequence", "routine", "schema", "database", "parameter", "role"]
DEEDS: Mapping[Kind, tuple[str, ...]] = {
    "relation": (*VERBS, "references", "trigger", "maintain"),
    "sequence": ("usage", "select", "update"),
    "routine": ("execute",),
    "schema": ("create", "usage"),
    "database": ("create",),
    "parameter": ("set", "alter system"),
    "role": ("member",),
}


def kind_of(name: str, catalog: Catalog) -> Kind | None:
    """What a key of `[roles.ROLE]` names; None where the database has nothing of that name."""
    if name in catalog.relations:
        return "relation"
    if name in catalog.sequences:
        return "sequence"
    if name == "database":
        return "database"
    word, _, rest = name.partition(" ")
    if word == "schema" and rest in catalog.standing.schemas:
        return "schema"
    if word == "role" and rest in catalog.roles:
        return "role"
    if word == "parameter" and rest:
        return "parameter"
    return "routine" if any(name in spellings(r) for r in catalog.routines) else None


def spellings(routine: Routine) -> tuple[str, ...]:
    """How a routine may be written: with its types alone, or with its arguments' names as well."""
    if not routine.called:
        return ()
    return routine.called, routine.signature, routine.known_as
