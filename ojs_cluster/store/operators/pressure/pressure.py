"""The events ``backpressure.warning`` and ``backpressure.cleared`` (spec: ojs-backpressure 10.1).

The depth of a queue is that of all its partitions, and so is its bound. One script under the meta
tag compares with what was announced last, and appends the event. So each change is announced once,
whatever the number of processes and partitions.

An enqueue learns the pressure of its partition from the script that stores the job, and a process
checks the queue then (``noticed.py``). So a queue without a bound costs nothing. The leader of the
meta tag checks the queues that are nearly full until they are not. A script that takes a job out of
a queue does not compare, because every fetch would pay for it.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound, get_bound
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.ground.sweep_result import SweepResult

CHECK_MS: Final = 2000
"""Time in milliseconds between two checks of a queue that is nearly full."""
_PAUSE_MS: Final = 10_000
"""Time in milliseconds until a queue is checked again whose shards do not answer."""
_CHECKS_AT_ONCE: Final = 20
"""Maximum number of queues that one sweep checks."""
_WAITING: Final = (State.AVAILABLE, State.SCHEDULED, State.RETRYABLE, State.PENDING)


async def check_pressure(store: Store, queue: str) -> bool:
    """Compare the depth of a queue with its warning threshold, and announce a change.

    Exactly at the threshold, nothing changes. A queue without waiting jobs is below any threshold.

    Returns:
        Whether the queue is announced as nearly full now.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    bound = await get_bound(store, queue) or DepthBound(store.settings.max_queue_depth)
    counts = (await get_stats(store, queue)).counts
    depth = sum(counts[state] for state in _WAITING)
    limit = bound.threshold * bound.jobs
    side = "above" if bound.jobs and depth > limit else ""
    if not bound.jobs or not depth or depth < limit:
        side = "below"
    meta = store.keys.meta
    reply = await store.run_meta(
        "report_pressure",
        [meta.pressured_queues, meta.events],
        [store.events_arg, queue, side, depth, bound.jobs, CHECK_MS],
    )
    return bool(reply)


async def check_due(store: Store) -> SweepResult:
    """Check the queues that are announced as nearly full and are due.

    Raises:
        BackendUnavailable: the master of the meta tag did not answer in time.
    """
    meta = store.keys.meta
    now, following, *names = await store.run_meta(
        "pressure_due", [meta.pressured_queues], [_CHECKS_AT_ONCE]
    )
    times_ms = [following] if following >= 0 else []
    for name in names:
        try:
            if await check_pressure(store, name.decode(errors="replace")):
                times_ms.append(now + CHECK_MS)
        except (BackendUnavailable, RedisReplyError):
            args = [now + _PAUSE_MS, name]
            await store.run_meta("postpone_members", [meta.pressured_queues], args)
            times_ms.append(now + _PAUSE_MS)
    more = len(names) == _CHECKS_AT_ONCE
    return SweepResult(len(names), min(times_ms, default=None), now, more)
