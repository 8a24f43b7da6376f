"""From a request to a response: id, version, key, route, handler, error, headers.

A door calls `prepare` with the request's head, reads at most `Call.max_body` bytes of body, and
calls `run`; `dispatch` does both for one that has the body already. Neither raises for anything a
client can cause.
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

from ojs_cluster.core.access.scopes import EVERYBODY, Keyring, Principal
from ojs_cluster.core.errors import (
    HeaderTooLarge,
    Internal,
    OJSError,
    PayloadTooLarge,
    Unauthenticated,
    Unsupported,
)
from ojs_cluster.http import durability
from ojs_cluster.http.access.auth import Access
from ojs_cluster.http.access.queue_scope import keep_to_queues
from ojs_cluster.http.app import App, HttpSettings, RequestSpan
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
from ojs_cluster.redis.deadline import Deadline, start_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task

log = logging.getLogger("ojs.http")

MEDIA_TYPE: Final = "application/openjobspec+json"
OJS_VERSION: Final = "1.0"

_BARE: Final[Headers] = (("Content-Type", MEDIA_TYPE), ("OJS-Version", OJS_VERSION))
# One SDK reads a body only where "application/json" occurs in the type, while the conformance
# suites compare the type exactly. SDKs send OJS-Version and the suites do not.
_FOR_SDKS: Final[Headers] = (
    ("Content-Type", f'{MEDIA_TYPE}; alt="application/json"'),
    ("OJS-Version", OJS_VERSION),
)
COMMON_HEADERS: Final[Headers] = (*_BARE, *_FOR_SDKS)
"""Headers that nearly every response has one or the other of."""
_UNDELIVERED_S: Final = 10.0
_AROUND_HEADER: Final = 4  # colon, space and the line's end
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?")
_OPEN_BODY: Final = 1024
"""Bytes of body that an open route takes: probes send none, careless clients send ``{}``."""
_VERSION: Final = re.compile(r"1(?:\.[0-9A-Za-z.+-]{1,50})?")


class Admission(msgspec.Struct, frozen=True):
    """What the head of a request decides: its route, and whose it is.

    Good for every request with the same head, as long as ``keyring`` is that of the process.
    """

    route: Route
    params: tuple[str, ...]
    principal: Principal
    keyring: Keyring

    @property
    def lasts(self) -> bool:
        """Whether it may be kept: not when each request is counted, or the key expires."""
        principal = self.principal
        return principal.requests_per_second is None and principal.expires_at_s is None


class Call(msgspec.Struct, frozen=True):
    """What is known of a request once its head has been read.

    ``refusal`` is the answer that does not need the body; a door sends it without reading on.
    ``max_body`` is the largest body, in bytes, that the route takes; 0 for a refusal. ``began`` is
    a time of the performance counter, in seconds. ``app`` counts the answer and records it in the
    audit. ``span``, where traces are sent, tells of it. ``principal`` is whose request it is.
    """

    request_id: str
    route: Route | None
    params: tuple[str, ...]
    max_body: int
    refusal: Response | None
    began: float
    app: App
    span: RequestSpan | None = None
    principal: Principal = EVERYBODY
    admission: Admission | None = None
    """To be given to `prepare` with the next request of the same head; None for none."""


def request_id_for(given: str | None) -> str:
    """The client's own id when it is 1 to 200 printable ASCII characters, else a new one.

    Anything else could split headers or log lines.
    """
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return new_request_id()


def prepare(
    app: App, request: Request, *, tentative: bool = False, known: Admission | None = None
) -> Call:
    """Decide all that can be decided without the body, which may not have been read yet.

    ``known`` is what an earlier request with the same head was admitted by.

    A ``tentative`` call that is refused is neither counted nor logged and has no route and no
    refusal: the door that asks will leave it to another one.
    """
    began = time.perf_counter()
    request_id = request_id_for(request.headers.get("x-request-id"))
    settings = app.settings
    try:
        if known is None or known.keyring is not app.access.keyring:
            known = _admit(app, request)
    except OJSError as error:
        if tentative:
            return Call(request_id, None, (), 0, None, began, app)
        _audit_refusal(app, request, request_id, error)
        refusal = finish(request, error_response(error, request_id), request_id, began, app)
        app.traffic.count(None, refusal.status, time.perf_counter() - began)
        if app.tracing is not None:
            app.tracing.begin(request, request_id, None).end(refusal.status)
        return Call(request_id, None, (), 0, refusal, began, app)
    route = known.route
    limit = settings.max_batch_body if route.batch else settings.max_body
    if route.open:
        limit = min(limit, _OPEN_BODY)
    span = None if app.tracing is None else app.tracing.begin(request, request_id, route)
    return Call(
        *(request_id, route, known.params, limit, None, began, app, span, known.principal, known)
    )


async def run(app: App, call: Call, request: Request, deadline: Deadline | None = None) -> Response:
    """Answer a request whose body is complete. Raises nothing but Cancelled. May be driven.

    ``deadline`` is that of the present task, where it serves one request after the other; None
    makes a new one.
    """
    if call.span is not None:
        await ensure_task()
        rest = msgspec.structs.replace(call, span=None)
        return await call.span.answer(request, lambda: run(app, rest, request, deadline))
    if call.refusal is not None or call.route is None:
        return call.refusal or refuse(request, call, Internal("a call without a route"))
    if len(request.body) > call.max_body:
        return refuse(request, call, too_large(call))
    deadline = start_deadline() if deadline is None else deadline
    deadline.at = app.store.redis.new_deadline()
    try:
        queues = call.principal.queues
        if queues is not None:
            await keep_to_queues(app, call.route, queues, call.params)
            request = msgspec.structs.replace(request, queues=queues)
        response = await durability.answer(app, call.route, request, call.params)
    except OJSError as error:
        response = error_response(error, call.request_id)
    except Exception as error:
        response = _unexpected(error, request, call.request_id)
    except BaseException:
        if call.route.action:
            app.audit.interrupted(request, call.request_id, call.route, call.params, call.principal)
        raise
    finally:
        deadline.at = inf
    return _answer(request, response, call)


async def dispatch(app: App, request: Request) -> Response:
    """Answer a complete request."""
    return await run(app, prepare(app, request), request)


def refuse(request: Request, call: Call, error: OJSError) -> Response:
    """The finished answer for an error that a door met while it read the request."""
    return _answer(request, error_response(error, call.request_id), call)


def too_large(call: Call) -> PayloadTooLarge:
    """The error for a body of more than ``call.max_body`` bytes."""
    return PayloadTooLarge(
        f"the body is larger than {call.max_body} bytes", field="body", limit=call.max_body
    )


def too_late(timeout_s: float) -> BodyTimeout:
    """The error for a body that did not arrive within ``timeout_s`` seconds."""
    return BodyTimeout(f"the body did not arrive within {timeout_s:g} s", field="body")


async def undo(response: Response) -> None:
    """Undo what the client was not told about, even while the connection is being cancelled."""
    if response.undelivered is not None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDELIVERED_S):
            await response.undelivered()


def _answer(request: Request, response: Response, call: Call) -> Response:
    app, route = call.app, call.route
    app.traffic.count(route, response.status, time.perf_counter() - call.began)
    if call.span is not None:
        call.span.end(response.status)
    if route is not None and route.action:
        app.audit.answered(request, call.request_id, route, call.params, call.principal, response)
    return finish(request, response, call.request_id, call.began, app, call.principal.name)


def finish(
    request: Request,
    response: Response,
    request_id: str,
    began: float,
    app: App | None = None,
    principal: str | None = None,
) -> Response:
    """``response`` with the headers that every response has, and as HEAD and 204 want it.

    A content type of its own comes first among its headers. Every answer passes here, so here is
    the one access line of a request. Without an ``app`` its address is that of the peer.
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
    common = _FOR_SDKS if "ojs-version" in request.headers else _BARE
    if response.headers and response.headers[0][0] == "Content-Type":
        common = common[1:]
    headers: Headers = (*common, ("X-Request-Id", request_id), *response.headers)
    body = response.body
    if request.method == "HEAD":
        headers = (*headers, ("Content-Length", str(len(body))))
        body = b""
    elif response.status == 204:
        headers = headers[1:]
    return Response(response.status, body, headers, response.undelivered)


