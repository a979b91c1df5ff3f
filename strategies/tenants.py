"""Tenants: their names."""

from __future__ import annotations

from invariants.generation.registry import Values, rows
from invariants.generation.world import World


@rows("tenants")
def tenant_row(world: World, tenant: str) -> Values:
    """Id and name; the rest has defaults."""
    return {"id": tenant, "name": f"Tenant {world.next('tenant name')}"}
