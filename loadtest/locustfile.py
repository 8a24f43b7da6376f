"""Everything at once: producers, workers of both kinds, cron jobs, workflows.

    locust -f loadtest/locustfile.py --host http://localhost:8080
    locust --config loadtest/profiles/mixed.conf --host https://jobs.example.com

A name of a class at the end picks users: ``... Producer``.
"""

from loadtest.users import BatchWorker, CronUser, Producer, Worker, WorkflowUser

__all__ = ["BatchWorker", "CronUser", "Producer", "Worker", "WorkflowUser"]
