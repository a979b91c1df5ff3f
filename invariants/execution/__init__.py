"""Sends workloads to a server, keeps every outcome and the rows around it.

May know of the contract, the catalog and the workload. Judges nothing and draws nothing.
"""
