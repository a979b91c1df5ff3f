"""Sends workloads to a server, keeps every outcome and the rows around it. Judges nothing."""
