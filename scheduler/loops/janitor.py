"""The janitor: finished jobs whose retention is over, and what nobody misses any more.

Purge is paced by the store's own deadlines. The others have none and come round at their loop's
longest sleep; their ticks carry no clock, so "next" counts from 0.
"""

from __future__ import annotations

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import check_eviction
from ojs_cluster.store.queues.partition_maintenance import advance_changes
from ojs_cluster.store.sweeps.retention import purge_due, retire_queues, tidy
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from ojs_cluster.store.workflows.progress_check import WorkflowCheck
from ojs_cluster.store.workflows.workflows import purge_ended
from scheduler.pacing import Step, StepResult

# Queue names are one list under the meta tag: a sweep goes through it in pages, with this pause
# (ms) between two, so that 100 000 queues are no burst.
_PAGE = 100
_PAGE_PAUSE_MS = 100
# Workflows without progress looked at in one step: each may have a thousand jobs.
_CHECKED = 20
# Well before producers use the new partitions of a queue: see `ojs_cluster.core.partitions`.
_CHANGES_MS = 3000


def purge_step(store: Store, batch: int) -> Step:
    """Return the step that removes at most `batch` finished jobs of one shard."""

    async def purge_shard(shard: int) -> StepResult:
        return await purge_due(store, store.keys.shard(shard), batch)

    return purge_shard


def workflows_step(store: Store, batch: int) -> Step:
    """Return the step that removes at most `batch` ended workflows of one shard.

    It also looks at running ones that make no progress.
    """
    stalled = WorkflowCheck()

    async def look_at_workflows(index: int) -> StepResult:
        shard = store.keys.shard(index)
        ended = await purge_ended(store, shard, batch)
        checked = await stalled.check(store, shard, min(batch, _CHECKED))
        moments = [result.next_ms for result in (ended, checked) if result.next_ms is not None]
        return SweepResult(
            ended.done + checked.done,
            next_ms=min(moments, default=None),
            now_ms=ended.now_ms,
            more=ended.more or checked.more,
        )

    return look_at_workflows


def tidy_step(store: Store, batch: int) -> Step:
    """Return the step that removes old worker records, marks and aliases of one shard."""

    async def tidy_shard(shard: int) -> StepResult:
        removed = await tidy(store, store.keys.shard(shard), batch)
        return SweepResult(removed, next_ms=None, now_ms=0, more=removed >= batch)

    return tidy_shard


def retire_step(store: Store) -> Step:
    """Return the step that forgets the idle queues of one page of names, then of the next."""
    cursor = ""

    async def retire_page(_: int) -> StepResult:
        nonlocal cursor
        retired, cursor = await retire_queues(store, cursor, _PAGE)
        return SweepResult(
            retired, next_ms=_PAGE_PAUSE_MS if cursor else None, now_ms=0, more=False
        )

    return retire_page


def partitions_step(store: Store) -> Step:
    """Return the step that brings changes of the number of partitions to their end."""

    async def see_to_changes(_: int) -> StepResult:
        done = await advance_changes(store)
        return SweepResult(done, next_ms=_CHANGES_MS, now_ms=0, more=False)

    return see_to_changes


def eviction_step(store: Store) -> Step:
    """Return the step that fails while a master may drop jobs. It belongs to no shard.

    Every process looks at its start, and every scheduler goes on looking: whoever led for this
    might wait for a master that is away. After that a policy may be changed, and a replica with
    another one may become a master, or a new node. Work does not stop over it, as most is done
    before memory is short: the failing step is logged and counted, for somebody to see to it.
    """

    async def look_at_policies(_: int) -> StepResult:
        if not store.settings.allow_eviction:
            silent = await check_eviction(store)
            if silent:
                raise BackendUnavailable(f"{silent[0]} does not answer", outcome="not_applied")
        return SweepResult(0, next_ms=None, now_ms=0, more=False)

    return look_at_policies
