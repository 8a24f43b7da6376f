"""Bulk operations: change many jobs in bounded slices, and continue after a crash."""
