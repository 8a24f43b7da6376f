"""Elect the leader of a shard by a lease in Redis.

Each shard has its own lease, which is stored in that shard. The meta tag also has a lease. Every
process is a candidate for all leases and may hold any number of them.

A leader may work only while no other process can hold the lease. The lease's TTL starts when Redis
*runs* the request, which is after the request was sent. So ``sent + TTL`` on the leader's own
monotonic clock is never later than the end of the lease. The work runs inside a cancel scope whose
deadline is that time minus a margin, and each renewal moves the deadline. When Redis does not
answer, the deadline passes and the work stops. (Rejected: to stop when a renewal *fails*. A call
that hangs does not fail.)

Two leaders at the same time are still possible. Linux's monotonic clock stops while a machine is
suspended, so after that the work continues until the next renewal is refused. An asynchronous Redis
failover may lose a lease. So every step of the work is safe when two leaders run it. The lease only
avoids doing the work twice; it does not protect data.

The shards are distributed among the candidates: for each shard one active candidate is *preferred*.
When a leader learns that another candidate is preferred, it stops its work and releases the lease,
and only the preferred candidate may acquire it at first. If the lease is still free after one poll,
the preferred candidate may have died, and any candidate *insists*: it acquires the lease, although
it is not preferred.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Generic, Literal, Protocol, TypeVar

import trio

from ojs_scheduler.settings import LeaseTimes
from ojs_scheduler.stats import ElectionStats

log = logging.getLogger("ojs.scheduler")

_MAX_RELEASE_S = 5.0
"""Longest time in seconds for which the release of a lease may delay a stop. A busy process needs
more than a second for the leases of all shards, and an unreleased lease lasts until it expires."""
_JITTER = 0.02
"""A follower tries to acquire a lease when it expires, plus a random time of up to this fraction of
the TTL. So the followers do not try at the same time."""

TermEnd = Literal["lost", "not_preferred", "resigned"]
"""Why a term ended: the lease was lost, another candidate is preferred, or the work returned."""


class Lease(Protocol):
    """A granted lease. Each new lease of a shard has a higher fencing token than the last lease."""

    @property
    def token(self) -> int:
        """The fencing token."""
        ...


L = TypeVar("L", bound=Lease)
L_co = TypeVar("L_co", bound=Lease, covariant=True)


class LeaseReply(Protocol[L_co]):
    """The reply to a candidate that tried to acquire a lease."""

    @property
    def lease(self) -> L_co | None:
        """The lease, None when the candidate has not acquired it."""
        ...

    @property
    def ends_in_ms(self) -> int:
        """Time in ms until the lease of another process expires; 0 when the lease is free."""
        ...


class LeaderLock(Protocol[L]):
    """The leader lock of one shard, for one candidate."""

    async def acquire(self, *, insist: bool) -> LeaseReply[L]:
        """Try to acquire the lease; with ``insist`` even when another candidate is preferred."""
        ...

    async def renew(self, lease: L) -> Literal["kept", "not_preferred", "lost"]:
        """Renew the lease for its whole TTL, also when another candidate is preferred."""
        ...

    async def release(self, lease: L) -> object:
        """End the lease now, if this candidate still holds it."""
        ...

    async def withdraw(self) -> None:
        """End the candidacy, and also the lease if this candidate holds it."""
        ...


class LeaseFreedSignal:
    """Signals a waiting candidate that the lease has become free."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Signal that the lease is free."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for the signal, at most ``seconds``; return whether it was set."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        was_set = self._event.is_set()
        self._event = trio.Event()
        return was_set


async def campaign(
    shard: int,
    lock: LeaderLock[L],
    times: LeaseTimes,
    work: Callable[[L], Awaitable[None]],
    *,
    stats: ElectionStats,
    random: Random,
    lease_freed: LeaseFreedSignal | None = None,
) -> None:
    """Lead a shard whenever possible, until cancelled: run ``work`` in each term.

    Args:
        shard: index of the shard, for logs and counters.
        lock: the leader lock of the shard.
        times: the times of the election.
        work: the leader's work, which runs until it is cancelled. If it returns, the leader
            resigns and tries again after a poll. If it raises, the campaign ends after the release.
        stats: counters.
        random: source of jitter, so that followers do not try at the same time.
        lease_freed: set when the lease may have become free.
    """
    candidate = _Candidate(shard, lock, times, stats, random)
    lease_freed = lease_freed or LeaseFreedSignal()
    insist = False
    try:
        while True:
            sent = trio.current_time()
            reply = await candidate.acquire(insist=insist)
            wait_s = times.poll_s * random.uniform(0.5, 1.0)
            insist = False
            if reply is not None:
                if reply.lease is not None:
                    if await candidate.lead(reply.lease, sent, work) == "not_preferred":
                        # Leave the lease to the preferred candidate. Even if it misses the message
                        # that the lease is free, it tries when the old lease would have expired.
                        wait_s = times.key_ttl_s * random.uniform(1 + _JITTER, 1 + 2 * _JITTER)
                elif reply.ends_in_ms > 0:
                    wait_s = reply.ends_in_ms / 1000 + times.key_ttl_s * random.uniform(0, _JITTER)
                else:
                    insist = True
            if await lease_freed.wait(wait_s):
                insist = False  # the preferred candidate gets the same signal and tries now
    finally:
        await candidate.withdraw()


