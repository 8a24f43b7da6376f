"""Rate limits by key, and the tokens of their partitions."""
