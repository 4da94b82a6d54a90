"""Which model answers a line: pure functions over catalogue and health, each of which says why."""
