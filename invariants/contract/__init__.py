"""What a schema promises, as data, read from `invariants.toml` and bound to a catalog.

`sections` are the data, `file` is how they are written, `contract` what they are together,
`binding` and `promised` what they mean for a database. May know of
the catalog, of nothing above it.
"""

from invariants.contract.contract import ANYBODY, Contract, load

__all__ = ["ANYBODY", "Contract", "load"]
