"""Schedulers and operators die, or get no replies, at any command of their maintenance."""

from __future__ import annotations

import pytest

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.rate_limit import RateLimits
from tests.crash.agents import AgentChange
from tests.crash.bulks import Bulk
from tests.crash.deletions import Deletion
from tests.crash.harness import Operation, World, failing_at_every_command
from tests.crash.losses import LostData
from tests.crash.maintenance import DeadWorker, History, Removal
from tests.crash.moves import Moved
from tests.crash.partitions import (
    Bounded,
    Closing,
    DefaultGrowth,
    Deleted,
    Drained,
    Exhausted,
    Fair,
    Growth,
    LateOpening,
    Limited,
    Unused,
)
from tests.crash.pools import DefaultsChange, PoolChange
from tests.crash.retries import Retry
from tests.crash.suspects import SuspectFetch
from tests.crash.tenants import TenantChange
from tests.support.failing_process import MODES, Mode

OPERATIONS: dict[str, Operation] = {
    "retention": Removal("retention"),
    "dead letter": Removal("dead letter"),
    "purge": Removal("purge"),
    "retry of a unique dead letter": Retry("free"),
    "retry of one whose lock is not free yet": Retry("unlocking"),
    "retry of one while another job holds the lock": Retry("held"),
    "dead worker": DeadWorker(),
    "a fetch of a suspect": SuspectFetch(),
    "samples of all queues": History(),
    "data that a master has lost": LostData(),
    "an agent that is paused": AgentChange("pause"),
    "an agent that is resumed": AgentChange("resume"),
    "a new pool": PoolChange("new"),
    "another configuration of a pool": PoolChange("changed"),
    "no more pool": PoolChange("deleted"),
    "settings of a new tenant": TenantChange("new"),
    "other settings of a tenant": TenantChange("changed"),
    "no more settings of a tenant": TenantChange("deleted"),
    "a default of a queue": DefaultsChange(),
    "a move of an available job": Moved("available"),
    "a move of a scheduled job": Moved("scheduled"),
    "a move of a step": Moved("step"),
    "bulk cancel": Bulk(BulkAction.CANCEL),
    "bulk retry": Bulk(BulkAction.RETRY),
    "bulk delete": Bulk(BulkAction.DELETE),
    "bulk purge": Bulk(BulkAction.PURGE),
    "more partitions": Growth(paused=False),
    "more partitions of a paused queue": Growth(paused=True),
    "more partitions of all queues": DefaultGrowth(),
    "a late opening of a paused partition": LateOpening(),
    "fewer partitions": Closing(),
    "an unused entry of the partition table": Unused(),
    "a drain over partitions": Drained(),
    "a deletion over partitions": Deleted(),
    "a bound over partitions": Bounded(),
    "an on_exhaustion over partitions": Exhausted(),
    "a fair share over partitions": Fair(),
    "limits over partitions": Limited(RateLimits(), RateLimits(concurrency=8)),
    "higher limits over partitions": Limited(RateLimits(concurrency=4), RateLimits(concurrency=8)),
    "lower limits over partitions": Limited(RateLimits(concurrency=8), RateLimits(concurrency=4)),
    "no more limits over partitions": Limited(RateLimits(concurrency=8), RateLimits()),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_maintenance_finishes_after_any_death(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)


@pytest.mark.parametrize(
    ("target", "mode"),
    [("", "killed"), ("", "deaf"), ("new", "applied")],
    ids=["discarded-killed", "discarded-deaf", "moved to new-applied"],
)
async def test_a_deletion_with_jobs_finishes_after_any_death(
    world: World, target: str, mode: Mode
) -> None:
    await failing_at_every_command(world, Deletion(target), mode)
