"""Enqueue: single jobs, batches, placement on shards, ids that clients choose."""
