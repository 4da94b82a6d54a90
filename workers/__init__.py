"""The doing side: a fleet of processes that pull shards from lanes and see each line through."""
