"""Workloads as data, and their statements as SQL. Knows nothing of how they are sent."""
