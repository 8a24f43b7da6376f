"""The janitor: remove records that are not needed, and complete changes of the operator."""

from __future__ import annotations

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.default_growth import advance_growth
from ojs_cluster.store.engine.queues.partition_maintenance import STEP_ENTRIES, advance_changes
from ojs_cluster.store.features.retention.retention import remove_leftovers, retire_queues
from ojs_cluster.store.features.tenants.weights import WeightsCheck
from ojs_cluster.store.features.workflows.progress_check import WorkflowCheck
from ojs_cluster.store.features.workflows.workflows import purge_ended
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_cluster.store.open import check_eviction
from ojs_scheduler.pacing import Step

# A sweep reads the list of queue names in pages, with a pause between two pages, so that 100 000
# queues cause no burst of load.
_PAGE_QUEUES = 100
_PAGE_PAUSE_MS = 100
# Maximum number of workflows without progress that one step checks. Each may have a thousand jobs.
_MAX_CHECKED_WORKFLOWS = 20
# Time in ms between two steps that complete changes of the number of partitions.
_PARTITION_CHANGES_MS = 3000
# The same, while the partition table has more entries than one step checks.
_LARGE_TABLE_MS = 500
# Time in ms until the weights of tenants are compared again in shards that did not answer.
_SILENT_PAUSE_MS = 2000


def workflows_step(store: Store, batch: int) -> Step:
    """Return the step that removes at most ``batch`` ended workflows of one shard.

    The step also checks running workflows without progress.
    """
    workflow_check = WorkflowCheck()

    async def purge_and_check(index: int) -> SweepResult:
        shard = store.keys.shard(index)
        ended = await purge_ended(store, shard, batch)
        checked = await workflow_check.check(store, shard, min(batch, _MAX_CHECKED_WORKFLOWS))
        times_ms = [result.next_ms for result in (ended, checked) if result.next_ms is not None]
        return SweepResult(
            ended.done + checked.done,
            next_ms=min(times_ms, default=None),
            now_ms=ended.now_ms,
            more=ended.more or checked.more,
            quarantined=checked.quarantined,
        )

    return purge_and_check


def tidy_step(store: Store, batch: int) -> Step:
    """Return the step that removes old worker records, quiet flags and aliases of one shard."""

    async def tidy_shard(shard: int) -> SweepResult:
        removed = await remove_leftovers(store, store.keys.shard(shard), batch)
        return SweepResult.with_pause(removed, None, more=removed >= batch)

    return tidy_shard


def retire_step(store: Store) -> Step:
    """Return the step that removes idle queues: each call reads the next page of queue names."""
    cursor = ""

    async def retire_page(_: int) -> SweepResult:
        nonlocal cursor
        retired, cursor = await retire_queues(store, cursor, _PAGE_QUEUES)
        return SweepResult.with_pause(retired, _PAGE_PAUSE_MS if cursor else None)

    return retire_page


def partitions_step(store: Store) -> Step:
    """Return the step that completes changes of the number of partitions."""

    async def advance(_: int) -> SweepResult:
        done = await advance_changes(store)
        if await advance_growth(store, _PAGE_QUEUES):
            return SweepResult.with_pause(done, _PAGE_PAUSE_MS)
        is_large = store.partitions.entry_count > STEP_ENTRIES
        return SweepResult.with_pause(done, _LARGE_TABLE_MS if is_large else _PARTITION_CHANGES_MS)

    return advance


def weights_step(store: Store) -> Step:
    """Return the step that completes changes of the weights of tenants."""
    weights_check = WeightsCheck()

    async def check(_: int) -> SweepResult:
        all_answered = await weights_check.check(store)
        return SweepResult.with_pause(0, None if all_answered else _SILENT_PAUSE_MS)

    return check


def eviction_step(store: Store) -> Step:
    """Return the step that fails while the ``maxmemory-policy`` of a master may evict jobs.

    Every process checks the policies at its start. Every scheduler process repeats the check,
    because an operator may change a policy, and a new master may have another policy. The check
    needs no leader. While the step fails, the failure is logged and counted, so that an operator
    can change the policy. All other loops continue: a master evicts jobs only when memory is short.
    """

    async def check_policies(_: int) -> SweepResult:
        if not store.settings.allow_eviction:
            unreachable = await check_eviction(store)
            if unreachable:
                raise BackendUnavailable(f"{unreachable[0]} does not answer", outcome="not_applied")
        return SweepResult.with_pause(0, None)

    return check_policies
