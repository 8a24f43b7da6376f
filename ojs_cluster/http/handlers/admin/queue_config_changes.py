"""Check and write the changes of a queue's configuration.

``queue_config_body.py`` reads them from a request. (spec: ojs-admin-api 6, ojs-queue-config,
ojs-backpressure 6)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from msgspec import UNSET, UnsetType

from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import depth_bounds, partition_quotas
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import exhaustion, fair_share, partition_maintenance
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.process_state import queue_defaults

_Write: TypeAlias = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """Valid changes of a queue's configuration. A setting that is UNSET stays.

    Args:
        partitions: the number of partitions.
        bound: the depth bound; None removes the queue's own.
        on_exhaustion: what happens after the last attempt; None removes the queue's own setting.
        limits: the changed fields of the queue's ``RateLimits``; None removes one.
        defaults: the changed defaults of jobs; None removes one.
        fair_share: whether tenants take turns.
    """

    partitions: int | UnsetType = UNSET
    bound: DepthBound | UnsetType | None = UNSET
    on_exhaustion: str | UnsetType | None = UNSET
    limits: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fair_share: bool | UnsetType = UNSET

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return self == ConfigChanges()


async def check_changes(store: Store, name: str, changes: ConfigChanges) -> None:
    """Check all changes, before the first of them is written or the queue is created.

    So a refused request changes nothing, unless another request changes the queue meanwhile.

    Raises:
        OJSError: a change would be refused, for example a concurrency below the number of
            partitions.
        BackendUnavailable: Redis did not answer in time.
    """
    if changes.partitions is not UNSET:
        layout = await partition_maintenance.check_change(store, name, changes.partitions)
    else:
        await store.partitions.try_read(store)
        layout = store.partitions.layout(name)
    limits = RateLimits(**changes.limits)
    if limits != RateLimits():
        partition_quotas.check_divisible(name, limits, layout)
    if any(value is not None for value in changes.defaults.values()):
        await queue_defaults.check_space(store, name)


async def apply_changes(store: Store, name: str, changes: ConfigChanges) -> None:
    """Write checked changes, one after the other. Waiting and active jobs are not changed.

    If a write fails after an earlier one, the error has the outcome ``unknown``.

    Raises:
        TooManyQueues: the queue is new, and the registry of queue names is full.
        OJSError: another request has changed the queue since the check.
        BackendUnavailable: Redis did not answer in time.
    """
    writes = tuple(_writes(store, name, changes))
    if len(writes) > 1:  # a full registry must not refuse the second write only
        await store.queues.ensure(store, [name])
    for number, write in enumerate(writes):
        with after_first_write(when=number > 0):
            await write()


def _writes(store: Store, name: str, changes: ConfigChanges) -> Iterator[_Write]:
    if changes.partitions is not UNSET:
        yield partial(partition_maintenance.set_partitions, store, name, changes.partitions)
    if changes.limits:
        yield partial(_change_limits, store, name, changes.limits)
    if changes.bound is not UNSET:
        yield partial(depth_bounds.set_bound, store, name, changes.bound)
    if changes.on_exhaustion is not UNSET:
        yield partial(exhaustion.set_on_exhaustion, store, name, changes.on_exhaustion)
    if changes.defaults:
        # The queue must not be retired: its defaults would stay without it.
        yield partial(lifecycle.create_queue, store, name, accept_existing=True)
        yield partial(_change_defaults, store, name, changes.defaults)
    if changes.fair_share is not UNSET:
        yield partial(fair_share.set_fair_share, store, name, on=changes.fair_share)


async def _change_limits(store: Store, name: str, changed: Mapping[str, Any]) -> None:
    present = (await rate_limits.get_queue_limits(store, name)).usage.limits
    await rate_limits.set_queue_limits(store, name, replace(present, **changed))


async def _change_defaults(store: Store, name: str, changed: Mapping[str, Any]) -> None:
    await queue_defaults.change_defaults(store, name, changed)
    await store.queue_defaults.try_read(store)
