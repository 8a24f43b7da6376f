"""The outbox: effects of a transition in other shards, delivered at least once."""
