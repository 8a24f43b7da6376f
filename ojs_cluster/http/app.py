"""What the handlers work with: the store, the settings, and whether the process is draining."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from typing import Protocol

import trio

from ojs_cluster import __version__
from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.limits import PayloadLimits
from ojs_cluster.http.access.audit import Audit
from ojs_cluster.http.access.auth import Access
from ojs_cluster.http.body_memory import Room
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.router import Route
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.store.cached import Cached
from ojs_cluster.store.context import Store
from ojs_cluster.store.fetch.long_poll import Waiters
from ojs_cluster.store.operations.health import Health, check
from ojs_cluster.store.operations.metrics import CachedMetrics
from ojs_cluster.store.operations.overview import Overview, overview

_MIB = 1024 * 1024
_HEALTH_KEPT_S = 0.25
"""Probes need no key: however many come, Redis is asked four times a second."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Settings of the HTTP layer. Sizes are bytes, times are what their suffix says.

    ``max_head`` bounds the request line and the headers together. ``max_body`` bounds every body
    but a batch's. It is above the envelope's own limit of 1 MiB on purpose: an envelope a little
    too large is then read and refused with the reason. ``max_batch_body`` bounds the body of a
    batch of jobs. ``max_bodies`` bounds all large bodies under way together (`room`), and again
    all small ones and heads that are incomplete; a single one always fits.

    ``require_lease`` refuses acks, nacks and heartbeats that name a job without its lease.

    ``metrics_open`` serves ``/metrics`` without a key; ``metrics_queues`` bounds what it shows.
    """

    test_hooks: bool = False
    require_lease: bool = False
    limits: PayloadLimits = field(default_factory=PayloadLimits)
    max_head: int = 64 * 1024
    max_body: int = 2 * _MIB
    max_batch_body: int = 16 * _MIB
    max_bodies: int = 64 * _MIB
    body_timeout_s: float = 30.0
    linger_s: float = 2.0
    health_timeout_s: float = 2.0
    max_wait_ms: int = 20_000
    max_result_wait_s: float = 60.0
    max_fetch_count: int = 100
    metrics_open: bool = False
    metrics_queues: int = 1000
    version: str = __version__


def room_for(settings: HttpSettings) -> Room:
    """Return the room of one process."""
    return Room(max(settings.max_bodies, settings.max_batch_body, settings.max_body))


class RequestSpan(Protocol):
    """The span of one request."""

    async def answer(self, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
        """Do the work and end the span with its outcome."""

    def end(self, status: int) -> None:
        """End the span of a request that was answered with ``status``."""


class Tracing(Protocol):
    """What begins the spans of requests: ``tracing.Tracing``, which loads OpenTelemetry."""

    def begin(self, request: Request, request_id: str, route: Route | None) -> RequestSpan:
        """Begin the span of a request whose head was read; ``route`` is None if none was found."""


@dataclass(frozen=True, slots=True)
class App:
    """One API process: what the handlers work with."""

    store: Store
    settings: HttpSettings
    access: Access
    waiters: Waiters = field(default_factory=Waiters)
    draining: trio.Event = field(default_factory=trio.Event)
    started: float = field(default_factory=time.monotonic)
    traffic: Traffic = field(default_factory=Traffic)
    audit: Audit = field(default_factory=Audit)
    tracing: Tracing | None = None
    """None, and then nothing of OpenTelemetry is loaded, unless traces are sent."""
    collected: CachedMetrics = field(init=False)
    overview: Cached[Overview] = field(init=False)
    health: Cached[Health | None] = field(init=False)
    """None while Redis does not answer within ``health_timeout_s``."""
    shared_room: InitVar[Room | None] = None
    """Where connections count what they have read, too; None for one of its own."""
    room: Room = field(init=False)

    def __post_init__(self, shared_room: Room | None) -> None:
        collected = CachedMetrics(self.store, self.settings.metrics_queues)
        object.__setattr__(self, "collected", collected)
        # Kept so long that it takes a tenth of the time at most, however often it is asked for.
        cached = Cached(lambda: overview(self.store), lambda took_s: 9 * took_s)
        object.__setattr__(self, "overview", cached)
        object.__setattr__(self, "health", Cached(self._ask_redis, lambda _: _HEALTH_KEPT_S))
        object.__setattr__(self, "room", shared_room or room_for(self.settings))

    async def _ask_redis(self) -> Health | None:
        with trio.move_on_after(self.settings.health_timeout_s), suppress(OJSError):
            return await check(self.store)
        return None

    def drain(self) -> None:
        """Begin to shut down: not ready any more, and nobody waits for jobs or results.

        Otherwise a shutdown would last as long as the longest poll.
        """
        self.draining.set()
        self.waiters.drain()
