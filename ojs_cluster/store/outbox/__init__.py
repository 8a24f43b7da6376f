"""The outbox: effects that a transition owes to other shards, delivered at least once."""
