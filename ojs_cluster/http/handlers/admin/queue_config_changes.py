"""The changes of a queue's configuration: read them from a body, check and write them.

Spec: ojs-admin-api 6, ojs-queue-config, ojs-backpressure 6.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest, Unsupported
from ojs_cluster.core.jobs.retry import ON_EXHAUSTION_VALUES
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.core.queue_defaults import MEMBERS as DEFAULTS
from ojs_cluster.core.queue_defaults import QueueDefaults, changed
from ojs_cluster.core.rate_limit import MAX_LIMIT, RateLimits, parse_rate
from ojs_cluster.http import fields
from ojs_cluster.http.shapes.keywords import between, keywords
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import depth_bounds, partition_quotas
from ojs_cluster.store.engine.limits.depth_bounds import STRATEGIES, DepthBound
from ojs_cluster.store.engine.queues import exhaustion, fair_share
from ojs_cluster.store.engine.queues.partition_maintenance import (
    check_count,
    set_partitions,
)
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults

_UNSUPPORTED_MEMBERS = frozenset(
    {
        "allowed_job_types",
        "dead_letter_max_size",
        "dead_letter_queue",
        "dead_letter_ttl",
        "max_size_bytes",
        "producers",
    }
)
"""Members of a queue's configuration that the specifications define and the server rejects."""


class BackpressureBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limit on a queue's depth. A ``max_depth`` of 0 means no limit.

    Above the part ``warning_threshold`` of the limit, responses have warning headers.
    """

    max_depth: Annotated[int, between(0, _LARGEST_MAX_DEPTH)]
    strategy: Annotated[str, keywords(enum=[*STRATEGIES])] = "reject"
    warning_threshold: Annotated[float, between(0, 1)] = 0.8
    max_size_bytes: int = 0


DefaultSeconds = Annotated[int, keywords(minimum=1)]


class QueueRateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most ``limit`` starts in any period, an ISO 8601 duration or a short one such as `5m`."""

    limit: Annotated[int, between(1, MAX_LIMIT)]
    period: str


class RetentionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long finished jobs are kept, as ISO 8601 durations or short ones such as `7d`.

    Without a member, the retention of the server holds.
    """

    completed: str | None = None
    discarded: str | None = None
    cancelled: str | None = None


class QueueConfigBody(msgspec.Struct, frozen=True):
    """The changes. Null removes the queue's own setting.

    The setting of the server then applies to the queue. ``max_size`` and ``overflow_policy`` are
    other names of the members of ``backpressure``. ``concurrency`` limits the active jobs, and
    ``rate_limit`` their starts.
    ``default_retry``, ``default_timeout`` and ``visibility_timeout``, in seconds, hold for new jobs
    without such an option, and ``retention`` for all new jobs. With
    ``fair_share``, tenants take turns.
    """

    partitions: Annotated[int, keywords(minimum=1)] | None = None
    backpressure: BackpressureBody | msgspec.UnsetType | None = msgspec.UNSET
    on_exhaustion: str | msgspec.UnsetType | None = msgspec.UNSET
    max_size: Annotated[int, between(0, _LARGEST_MAX_DEPTH)] | msgspec.UnsetType | None = (
        msgspec.UNSET
    )
    overflow_policy: Annotated[str, keywords(enum=[*STRATEGIES])] | None = None
    concurrency: Annotated[int, keywords(minimum=1)] | msgspec.UnsetType | None = msgspec.UNSET
    rate_limit: QueueRateBody | msgspec.UnsetType | None = msgspec.UNSET
    default_retry: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    default_timeout: DefaultSeconds | msgspec.UnsetType | None = msgspec.UNSET
    visibility_timeout: DefaultSeconds | msgspec.UnsetType | None = msgspec.UNSET
    retention: RetentionBody | msgspec.UnsetType | None = msgspec.UNSET
    fair_share: bool | msgspec.UnsetType | None = msgspec.UNSET


_MEMBERS: Final = frozenset(QueueConfigBody.__struct_fields__)
_LARGEST_MAX_DEPTH: Final = 2**52
"""Maximum number for ``max_depth``. Lua computes with doubles, which are exact up to 2**53. So a
comparison of this number with a depth is exact."""


def check_members(names: Iterable[str], known: Collection[str] = ()) -> None:
    """Check the names of the members of a configuration.

    Args:
        names: the names.
        known: names of further members that the caller handles.

    Raises:
        Unsupported: the specification defines a member that the server does not support.
        InvalidRequest: there is no such member.
    """
    for member in names:
        if member in _UNSUPPORTED_MEMBERS:
            raise Unsupported(f"this server does not support '{member}' of a queue", field=member)
        if member not in _MEMBERS and member not in known:
            raise InvalidRequest(
                f"'{member[:100]}' is not a member of a queue's configuration", field=member[:100]
            )


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """Valid changes of a queue's configuration. None changes nothing.

    Args:
        partitions: the number of partitions.
        bound: a tuple with the depth bound, or with None to remove the queue's own.
        on_exhaustion: a tuple with the setting, or with None to remove the queue's own.
        limits: the changed fields of the queue's ``RateLimits``, None to remove one.
        defaults: the changed defaults of jobs, None to remove one.
        fair_share: whether tenants take turns.
    """

    partitions: int | None
    bound: tuple[DepthBound | None] | None
    on_exhaustion: tuple[str | None] | None
    limits: Mapping[str, Any]
    defaults: Mapping[str, Any]
    fair_share: bool | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return self == _NO_CHANGES


_NO_CHANGES: Final = ConfigChanges(None, None, None, {}, {})


def changes_of(body: QueueConfigBody) -> ConfigChanges:
    """Return the changes that a body asks for.

    Raises:
        Unsupported: the server has no such setting.
        InvalidRequest: a value is invalid.
        ValidationFailed: a member of the retry policy or the rate limit is not valid.
    """
    backpressure, on_exhaustion = body.backpressure, body.on_exhaustion
    if body.max_size is not msgspec.UNSET:
        if backpressure is not msgspec.UNSET:
            raise InvalidRequest("give either max_size or backpressure", field="max_size")
        backpressure = None
        if body.max_size is not None:
            backpressure = BackpressureBody(body.max_size, body.overflow_policy or "reject")
    elif body.overflow_policy is not None:
        raise InvalidRequest("overflow_policy needs max_size", field="overflow_policy")
    if on_exhaustion not in (None, msgspec.UNSET, *ON_EXHAUSTION_VALUES):
        raise InvalidRequest(
            "on_exhaustion must be 'discard' or 'dead_letter'", field="on_exhaustion"
        )
    bound: tuple[DepthBound | None] | None = None
    if isinstance(backpressure, BackpressureBody):
        bound = (_depth_bound(backpressure),)
    elif backpressure is None:
        bound = (None,)
    return ConfigChanges(
        body.partitions,
        bound,
        None if isinstance(on_exhaustion, msgspec.UnsetType) else (on_exhaustion,),
        _changed_limits(body),
        _changed_defaults(body),
        None if isinstance(body.fair_share, msgspec.UnsetType) else bool(body.fair_share),
    )


def _changed_limits(body: QueueConfigBody) -> dict[str, Any]:
    """Return the changed fields of the queue's limits, which are valid."""
    limits: dict[str, Any] = {}
    if not isinstance(body.concurrency, msgspec.UnsetType):
        if body.concurrency is not None and body.concurrency < 1:
            raise InvalidRequest("concurrency must be at least 1", field="concurrency")
        limits["concurrency"] = body.concurrency
    if not isinstance(body.rate_limit, msgspec.UnsetType):
        rate = body.rate_limit
        limits["rate"] = rate and parse_rate(
            {"limit": rate.limit, "period": fields.iso_duration(rate.period)}, path="rate_limit"
        )
    return limits