def admits(
    settings: HttpSettings,
    access: Access,
    path: bytes,
    authorization: bytes | None,
    tls_subject: str = "",
) -> bool:
    """Whether a request for the raw ``path`` would pass the check of its key.

    For the first look at a request, before it costs anything; `prepare` decides.
    """
    if path.partition(b"?")[0].decode("latin-1") in _open_paths(settings):
        return True
    try:
        header = None if authorization is None else authorization.decode("latin-1")
        access.identify(header, tls_subject)
    except OJSError:
        return False
    return True


@cache
def _open_paths(settings: HttpSettings) -> frozenset[str]:
    also_metrics = settings.metrics_open
    return frozenset(
        route.template for route in ROUTES if route.open or (route.metrics and also_metrics)
    )


def _admit(app: App, request: Request) -> Admission:
    settings, keyring = app.settings, app.access.keyring
    if "transfer-encoding" in request.headers and "content-length" in request.headers:
        # RFC 9112 6.3 lets a server go by Transfer-Encoding or refuse. Requests are smuggled past
        # a proxy that goes by the other header, so: refuse, before the key is looked at.
        raise AmbiguousLength(
            "the request has both Content-Length and Transfer-Encoding",
            field="headers.transfer-encoding",
        )
    size = len(request.path) + len(request.query)
    for name, value in request.headers.items():
        size += len(name) + len(value) + _AROUND_HEADER
    if size > settings.max_head:
        # hypercorn's own limit is for heads that are not complete yet, and above ours.
        raise HeaderTooLarge(
            f"the request's head is larger than {settings.max_head} bytes", limit=settings.max_head
        )
    denied: OJSError | None = None
    principal = EVERYBODY
    try:
        principal = app.access.identify(request.headers.get("authorization"), request.tls_subject)
    except OJSError as error:
        denied = error
    try:
        route, params = router_for(settings.test_hooks).match(request.method, request.path)
    except OJSError as error:
        # Without a key not even the shape of the API is told.
        raise denied or error from None
    if not (route.open or (route.metrics and settings.metrics_open)):
        if denied is not None:
            raise denied
        app.access.permit(principal, route)
    version = request.headers.get("ojs-version")
    if version is not None and not _VERSION.fullmatch(version):
        raise Unsupported(
            f"this server speaks OJS {OJS_VERSION}, not '{version[:50]}'",
            field="headers.ojs-version",
        )
    return Admission(route, params, principal, keyring)


def _audit_refusal(app: App, request: Request, request_id: str, error: OJSError) -> None:
    """Record a refused request, for which what is known of it is found out again.

    `_admit` keeps nothing for this: it would cost every request that is not refused.
    """
    route: Route | None = None
    params: tuple[str, ...] = ()
    principal: Principal | None = None
    if not isinstance(error, Unauthenticated):
        with suppress(OJSError):
            headers = request.headers
            principal = app.access.identify(headers.get("authorization"), request.tls_subject)
            route, params = router_for(app.settings.test_hooks).match(request.method, request.path)
    status = entry_for(error).status
    app.audit.refused(
        *(request, request_id, error, status), route=route, params=params, principal=principal
    )


def _unexpected(error: Exception, request: Request, request_id: str) -> Response:
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
