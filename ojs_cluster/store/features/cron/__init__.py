"""Cron jobs: stored definitions, due occurrences and the jobs that they enqueue."""
