"""The sweeps of a shard: promote, reap and purge, and the other work of the janitor."""
