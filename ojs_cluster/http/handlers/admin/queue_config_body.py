"""Read the changes of a queue's configuration from the body of a request.

Spec: ojs-admin-api 6, ojs-queue-config, ojs-backpressure 6.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from ojs_cluster.core.errors import InvalidRequest, Unsupported
from ojs_cluster.core.jobs.retry import ON_EXHAUSTION_VALUES
from ojs_cluster.core.queue_defaults import MEMBERS as DEFAULTS
from ojs_cluster.core.queue_defaults import QueueDefaults, changed
from ojs_cluster.core.rate_limit import MAX_LIMIT, parse_rate
from ojs_cluster.http import fields
from ojs_cluster.http.handlers.admin.queue_config_changes import ConfigChanges
from ojs_cluster.http.shapes.keywords import between, keywords
from ojs_cluster.store.engine.limits.depth_bounds import STRATEGIES, DepthBound

_LARGEST_MAX_DEPTH: Final = 2**52
"""Largest ``max_depth``. Lua computes with doubles, which are exact up to 2**53."""
_UNSUPPORTED_MEMBERS: Final = frozenset(
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
_Strategy = Annotated[str, keywords(enum=[*STRATEGIES])]
_Depth = Annotated[int, between(0, _LARGEST_MAX_DEPTH)]
_Positive = Annotated[int, keywords(minimum=1)]


class BackpressureBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limit on a queue's depth. A ``max_depth`` of 0 means no limit.

    Above the part ``warning_threshold`` of the limit, responses have warning headers.
    """

    max_depth: _Depth
    strategy: _Strategy = "reject"
    warning_threshold: Annotated[float, between(0, 1)] = 0.8
    max_size_bytes: int = 0


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

    partitions: _Positive | None = None
    backpressure: BackpressureBody | UnsetType | None = UNSET
    on_exhaustion: str | UnsetType | None = UNSET
    max_size: _Depth | UnsetType | None = UNSET
    overflow_policy: _Strategy | None = None
    concurrency: Annotated[int, between(1, MAX_LIMIT)] | UnsetType | None = UNSET
    rate_limit: QueueRateBody | UnsetType | None = UNSET
    default_retry: dict[str, Any] | UnsetType | None = UNSET
    default_timeout: _Positive | UnsetType | None = UNSET
    visibility_timeout: _Positive | UnsetType | None = UNSET
    retention: RetentionBody | UnsetType | None = UNSET
    fair_share: bool | UnsetType | None = UNSET


_MEMBERS: Final = frozenset(QueueConfigBody.__struct_fields__)


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


def changes_of(body: QueueConfigBody) -> ConfigChanges:
    """Return the changes that a body asks for.

    Raises:
        Unsupported: the server has no such setting.
        InvalidRequest: a value is invalid.
        ValidationFailed: a member of the retry policy or the rate limit is not valid.
    """
    if body.on_exhaustion not in (None, UNSET, *ON_EXHAUSTION_VALUES):
        raise InvalidRequest(
            "on_exhaustion must be 'discard' or 'dead_letter'", field="on_exhaustion"
        )
    return ConfigChanges(
        partitions=UNSET if body.partitions is None else body.partitions,
        bound=_changed_bound(body),
        on_exhaustion=body.on_exhaustion,
        limits=_changed_limits(body),
        defaults=_changed_defaults(body),
        fair_share=UNSET if body.fair_share is UNSET else bool(body.fair_share),
    )


def _changed_bound(body: QueueConfigBody) -> DepthBound | UnsetType | None:
    """Return the new depth bound; None to remove the queue's own."""
    backpressure = body.backpressure
    if body.max_size is UNSET:
        if body.overflow_policy is not None:
            raise InvalidRequest("overflow_policy needs max_size", field="overflow_policy")
    elif backpressure is not UNSET:
        raise InvalidRequest("give either max_size or backpressure", field="max_size")
    elif body.max_size is None:
        return None
    else:
        backpressure = BackpressureBody(body.max_size, body.overflow_policy or "reject")
    if isinstance(backpressure, BackpressureBody):
        return _depth_bound(backpressure)
    return backpressure


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
    return DepthBound(backpressure.max_depth, strategy, backpressure.warning_threshold)


def _changed_limits(body: QueueConfigBody) -> dict[str, Any]:
    """Return the changed fields of the queue's limits, which are valid."""
    limits: dict[str, Any] = {}
    if body.concurrency is not UNSET:
        if body.concurrency is not None and not 1 <= body.concurrency <= MAX_LIMIT:
            raise InvalidRequest(f"concurrency must be from 1 to {MAX_LIMIT}", field="concurrency")
        limits["concurrency"] = body.concurrency
    if body.rate_limit is None:
        limits["rate"] = None
    elif body.rate_limit is not UNSET:
        period = fields.iso_duration(body.rate_limit.period)
        rate = {"limit": body.rate_limit.limit, "period": period}
        limits["rate"] = parse_rate(rate, path="rate_limit")
    return limits


def _changed_defaults(body: QueueConfigBody) -> dict[str, Any]:
    """Return the changed defaults of jobs, which are valid."""
    members = {name: value for name in DEFAULTS if (value := getattr(body, name)) is not UNSET}
    if isinstance(body.retention, RetentionBody):
        durations = msgspec.to_builtins(body.retention)
        members["retention"] = {
            state: fields.iso_duration(text) for state, text in durations.items() if text
        }
    changed(QueueDefaults(), members)  # raises if a member is invalid
    return members
