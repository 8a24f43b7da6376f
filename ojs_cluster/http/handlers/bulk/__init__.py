"""Bulk operations: the object, and the endpoints of the specification as views of it."""