def _changed_defaults(body: QueueConfigBody) -> dict[str, Any]:
    """Return the changed defaults of jobs, which are valid."""
    members: dict[str, Any] = {
        name: value
        for name in DEFAULTS
        if not isinstance(value := getattr(body, name), msgspec.UnsetType)
    }
    if isinstance(body.retention, RetentionBody):
        durations = msgspec.to_builtins(body.retention)
        members["retention"] = {
            state: fields.iso_duration(text) for state, text in durations.items() if text
        }
    changed(QueueDefaults(), members)
    return members


async def check_changes(store: Store, name: str, changes: ConfigChanges) -> None:
    """Check the changes against the partitions of a queue, before the queue is created.

    Without this, a refused request would leave a queue behind.

    Raises:
        OJSError: a change would be refused.
    """
    if changes.partitions is None and not changes.limits:
        return
    if changes.partitions is not None:
        check_count(store, changes.partitions)
        # Whether closed partitions of an existing queue still have jobs is checked when it changes.
        layout = PartitionLayout.of_count(changes.partitions)
    else:
        await store.partitions.try_read(store)
        layout = store.partitions.layout(name)
    limits = RateLimits(**changes.limits)
    if limits != RateLimits():
        partition_quotas.check_divisible(name, limits, layout)


async def apply_changes(store: Store, name: str, changes: ConfigChanges) -> None:
    """Write the changes, one after the other. Waiting and active jobs are not changed.

    If a write fails after an earlier one, the error has the outcome ``unknown``.

    Raises:
        OJSError: a change is refused, for example a concurrency below the number of partitions.
        BackendUnavailable: Redis did not answer in time.
    """
    written = False
    if changes.partitions is not None:
        await set_partitions(store, name, changes.partitions)
        written = True
    if changes.limits:
        with after_first_write(when=written):
            current = (await rate_limits.get_queue_limits(store, name)).usage.limits
            limits = replace(current, **changes.limits)
            await rate_limits.set_queue_limits(store, name, limits)
        written = True
    if changes.bound is not None:
        with after_first_write(when=written):
            await depth_bounds.set_bound(store, name, changes.bound[0])
        written = True
    if changes.on_exhaustion is not None:
        with after_first_write(when=written):
            await exhaustion.set_on_exhaustion(store, name, changes.on_exhaustion[0])
        written = True
    if changes.defaults:
        with after_first_write(when=written):
            # The queue must not be retired: its defaults would stay without it.
            await lifecycle.create_queue(store, name, accept_existing=True)
        with after_first_write():
            await change_defaults(store, name, changes.defaults)
            await store.queue_defaults.try_read(store)
    if changes.fair_share is not None:
        with after_first_write(when=written or bool(changes.defaults)):
            await fair_share.set_fair_share(store, name, on=changes.fair_share)


def _depth_bound(backpressure: BackpressureBody) -> DepthBound:
    """Return the bound that a body sets.

    Raises:
        Unsupported: the body sets another kind of limit.
        InvalidRequest: a number is out of range.
    """
    strategy = STRATEGIES.get(backpressure.strategy)
    if strategy is None:
        raise Unsupported(
            f"the strategies are {', '.join(STRATEGIES)}", field="backpressure.strategy"
        )
    if backpressure.max_size_bytes:
        raise Unsupported(
            "a queue can be limited by the number of its jobs only, not by their size",
            field="backpressure.max_size_bytes",
        )
    if not 0 <= backpressure.max_depth <= _LARGEST_MAX_DEPTH:
        raise InvalidRequest(
            f"max_depth must be from 0 to {_LARGEST_MAX_DEPTH}", field="backpressure.max_depth"
        )
    if not 0 <= backpressure.warning_threshold <= 1:
        raise InvalidRequest(
            "warning_threshold must be from 0 to 1", field="backpressure.warning_threshold"
        )
    return DepthBound(
        backpressure.max_depth,
        strategy,
        backpressure.warning_threshold,
    )
