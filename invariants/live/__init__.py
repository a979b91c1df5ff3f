"""Databases that are in use, looked at and never written: drift from the chain, snapshots, audits.

May know of sources, servers and the contract; all that is asked of a database in use goes through
`looking`.
"""
