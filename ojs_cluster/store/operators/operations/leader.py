"""Leader locks: which scheduler process sweeps which shard.

The lock of a shard is stored in that shard, and the lock of the meta tag under the meta tag. So the
loss of one master does not stop the sweeps of shards on other masters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ojs_cluster.store.context import Store

Renewal = Literal["kept", "not_preferred", "lost"]
"""The outcome of a renewal.

``kept``: the lease has its full TTL again. ``not_preferred``: the lease has its full TTL again, but
another candidate is preferred, so the leader should release the lease. ``lost``: the lease has
ended, and another process may hold it.
"""


@dataclass(frozen=True, slots=True)
class LeaderLease:
    """The leadership of one shard, which ends ``ttl_ms`` after its last renewal.

    Args:
        shard: index of the shard; ``keys.META`` stands for the meta tag.
        group: the scheduler group.
        identity: the process that leads.
        token: the fencing token, larger than that of every earlier leader of the shard.
        ttl_ms: how long the lease lasts after a renewal, in milliseconds.
    """

    shard: int
    group: str
    identity: str
    token: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class AcquireReply:
    """The reply to a candidate.

    Args:
        lease: the lease; None when the candidate has not acquired it.
        ends_in_ms: time in ms until the lease of another process ends unless it is renewed; 0 when
            the lock is free, but another candidate is preferred.
    """

    lease: LeaderLease | None
    ends_in_ms: int = 0


@dataclass(frozen=True, slots=True)
class RedisLeaderLock:
    """The leader lock of one shard, for one candidate (a ``ojs_scheduler.election.LeaderLock``).

    Args:
        store: the store.
        shard: index of the shard, or ``keys.META``.
        group: the scheduler group.
        identity: the name of this process, new at each start.
        ttl_ms: how long the lease lasts after a renewal, in milliseconds.
    """

    store: Store
    shard: int
    group: str
    identity: str
    ttl_ms: int

    async def acquire(self, *, insist: bool = False) -> AcquireReply:
        """Register as a candidate for the shard, and acquire its lock if it is free.

        Args:
            insist: acquire a free lock even when another candidate is preferred.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        token, ends_in_ms, _ = await self._run("acquire", mode="insist" if insist else "")
        if token:
            lease = LeaderLease(self.shard, self.group, self.identity, token, self.ttl_ms)
            return AcquireReply(lease)
        return AcquireReply(None, max(0, ends_in_ms))

    async def renew(self, lease: LeaderLease) -> Renewal:
        """Renew a lease for another ``ttl_ms``.

        Args:
            lease: the lease, as acquired.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        token, _, other_preferred = await self._run("renew", lease.token)
        if not token:
            return "lost"
        return "not_preferred" if other_preferred else "kept"

    async def release(self, lease: LeaderLease) -> bool:
        """End a lease so that another candidate can lead at once; return False when it had ended.

        Args:
            lease: the lease, as acquired.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        return bool((await self._run("release", lease.token))[0])

    async def withdraw(self) -> None:
        """Withdraw as a candidate for the shard, and release its lock if this identity holds it.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        await self._run("leave")

    async def _run(self, action: str, token: int = 0, mode: str = "") -> list[int]:
        keys = self.store.keys.shard_or_meta(self.shard)
        # The index of the meta tag is -1. The script takes it as the shard after the last.
        number = self.shard % (len(self.store.keys) + 1)
        reply = await self.store.redis.script(
            keys.slot,
            self.store.scripts["lead"],
            [
                keys.leader(self.group),
                keys.fencing_counter(self.group),
                keys.candidates(self.group),
            ],
            [action, self.identity, token, self.ttl_ms, number, mode],
            idempotent=True,
        )
        assert isinstance(reply, list)  # noqa: S101 - narrows the type for mypy
        return [int(value) for value in reply]
