"""The release gate, and findings revision by revision: verdicts made of many runs.

May know of searches, mutants and counterexamples; not of how a verdict is told.
"""
