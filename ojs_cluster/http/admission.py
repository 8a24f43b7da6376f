"""Decide whether the head of a request is accepted: its API key, its route, and its size."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import msgspec

from ojs_cluster.core.access.scopes import ANONYMOUS, Keyring, Principal
from ojs_cluster.core.errors import HeaderTooLarge, OJSError, Unsupported
from ojs_cluster.http.access.browsers import check_host, check_sender, must_declare_json
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.access.tenants import check_route, find_tenant
from ojs_cluster.http.app import App
from ojs_cluster.http.common_headers import OJS_VERSION
from ojs_cluster.http.cors import PREFLIGHT, is_preflight
from ojs_cluster.http.errors import AmbiguousLength
from ojs_cluster.http.messages import Request
from ojs_cluster.http.routes.all_routes import ROUTES, router_for
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.settings import HttpSettings

TENANT_HEADER: Final = "x-ojs-tenant"
"""The header that names the tenant of a request, in lower case."""
_HEADER_OVERHEAD: Final = 4  # colon, space and line end, in bytes
_SUPPORTED_VERSIONS: Final = re.compile(r"1(?:\.[0-9A-Za-z.+-]{1,50})?")


class Admission(msgspec.Struct, frozen=True):
    """The decisions that depend on the head of a request alone: route, principal and tenant.

    An admission is valid for every request with the same head, until the process replaces
    ``keyring``.

    Attributes:
        forbids_body: whether the request may have no body, because a web page may have sent it
            and it is not declared as JSON (``access.browsers``).
    """

    route: Route
    params: tuple[str, ...]
    principal: Principal
    keyring: Keyring
    tenant: str | None = None
    forbids_body: bool = False

    @property
    def cacheable(self) -> bool:
        """Whether later requests with the same head may use this admission.

        They may not if the API key has a request rate, because each request is counted, or if the
        API key expires.
        """
        principal = self.principal
        return principal.requests_per_second is None and principal.expires_at_s is None


def admit(app: App, request: Request) -> Admission:
    """Return the admission of a request.

    Raises:
        OJSError: the request is refused.
    """
    settings, keyring, is_open = app.settings, app.access.keyring, app.access.is_open
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
        if is_open:
            check_host(request, settings.allowed_hosts)
    # Pages cannot send an API key, but browsers send a client certificate for every page.
    is_ambient = is_open or "authorization" not in request.headers
    if is_ambient:
        check_sender(request, settings.cors_origins)
    tenant: str | None = None
    if not route.open and (principal.tenant is not None or TENANT_HEADER in request.headers):
        tenant = find_tenant(
            principal, request.headers.get(TENANT_HEADER), field=f"headers.{TENANT_HEADER}"
        )
        check_route(route, tenant)
    version = request.headers.get("ojs-version")
    if version is not None and not _SUPPORTED_VERSIONS.fullmatch(version):
        raise Unsupported(
            f"this server speaks OJS {OJS_VERSION}, not '{version[:50]}'",
            field="headers.ojs-version",
        )
    forbids_body = is_ambient and must_declare_json(request)
    return Admission(route, params, principal, keyring, tenant, forbids_body)


def passes_api_key_check(
    settings: HttpSettings,
    access: AccessControl,
    path: bytes,
    authorization: bytes | None,
    tls_subject: str = "",
    preflight_origin: bytes | None = None,
    open_prefixes: tuple[str, ...] = (),
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
        open_prefixes: prefixes of paths that need no API key, because they have sessions.
    """
    if preflight_origin and preflight_origin.decode("latin-1") in settings.cors_origins:
        return True
    plain_path = path.partition(b"?")[0].decode("latin-1")
    if plain_path in _open_paths(settings) or plain_path.startswith(open_prefixes):
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
