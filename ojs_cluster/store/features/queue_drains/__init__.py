"""Queues that are drained before they are deleted, and jobs of deleted queues."""
