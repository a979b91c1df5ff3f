"""Where a schema comes from, and what its catalog says. Knows of no contract."""
