"""When jobs of the fake server may start (spec: ojs-rate-limiting)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ojs_client.testing.fake_jobs import FakeJob
from ojs_client.testing.limit_policies import Policy, queue_key

RESCHEDULE_MS: Final = 5000
"""Delay of a rescheduled job in ms when only the end of another job lets it start."""
_MAX_HOLD_MS: Final = 86_400_000
_BURST_MS: Final = 100
"""A throttle allows all starts of this time at once, if its starts are closer together."""


@dataclass(slots=True)
class _State:
    """The starts of the jobs of one limit.

    Attributes:
        policy: the limits that were declared last.
        starts: the times of the last starts, as Unix times in ms.
        next_start_ms: when its throttle allows the next start.
        held_until_ms: no job starts before.
    """

    policy: Policy
    starts: list[int] = field(default_factory=list)
    next_start_ms: float = 0.0
    held_until_ms: int = 0


class Limits:
    """Decides when jobs may start. All times are Unix times in milliseconds."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    def declare(self, policy: Policy) -> None:
        """Let the limits of an enqueued job hold for all jobs of its key."""
        self._states.setdefault(policy.key, _State(policy)).policy = policy

    def opens_at(self, job: FakeJob, jobs: Iterable[FakeJob], now_ms: int) -> float:
        """Return when a job may start: at most ``now_ms`` for now, infinity for after others.

        Args:
            job: the job.
            jobs: all jobs.
            now_ms: the time.
        """
        return max((_opens_at(it, jobs) for it in self._states_of(job)), default=now_ms)

    def count_start(self, job: FakeJob, now_ms: int) -> None:
        """Count the start of a job."""
        for state in self._states_of(job):
            rate, throttle = state.policy.rate, state.policy.throttle
            state.starts.append(now_ms)
            del state.starts[: -(rate.count if rate else 1)]
            if throttle is not None:
                gap_ms = throttle.period_ms / throttle.count
                state.next_start_ms = max(state.next_start_ms, now_ms) + gap_ms

    def uncount_start(self, job: FakeJob) -> None:
        """Take back the start of a job that its worker has not started.

        A ``max_per_second`` keeps the start, and a throttle takes back only its last one.
        """
        if job.limit is None or job.started_ms is None or job.limit.key == queue_key(job.queue):
            return
        state = self._states[job.limit.key]
        if job.started_ms in state.starts:
            state.starts.remove(job.started_ms)
        if (throttle := state.policy.throttle) is not None:
            gap_ms = throttle.period_ms / throttle.count
            if math.isclose(state.next_start_ms - gap_ms, job.started_ms, abs_tol=0.01):
                state.next_start_ms = job.started_ms

    def hold(self, job: FakeJob, until_ms: int, now_ms: int) -> None:
        """Let no job with the rate limit key of this one start before a time, at most for a day."""
        if job.limit is not None and job.limit.key != queue_key(job.queue):
            state = self._states[job.limit.key]
            state.held_until_ms = max(state.held_until_ms, min(until_ms, now_ms + _MAX_HOLD_MS))

    def _states_of(self, job: FakeJob) -> list[_State]:
        """Return the limits that hold for a job: that of its key and that of its queue."""
        keys = {queue_key(job.queue)} | ({job.limit.key} if job.limit is not None else set())
        return [self._states[key] for key in keys if key in self._states]


def _opens_at(state: _State, jobs: Iterable[FakeJob]) -> float:
    policy, opens_at = state.policy, float(state.held_until_ms)
    if policy.concurrency is not None:
        active = sum(
            it.state == "active" and it.limit is not None and it.limit.key == policy.key
            for it in jobs
        )
        if active >= policy.concurrency:
            return math.inf
    if policy.rate is not None and len(state.starts) >= policy.rate.count:
        opens_at = max(opens_at, state.starts[-policy.rate.count] + policy.rate.period_ms)
    if policy.throttle is not None:
        gap_ms = policy.throttle.period_ms / policy.throttle.count
        opens_at = max(opens_at, math.ceil(state.next_start_ms - max(0, _BURST_MS - gap_ms)))
    return opens_at
