"""Clean up at regular times: a worker that registers its cron job when it starts.

The schedule is ``CRON`` (``@hourly`` by default). The server enqueues one job per occurrence, no
matter how many workers run this program.
"""

import os
from datetime import UTC, datetime, timedelta

import anyio

from ojs_client import Client, RunningJob, Worker, new_job

SCHEDULE = os.environ.get("CRON", "@hourly")
worker = Worker(queues=["maintenance"])


@worker.handler("sessions.clean", timeout=300)
async def clean(job: RunningJob) -> dict[str, str]:
    """Remove old sessions. It is idempotent: a second run finds nothing to remove."""
    oldest = datetime.now(UTC) - timedelta(days=job.args[0]["days"])
    print(f"removes sessions before {oldest:%Y-%m-%d}", flush=True)
    return {"before": oldest.date().isoformat()}


async def main() -> None:
    """Register the cron job, then run until SIGTERM."""
    async with Client() as client:
        # A cron job of the same name is replaced, so each deployment can register it again.
        await client.cron.register(
            "clean-sessions",
            SCHEDULE,
            new_job("sessions.clean", {"days": 30}, queue="maintenance"),
            timezone="Europe/Berlin",
            overlap="skip",  # a slow run does not pile up jobs
            description="Removes sessions that were not used for 30 days",
        )
    print(f"clean-sessions runs at {SCHEDULE}: waits for its jobs", flush=True)
    await worker.serve(signals=True)


if __name__ == "__main__":
    anyio.run(main)
