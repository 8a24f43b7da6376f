"""Settings of a scheduler, and the times that are derived from them."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.config.parsers import boolean, milliseconds, non_empty
from ojs_cluster.core.config.variable import variable

# Fractions of ``lease_ttl_ms``. If a leader dies right after a renewal, another process must lead
# within one ``lease_ttl_ms``. First the lease's key expires (0.75), then a follower tries to
# acquire the lease (0.10), and the rest (0.15) is for two round trips.
_KEY_FRACTION = 0.75
_POLL_FRACTION = 0.10
_MARGIN_FRACTION = 0.075
_MIN_LEASE_MS = 500
# A script blocks its node for about 30 us per job, so for 30 ms with the largest batch.
_MAX_BATCH = 1000
# Processes announce only deadlines that are less than 20 s away. So a loop must check each shard
# more often than every 20 s.
_MAX_SLEEP_MS = 15_000


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Times of the election in seconds, measured on the process's own monotonic clock.

    Args:
        key_ttl_s: TTL of the lease's Redis key after each renewal.
        margin_s: time between the end of a leader's work and the expiry of the key. It covers
            clocks that run at different rates, and the time that it takes to cancel the work.
        renew_s: time between two renewals, a third of the key's TTL.
        poll_s: longest time that a follower waits between two attempts to acquire the lease.
    """

    key_ttl_s: float
    margin_s: float
    renew_s: float
    poll_s: float

    @property
    def work_s(self) -> float:
        """How long a leader may work after it has sent the request that was granted, in seconds."""
        return self.key_ttl_s - self.margin_s


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Settings of one scheduler process.

    Args:
        group: name of the group. The schedulers of one group elect one leader per shard.
        lease_ttl_ms: longest time in milliseconds from the death of a leader until another process
            leads its shards.
        migrate: whether a migration of the data to a newer layout may begin.
        promote_batch: maximum number of jobs that one promote script moves. A script blocks its
            Redis node, so this limits how long other clients of that node wait.
        reap_batch: maximum number of deadlines of each kind that one reap script handles.
        worker_batch: maximum number of dead workers that one script finds in one shard.
        janitor_batch: maximum number of finished jobs that one purge script removes.
        outbox_batch: maximum number of effects of one shard that one step delivers.
        cron_batch: maximum number of cron jobs that one step checks.
        shard_concurrency: maximum number of concurrent steps of one loop, over all shards.
        max_sleep_ms: longest time between two checks of an idle shard, in milliseconds.
        janitor_sleep_ms: longest time between two janitor steps on an idle shard, in milliseconds.
        tidy_interval_ms: time between two sweeps of a shard's flags and worker records, in
            milliseconds.
        call_timeout_ms: time limit of a step in milliseconds. A step that takes longer has failed.
        backoff_min_ms: first pause of a failing shard, in milliseconds. It doubles after each
            failure up to ``backoff_max_ms``.
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
        milliseconds(minimum=500, maximum=300_000),
        "5s",
        "After a leader dies, another leads its shards within this time.",
    )
    migrate: bool = variable(
        "OJS_MIGRATE",
        boolean,
        "true",
        "Whether the data may be changed to a newer layout when no earlier version runs any more. "
        "While it is `false`, you can return to the earlier version.",
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
        """Check the values.

        Raises:
            ValueError: a value is out of range. The message names the field.
        """
        if not self.group:
            raise ValueError("group must not be empty")
        if self.lease_ttl_ms < _MIN_LEASE_MS:
            raise ValueError(f"lease_ttl_ms must be at least {_MIN_LEASE_MS}")
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1")
            if name.endswith("_batch") and value > _MAX_BATCH:
                raise ValueError(f"{name} must be at most {_MAX_BATCH}")
        if self.max_sleep_ms > _MAX_SLEEP_MS:
            raise ValueError(f"max_sleep_ms must be at most {_MAX_SLEEP_MS}")
        if self.backoff_max_ms < self.backoff_min_ms:
            raise ValueError("backoff_max_ms must not be below backoff_min_ms")

    @property
    def lease_times(self) -> LeaseTimes:
        """The times of the election, derived from ``lease_ttl_ms``."""
        lease_s = self.lease_ttl_ms / 1000
        key_ttl_s = lease_s * _KEY_FRACTION
        return LeaseTimes(
            key_ttl_s=key_ttl_s,
            margin_s=lease_s * _MARGIN_FRACTION,
            renew_s=key_ttl_s / 3,
            poll_s=lease_s * _POLL_FRACTION,
        )
