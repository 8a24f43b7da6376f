"""Return the manifest and the health of the server (spec: ojs-http-binding 8, 21)."""

from __future__ import annotations

import math
import time

from ojs_cluster.core.search_fields import STARTS
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes import system as shapes

HOMEPAGE = "https://openjobspec.org"

# The capabilities of the OpenAPI document, then those of other documents and clients. Clients check
# a capability before they use a feature.
CAPABILITIES = {
    "batch_enqueue": True,
    "cron": True,  # the name that the admin UI looks for
    "cron_jobs": True,
    "dead_letter": True,
    "delayed_jobs": True,
    "job_ttl": True,
    "priority_queues": True,
    "rate_limiting": True,
    "schema_validation": True,
    "unique_jobs": True,
    "workflows": True,
    "pause_resume": True,
    "retry_policies": True,
    "visibility_timeout": True,
    "events": True,
    "realtime": True,  # server-sent events and WebSockets (spec: ojs-realtime)
    "bulk_actions": True,  # cancel, retry, delete, purge, priority; not the bulk enqueue
    "maintenance_mode": True,
    "progress": True,
    "webhooks": True,
    "checkpoints": True,
    "backpressure": True,
    "fair_scheduling": True,
    "agents": True,  # pause, resume, fork, merge, tool-retry; no replay
}


# Extensions of which every MUST is implemented.
EXTENSIONS: list[shapes.ManifestExtension] = [
    {"name": "admin-api", "uri": "urn:ojs:ext:admin-api", "version": "1.0.0"},
    {"name": "backpressure", "uri": "urn:ojs:ext:backpressure", "version": "1.0.0"},
]


async def manifest(app: App, request: Request) -> Response:
    """Return the manifest.

    ``extensions`` has two forms. The schema of the manifest recommends the object with URIs and
    versions, and the HTTP binding has an array of names. The SDKs, which send ``OJS-Version``,
    decode the array.

    (spec: ojs-http-binding 21.1)
    """
    settings = app.settings
    extensions: shapes.ManifestExtensions | list[str]
    extensions = {"official": EXTENSIONS, "experimental": []}
    if request.names_version:
        extensions = [extension["name"] for extension in EXTENSIONS]
    members: shapes.Manifest = {
        "specversion": "1.0",
        "ojs_version": "1.0",
        "implementation": {
            "name": "ojs-cluster",
            "version": settings.version,
            "language": "python",
            "homepage": HOMEPAGE,
        },
        "conformance_level": 4,
        "conformance_tier": "runtime",
        "protocols": ["http"],
        "backend": "redis",
        "capabilities": CAPABILITIES,
        "unique_job_strength": "strong",
        "search_fields": STARTS,
        "extensions": extensions,
        "endpoints": {
            "base_url": "/ojs/v1",
            "manifest": "/ojs/manifest",
            "health": "/ojs/v1/health",
        },
        **_maintenance(app),
    }
    return replies.json_response(200, members)


async def health(app: App, _request: Request) -> Response:
    """Return the health of the process and of Redis; 503 while no master of Redis responds.

    (spec: ojs-http-binding 8.1)
    """
    backend, usable = await _backend(app)
    return _health(app, backend, usable, 200 if usable else 503)


async def alive(app: App, _request: Request) -> Response:
    """Return the same body as ``health``, but always with 200.

    Some operators use this path for liveness probes. If the probe failed while Redis does not
    respond, every API process would be restarted, which does not help. The response may take
    ``health_timeout_s``; the response of ``/live`` never waits for Redis.
    """
    backend, usable = await _backend(app)
    return _health(app, backend, usable, 200)


async def live(_app: App, _request: Request) -> Response:
    """Return 200 without a call of Redis, for liveness probes."""
    return replies.json_response(200, shapes.Alive(status="ok"))


async def ready(app: App, _request: Request) -> Response:
    """Return 200 if the process can serve requests: it does not drain, and Redis responds.

    It is enough if one master of Redis responds. Requests for the shards of masters that do not
    respond get 503, and all other requests are served.
    """
    if app.draining.is_set():
        return replies.json_response(503, shapes.Ready(status="draining"))
    backend, usable = await _backend(app)
    found = shapes.Ready(status="ready" if usable else "unavailable", backend=backend)
    return replies.json_response(200 if usable else 503, found)


async def _backend(app: App) -> tuple[shapes.BackendHealth, bool]:
    """Return the member ``backend`` of the responses, and whether a master of Redis responds."""
    redis_health = await app.health.get()
    if redis_health is None:
        return {"type": "redis", "status": "unhealthy"}, False
    backend: shapes.BackendHealth = {
        "type": "redis",
        "status": "ok" if redis_health.covered else "degraded",
        # The Go SDK cannot decode a fraction. The number is rounded up, so it is never 0.
        "latency_ms": math.ceil(redis_health.latency_ms),
    }
    return backend, True


def _health(app: App, backend: shapes.BackendHealth, usable: bool, status: int) -> Response:
    members: shapes.HealthAnswer = {
        "status": "ok" if usable and backend["status"] == "ok" else "degraded",
        "version": app.settings.version,
        "uptime_seconds": int(time.monotonic() - app.started),
        "backend": backend,
        **_maintenance(app),
    }
    return replies.json_response(status, members)


def _maintenance(app: App) -> shapes.InMaintenance:
    """Return the member ``maintenance`` while maintenance mode is on."""
    current = app.maintenance.current
    # The reason is for operators only, and these responses need no API key. So it is left out.
    return {} if current is None else {"maintenance": {"refused": sorted(current.refused)}}
