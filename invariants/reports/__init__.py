"""Listeners: what is told while work goes on, written for people and for programs.

May know of everything that can be told; nothing that happens may depend on them.
"""
