"""Who leads a shard: a lease in Redis, distrusted by the one who holds it.

Each shard has a lease of its own, which lives on that shard; so has the meta tag. A process stands
for all of them and may lead any number.

A leader may work only while nobody else can hold the lease. Redis starts the lease's life when it
*runs* the request, which is after the request was sent; so ``sent + life`` on the leader's own
monotonic clock is never later than the end of the lease. The leader's work runs inside a cancel
scope whose deadline is that moment minus a margin. Renewal only ever moves the deadline; when
Redis is silent nothing has to happen for the work to stop. (Refused: stopping when a renewal
*fails*. A call that hangs does not fail.)

No wall clock takes part. Linux's monotonic clock halts while a machine is suspended: after such a
sleep the work goes on until the next renewal is answered "not yours". The same holds for a lease
that an asynchronous Redis failover forgot. Both are why every step of the work is a script that is
safe when two leaders run it; the lease saves work, it does not guard data.

Candidates share the shards. Where leases come from, one candidate of those that call is preferred
for each shard. A leader that learns of a preferred candidate hands over: its work stops, then it
frees the lease, and only the preferred candidate takes it. Any other one insists after a poll, so a
preferred candidate that has died keeps no lease free.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Generic, Literal, Protocol, TypeVar

import trio

from scheduler.settings import Terms
from scheduler.stats import ElectionStats

log = logging.getLogger("ojs.scheduler")

# Longest that the release of a lease may hold up a stop, in seconds.
_RELEASE_S = 1.0
# A follower asks when the leader's lease would end; this share of its life later, at most, so that
# followers do not ask in step.
_SPREAD = 0.02


class Lease(Protocol):
    """A granted lease. Each grant of a shard has a higher token than the one before."""

    @property
    def token(self) -> int:
        """The fencing token."""
        ...


L = TypeVar("L", bound=Lease)
L_co = TypeVar("L_co", bound=Lease, covariant=True)


class Answer(Protocol[L_co]):
    """The answer to a candidate."""

    @property
    def lease(self) -> L_co | None:
        """The lease, when the candidate leads now."""
        ...

    @property
    def ends_in_ms(self) -> int:
        """When the other candidate's lease would end; 0 when no one holds it."""
        ...


class Leases(Protocol[L]):
    """Where leases come from: one shard, one candidate."""

    async def acquire(self, *, insist: bool) -> Answer[L]:
        """Ask for the lease; `insist` also when another candidate is preferred."""
        ...

    async def renew(self, lease: L) -> Literal["kept", "wanted", "lost"]:
        """Give the lease its whole life again; "wanted" when another candidate is preferred."""
        ...

    async def release(self, lease: L) -> None:
        """End the lease now, if it is still held."""
        ...

    async def leave(self) -> None:
        """End the lease, if it is held, and be a candidate no more."""
        ...


class Call:
    """Tells a waiting candidate that its lease has become free."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """The lease is free."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Sleep that long at most; returns whether it rang."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        rang = self._event.is_set()
        self._event = trio.Event()
        return rang


async def campaign(
    shard: int,
    leases: Leases[L],
    terms: Terms,
    work: Callable[[L], Awaitable[None]],
    *,
    stats: ElectionStats,
    random: Random,
    call: Call | None = None,
) -> None:
    """Lead a shard whenever possible, until cancelled: run `work` in each term, wait between terms.

    :param work: what a leader does. Runs until it is cancelled; if it returns, the leader resigns
        and stands again after a poll. What it raises ends the campaign, after the release.
    :param random: source of jitter, so that followers do not ask in step.
    :param call: rings when the lease may have become free.
    """
    candidate = _Candidate(shard, leases, terms, stats, random)
    call = call or Call()
    insist = False
    try:
        while True:
            sent = trio.current_time()
            answer = await candidate.acquire(insist=insist)
            wait_s = terms.poll_s * random.uniform(0.5, 1.0)
            insist = False
            if answer is not None:
                if answer.lease is not None:
                    if await candidate.lead(answer.lease, sent, work) == "wanted":
                        # The preferred candidate comes when it hears, or else within this time.
                        wait_s = terms.key_ttl_s * random.uniform(1 + _SPREAD, 1 + 2 * _SPREAD)
                elif answer.ends_in_ms > 0:
                    wait_s = answer.ends_in_ms / 1000 + terms.key_ttl_s * random.uniform(0, _SPREAD)
                else:
                    insist = True
            if await call.wait(wait_s):
                insist = False  # whom the shard is for is asking now
    finally:
        await candidate.leave()


