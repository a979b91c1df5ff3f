"""Reduced workloads with their violations, and the forms that they are kept and told in.

May know of the checks and of what they look at; not of how a workload was found.
"""
