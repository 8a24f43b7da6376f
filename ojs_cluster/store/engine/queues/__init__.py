"""Queues: registry, statistics, pause, purge, partitions."""
