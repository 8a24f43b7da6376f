"""Pause, resume, fork and merge the agent that a job runs."""
