"""This schema's own strategies. Importing the package registers all of them.

Rows by table, operations by name; everything else is derived by `invariants.generation`.
"""

from strategies import allocations, events, ledger, tenants

__all__ = ["allocations", "events", "ledger", "tenants"]
