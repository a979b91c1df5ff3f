"""The search: explores, judges, reduces, and tells what it does as a stream of events.

May know of generation, execution and checks; of no listener, and of no mutant.
"""
