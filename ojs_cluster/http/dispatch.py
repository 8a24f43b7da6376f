"""Turn a request into a response: check the API key, call the handler, and add the common headers.

An entry point calls ``prepare`` with the request's head, reads at most ``PreparedRequest.max_body``
bytes of body, and calls ``run``. ``dispatch`` calls both for a request whose body is complete. No
request of a client makes these functions raise an exception.
"""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress
from functools import cache
from math import inf
from typing import Final

import msgspec
import trio

from ojs_cluster.core.access.scopes import ANONYMOUS, Keyring, Principal
from ojs_cluster.core.errors import (
    HeaderTooLarge,
    Internal,
    OJSError,
    PayloadTooLarge,
    Unauthenticated,
    Unsupported,
)
from ojs_cluster.http import durability
from ojs_cluster.http.access.authentication import AccessControl
from ojs_cluster.http.access.queue_scope import check_path_access
from ojs_cluster.http.app import App, RequestSpan
from ojs_cluster.http.cors import PREFLIGHT, cors_headers, is_preflight
from ojs_cluster.http.errors import (
    AmbiguousLength,
    BodyTimeout,
    entry_for,
    error_response,
    internal_error_response,
)
from ojs_cluster.http.messages import Headers, Request, Response
from ojs_cluster.http.request_ids import new_request_id
from ojs_cluster.http.router import Route
from ojs_cluster.http.routes import ROUTES, router_for
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.redis.deadline import Deadline, start_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task

log = logging.getLogger("ojs.http")

MEDIA_TYPE: Final = "application/openjobspec+json"
OJS_VERSION: Final = "1.0"

_BARE: Final[Headers] = (("Content-Type", MEDIA_TYPE), ("OJS-Version", OJS_VERSION))
# The Python SDK reads a body only if its type contains "application/json". The conformance suites
# compare the type exactly. So clients that are SDKs get a type of their own. SDKs send the header
# OJS-Version, or "Accept: */*" when the user gave them an HTTP client. The suites send neither.
_FOR_SDKS: Final[Headers] = (
    ("Content-Type", f'{MEDIA_TYPE}; alt="application/json"'),
    ("OJS-Version", OJS_VERSION),
)
COMMON_HEADERS: Final = (_BARE, _FOR_SDKS)
"""The first headers of nearly every response, in both variants."""
_UNDO_TIMEOUT_S: Final = 10.0
"""Maximum time in seconds to undo what a request did, if its response was not delivered."""
_HEADER_OVERHEAD: Final = 4  # colon, space and line end, in bytes
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?")
_MAX_OPEN_BODY: Final = 1024
"""Largest body, in bytes, of a route that needs no API key. Some clients send ``{}``."""
_SUPPORTED_VERSIONS: Final = re.compile(r"1(?:\.[0-9A-Za-z.+-]{1,50})?")


class Admission(msgspec.Struct, frozen=True):
    """The decisions that depend on the head of a request alone: its route and its principal.

    An admission is valid for every request with the same head, until the process replaces
    ``keyring``.
    """

    route: Route
    params: tuple[str, ...]
    principal: Principal
    keyring: Keyring

    @property
    def cacheable(self) -> bool:
        """Whether later requests with the same head may use this admission.

        They may not if the API key has a request rate, because each request is counted, or if the
        API key expires.
        """
        principal = self.principal
        return principal.requests_per_second is None and principal.expires_at_s is None


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
        admission: the admission of the request, which the entry point may pass to ``prepare`` with
            the next request that has the same head; None if the request is refused.
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
    admission: Admission | None = None


def request_id_for(given: str | None) -> str:
    """Return the id that the client has ``given``, or a new id if the given one is not valid.

    A valid id has 1 to 200 printable ASCII characters. Other characters could split headers or log
    lines.
    """
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return new_request_id()


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
    settings = app.settings
    try:
        if cached is None or cached.keyring is not app.access.keyring:
            cached = _admit(app, request)
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
    max_body = settings.max_batch_body if route.batch else settings.max_body
    if route.open:
        max_body = min(max_body, _MAX_OPEN_BODY)
    span = None if app.tracing is None else app.tracing.begin(request, request_id, route)
    return PreparedRequest(
        request_id, route, params, max_body, None, began, app, span, principal, cached
    )


