"""Bulk operations: what they do, and which jobs they choose."""
