"""Fetch: leases, queues of many shards, long poll."""
