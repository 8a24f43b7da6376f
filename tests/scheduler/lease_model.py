"""An in-memory lease with a network in front of it, for elections in virtual time.

It stands in for the seam (:class:`scheduler.election.Leases`), not for Redis: what Redis really
does is asserted by the tests on real servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio


@dataclass(frozen=True, slots=True)
class Grant:
    """A granted lease."""

    token: int
    holder: str


@dataclass(slots=True)
class LeaseServer:
    """Holds one lease; its clock may run at another rate than the candidates'."""

    ttl_s: float
    rate: float = 1.0
    holder: Grant | None = None
    expires: float = 0.0
    tokens: int = 0

    def now(self) -> float:
        return trio.current_time() * self.rate

    def held(self) -> Grant | None:
        return self.holder if self.now() < self.expires else None

    def acquire(self, identity: str) -> Grant | None:
        if self.held() is not None:
            return None
        self.tokens += 1
        self.holder = Grant(self.tokens, identity)
        self.expires = self.now() + self.ttl_s
        return self.holder

    def renew(self, grant: Grant) -> bool:
        if self.held() != grant:
            return False
        self.expires = self.now() + self.ttl_s
        return True

    def release(self, grant: Grant) -> None:
        if self.held() == grant:
            self.holder = None


@dataclass(frozen=True, slots=True)
class Trip:
    """What the network does to one call: seconds out and back; None means lost on that leg."""

    out: float | None = 0.0
    back: float | None = 0.0


@dataclass(slots=True)
class Network:
    """One candidate's way to the server (implements Leases[Grant])."""

    server: LeaseServer
    identity: str
    trip: Callable[[], Trip] = Trip
    cut: bool = False
    fails: bool = False
    calls: list[str] = field(default_factory=list)

    async def acquire(self) -> Grant | None:
        trip = await self._send("acquire")
        grant = self.server.acquire(self.identity)
        await self._leg(trip.back)
        return grant

    async def renew(self, lease: Grant) -> bool:
        trip = await self._send("renew")
        kept = self.server.renew(lease)
        await self._leg(trip.back)
        return kept

    async def release(self, lease: Grant) -> None:
        await self._send("release")
        self.server.release(lease)

    async def _send(self, call: str) -> Trip:
        self.calls.append(call)
        if self.fails:
            await trio.lowlevel.checkpoint()
            raise OSError("connection refused")
        trip = self.trip()
        await self._leg(trip.out)
        return trip

    async def _leg(self, seconds: float | None) -> None:
        if self.cut or seconds is None:
            await trio.sleep_forever()
        else:
            await trio.sleep(seconds)
        if self.cut:
            await trio.sleep_forever()


@dataclass(slots=True)
class Witness:
    """Sees who works when, and that nobody works beside another or without the lease."""

    server: LeaseServer
    working: str | None = None
    terms: list[tuple[str, float, float]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    began: trio.Event = field(default_factory=trio.Event)

    async def work(self, lease: Grant) -> None:
        """Be a leader's work: run until cancelled."""
        with self._watched(lease):
            await trio.sleep_forever()

    @contextmanager
    def _watched(self, lease: Grant) -> Iterator[None]:
        start = trio.current_time()
        if self.working is not None:
            self.violations.append(f"{lease.holder} beside {self.working} at {start}")
        self._check_held(lease, "start")
        self.working = lease.holder
        self.began.set()
        self.began = trio.Event()
        try:
            yield
        finally:
            self._check_held(lease, "stop")
            self.working = None
            self.terms.append((lease.holder, start, trio.current_time()))

    def _check_held(self, lease: Grant, moment: str) -> None:
        if self.server.held() != lease:
            self.violations.append(f"{lease.holder} at its {moment} holds no lease")
