"""What operators have set for a tenant (spec: ojs-multi-tenancy 8)."""

from __future__ import annotations

from typing import Final

import msgspec

from ojs_cluster.core.jobs.tenant import is_tenant

MAX_LIMIT: Final = 10**9
"""Maximum value of a limit in jobs."""
MAX_RATE_PERIOD_MS: Final = 24 * 3600 * 1000
"""Maximum period in milliseconds of the limit on new jobs. Its log is kept for one period."""
MAX_REASON_LENGTH: Final = 200
"""Maximum number of characters of the reason for a change."""
MIN_WEIGHT: Final = 0.01
"""Minimum weight of a tenant in the fair share of a queue."""
MAX_WEIGHT: Final = 100.0
"""Maximum weight of a tenant. Both bound how long a tenant waits for its next turn."""
NO_WEIGHT: Final = 1.0
"""The weight of a tenant without one."""
QUEUE_DEPTH: Final = "max_queue_depth"
SCHEDULED: Final = "max_scheduled"
ENQUEUE_RATE: Final = "max_enqueue_rate"
LIMITS: Final = (QUEUE_DEPTH, SCHEDULED, ENQUEUE_RATE)
"""The limits by their names in the specification, in the order in which they are checked."""


class EnqueueRate(msgspec.Struct, frozen=True):
    """At most ``limit`` new jobs in any ``period_ms`` milliseconds."""

    limit: int
    period_ms: int


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits of a tenant, over all queues. None stands for no limit.

    Attributes:
        max_queue_depth: maximum number of waiting jobs: available, scheduled, retryable or pending.
        max_scheduled: maximum number of scheduled jobs.
        max_enqueue_rate: maximum number of new jobs in a period.
    """

    max_queue_depth: int | None = None
    max_scheduled: int | None = None
    max_enqueue_rate: EnqueueRate | None = None

    def __bool__(self) -> bool:
        """Return whether the tenant has a limit."""
        return self != NO_LIMITS


NO_LIMITS: Final = TenantLimits()


class TenantSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The settings of a tenant, as they are stored in JSON.

    Attributes:
        tenant_id: the tenant.
        limits: its limits.
        reason: why an operator has changed the limits, '' if none was given.
        fairness_weight: how many jobs it starts in a queue with a fair share while a tenant of
            weight 1 starts one.
        created_ms, updated_ms: Unix times in ms.
    """

    tenant_id: str
    limits: TenantLimits = NO_LIMITS
    reason: str = ""
    fairness_weight: float = NO_WEIGHT
    created_ms: int = 0
    updated_ms: int = 0


_decoder = msgspec.json.Decoder(TenantSettings)


def encode(settings: TenantSettings) -> bytes:
    """Return the stored record of a tenant's settings."""
    return msgspec.json.encode(settings)


def decode(record: bytes) -> TenantSettings:
    """Return the settings of a tenant from their record.

    Raises:
        ValueError: the record is damaged.
    """
    settings = _decoder.decode(record)
    limits = settings.limits
    rate = limits.max_enqueue_rate
    numbers = [limits.max_queue_depth, limits.max_scheduled, rate.limit if rate else None]
    if not all(number is None or 0 <= number <= MAX_LIMIT for number in numbers):
        raise ValueError("a limit is out of range")
    if rate is not None and not (rate.limit and 1 <= rate.period_ms <= MAX_RATE_PERIOD_MS):
        raise ValueError("the enqueue rate is out of range")
    if not MIN_WEIGHT <= settings.fairness_weight <= MAX_WEIGHT:
        raise ValueError("the weight is out of range")
    if not is_tenant(settings.tenant_id):
        raise ValueError("the tenant has an invalid id")
    return settings
