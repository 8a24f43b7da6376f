"""The state of an API process that handlers use: the store, the settings, and the drain."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import Protocol

import trio

from ojs_cluster.core.config.variable import ShownVariable
from ojs_cluster.core.errors import OJSError
from ojs_cluster.http.access.audit import Audit
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.blocking import BlockedRequests
from ojs_cluster.http.exposition import ClusterExposition
from ojs_cluster.http.maintenance import MaintenanceFlag
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.problems import Found
from ojs_cluster.http.push_state import PushState
from ojs_cluster.http.request_body.memory import BodyMemoryBudget
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.long_poll import Waiters
from ojs_cluster.store.ground.cached import Cached
from ojs_cluster.store.operators.operations.health import Health, check
from ojs_cluster.store.operators.operations.metrics import CachedMetrics
from ojs_cluster.store.operators.operations.overview import Overview, cached_overview
from ojs_cluster.webhooks.client import WebhookClient

_HEALTH_CACHED_S = 0.25
"""How long the result of a health check is reused, in seconds.

Health checks need no API key. So this limits the load that clients can cause: a process sends Redis
at most four health checks per second.
"""
_WEBHOOK_TESTS = 8
"""Maximum number of concurrent test deliveries of a process."""


def body_memory_budget_for(settings: HttpSettings) -> BodyMemoryBudget:
    """Return the body memory budget of one process. Any single body fits into the budget."""
    bodies = settings.bodies
    return BodyMemoryBudget(max(bodies.total_bytes, bodies.max_batch_bytes, bodies.max_bytes))


class RequestSpan(Protocol):
    """The span of one request."""

    def start_work(self) -> None:
        """Mark the start of the handler."""

    def record_jobs(self, request: Request, response: Response) -> None:
        """Record on the span what the request did to jobs."""

    def interrupt(self) -> None:
        """End the span of a request that was cancelled."""

    def end(self, status: int) -> None:
        """End the span of a request that got a response with ``status``."""


class Tracing(Protocol):
    """Begins the spans of requests. ``tracing.request_spans`` implements it with OpenTelemetry."""

    def begin(self, request: Request, request_id: str, route: Route | None) -> RequestSpan:
        """Begin the span of a request whose head is read; ``route`` is None if it was refused."""


@dataclass(frozen=True, slots=True)
class App:
    """The state of one API process."""

    store: Store
    settings: HttpSettings
    access: AccessControl
    waiters: Waiters = field(default_factory=Waiters)
    draining: trio.Event = field(default_factory=trio.Event)
    started: float = field(default_factory=time.monotonic)
    """When the process started, in seconds of the monotonic clock."""
    traffic: Traffic = field(default_factory=Traffic)
    audit: Audit = field(default_factory=Audit)
    maintenance: MaintenanceFlag = field(default_factory=MaintenanceFlag)
    configuration: tuple[ShownVariable, ...] = ()
    """The variables of the server, for operators."""
    tracing: Tracing | None = None
    """None if no traces are sent. The process then does not load OpenTelemetry."""
    find_problems: Callable[[App], Awaitable[Found]] | None = None
    """Finds the problems of the cluster: ``ui.problems.for_api``."""
    cached_metrics: CachedMetrics = field(init=False)
    cluster_exposition: ClusterExposition = field(init=False)
    brief_metrics: CachedMetrics = field(init=False)
    """What the dashboard finds problems by."""
    overview: Cached[Overview] = field(init=False)
    health: Cached[Health | None] = field(init=False)
    """Its value is None while Redis does not answer within ``health_timeout_s``."""
    push: PushState = field(init=False)
    """The event streams of the process."""
    webhook_client: WebhookClient = field(init=False)
    """Sends test deliveries; the scheduler sends the others."""
    webhook_tests: trio.CapacityLimiter = field(
        default_factory=partial(trio.CapacityLimiter, _WEBHOOK_TESTS)
    )
    shared_body_memory: InitVar[BodyMemoryBudget | None] = None
    """The budget that this app shares with hypercorn's connections; None creates a budget."""
    body_memory: BodyMemoryBudget = field(init=False)
    blocked: BlockedRequests = field(init=False)

    def __post_init__(self, shared_body_memory: BodyMemoryBudget | None) -> None:
        object.__setattr__(self, "push", PushState(self.settings))
        self.access.now_s = self.audit.now_s = self.store.clock.now_s
        self.maintenance.on_fetches_refused = self.waiters.wake_all
        cached_metrics = CachedMetrics(
            self.store, self.settings.metrics_queues, max_tenants=self.settings.metrics_tenants
        )
        object.__setattr__(self, "cached_metrics", cached_metrics)
        exposed = ClusterExposition(self.store, cached_metrics, self.settings.health_timeout_s)
        object.__setattr__(self, "cluster_exposition", exposed)
        brief_metrics = CachedMetrics(self.store, self.settings.metrics_queues, brief=True)
        object.__setattr__(self, "brief_metrics", brief_metrics)
        object.__setattr__(self, "overview", cached_overview(self.store))
        client = WebhookClient(self.store.settings.webhooks)
        object.__setattr__(self, "webhook_client", client)
        health = Cached(self._check_redis, lambda _value, _took_s: _HEALTH_CACHED_S)
        object.__setattr__(self, "health", health)
        object.__setattr__(
            self, "body_memory", shared_body_memory or body_memory_budget_for(self.settings)
        )
        blocked = BlockedRequests(self.store, self.body_memory, self.maintenance, self.draining)
        object.__setattr__(self, "blocked", blocked)

    async def _check_redis(self) -> Health | None:
        with trio.move_on_after(self.settings.health_timeout_s), suppress(OJSError):
            return await check(self.store)
        return None

    def drain(self) -> None:
        """Begin to shut down: report not ready, and end all waits for jobs, results and events.

        Without this, a shutdown would last as long as the longest poll.
        """
        self.draining.set()
        self.waiters.drain()
        self.push.hub.drain()
