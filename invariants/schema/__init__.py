"""Where a schema comes from, and what its catalog says.

May know of nothing but options and errors: of no contract, no server and no workload.
"""
