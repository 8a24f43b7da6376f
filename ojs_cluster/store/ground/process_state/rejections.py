"""Announce that full queues refuse jobs: the event ``backpressure.rejected``.

Spec: ojs-backpressure 10.1. Each queue has at most one such event in ``GAP_S``, because an event
per refused request would displace all other events from the stream. The refusal does not wait for
the event, and the event may be lost with the process.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.errors import QueueFull

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Arg, Runtime

GAP_S: Final = 10.0
"""Minimum time in seconds between two events of a queue."""
_MAX_REMEMBERED: Final = 1000
"""Maximum number of queues whose last report this process remembers."""


class Rejections:
    """The queues whose refusals this process has reported a short time ago."""

    __slots__ = ("_reported_at",)

    def __init__(self) -> None:
        self._reported_at: dict[str, float] = {}

    async def report(self, store: Runtime, events_arg: Arg, full: QueueFull, job_type: str) -> None:
        """Append the event in a background task, unless it was done a short time ago.

        Args:
            store: the store.
            events_arg: ``Store.events_arg``.
            full: the error with which a request was refused.
            job_type: the type of a job of the request.
        """
        details = full.details
        # A draining queue, and a tenant at its limit, refuse jobs for other reasons.
        if type(full) is not QueueFull or "bound" not in details:
            return
        queue, now = str(details["queue"]), trio.current_time()
        if now - self._reported_at.get(queue, float("-inf")) < GAP_S:
            return
        if len(self._reported_at) >= _MAX_REMEMBERED:
            self._reported_at.clear()
        self._reported_at[queue] = now
        numbers = details["depth"], details["bound"]
        work = partial(append, store, events_arg, queue, job_type, *numbers)
        await store.background.once(("rejected", queue), work, 0)


async def append(
    store: Runtime, events_arg: Arg, queue: str, job_type: str, depth: int, bound: int
) -> bool:
    """Append the event now, in partition 0; return whether the last one is old enough.

    Args:
        store: the store.
        events_arg: ``Store.events_arg``.
        queue: the full queue.
        job_type: the type of a refused job.
        depth: the number of waiting jobs in the full partition.
        bound: the part of the depth bound that this partition has.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_queue(queue)
    args: list[Arg] = [events_arg, queue, job_type, depth, bound, int(GAP_S * 1000)]
    keys = [shard.queue_counters(queue), shard.events]
    return bool(await store.run(shard, "report_rejection", keys, args, idempotent=True))
