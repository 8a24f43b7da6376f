"""All users together: producers, both kinds of workers, cron jobs, workflows.

    locust -f loadtest/locustfile.py --host http://localhost:8080
    locust --config loadtest/profiles/mixed.conf --host https://jobs.example.com

Class names at the end select users: ``... Producer``.
"""

from loadtest.users import BatchWorker, CronUser, Producer, Worker, WorkflowUser

__all__ = ["BatchWorker", "CronUser", "Producer", "Worker", "WorkflowUser"]
