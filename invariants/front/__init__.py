"""The front doors: the command line and pytest. Knows everything below, and nothing knows it."""
