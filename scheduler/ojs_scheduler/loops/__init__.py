"""The loops of a shard leader, one module each."""