class _Candidate(Generic[L]):
    """One process and one shard."""

    def __init__(
        self, shard: int, leases: Leases[L], terms: Terms, stats: ElectionStats, random: Random
    ) -> None:
        self._shard = shard
        self._leases = leases
        self._terms = terms
        self._stats = stats
        self._random = random

    async def acquire(self, *, insist: bool) -> Answer[L] | None:
        """Ask once, with a bound: a server that is silent now may answer the next request."""
        try:
            with trio.fail_after(self._terms.renew_s):
                answer = await self._leases.acquire(insist=insist)
        except Exception as error:  # whatever went wrong, the candidate stands again
            self._failed("acquire", error)
            return None
        self._answered()
        return answer

    async def lead(
        self, lease: L, sent: float, work: Callable[[L], Awaitable[None]]
    ) -> Literal["lost", "wanted", "resigned"]:
        """Run the work for as long as the lease surely holds; return why it ended.

        :param sent: monotonic time, in seconds, at which the granted request was sent.
        """
        term = trio.CancelScope(deadline=sent + self._terms.span_s)
        self._stats.held[self._shard] = lease.token
        self._stats.terms += 1
        log.debug("leading", extra={"shard": self._shard, "token": lease.token})
        end: Literal["lost", "wanted", "resigned"] = "lost"
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
            del self._stats.held[self._shard]  # this process stops: `leave` frees the lease
            raise
        del self._stats.held[self._shard]
        # Only now, with the work stopped, may the lease go. Comparing the holder is the
        # store's part, so a release that comes too late frees nobody else's lease.
        await self._release(lease)
        if end == "lost":
            self._stats.lost += 1
            log.warning("leadership lost", extra={"shard": self._shard, "token": lease.token})
        elif end == "wanted":
            self._stats.handed_over += 1
        return end

    async def _renew(
        self, lease: L, term: trio.CancelScope, sent: float
    ) -> Literal["wanted", "lost"]:
        """Move the term's deadline with each granted renewal; return why the term has to end."""
        wake = sent + self._terms.renew_s
        while True:
            await trio.sleep_until(wake)
            sent = trio.current_time()
            try:
                with trio.fail_after(self._terms.renew_s):
                    renewal = await self._leases.renew(lease)
            except Exception as error:  # the deadline decides, not the kind of error
                self._failed("renew", error)
                wake = trio.current_time() + self._retry_s()
                continue
            self._answered()
            if renewal != "kept":
                return renewal
            term.deadline = sent + self._terms.span_s
            wake = sent + self._terms.renew_s

    async def leave(self) -> None:
        """As `_release`, whether it leads or not."""
        with trio.move_on_after(min(self._terms.poll_s, _RELEASE_S), shield=True):
            try:
                await self._leases.leave()
            except Exception as error:
                self._failed("leave", error)

    async def _release(self, lease: L) -> None:
        """Free the lease for the next leader; a silent Redis may hold up a stop only briefly."""
        with trio.move_on_after(min(self._terms.poll_s, _RELEASE_S), shield=True):
            try:
                await self._leases.release(lease)
            except Exception as error:  # the lease then ends by itself
                self._failed("release", error)

    def _retry_s(self) -> float:
        return self._terms.renew_s * self._random.uniform(0.1, 0.2)

    def _failed(self, call: str, error: Exception) -> None:
        """Log the first shard of a row: a master that is away takes many with it."""
        self._stats.failed_calls += 1
        if not self._stats.unreachable:
            log.warning(
                "lease calls fail",
                extra={"call": call, "shard": self._shard, "error": repr(error)},
            )
        self._stats.unreachable.add(self._shard)

    def _answered(self) -> None:
        if self._shard in self._stats.unreachable:
            self._stats.unreachable.discard(self._shard)
            if not self._stats.unreachable:
                log.info("lease calls work again")
