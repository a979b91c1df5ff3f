"""Altered schemas on which a workload runs, to see each layer of defence hold alone.

A premise is SQL applied to a scratch database before the workload; the counterexample's script
applies it too.
"""

from __future__ import annotations

from invariants.contract.contract import Contract
from invariants.schema.catalog import Catalog
from invariants.workload.sql import name

GRANTED = "privileges-granted"
UNTRIGGERED = "triggers-disabled"

DESCRIPTIONS = {
    "": "the schema as migrated",
    GRANTED: "every table privilege is granted, so that triggers stand alone",
    UNTRIGGERED: "the triggers that protect rows are disabled, so that privileges stand alone",
}


def statements(premise: str, contract: Contract, catalog: Catalog) -> tuple[str, ...]:
    """The SQL that makes a premise true, run as the superuser.

    Raises ValueError for a premise that does not exist.
    """
    if premise not in DESCRIPTIONS:
        raise ValueError(f"unknown premise {premise!r}")
    if premise == GRANTED:
        roles = ", ".join(
            name(r) for r in (*contract.application_roles, *sorted(contract.repair_roles))
        )
        return tuple(
            f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {name(t)} TO {roles}"
            for t in contract.tenancy.rooted
        )
    if premise == UNTRIGGERED:
        return tuple(
            f"ALTER TABLE {name(t)} DISABLE TRIGGER USER"
            # A row of the root takes rows of append-only tables with it.
            for t in (*_root(contract), *(a.table for a in contract.append_only))
            # Also those disabled already: the script of a finding is written after the fact.
            if catalog.relations[t].triggers
        )
    return ()


def _root(contract: Contract) -> tuple[str, ...]:
    return (contract.tenancy.root,) if contract.tenancy.root else ()
