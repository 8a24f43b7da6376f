"""Who leads: a lease in Redis, distrusted by the one who holds it.

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
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Generic, Protocol, TypeVar

import trio

from scheduler.settings import Terms
from scheduler.stats import ElectionStats

log = logging.getLogger("ojs.scheduler")

# Longest that the release of a lease may hold up a stop, in seconds.
_RELEASE_S = 1.0


class Lease(Protocol):
    """A granted lease. Each grant of a group has a higher token than the one before."""

    @property
    def token(self) -> int:
        """The fencing token."""
        ...


L = TypeVar("L", bound=Lease)


class Leases(Protocol[L]):
    """Where leases come from: one group, one candidate."""

    async def acquire(self) -> L | None:
        """Ask for the lease; None while another candidate holds it."""
        ...

    async def renew(self, lease: L) -> bool:
        """Give the lease its whole life again; False when it is not held any more."""
        ...

    async def release(self, lease: L) -> None:
        """End the lease now, if it is still held."""
        ...


async def campaign(
    leases: Leases[L],
    terms: Terms,
    work: Callable[[L], Awaitable[None]],
    *,
    stats: ElectionStats,
    random: Random,
) -> None:
    """Lead whenever possible, until cancelled: run `work` in each term, wait between terms.

    :param work: what a leader does. Runs until it is cancelled; if it returns, the leader resigns
        and stands again after a poll. What it raises ends the campaign, after the release.
    :param random: source of jitter, so that followers do not ask in step.
    """
    candidate = _Candidate(leases, terms, stats, random)
    while True:
        sent = trio.current_time()
        lease = await candidate.acquire()
        if lease is not None:
            await candidate.lead(lease, sent, work)
        await trio.sleep(terms.poll_s * random.uniform(0.5, 1.0))


class _Candidate(Generic[L]):
    """One process in one group."""

    def __init__(
        self, leases: Leases[L], terms: Terms, stats: ElectionStats, random: Random
    ) -> None:
        self._leases = leases
        self._terms = terms
        self._stats = stats
        self._random = random
        self._reachable = True

    async def acquire(self) -> L | None:
        """Ask once, with a bound: a server that is silent now may answer the next request."""
        try:
            with trio.fail_after(self._terms.renew_s):
                lease = await self._leases.acquire()
        except Exception as error:  # whatever went wrong, the candidate stands again
            self._failed("acquire", error)
            return None
        self._answered()
        return lease

    async def lead(self, lease: L, sent: float, work: Callable[[L], Awaitable[None]]) -> None:
        """Run the work for as long as the lease surely holds.

        :param sent: monotonic time, in seconds, at which the granted request was sent.
        """
        term = trio.CancelScope(deadline=sent + self._terms.span_s)
        self._stats.leading = True
        self._stats.token = lease.token
        self._stats.terms += 1
        log.info("leading", extra={"token": lease.token})
        resigned = False
        try:
            with term:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._renew, lease, term, sent)
                    await work(lease)
                    resigned = True
                    nursery.cancel_scope.cancel()
        finally:
            self._stats.leading = False
            # Only now, with the work stopped, may the lease go. Comparing the holder is the
            # store's part, so a release that comes too late frees nobody else's lease.
            await self._release(lease)
        if not resigned:
            self._stats.lost += 1
            log.warning("leadership lost", extra={"token": lease.token})

    async def _renew(self, lease: L, term: trio.CancelScope, sent: float) -> None:
        """Move the term's deadline with each granted renewal; end the term on a refusal."""
        wake = sent + self._terms.renew_s
        while True:
            await trio.sleep_until(wake)
            sent = trio.current_time()
            try:
                with trio.fail_after(self._terms.renew_s):
                    kept = await self._leases.renew(lease)
            except Exception as error:  # the deadline decides, not the kind of error
                self._failed("renew", error)
                wake = trio.current_time() + self._retry_s()
                continue
            self._answered()
            if not kept:
                term.cancel()
                return
            term.deadline = sent + self._terms.span_s
            wake = sent + self._terms.renew_s

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
        self._stats.failed_calls += 1
        if self._reachable:
            self._reachable = False
            log.warning("lease calls fail", extra={"call": call, "error": repr(error)})

    def _answered(self) -> None:
        if not self._reachable:
            self._reachable = True
            log.info("lease calls work again")
