"""Workloads as data, and their statements as SQL.

May know of nothing else of the program: neither how a workload is sent nor what it is for.
"""
