"""Maintenance mode: an operator stops enqueues, fetches or both."""
