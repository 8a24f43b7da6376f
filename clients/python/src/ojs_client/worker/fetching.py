"""Fetches jobs with long polls (spec: ojs-worker-protocol, FETCH)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from ojs_client.backoff import Backoff
from ojs_client.errors import ApiError, ConnectionFailed, ends_worker
from ojs_client.options import JSON
from ojs_client.transport import Repeat, Transport
from ojs_client.worker.heartbeats import Heartbeats
from ojs_client.worker.held_jobs import HeldJob, HeldJobs
from ojs_client.worker.settings import WorkerSettings

log: Final = logging.getLogger("ojs_client.worker")

MAX_COUNT: Final = 100
"""Maximum number of jobs of one fetch."""
_POLL_MARGIN_S: Final = 10.0
"""Time in seconds that a fetch may take longer than its wait for jobs."""
_MAX_RETRY_AFTER_S: Final = 60.0
"""Maximum ``Retry-After`` of a fetch that is obeyed, in seconds."""
_MIN_POLL_S: Final = 0.1
_MAX_EARLY_S: Final = 1.0
_HEARTBEAT_LIMIT_S: Final = 1.0
"""Maximum time of the heartbeat at the start of a drain, in seconds."""
_MIN_POLL_AGE_S: Final = 1.0
"""Minimum age in seconds of a fetch that a drain cancels."""
_MIN_CANCEL_DELAY_S: Final = 0.1
"""Minimum time in seconds from the heartbeat to the cancellation of a fetch. Jobs of a response
that is not read stay leased until their leases expire."""


@dataclass(slots=True)
class Fetcher:
    """Fetches the jobs of a worker.

    Args:
        transport: sends the fetches.
        held: gets the fetched jobs.
        heartbeats: sends the heartbeat at the start of a drain.
        worker_id: the worker.
        settings: the queues, the pool, and how long the server waits for jobs.

    Attributes:
        pause_s: time in seconds to wait before the next fetch, after a failure or an early
            response.
    """

    transport: Transport
    held: HeldJobs
    heartbeats: Heartbeats
    worker_id: str
    settings: WorkerSettings
    pause_s: float = 0.0
    _failures: Backoff = field(default_factory=Backoff)
    _early: Backoff = field(default_factory=lambda: Backoff(max_s=_MAX_EARLY_S))
    _poll: anyio.CancelScope | None = None
    """The scope of the current fetch."""
    _sent_at: float = 0.0
    """When the last fetch was sent, on the clock of the event loop."""

    async def fetch(self, count: int, types: list[str] | None = None) -> list[HeldJob]:
        """Return jobs that the server has leased to this worker, and set ``pause_s``.

        Args:
            count: maximum number of jobs.
            types: the types of these jobs; None for any.

        Returns:
            The jobs: none if there are none within ``poll_s``, if the fetch fails, or after
            ``end_poll``.

        Raises:
            ApiError: the server would refuse all later fetches, too.
        """
        try:
            jobs = await self._request(count, types)
        except (ApiError, ConnectionFailed) as error:
            if isinstance(error, ApiError) and ends_worker(error):
                raise
            retry_after_s = error.retry_after_s or 0.0
            self.pause_s = self._failures.next_s(min(retry_after_s, _MAX_RETRY_AFTER_S))
            log.warning("fetch failed, repeats it in %.1f s: %s", self.pause_s, error)
            return []
        self._failures.reset()
        if jobs or not self._is_early():
            self._early.reset()
            self.pause_s = 0.0
        else:
            self.pause_s = self._early.next_s()
        return [self.held.add(job) for job in jobs]

    async def _request(self, count: int, types: list[str] | None) -> list[dict[str, JSON]]:
        body: dict[str, JSON] = {
            "worker_id": self.worker_id,
            "count": count,
            "visibility_timeout_ms": round(self.held.lease_s * 1000),
            "wait_ms": round(self.settings.poll_s * 1000),
        }
        if self.settings.queues:
            body["queues"] = self.settings.queues
        if self.settings.pool is not None:
            body["pool"] = self.settings.pool
        if types is not None:
            body["types"] = types
        reply: Any = None
        self._sent_at = anyio.current_time()
        with anyio.CancelScope() as self._poll:
            reply = await self.transport.request(
                "POST",
                "/workers/fetch",
                body,
                repeat=Repeat.NEVER,
                timeout_s=self.settings.poll_s + _POLL_MARGIN_S,
            )
        self._poll = None
        return [] if reply is None else _jobs_of(reply)  # None: `end_poll` has cancelled the fetch

    def _is_early(self) -> bool:
        """Return whether an empty response has arrived before the wait for jobs could end.

        A server that shuts down ends all waits and answers further fetches at once.
        """
        limit_s = max(_MIN_POLL_S, min(_MAX_EARLY_S, self.settings.poll_s / 2))
        return anyio.current_time() - self._sent_at < limit_s

    async def end_poll(self) -> None:
        """Cancel the fetch that waits for jobs, without losing jobs of a response.

        The heartbeat reports that the worker is quiet, so the server sends no further jobs.
        """
        started_at = anyio.current_time()
        with anyio.move_on_after(_HEARTBEAT_LIMIT_S):
            await self.heartbeats.try_to_send()
        now = anyio.current_time()
        # The server sent any response with jobs before that of the heartbeat. So it arrives within
        # the time that the heartbeat took. A fetch that was just sent may be slower.
        cancel_at = max(
            now + _MIN_CANCEL_DELAY_S, now + now - started_at, self._sent_at + _MIN_POLL_AGE_S
        )
        await anyio.sleep_until(cancel_at)
        if self._poll is not None:
            self._poll.cancel()


def _jobs_of(reply: Any) -> list[dict[str, JSON]]:
    """Return the jobs of a fetch.

    Raises:
        ConnectionFailed: the reply has another form, as from a proxy.
    """
    jobs = reply.get("jobs")
    if isinstance(jobs, list) and all(
        isinstance(j, dict) and {"id", "type"} <= set(j) for j in jobs
    ):
        return jobs
    raise ConnectionFailed("the reply to a fetch has no jobs", applied=None)
