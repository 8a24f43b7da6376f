"""The outbox, on PostgreSQL and against a real server."""