class _Candidate(Generic[L]):
    """This process as a candidate for the lease of one shard."""

    def __init__(
        self,
        shard: int,
        lock: LeaderLock[L],
        times: LeaseTimes,
        stats: ElectionStats,
        random: Random,
    ) -> None:
        self._shard = shard
        self._lock = lock
        self._times = times
        self._stats = stats
        self._random = random

    async def acquire(self, *, insist: bool) -> LeaseReply[L] | None:
        """Try once to acquire the lease; return None after an error or a timeout."""
        try:
            with trio.fail_after(self._times.renew_s):
                reply = await self._lock.acquire(insist=insist)
        except Exception as error:  # after any error the candidate tries again
            self._record_failure("acquire", error)
            return None
        self._record_success()
        return reply

    async def lead(self, lease: L, sent: float, work: Callable[[L], Awaitable[None]]) -> TermEnd:
        """Run the work while the lease is certain to hold; return why the term ended.

        Args:
            lease: the granted lease.
            sent: monotonic time, in seconds, at which the granted request was sent.
            work: the leader's work.
        """
        term = trio.CancelScope(deadline=sent + self._times.work_s)
        self._stats.led_shards[self._shard] = lease.token
        self._stats.terms += 1
        log.debug("leading", extra={"shard": self._shard, "token": lease.token})
        end: TermEnd = "lost"
        try:
            with term:
                async with trio.open_nursery() as nursery:

                    async def renew() -> None:
                        nonlocal end
                        end = await self._renew(lease, term, sent)
                        term.cancel()

                    nursery.start_soon(renew)
                    await work(lease)
                    end = "resigned"
                    nursery.cancel_scope.cancel()
        except BaseException:
            # The process stops, and `withdraw` releases the lease.
            del self._stats.led_shards[self._shard]
            raise
        del self._stats.led_shards[self._shard]
        # The lease is released only after the work has stopped. A late release never ends the lease
        # of another process, because the script compares the holder.
        await self._release(lease)
        if end == "lost":
            self._stats.lost += 1
            log.warning("leadership lost", extra={"shard": self._shard, "token": lease.token})
        elif end == "not_preferred":
            self._stats.handed_over += 1
        return end

    async def _renew(
        self, lease: L, term: trio.CancelScope, sent: float
    ) -> Literal["not_preferred", "lost"]:
        """Move the term's deadline with each granted renewal; return why the term has to end."""
        wake = sent + self._times.renew_s
        while True:
            await trio.sleep_until(wake)
            sent = trio.current_time()
            try:
                with trio.fail_after(self._times.renew_s):
                    renewal = await self._lock.renew(lease)
            except Exception as error:  # any error is retried until the term's deadline
                self._record_failure("renew", error)
                wake = trio.current_time() + self._retry_s()
                continue
            self._record_success()
            if renewal != "kept":
                return renewal
            term.deadline = sent + self._times.work_s
            wake = sent + self._times.renew_s

    async def withdraw(self) -> None:
        """End the candidacy, and also the lease. An unresponsive Redis delays this only briefly."""
        with trio.move_on_after(min(self._times.poll_s, _MAX_RELEASE_S), shield=True):
            try:
                await self._lock.withdraw()
            except Exception as error:
                self._record_failure("withdraw", error)

    async def _release(self, lease: L) -> None:
        """Release the lease. An unresponsive Redis delays a stop only briefly."""
        with trio.move_on_after(min(self._times.poll_s, _MAX_RELEASE_S), shield=True):
            try:
                await self._lock.release(lease)
            except Exception as error:  # the lease then expires
                self._record_failure("release", error)

    def _retry_s(self) -> float:
        return self._times.renew_s * self._random.uniform(0.1, 0.2)

    def _record_failure(self, call: str, error: Exception) -> None:
        """Count a failure. Log only the first: an unreachable master affects many shards."""
        self._stats.failed_calls += 1
        if not self._stats.unreachable:
            log.warning(
                "calls for leases fail, will retry",
                extra={"call": call, "shard": self._shard, "error": repr(error)},
            )
        self._stats.unreachable.add(self._shard)

    def _record_success(self) -> None:
        if self._shard in self._stats.unreachable:
            self._stats.unreachable.discard(self._shard)
            if not self._stats.unreachable:
                log.info("calls for leases succeed again")
