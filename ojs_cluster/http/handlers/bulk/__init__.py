"""Handlers for bulk operations, and for requests of the specification about many jobs."""
