"""Reduced workloads with their violations, and the forms that they are kept and told in."""
