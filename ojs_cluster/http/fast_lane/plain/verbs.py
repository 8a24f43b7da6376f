"""Serve plain enqueues, fetches and acks with two functions each, and without a coroutine.

``begin`` turns the body of a request into the command for Redis. ``page`` turns the reply into the
bytes of the response. Both fill templates, which the readable path renders: a template is what the
handlers, the store and the dispatcher produce for a sample, with its values replaced by gaps. So
there is no second description of commands and responses (docs/adr/065).

``PlainVerbs.of`` decides by the head of a request whether it may be plain, and ``begin`` by its
body and by the caches of the process. Every other request takes the readable path from its start.
If the reply is not that of a plain job, the readable path resumes the request with this reply.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from ojs_cluster.http.admission import Admission
from ojs_cluster.http.app import App
from ojs_cluster.http.fast_lane.plain.ack import PlainAck
from ojs_cluster.http.fast_lane.plain.enqueue import PlainEnqueue
from ojs_cluster.http.fast_lane.plain.fetch import PlainFetch
from ojs_cluster.http.fast_lane.plain.templates import Templates
from ojs_cluster.http.fast_lane.plain.verb import PlainVerb
from ojs_cluster.http.handlers import jobs
from ojs_cluster.http.handlers.workers import fetch, settle
from ojs_cluster.http.messages import Request
from ojs_cluster.http.request_body.decode import is_json

log = logging.getLogger("ojs.http")

MAX_BODY: Final = 4096
"""Maximum size of a plain body in bytes."""
_HEADERS: Final = frozenset(
    {
        *("host", "user-agent", "accept", "accept-encoding", "accept-language", "connection"),
        *("authorization", "content-type", "content-length", "ojs-version"),
    }
)
"""The headers of plain requests. None of them changes what a handler does."""
_VERBS: Final[dict[Any, type[PlainVerb]]] = {
    jobs.enqueue: PlainEnqueue,
    fetch.fetch: PlainFetch,
    settle.ack: PlainAck,
}


class PlainVerbs:
    """The decision about heads, and the templates of one process."""

    def __init__(self, app: App) -> None:
        """Create no templates yet."""
        self.app = app
        settings = app.settings
        self.max_body = min(MAX_BODY, settings.limits.envelope_bytes, settings.bodies.max_bytes)
        self._templates = Templates(app)
        self._possible = not (
            settings.cors_origins
            or app.tracing is not None
            or app.store.settings.search_index
            or app.store.settings.max_queue_depth
            or app.store.redis.durability
        )

    def of(
        self, request: Request, admission: Admission, *, closes: bool = False, repeats: bool = False
    ) -> PlainVerb | None:
        """Return the verb of the requests with the head of this one; None if they are not plain.

        Args:
            request: the request.
            admission: the admission of its head.
            closes: as ``RequestHead.closes``.
            repeats: as ``RequestHead.repeats``.
        """
        route = admission.route
        verb = _VERBS.get(route.handler)
        if (
            verb is None
            or not (self._possible and route.fast)
            or route.action
            or not admission.cacheable
            or repeats
            or request.query
            or not _HEADERS.issuperset(request.headers)
            or not is_json(request.headers.get("content-type", ""))
            or admission.principal.queues is not None
            or admission.tenant is not None
            or admission.forbids_body
        ):
            return None
        sample = Request(request.method, request.path, "", request.headers)
        return verb(self._templates, sample, admission, closes=closes)

    def serves(self, verb: PlainVerb) -> bool:
        """Return whether the process may serve a plain request now."""
        app = self.app
        return (
            verb.admission.keyring is app.access.keyring
            and not app.maintenance.refused
            and not log.isEnabledFor(logging.DEBUG)  # add_common_headers writes the line
        )
