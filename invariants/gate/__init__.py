"""The release gate, and findings revision by revision: verdicts made of many runs."""
