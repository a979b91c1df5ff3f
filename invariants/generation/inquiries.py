"""A sweep of what roles hold beside rows: each role is asked about each privilege there is.

TRIGGER, REFERENCES, MAINTAIN, grant options, sequences, schemas, the database, parameters,
predefined roles and attributes of roles. Everybody is asked for by a role that nothing was
granted to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from invariants.checks.held import executes
from invariants.contract.contract import ANYBODY, Contract
from invariants.generation.world import World
from invariants.schema.catalog import Catalog
from invariants.workload.inquiries import ATTRIBUTES, PRIVILEGES
from invariants.workload.operations import HeldOn, Inquire, Operation

Make = Callable[[World], list[Operation]]
_MAINTAIN_SINCE = 170000
# Until then everybody could make things in `public`, by default.
_PUBLIC_CLOSED_SINCE = 150000


def inquiries(contract: Contract, catalog: Catalog) -> Iterator[tuple[str, Make]]:
    """All that can be asked for, by each role that acts for a tenant, and by everybody."""
    for role in (*contract.application_roles, ANYBODY):
        asked = [tuple(several) for several in _asked(catalog, role) if several]
        asked += [
            (Inquire(routine.called, "EXECUTE", "routine"),)
            for routine in catalog.routines
            if routine.called and executes(contract, catalog, role, routine.called)
        ]
        if asked:
            yield (
                "",
                lambda world, role=role, asked=asked: [  # type: ignore[misc]
                    Operation(world.actor(role, world.tenants[0]), statements)
                    for statements in asked
                ],
            )


def _asked(catalog: Catalog, role: str) -> Iterator[list[Inquire]]:
    """Questions about one thing each, so that one refused says nothing of others."""
    for relation in catalog.relations:
        kinds = [
            p
            for p in PRIVILEGES["relation"]
            if p != "MAINTAIN" or catalog.server_version >= _MAINTAIN_SINCE
        ]
        yield _each(relation, "relation", kinds)
    for sequence in catalog.sequences:
        yield _each(sequence, "sequence", PRIVILEGES["sequence"])
    for schema in catalog.standing.schemas:
        if schema != "public" or catalog.server_version >= _PUBLIC_CLOSED_SINCE:
            yield _each(schema, "schema", PRIVILEGES["schema"])
    yield _each("database", "database", PRIVILEGES["database"])
    for parameter in catalog.standing.parameters:
        yield _each(parameter, "parameter", PRIVILEGES["parameter"])
    if role == ANYBODY:
        return
    for other in catalog.standing.member_of.get(role, ()):
        if other.startswith("pg_"):
            yield _each(other, "role", PRIVILEGES["role"])
    for attribute in ATTRIBUTES:
        yield _each(attribute, "attribute", PRIVILEGES["attribute"])


def _each(name: str, target: HeldOn, privileges: tuple[str, ...] | list[str]) -> list[Inquire]:
    return [Inquire(name, privilege, target) for privilege in privileges]
