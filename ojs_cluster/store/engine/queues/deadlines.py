"""The sweeps of a shard that the scheduler runs often: promote and reap."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.isolation_flags import end_lost
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.process_state.touch import read_deaths
from ojs_cluster.store.ground.sweep_result import SweepResult

log = logging.getLogger("ojs.store")


async def promote(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Make due scheduled and retryable jobs available (spec: ojs-core, ojs-retry).

    Args:
        store: the store.
        shard: the shard.
        limit: maximum number of jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    limit = store.webhooks.jobs_per_script("promote", limit)
    done, now, next_ms, effects, malformed = await store.run(
        shard,
        "promote",
        [shard.due, shard.expiring, shard.finished, shard.events],
        [store.events_arg, limit, store.settings.retention_discarded_ms],
        idempotent=True,
    )
    await deliver(store, shard, effects)
    log_malformed(shard, malformed)
    done += len(malformed)
    # The script may end before the limit. Then the next due time tells that there are more.
    more = done >= limit or 0 <= next_ms <= now
    return SweepResult(done, _none_if_negative(next_ms), now, more, len(malformed))


async def reap(store: Store, shard: Shard, limit: int) -> SweepResult:
    """End attempts whose lease or execution time has ended, and discard expired jobs.

    Spec: ojs-timeouts, ojs-retry 9.

    Args:
        store: the store.
        shard: the shard.
        limit: maximum number of jobs of each kind.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    swept, unknown = await _reap(store, shard, limit, {})
    if not unknown:
        return swept
    again, unknown = await _reap(store, shard, limit, await read_deaths(store, unknown))
    return SweepResult(
        swept.done + again.done,
        again.next_ms,
        again.now_ms,
        again.more or bool(unknown),
        swept.quarantined + again.quarantined,
    )


async def _reap(
    store: Store, shard: Shard, limit: int, has_died: Mapping[bytes, bool]
) -> tuple[SweepResult, list[bytes]]:
    """Run ``reap.lua``.

    Args:
        store: the store.
        shard: the shard.
        limit: as for ``reap``.
        has_died: workers, and whether they have died. Leases of other workers do not end.

    Returns:
        The result, and the workers of overdue leases that ``has_died`` does not name.
    """
    settings = store.settings
    limit = store.webhooks.jobs_per_script("reap", limit)
    reply = await store.run(
        shard,
        "reap",
        [
            *(shard.active, shard.execution_deadlines, shard.expiring, shard.due),
            *(shard.pending, shard.finished, shard.dead, shard.events, shard.quarantine),
        ],
        [
            *(store.events_arg, limit, random.random()),  # noqa: S311 - jitter
            *(settings.errors_kept, settings.retention_discarded_ms),
            *(settings.retention_dead_ms, settings.dead_letter_max, settings.on_exhaustion),
            *(settings.history_kept, settings.lone_deaths),
            *(arg for worker, died in has_died.items() for arg in (worker, int(died))),
        ],
        idempotent=True,
    )
    lost, timeouts, expired, now, next_ms, effects, malformed, unknown, lost_isolations = reply
    await deliver(store, shard, effects)
    await end_lost(store, lost_isolations)
    log_malformed(shard, malformed)
    swept = SweepResult(
        lost + timeouts + expired + len(malformed),
        _none_if_negative(next_ms),
        now,
        max(lost, timeouts, expired) + len(malformed) >= limit,
        len(malformed),
    )
    return swept, unknown


def log_malformed(shard: Shard, job_ids: Sequence[bytes]) -> None:
    """Log the ids of jobs that a script has quarantined."""
    for job_id in dict.fromkeys(job_ids):
        log.error(
            "quarantined malformed job %s of shard %d for an hour: fields are missing or not "
            "numbers; repair it in Redis, or cancel it to remove it",
            job_id.decode(),
            shard.index,
        )


def _none_if_negative(value: int) -> int | None:
    return None if value < 0 else value
