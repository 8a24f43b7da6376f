"""What a worker knows about the jobs that it holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio

from ojs_client.worker.held_jobs import HeldJobs

SECOND = timedelta(seconds=1)


def test_the_time_of_the_server_is_that_of_the_fetch_and_since_then() -> None:
    async def test() -> None:
        held = HeldJobs(60)
        job = held.add({"id": "a", "started_at": "2020-01-01T00:00:00.500Z"})
        job.fetched_at -= 300
        passed = job.server_time() - datetime(2020, 1, 1, 0, 5, 0, 500_000, UTC)
        assert timedelta(0) <= passed < 60 * SECOND

        without = held.add({"id": "b"})
        assert abs(without.server_time() - datetime.now(UTC)) < 60 * SECOND

    anyio.run(test)
