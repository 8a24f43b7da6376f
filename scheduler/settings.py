"""What can be set about a scheduler, and the times that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.config.parsers import milliseconds, non_empty
from ojs_cluster.core.config.variable import variable

# Shares of `lease_ttl_ms`. They add up so that the promise "another leads within one lease time"
# holds even when the leader dies right after a renewal: key life + longest poll + slack for two
# round trips = 0.75 + 0.10 + 0.15. With the whole lease time as the key's life, a follower would
# always be one poll late.
_KEY_SHARE = 0.75
_POLL_SHARE = 0.10
_MARGIN_SHARE = 0.075
_SHORTEST_LEASE_MS = 500
# A script keeps its node from everybody else for about 30 us per job.
_LARGEST_BATCH = 1000
# The store announces deadlines that are nearer than 20 s; a shard must be looked at while those
# that were further away still have time.
_LONGEST_SLEEP_MS = 15_000


@dataclass(frozen=True, slots=True)
class Terms:
    """The election's times in seconds, all measured on the process's own monotonic clock.

    :param key_ttl_s: life of the lease's key in Redis after each renewal.
    :param margin_s: a leader stops this long before the key could expire. Covers clocks that run
        at different rates and the time it takes to cancel the work.
    :param renew_s: time between renewals, a third of the key's life.
    :param poll_s: longest time a follower waits between two attempts.
    """

    key_ttl_s: float
    margin_s: float
    renew_s: float
    poll_s: float

    @property
    def span_s(self) -> float:
        """How long a leader may work after it *sent* the request that was granted."""
        return self.key_ttl_s - self.margin_s


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Settings of one scheduler process. Times end in their unit.

    :param group: schedulers of one group elect one leader among themselves.
    :param lease_ttl_ms: the lease time: after a leader dies another one leads within it.
    :param promote_batch: jobs that one promote script moves at most. A script blocks its Redis
        node, so this bounds what a backlog costs everybody else on that node.
    :param reap_batch: the same for lost leases, execution timeouts and expiry.
    :param worker_batch: dead workers looked at in one step of one shard.
    :param janitor_batch: finished jobs that one purge script removes at most.
    :param outbox_batch: effects of one shard carried out in one step.
    :param cron_batch: cron jobs looked at in one step.
    :param shard_concurrency: scripts of one loop in flight at the same time, over all shards.
    :param max_sleep_ms: an idle shard is looked at this often even if no wake-up arrives.
    :param janitor_sleep_ms: the same for clean-up, where lateness hurts nobody.
    :param tidy_interval_ms: time between two sweeps of a shard's markers and worker records.
    :param call_timeout_ms: a step that takes longer has failed.
    :param backoff_min_ms: first pause of a shard whose step failed; doubles up to backoff_max_ms.
    :param backoff_max_ms: longest pause of a failing shard.
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
        """Refuse values that could not work.

        :raises ValueError: naming the field.
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
    def terms(self) -> Terms:
        """The election's times, derived from the lease time."""
        lease_s = self.lease_ttl_ms / 1000
        key_ttl_s = lease_s * _KEY_SHARE
        return Terms(
            key_ttl_s=key_ttl_s,
            margin_s=lease_s * _MARGIN_SHARE,
            renew_s=key_ttl_s / 3,
            poll_s=lease_s * _POLL_SHARE,
        )
