"""An in-memory lease with a network in front of it, for elections in virtual time.

It does what `store/operators/operations/lead.lua` says: it notes candidates, prefers one, and
announces that it is free.

It stands in for the seam (``ojs_scheduler.election.LeaderLock``), not for Redis: what Redis really
does is asserted by the tests on real servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import trio


@dataclass(frozen=True, slots=True)
class Grant:
    """A granted lease."""

    token: int
    holder: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a candidate."""

    lease: Grant | None
    ends_in_ms: int = 0


@dataclass(slots=True)
class LeaseServer:
    """Holds one shard's lease; its clock may run at another rate than the candidates'."""

    ttl_s: float
    rate: float = 1.0
    shard: int = 0
    holder: Grant | None = None
    expires: float = 0.0
    tokens: int = 0
    candidates: dict[str, float] = field(default_factory=dict)
    hearers: list[Callable[[], None]] = field(default_factory=list)
    calls: int = 0

    def now(self) -> float:
        return trio.current_time() * self.rate

    def held(self) -> Grant | None:
        return self.holder if self.now() < self.expires else None

    def acquire(self, identity: str, insist: bool) -> Reply:
        preferred = self._note(identity)
        held = self.held()
        if held is not None and held.holder != identity:
            return Reply(None, round((self.expires - self.now()) * 1000))
        if held is None:
            if preferred != identity and not insist:
                return Reply(None)
            self.tokens += 1
            self.holder = Grant(self.tokens, identity)
        self.expires = self.now() + self.ttl_s
        return Reply(self.holder)

    def renew(self, grant: Grant) -> Literal["kept", "not_preferred", "lost"]:
        preferred = self._note(grant.holder)
        if self.held() != grant:
            return "lost"
        self.expires = self.now() + self.ttl_s
        lately = self.now() - self.candidates[preferred] <= self.ttl_s / 2
        return "not_preferred" if preferred != grant.holder and lately else "kept"

    def release(self, grant: Grant) -> None:
        if self.held() == grant:
            self._free()

    def leave(self, identity: str) -> None:
        self.candidates.pop(identity, None)
        held = self.held()
        if held is not None and held.holder == identity:
            self._free()

    def _free(self) -> None:
        self.holder = None
        for hear in self.hearers:
            hear()

    def _note(self, identity: str) -> str:
        """Return the preferred candidate of those that called within two TTLs."""
        self.calls += 1
        now = self.now()
        self.candidates[identity] = now
        for name, at in list(self.candidates.items()):
            if at < now - 2 * self.ttl_s:
                del self.candidates[name]
        names = sorted(self.candidates)
        return names[self.shard % len(names)]


@dataclass(frozen=True, slots=True)
class Trip:
    """What the network does to one call: seconds out and back; None means lost on that leg."""

    out: float | None = 0.0
    back: float | None = 0.0


@dataclass(slots=True)
class Network:
    """One candidate's connection to the server (implements LeaderLock[Grant])."""

    server: LeaseServer
    identity: str
    trip: Callable[[], Trip] = Trip
    cut: bool = False
    fails: bool = False
    calls: list[str] = field(default_factory=list)

    async def acquire(self, *, insist: bool) -> Reply:
        trip = await self._send("acquire")
        reply = self.server.acquire(self.identity, insist)
        await self._leg(trip.back)
        return reply

    async def renew(self, lease: Grant) -> Literal["kept", "not_preferred", "lost"]:
        trip = await self._send("renew")
        kept = self.server.renew(lease)
        await self._leg(trip.back)
        return kept

    async def release(self, lease: Grant) -> None:
        await self._send("release")
        self.server.release(lease)

    async def withdraw(self) -> None:
        await self._send("leave")
        self.server.leave(self.identity)

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
    """Checks that no two candidates work at once, and none works without the lease."""

    server: LeaseServer
    working: str | None = None
    terms: list[tuple[str, float, float]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    began: trio.Event = field(default_factory=trio.Event)

    async def work(self, lease: Grant) -> None:
        """Do a leader's work: run until cancelled."""
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
