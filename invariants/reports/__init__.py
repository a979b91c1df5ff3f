"""Listeners: what is told while work goes on, written for people and for programs."""
