"""Cross-shard transactions: atomic writes to several shards."""
