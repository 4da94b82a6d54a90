"""Everything that is in Redis: the connection, the embedded server, keys, records and the atomic scripts."""