async def run(
    app: App, prepared: PreparedRequest, request: Request, deadline: Deadline | None = None
) -> Response:
    """Answer a request whose body is complete. May run as a driven coroutine.

    Args:
        app: the state of the process.
        prepared: what ``prepare`` returned for the request.
        request: the request with its body.
        deadline: the ``Deadline`` of a task that serves several requests in turn; None to start
            one.

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
    deadline = start_deadline() if deadline is None else deadline
    deadline.at = app.store.redis.new_deadline()
    try:
        queues = prepared.principal.queues
        if queues is not None:
            await check_path_access(app, prepared.route, queues, prepared.params)
            request = msgspec.structs.replace(request, queues=queues)
        # Empty unless maintenance mode is on, so this costs other requests next to nothing.
        if app.maintenance.refused:
            app.maintenance.check(prepared.route.request_class)
        response = await durability.call_handler(app, prepared.route, request, prepared.params)
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
    return _complete(request, response, prepared)


async def dispatch(app: App, request: Request) -> Response:
    """Answer a complete request."""
    return await run(app, prepare(app, request), request)


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


def add_common_headers(
    request: Request,
    response: Response,
    request_id: str,
    began: float,
    app: App | None = None,
    principal: str | None = None,
    cors_origins: tuple[str, ...] = (),
) -> Response:
    """Return the response with the headers that every response has, adapted to HEAD and 204.

    Every response passes through here, so this function writes the access log line.

    Args:
        request: the request.
        response: its response. If its first header is Content-Type, it replaces the common one.
        request_id: the request's id.
        began: when the request began, in seconds of the performance counter.
        app: the process; without it the log line has the address of the peer.
        principal: the name of the client's API key, for the log line.
        cors_origins: the allowed origins of pages, for responses without ``app``.
    """
    if log.isEnabledFor(logging.DEBUG):
        extra = {
            "request_id": request_id,
            "status": response.status,
            "ms": round((time.perf_counter() - began) * 1000, 3),
            "principal": principal,
            "address": request.peer if app is None else app.audit.client_of(request),
        }
        log.debug("%s %s %d", request.method, request.path, response.status, extra=extra)
    given = request.headers
    common = _FOR_SDKS if "ojs-version" in given or given.get("accept") == "*/*" else _BARE
    if response.headers and response.headers[0][0] == "Content-Type":
        common = common[1:]
    headers: Headers = (*common, ("X-Request-Id", request_id), *response.headers)
    origins = cors_origins if app is None else app.settings.cors_origins
    if origins:
        headers = (*headers, *cors_headers(origins, request))
    body = response.body
    if request.method == "HEAD":
        headers = (*headers, ("Content-Length", str(len(body))))
        body = b""
    elif response.status == 204:
        headers = headers[1:]
    return Response(response.status, body, headers, response.undo, stream=response.stream)


def passes_api_key_check(
    settings: HttpSettings,
    access: AccessControl,
    path: bytes,
    authorization: bytes | None,
    tls_subject: str = "",
    preflight_origin: bytes | None = None,
) -> bool:
    """Return whether a request for the raw ``path`` would pass the check of its API key.

    An entry point calls this function before it spends memory on a request. ``prepare`` checks the
    API key again, and its result counts.

    Args:
        settings: the settings of the process.
        access: the API keys of the process.
        path: the raw path with its query.
        authorization: the header ``Authorization``; None if the request has none.
        tls_subject: the subject of the client's certificate; empty for none.
        preflight_origin: the origin of a request that may be a preflight; None for others.
    """
    if preflight_origin and preflight_origin.decode("latin-1") in settings.cors_origins:
        return True
    if path.partition(b"?")[0].decode("latin-1") in _open_paths(settings):
        return True
    try:
        header = None if authorization is None else authorization.decode("latin-1")
        access.authenticate(header, tls_subject)
    except OJSError:
        return False
    return True


@cache
def _open_paths(settings: HttpSettings) -> frozenset[str]:
    return frozenset(
        route.template
        for route in ROUTES
        if route.open or (route.is_scrape and settings.metrics_open)
    )


def _admit(app: App, request: Request) -> Admission:
    settings, keyring = app.settings, app.access.keyring
    if "transfer-encoding" in request.headers and "content-length" in request.headers:
        # A proxy may have used one header to find the end of the request, and this server would use
        # the other (request smuggling). RFC 9112 6.3 allows to reject such a request. The server
        # does so before it checks the API key.
        raise AmbiguousLength(
            "the request has both Content-Length and Transfer-Encoding",
            field="headers.transfer-encoding",
        )
    size = len(request.path) + len(request.query)
    for name, value in request.headers.items():
        size += len(name) + len(value) + _HEADER_OVERHEAD
    if size > settings.max_head:
        # hypercorn limits only heads that are not complete, and its limit is larger.
        raise HeaderTooLarge(
            f"the request's head is larger than {settings.max_head} bytes", limit=settings.max_head
        )
    if settings.cors_origins and is_preflight(settings.cors_origins, request):
        return Admission(PREFLIGHT, (), ANONYMOUS, keyring)
    denied: OJSError | None = None
    principal = ANONYMOUS
    try:
        principal = app.access.authenticate(
            request.headers.get("authorization"), request.tls_subject
        )
    except OJSError as error:
        denied = error
    try:
        route, params = router_for(settings.test_hooks).match(request.method, request.path)
    except OJSError as error:
        # A client without an API key must not learn which paths exist.
        raise denied or error from None
    if not (route.open or (route.is_scrape and settings.metrics_open)):
        if denied is not None:
            raise denied
        app.access.authorize(principal, route)
    version = request.headers.get("ojs-version")
    if version is not None and not _SUPPORTED_VERSIONS.fullmatch(version):
        raise Unsupported(
            f"this server speaks OJS {OJS_VERSION}, not '{version[:50]}'",
            field="headers.ojs-version",
        )
    return Admission(route, params, principal, keyring)


def _audit_refusal(app: App, request: Request, request_id: str, error: OJSError) -> None:
    """Record a refused request in the audit.

    ``_admit`` has found the route and the principal already, but does not return them with an
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


def _first_leaf(group: ExceptionGroup[OJSError]) -> OJSError:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, ExceptionGroup) else first
