"""Low load, then ten times the users within seconds, then low load again, in a loop."""

from __future__ import annotations

from locust import LoadTestShape

from loadtest.users import BatchWorker, CronUser, Producer, Worker, WorkflowUser

__all__ = ["BatchWorker", "CronUser", "Producer", "Spike", "Worker", "WorkflowUser"]

CALM_S, SPIKE_S = 30, 15
CALM_USERS, SPIKE_USERS = 20, 200


class Spike(LoadTestShape):
    """Ends with ``--run-time``."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users, and how many of them start or stop per second."""
        options = self.runner.environment.parsed_options if self.runner else None
        limit = getattr(options, "run_time", None)
        now: float = self.get_run_time()  # type: ignore[no-untyped-call]  # locust's are not typed
        if limit and now > limit:
            return None
        in_spike = now % (CALM_S + SPIKE_S) >= CALM_S
        return (SPIKE_USERS, 50.0) if in_spike else (CALM_USERS, 50.0)
