"""Defaults of queues for the options of their new jobs."""
