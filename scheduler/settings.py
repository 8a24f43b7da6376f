"""Settings of a scheduler, and the times that are derived from them."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.config.parsers import milliseconds, non_empty
from ojs_cluster.core.config.variable import variable

# Parts of ``lease_ttl_ms``. Another process must lead within one lease time, even when the leader
# dies right after a renewal. So key TTL + longest poll + slack for two round trips = 0.75 + 0.10 +
# 0.15. With the whole lease time as the key's TTL, a follower would always be one poll late.
_KEY_PART = 0.75
_POLL_PART = 0.10
_MARGIN_PART = 0.075
_SHORTEST_LEASE_MS = 500
# A script blocks its node for about 30 us per job.
_LARGEST_BATCH = 1000
# The store announces only deadlines that are less than 20 s away. A shard must be checked before
# the others are due.
_LONGEST_SLEEP_MS = 15_000


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Times of the election in seconds, measured on the process's own monotonic clock.

    Args:
        key_ttl_s: TTL of the lease's key in Redis after each renewal.
        margin_s: a leader stops this long before the key could expire. It covers clocks that run
            at different rates and the time it takes to cancel the work.
        renew_s: time between renewals, a third of the key's TTL.
        poll_s: longest time a follower waits between two attempts.
    """

    key_ttl_s: float
    margin_s: float
    renew_s: float
    poll_s: float

    @property
    def work_s(self) -> float:
        """How long a leader may work after it *sent* the granted request, in seconds."""
        return self.key_ttl_s - self.margin_s


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Settings of one scheduler process.

    Args:
        group: schedulers of one group elect one leader per shard among themselves.
        lease_ttl_ms: after a leader dies another one leads within this time, in milliseconds.
        promote_batch: jobs that one promote script moves at most. A script blocks its Redis node,
            so this bounds what a backlog costs other clients of that node.
        reap_batch: the same for lost leases, execution timeouts and expiry.
        worker_batch: dead workers that one step finds in one shard.
        janitor_batch: finished jobs that one purge script removes at most.
        outbox_batch: effects of one shard that one step delivers.
        cron_batch: cron jobs that one step checks.
        shard_concurrency: steps of one loop in flight at the same time, over all shards.
        max_sleep_ms: longest time between two checks of an idle shard, in milliseconds.
        janitor_sleep_ms: the same for clean-up, which may be late.
        tidy_interval_ms: time between two sweeps of a shard's flags and worker records, in
            milliseconds.
        call_timeout_ms: a step that takes longer has failed, in milliseconds.
        backoff_min_ms: first pause of a shard whose step failed; doubles up to backoff_max_ms.
        backoff_max_ms: longest pause of a failing shard, in milliseconds.
    """

    group: str = variable(
        "OJS_SCHEDULER_GROUP",
        non_empty,
        "default",
        "Schedulers of one group elect one leader for each shard.",
    )
    lease_ttl_ms: int = variable(
        "OJS_SCHEDULER_LEASE",
        milliseconds(least=500, most=300_000),
        "5s",
        "After a leader dies, another leads its shards within this time.",
    )
    promote_batch: int = 500
    reap_batch: int = 100
    worker_batch: int = 50
    janitor_batch: int = 200
    outbox_batch: int = 100
    cron_batch: int = 100
    shard_concurrency: int = 8
    max_sleep_ms: int = 10_000
    janitor_sleep_ms: int = 60_000
    tidy_interval_ms: int = 300_000
    call_timeout_ms: int = 5_000
    backoff_min_ms: int = 100
    backoff_max_ms: int = 5_000

    def __post_init__(self) -> None:
        """Refuse unusable values.

        Raises:
            ValueError: names the field.
        """
        if not self.group:
            raise ValueError("group must not be empty")
        if self.lease_ttl_ms < _SHORTEST_LEASE_MS:
            raise ValueError(f"lease_ttl_ms must be at least {_SHORTEST_LEASE_MS}")
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1")
            if name.endswith("_batch") and value > _LARGEST_BATCH:
                raise ValueError(f"{name} must be at most {_LARGEST_BATCH}")
        if self.max_sleep_ms > _LONGEST_SLEEP_MS:
            raise ValueError(f"max_sleep_ms must be at most {_LONGEST_SLEEP_MS}")
        if self.backoff_max_ms < self.backoff_min_ms:
            raise ValueError("backoff_max_ms must not be below backoff_min_ms")

    @property
    def lease_times(self) -> LeaseTimes:
        """The times of the election, derived from the lease time."""
        lease_s = self.lease_ttl_ms / 1000
        key_ttl_s = lease_s * _KEY_PART
        return LeaseTimes(
            key_ttl_s=key_ttl_s,
            margin_s=lease_s * _MARGIN_PART,
            renew_s=key_ttl_s / 3,
            poll_s=lease_s * _POLL_PART,
        )
