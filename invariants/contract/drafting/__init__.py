"""Drafts a contract from what a database says of itself: every entry with its evidence.

What is sure is written, what is likely is proposed in a comment, and what only a person can know is
asked at the end. May know of the catalog and the definitions; knows no sections but their spelling.
"""
