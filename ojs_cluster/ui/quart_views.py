"""Register the dashboard with Quart.

The pages have no API key in their requests, so Quart gets them before the dispatcher
(``http/hypercorn/quart_app.py``). Most pages skip Quart: the fast lane serves them
(``http/fast_lane``), or they are refreshes of open pages (``http/hypercorn/refreshes.py``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from hypercorn.typing import HTTPScope
from msgspec import structs
from quart import Blueprint, request
from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse
from werkzeug.datastructures import Headers, MultiDict

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.app import App
from ojs_cluster.http.hypercorn.asgi import read_browser_request, read_head
from ojs_cluster.http.hypercorn.quart_app import OJSQuart
from ojs_cluster.http.messages import (
    DIRECT,
    BodyStream,
    DirectOutput,
    Response,
    task_output,
)
from ojs_cluster.http.pages import BrowserRequest
from ojs_cluster.ui import browser
from ojs_cluster.ui.app import UNKNOWN, Dashboard
from ojs_cluster.ui.login import LOGIN, LOGOUT
from ojs_cluster.ui.pages import events
from ojs_cluster.ui.requests.visits import PREFIX
from ojs_cluster.ui.routes import PAGES
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings

if TYPE_CHECKING:
    from ojs_cluster.ui.sign_on.oidc import OpenIdConnect

_MAX_FORM: Final = 64 * 1024
"""Maximum size of a form in bytes, as of other request bodies that need no memory budget."""


def add_dashboard(
    quart: OJSQuart,
    app: App,
    settings: UiSettings,
    proxies: TrustedProxies | None = None,
    oidc_settings: OidcSettings | None = None,
) -> None:
    """Add the pages to ``quart``, under ``/ui/`` and, if set, also under the base path.

    Args:
        quart: the application.
        app: the state of the process.
        settings: the settings of the dashboard; nothing is added if its mode is ``off``.
        proxies: the proxies whose forwarding headers are trusted.
        oidc_settings: the settings of OpenID Connect; None, or without an issuer, if it is off.
    """
    if settings.mode == "off":
        return
    oidc = None
    if oidc_settings is not None and oidc_settings.issuer:
        # Imported here, because other servers do without its packages.
        from ojs_cluster.ui.sign_on.oidc import OpenIdConnect

        oidc = OpenIdConnect(oidc_settings)
    dashboard = Dashboard(app, settings, proxies or TrustedProxies(), oidc)
    quart.config["MAX_CONTENT_LENGTH"] = _MAX_FORM
    quart.config["BODY_TIMEOUT"] = app.settings.bodies.timeout_s
    quart.page_prefixes = settings.prefixes
    quart.url_map.merge_slashes = False  # Quart would redirect to a name that the client chooses
    quart.after_request(partial(_add_headers, quart, dashboard))
    quart.add_url_rule("/", "root", _redirect)
    for name, base in {"ui": "", "ui_of_base": settings.base}.items():
        if name == "ui" or base:
            quart.register_blueprint(
                _blueprint(dashboard, quart, name, oidc), url_prefix=base + PREFIX
            )
            quart.add_url_rule(
                f"{base}/ojs/admin/", f"{name}_of_admin", _redirect, strict_slashes=False
            )
            quart.add_url_rule(f"{base}{PREFIX}", f"{name}_start", _redirect)


async def _add_headers(
    quart: OJSQuart, dashboard: Dashboard, response: TrioResponse
) -> TrioResponse:
    """Add the security headers to responses that Quart makes itself, such as to OPTIONS."""
    head = read_head(request.scope)
    if quart.is_dashboard(head.path):
        for name, value in browser.SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        if dashboard.visits.has_own_tls(head, request.scheme):
            response.headers.setdefault(*browser.STRICT_TRANSPORT)
    return response


def _blueprint(
    dashboard: Dashboard, quart: OJSQuart, name: str, oidc: OpenIdConnect | None
) -> Blueprint:
    blueprint = Blueprint(name, __name__)

    def add(method: str, rule: str, view: Callable[..., Awaitable[Response]]) -> str:
        endpoint = f"{method} {rule}".replace(".", "_")
        blueprint.add_url_rule(rule, endpoint, partial(_serve, view), methods=[method])
        return f"{name}.{endpoint}"

    for page in (*PAGES, LOGIN):
        view = partial(dashboard.answer, page)
        endpoint = add(page.method, page.rule, view)
        if page.method == "GET" and page.handler is not events.stream:
            quart.views[endpoint] = partial(_secured, dashboard, view)
    add("POST", "/login", dashboard.logins.log_in)
    if oidc is not None:
        add("GET", "/oidc/login", partial(dashboard.logins.begin_sign_on, oidc))
        add("GET", "/oidc/callback", partial(dashboard.logins.finish_sign_on, oidc))
    add("POST", "/logout", partial(dashboard.answer, LOGOUT))
    send_file = partial(_send_file, dashboard)
    quart.views[add("GET", "/static/<path:name>", send_file)] = partial(
        _secured, dashboard, send_file
    )
    unknown = partial(_serve, partial(dashboard.answer, UNKNOWN))
    blueprint.add_url_rule(UNKNOWN.rule, "unknown", unknown, methods=["GET", "POST"])
    return blueprint


async def _redirect() -> TrioResponse:
    """Send the browser to the first page."""
    path = read_head(request.scope).path
    up = "../../" if path.endswith("/ojs/admin/") else "../" if "/ojs/admin" in path else ""
    # A browser keeps a 308 and sends no request any more. At "/" another server may listen later.
    status = 302 if path == "/" else 308
    return _for_quart(browser.respond(status, b"", location=f"{up}ui/"))


async def _secured(
    dashboard: Dashboard,
    view: Callable[..., Awaitable[Response]],
    asked: BrowserRequest,
    **more: Any,
) -> Response:
    """Return the response of a view. Over its own TLS the server makes browsers keep to TLS.

    The host of a proxy is not the server's alone, so there the proxy decides.
    """
    response = await view(asked, **more)
    if not dashboard.visits.has_own_tls(asked.head, asked.scheme):
        return response
    headers = (*response.headers, browser.STRICT_TRANSPORT)
    return structs.replace(response, headers=headers)


async def _send_file(
    dashboard: Dashboard, asked: BrowserRequest, name: str, **_: object
) -> Response:
    return dashboard.responses.send_file(name, asked.head.headers.get("accept-encoding", ""))


async def _serve(view: Callable[..., Awaitable[Response]], **params: str) -> TrioResponse:
    """Answer the request that Quart serves now."""
    asked = read_browser_request(cast(HTTPScope, request.scope))
    return _for_quart(await view(asked, read_form=_read_form, **params))


async def _read_form() -> MultiDict[str, str]:
    form: MultiDict[str, str] = await request.form
    return form


def _for_quart(response: Response) -> TrioResponse:
    sent = TrioResponse(response.body, response.status, Headers(response.headers))
    if response.stream is not None:
        del sent.headers["Content-Length"]
        sent.response = _StreamBody(
            response.stream,
            task_output(cast("DirectOutput | None", dict(request.scope).get(DIRECT))),
        )
        sent.timeout = None
    return sent


class _StreamBody(ResponseBody):
    """Runs a stream while Quart sends its pieces."""

    def __init__(self, stream: BodyStream, output: DirectOutput | None) -> None:
        self._stream = stream
        self._output = output
        self._stack = AsyncExitStack()
        self._sender, self._receiver = trio.open_memory_channel[bytes](0)

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._stack.callback(self._stream.close)
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(self._run)
        self._stack.callback(nursery.cancel_scope.cancel)
        return self._receiver

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def _run(self) -> None:
        with self._sender:
            await self._stream.run(self._sender.send, self._output)
