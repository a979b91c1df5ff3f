"""What a schema promises, as data, read from `invariants.toml` and bound to a catalog.

May know of the catalog, of nothing above it.
"""
