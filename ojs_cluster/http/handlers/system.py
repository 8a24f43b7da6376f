"""What the server is and how it is (spec: ojs-http-binding 8, 21; ojs-conformance)."""

from __future__ import annotations

import time
from typing import Any

from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response

HOMEPAGE = "https://openjobspec.org"

# What a client may rely on. The first eleven are those of the OpenAPI document; false is an
# honest answer, and clients look here before they try.
CAPABILITIES = {
    "batch_enqueue": True,
    "cron_jobs": True,
    "dead_letter": True,
    "delayed_jobs": True,
    "job_ttl": True,
    "priority_queues": True,
    "rate_limiting": True,
    "schema_validation": False,
    "unique_jobs": True,
    "workflows": True,
    "pause_resume": True,
    "retry_policies": True,
    "visibility_timeout": True,
    "events": True,
    "progress": False,
    "checkpoints": False,
    "backpressure": False,
}


# Those whose every MUST holds.
EXTENSIONS = [{"name": "admin-api", "uri": "urn:ojs:ext:admin-api", "version": "1.0.0"}]


async def manifest(app: App, _request: Request) -> Response:
    """GET /ojs/manifest"""
    settings = app.settings
    return replies.json_response(
        200,
        {
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
            "extensions": {"official": EXTENSIONS, "experimental": []},
            "endpoints": {
                "base_url": "/ojs/v1",
                "manifest": "/ojs/manifest",
                "health": "/ojs/v1/health",
            },
        },
    )


async def health(app: App, _request: Request) -> Response:
    """GET /ojs/v1/health: 503 while no master of Redis answers."""
    backend, usable = await _backend(app)
    return _health(app, backend, usable, 200 if usable else 503)


async def alive(app: App, _request: Request) -> Response:
    """GET /health: 200 as long as the process answers, with the same body.

    A probe that failed with Redis would restart every API process at the moment when they have
    nothing to do but wait. It still takes as long as Redis does, up to the health timeout: `/live`
    does not.
    """
    backend, usable = await _backend(app)
    return _health(app, backend, usable, 200)


async def live(_app: App, _request: Request) -> Response:
    """GET /live: 200 from a process that answers; for liveness probes, Redis is not even asked."""
    return replies.json_response(200, {"status": "ok"})


async def ready(app: App, _request: Request) -> Response:
    """GET /ready: 200 when requests can be served: not draining, and a master of Redis answers.

    One master that is away takes no process out of service: its shards answer 503, and all others
    are served.
    """
    if app.draining.is_set():
        return replies.json_response(503, {"status": "draining"})
    backend, usable = await _backend(app)
    status = "ready" if usable else "unavailable"
    return replies.json_response(200 if usable else 503, {"status": status, "backend": backend})


async def _backend(app: App) -> tuple[dict[str, Any], bool]:
    found = await app.health.get()
    if found is None:
        return {"type": "redis", "status": "unhealthy"}, False
    backend = {
        "type": "redis",
        "status": "ok" if found.covered else "degraded",
        "latency_ms": found.latency_ms,
    }
    return backend, True


def _health(app: App, backend: dict[str, Any], usable: bool, status: int) -> Response:
    return replies.json_response(
        status,
        {
            "status": "ok" if usable and backend["status"] == "ok" else "degraded",
            "version": app.settings.version,
            "uptime_seconds": int(time.monotonic() - app.started),
            "backend": backend,
        },
    )
