"""Delete queues together with their jobs."""
