"""Forget what has ended: jobs, queues, and the notes about them."""
