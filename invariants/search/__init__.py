"""The search: explores, judges, reduces, and tells what it does as a stream of events."""
