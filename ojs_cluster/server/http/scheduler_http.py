"""The HTTP service of a scheduler: liveness, readiness and metrics.

A scheduler is ready while Redis answers, whether it leads shards or not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
import trio

from ojs_cluster.core.errors import NotFound, OJSError
from ojs_cluster.http import exposition, metric_families
from ojs_cluster.http.access.audit import Audit
from ojs_cluster.http.access.browsers import check_host
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.common_headers import add_common_headers
from ojs_cluster.http.cors import is_preflight, preflight_response
from ojs_cluster.http.errors import error_response
from ojs_cluster.http.exposition import ClusterExposition
from ojs_cluster.http.hypercorn.asgi import read_head, send_response
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.metric_families import Families, counter, gauge
from ojs_cluster.http.request_ids import request_id_for
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.server.config.load import Settings
from ojs_cluster.server.http.http_server import DrainTimes, hypercorn_config, serve
from ojs_cluster.server.http.listener import open_listener
from ojs_cluster.server.supervision.child_process import StartRefused
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.operations import health
from ojs_cluster.store.operators.operations.metrics import CachedMetrics
from ojs_scheduler.stats import ElectionStats, LoopStats, Stats

_TIMEOUT_S = 2.0
"""Maximum time in seconds to wait for Redis in a readiness or metrics request."""
_METRICS_ROUTE = next(route for route in ROUTES if route.is_scrape)
_DRAIN_TIMES = DrainTimes(delay_s=0.0, grace_s=1.0)
_WEBSOCKET_TRY_AGAIN_LATER = 1013


class SchedulerEntryPoint:
    """The HTTP service of a scheduler; it does not listen if ``scheduler_port`` is 0."""

    def __init__(
        self,
        settings: Settings,
        stats: Stats,
        access: AccessControl,
        audit: Audit,
        traffic: Traffic,
    ) -> None:
        """Prepare the service.

        Args:
            settings: the settings of the process.
            stats: the counters of the scheduler.
            access: the check of API keys for requests of metrics.
            audit: the audit, which records refused requests.
            traffic: the counters of the entries that the audit has written and dropped.
        """
        self._settings = settings
        self._audit = audit
        self._traffic = traffic
        self._access = access
        self._stats = stats
        self._store: Store | None = None
        self._cluster: ClusterExposition | None = None

    def open(self, store: Store) -> None:
        """Use the open store; from now on the scheduler is ready while Redis answers."""
        http = self._settings.http
        collected = CachedMetrics(store, http.metrics_queues, max_tenants=http.metrics_tenants)
        self._cluster = ClusterExposition(store, collected, _TIMEOUT_S)
        self._access.now_s = self._audit.now_s = store.clock.now_s
        self._store = store

    async def serve(
        self, stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until ``stop`` is set.

        Raises:
            StartRefused: the process cannot listen on the port.
        """
        listen = self._settings.listen
        if not listen.scheduler_port:
            task_status.started()
            return
        address = (listen.host, listen.scheduler_port)
        try:
            listener = open_listener(*address, listen.backlog, listen.write_timeout_s)
        except OSError as error:
            raise StartRefused(
                f"the scheduler cannot listen on {address[0]} port {address[1]}: {error.strerror}"
            ) from error
        await serve(
            self._answer,
            hypercorn_config(listen),
            [listener],
            stop=stop,
            times=_DRAIN_TIMES,
            write_timeout_s=listen.write_timeout_s,
            task_status=task_status,
        )

    async def _answer(self, scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": _WEBSOCKET_TRY_AGAIN_LATER})
            return
        request, started_at = read_head(scope), time.perf_counter()
        request_id = request_id_for(request.headers.get("x-request-id"))
        try:
            response = await self._respond(request)
        except OJSError as error:
            response = error_response(error, request_id)
            self._audit.record_refusal(request, request_id, error, response.status)
        origins = self._settings.http.cors_origins
        complete = add_common_headers(
            request, response, request_id, started_at, cors_origins=origins
        )
        await send_response(complete, send)

    async def _respond(self, request: Request) -> Response:
        origins = self._settings.http.cors_origins
        if origins and is_preflight(origins, request):
            return preflight_response(request)
        if request.path in ("/health", "/live", "/healthz"):
            return _json(200, {"status": "ok"})
        if request.path in ("/ready", "/readyz"):
            ready = await self._is_ready()
            return _json(200 if ready else 503, {"status": "ready" if ready else "unavailable"})
        if not self._settings.http.metrics_open:
            principal = self._access.authenticate(request.headers.get("authorization"))
            self._access.authorize(principal, _METRICS_ROUTE)
            if self._access.is_open:
                check_host(request, self._settings.http.allowed_hosts)
        if request.path == "/metrics":
            families = [
                *scheduler_families(self._stats),
                metric_families.audit_family(self._traffic),
            ]
            if self._cluster is None:
                families.append(metric_families.build_info())
            return await exposition.exposition(request, families, self._cluster)
        raise NotFound("endpoint", request.path[:200])

    async def _is_ready(self) -> bool:
        if self._store is None:
            return False
        with trio.move_on_after(_TIMEOUT_S):
            try:
                await health.check(self._store)
            except OJSError:
                return False
            return True
        return False


def scheduler_families(stats: Stats) -> Families:
    """Return the metrics of this scheduler process: its elections and its loops over shards."""
    return [*_election_families(stats.election), *_loop_families(stats.loops)]


def _election_families(election: ElectionStats) -> Families:
    lease_events = (
        ("gained", election.terms),
        ("lost", election.lost),
        ("handed_over", election.handed_over),
    )
    return [
        metric_families.plain_gauge(
            "ojs_scheduler_shards_led",
            "Number of shards that this scheduler process leads",
            len(election.led_shards),
        ),
        metric_families.plain_gauge(
            "ojs_scheduler_shards",
            "Number of shards that all scheduler processes together lead, with the meta tag",
            election.shards,
        ),
        metric_families.plain_gauge(
            "ojs_scheduler_shards_unreachable",
            "Number of shards whose lease this scheduler process could not renew or request",
            len(election.unreachable),
        ),
        counter(
            "ojs_scheduler_leases",
            "Number of shard leases that this scheduler process gained, lost or handed over",
            "event",
            lease_events,
        ),
    ]


def _loop_families(loops: Mapping[str, LoopStats]) -> Families:
    sorted_loops = sorted(loops.items())

    def by_loop(attribute: str) -> list[tuple[str, float]]:
        return [(name, getattr(loop, attribute)) for name, loop in sorted_loops]

    return [
        counter(
            "ojs_scheduler_steps",
            "Number of times that a scheduler loop handled a shard",
            "loop",
            by_loop("steps"),
        ),
        counter(
            "ojs_scheduler_done",
            "Number of jobs or records that a scheduler loop changed",
            "loop",
            by_loop("done"),
        ),
        counter(
            "ojs_scheduler_failures",
            "Number of times that a scheduler loop failed to handle a shard",
            "loop",
            by_loop("failures"),
        ),
        counter(
            "ojs_scheduler_stalled",
            "Number of times that a scheduler loop had work in a shard and changed nothing",
            "loop",
            by_loop("stalled"),
        ),
        counter(
            "ojs_scheduler_quarantined",
            "Number of malformed jobs that a scheduler loop quarantined",
            "loop",
            by_loop("quarantined"),
        ),
        gauge(
            "ojs_scheduler_failing_shards",
            "Number of shards that a scheduler loop fails to handle now",
            "loop",
            [(name, len(loop.failing)) for name, loop in sorted_loops],
        ),
    ]


def _json(status: int, value: dict[str, str]) -> Response:
    return Response(status, orjson.dumps(value))
