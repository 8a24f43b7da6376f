"""Turn a request into a response: check the API key, call the handler, and add the common headers.

An entry point calls ``prepare`` with the request's head, reads at most ``PreparedRequest.max_body``
bytes of body, and calls ``run``. ``dispatch`` calls both for a request whose body is complete. No
request of a client makes these functions raise an exception.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from contextlib import suppress
from math import inf
from typing import Final, Protocol

import msgspec
import trio

from ojs_cluster.core.access.scopes import ANONYMOUS, Principal
from ojs_cluster.core.errors import (
    BackendUnavailable,
    Internal,
    InvalidRequest,
    OJSError,
    PayloadTooLarge,
    Unauthenticated,
)
from ojs_cluster.http import durability
from ojs_cluster.http.admission import Admission, admit
from ojs_cluster.http.app import App, RequestSpan
from ojs_cluster.http.authorization.queue_scope import check_path_access
from ojs_cluster.http.common_headers import add_common_headers
from ojs_cluster.http.errors import (
    BodyTimeout,
    entry_for,
    error_response,
    internal_error_response,
)
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.query import unknown_names
from ojs_cluster.http.request_body.decode import undeclared_json
from ojs_cluster.http.request_ids import request_id_for
from ojs_cluster.http.routes.all_routes import router_for
from ojs_cluster.http.routing.router import Route
from ojs_cluster.redis.acl_errors import AclDenied
from ojs_cluster.redis.client import SentScript
from ojs_cluster.redis.deadline import Deadline, start_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task

log = logging.getLogger("ojs.http")

UNKNOWN_PARAMETERS: Final = "X-OJS-Unknown-Parameters"
"""The response header that names parameters of the query that the route does not know."""
_UNDO_TIMEOUT_S: Final = 10.0
"""Maximum time in seconds to undo what a request did, if its response was not delivered."""
_MAX_OPEN_BODY: Final = 1024
"""Largest body, in bytes, of a route that needs no API key. Some clients send ``{}``."""


class PreparedRequest(msgspec.Struct, frozen=True):
    """What is known about a request once its head is read.

    Attributes:
        request_id: the request's id.
        route: the request's route; None if the request is refused.
        params: the parameters in the request's path.
        max_body: the largest body that the route accepts, in bytes; 0 if the request is refused.
        refusal: the response to a request that is refused because of its head. An entry point sends
            this response without reading the body. None if the request is not refused.
        began: when the request began, in seconds of ``time.perf_counter``.
        app: the state of the process, which counts and audits the response.
        span: the span of the request; None if traces are not sent.
        principal: the client's API key.
        tenant: the tenant of the request, None for all.
        admission: the admission of the request, which the entry point may pass to ``prepare`` with
            the next request that has the same head; None if the request is refused.
        forbids_body: see ``Admission``.
    """

    request_id: str
    route: Route | None
    params: tuple[str, ...]
    max_body: int
    refusal: Response | None
    began: float
    app: App
    span: RequestSpan | None = None
    principal: Principal = ANONYMOUS
    tenant: str | None = None
    admission: Admission | None = None
    forbids_body: bool = False


def prepare(
    app: App, request: Request, *, tentative: bool = False, cached: Admission | None = None
) -> PreparedRequest:
    """Find the route and the principal of a request, or refuse it, before its body is read.

    Args:
        app: the state of the process.
        request: the request; its body is not used.
        tentative: whether the fast lane asks before the body has arrived. It leaves a refused
            request to the hypercorn entry. So the refusal is not counted and not logged here, and
            the result has no route and no refusal.
        cached: the admission of an earlier request with the same head.
    """
    began = time.perf_counter()
    request_id = request_id_for(request.headers.get("x-request-id"))
    try:
        if cached is None or cached.keyring is not app.access.keyring:
            cached = admit(app, request)
    except OJSError as error:
        if tentative:
            return PreparedRequest(request_id, None, (), 0, None, began, app)
        _audit_refusal(app, request, request_id, error)
        response = error_response(error, request_id)
        refusal = add_common_headers(request, response, request_id, began, app)
        app.traffic.count(None, refusal.status, time.perf_counter() - began)
        if app.tracing is not None:
            app.tracing.begin(request, request_id, None).end(refusal.status)
        return PreparedRequest(request_id, None, (), 0, refusal, began, app)
    route, params, principal = cached.route, cached.params, cached.principal
    limits = app.settings.bodies
    max_body = limits.max_batch_bytes if route.batch else limits.max_bytes
    if route.open:
        max_body = min(max_body, _MAX_OPEN_BODY)
    span = None if app.tracing is None else app.tracing.begin(request, request_id, route)
    return PreparedRequest(
        request_id,
        route,
        params,
        max_body,
        None,
        began,
        app,
        span,
        principal,
        cached.tenant,
        cached,
        cached.forbids_body,
    )


class SentRequest(Protocol):
    """A request whose first call to Redis is sent before the dispatcher runs its handler."""

    @property
    def call(self) -> SentScript:
        """The call."""

    def resume(self, app: App, request: Request) -> Awaitable[Response]:
        """Answer the request, beginning with the reply to the call."""


async def run(
    app: App,
    prepared: PreparedRequest,
    request: Request,
    deadline: Deadline | None = None,
    sent: SentRequest | None = None,
) -> Response:
    """Answer a request whose body is complete. May run as a driven coroutine.

    Args:
        app: the state of the process.
        prepared: what ``prepare`` returned for the request.
        request: the request with its body.
        deadline: the ``Deadline`` of a task that serves several requests in turn; None to start
            one.
        sent: resumes the request, if its first call is sent already.

    Raises:
        trio.Cancelled: the caller is cancelled. There are no other exceptions.
    """
    span = prepared.span
    if span is not None:
        await ensure_task()  # a request with a span does not run as a driven coroutine
        span.start_work()
    if prepared.refusal is not None or prepared.route is None:
        return prepared.refusal or refusal_response(
            request, prepared, Internal("a prepared request without a route")
        )
    if len(request.body) > prepared.max_body:
        return refusal_response(request, prepared, body_too_large(prepared))
    if prepared.forbids_body and request.body:
        return refusal_response(request, prepared, undeclared_json(request))
    unknown = unknown_names(request.query, prepared.route.query_names) if request.query else ""
    # Without the parameter that was meant, such a request may change far too many jobs.
    if unknown and prepared.route.query_names and prepared.route.method != "GET":
        error = InvalidRequest(f"the query has unknown parameters: {unknown}", field="query")
        return refusal_response(request, prepared, error)
    deadline = start_deadline() if deadline is None else deadline
    deadline.at = app.store.redis.new_deadline(None if sent is None else sent.call)
    try:
        queues, tenant = prepared.principal.queues, prepared.tenant
        if queues is not None or tenant is not None:
            request = msgspec.structs.replace(request, queues=queues, tenant=tenant)
            await check_path_access(app, prepared.route, request, prepared.params)
        # Empty unless maintenance mode is on, so this costs other requests next to nothing.
        if app.maintenance.refused and sent is None:
            app.maintenance.check(prepared.route.request_class)
        if sent is None:
            work = durability.call_handler(app, prepared.route, request, prepared.params)
        else:
            work = sent.resume(app, request)
        response = await work
    except OJSError as error:
        response = error_response(error, prepared.request_id)
    except Exception as error:
        response = _response_to_exception(error, request, prepared.request_id)
    except BaseException:
        if span is not None:
            span.interrupt()
        if prepared.route.action:
            app.audit.record_interruption(
                request, prepared.request_id, prepared.route, prepared.params, prepared.principal
            )
        raise
    finally:
        deadline.at = inf
    if span is not None:
        span.record_jobs(request, response)
    if unknown:
        headers = (*response.headers, (UNKNOWN_PARAMETERS, unknown))
        response = msgspec.structs.replace(response, headers=headers)
    return _complete(request, response, prepared)


def refusal_response(request: Request, prepared: PreparedRequest, error: OJSError) -> Response:
    """Return the complete response to a request that fails before its handler is called."""
    return _complete(request, error_response(error, prepared.request_id), prepared)


def body_too_large(prepared: PreparedRequest) -> PayloadTooLarge:
    """Return the error for a body of more than ``prepared.max_body`` bytes."""
    return PayloadTooLarge(
        f"the body is larger than {prepared.max_body} bytes", field="body", limit=prepared.max_body
    )


def body_timeout(timeout_s: float) -> BodyTimeout:
    """Return the error for a body that did not arrive within ``timeout_s`` seconds."""
    return BodyTimeout(f"the body did not arrive within {timeout_s:g} s", field="body")


async def undo_undelivered(response: Response) -> None:
    """Undo what a request did whose client did not get the response, even during cancellation."""
    if response.undo is not None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_TIMEOUT_S):
            await response.undo()


def _complete(request: Request, response: Response, prepared: PreparedRequest) -> Response:
    """Count and record a response, and return it with the common headers."""
    app, route = prepared.app, prepared.route
    app.traffic.count(route, response.status, time.perf_counter() - prepared.began)
    if prepared.span is not None:
        prepared.span.end(response.status)
    if route is not None and route.action and response.audited:
        app.audit.record_response(
            request, prepared.request_id, route, prepared.params, prepared.principal, response
        )
    return add_common_headers(
        request, response, prepared.request_id, prepared.began, app, prepared.principal.name
    )


def _audit_refusal(app: App, request: Request, request_id: str, error: OJSError) -> None:
    """Record a refused request in the audit.

    ``admit`` has found the route and the principal already, but does not return them with an
    error: that would cost time for every request. So this function finds them a second time.
    """
    route: Route | None = None
    params: tuple[str, ...] = ()
    principal: Principal | None = None
    if not isinstance(error, Unauthenticated):
        with suppress(OJSError):
            headers = request.headers
            principal = app.access.authenticate(headers.get("authorization"), request.tls_subject)
            route, params = router_for(app.settings.test_hooks).match(request.method, request.path)
    app.audit.record_refusal(
        request,
        request_id,
        error,
        entry_for(error).status,
        route=route,
        params=params,
        principal=principal,
    )


def _response_to_exception(error: Exception, request: Request, request_id: str) -> Response:
    denied = _denial(error)
    if denied is not None:
        # An operator mends this, and the request succeeds later. The traceback would say nothing.
        log.error(
            "%s %s failed: %s",
            request.method,
            request.path,
            denied,
            extra={"request_id": request_id},
        )
        unavailable = BackendUnavailable(
            "Redis refuses the server a command; the server's log names the missing right",
            outcome="unknown",  # a script may have written before
        )
        return error_response(unavailable, request_id)
    if isinstance(error, ExceptionGroup):
        known, unknown = error.split(OJSError)
        if known is not None and unknown is None:
            return error_response(_first_leaf(known), request_id)
    log.error(
        "%s %s failed",
        request.method,
        request.path,
        exc_info=error,
        extra={"request_id": request_id},
    )
    return internal_error_response(request_id)


def _denial(error: Exception) -> AclDenied | None:
    """Return the right that the Redis user lacks; None if that is not the error."""
    if isinstance(error, ExceptionGroup):
        return next(filter(None, map(_denial, error.exceptions)), None)
    return error if isinstance(error, AclDenied) else None


def _first_leaf(group: ExceptionGroup[OJSError]) -> OJSError:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, ExceptionGroup) else first
