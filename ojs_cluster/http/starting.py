"""Responses of a process that has not connected to Redis yet.

Such a process accepts connections already, because a liveness probe must not depend on Redis.
"""

from __future__ import annotations

import time

import orjson

from ojs_cluster import __version__
from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.http.common_headers import add_common_headers
from ojs_cluster.http.cors import is_preflight, preflight_response
from ojs_cluster.http.errors import error_response
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_ids import request_id_for


def starting_response(request: Request, cors_origins: tuple[str, ...] = ()) -> Response:
    """Return 200 for a liveness probe and for ``/health``, otherwise 503.

    Args:
        request: the request.
        cors_origins: the origins whose pages may read the response (``cors``). Their preflights
            are allowed, so that the page can read the 503 of its request.
    """
    request_id = request_id_for(request.headers.get("x-request-id"))
    backend = {"type": "redis", "status": "unhealthy"}
    path = request.path
    if cors_origins and is_preflight(cors_origins, request):
        response = preflight_response(request)
    elif path in ("/health", "/ojs/v1/health"):
        health = {"status": "degraded", "version": __version__, "backend": backend}
        response = Response(200 if path == "/health" else 503, orjson.dumps(health))
    elif path in ("/live", "/healthz"):
        response = Response(200, orjson.dumps({"status": "ok"}))
    elif path in ("/ready", "/readyz"):
        response = Response(503, orjson.dumps({"status": "starting", "backend": backend}))
    else:
        error = BackendUnavailable("the server has not reached Redis yet", outcome="not_applied")
        response = error_response(error, request_id)
    return add_common_headers(
        request, response, request_id, time.perf_counter(), cors_origins=cors_origins
    )
