"""The worker, and what its handlers and middleware get."""
