"""A server with a dashboard in a thread of its own, for clients that block: httpx and a browser."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from queue import Queue
from typing import Any

import httpx
import trio

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import PRESETS, Keyring, Principal, QueuePatterns, digest
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.app import App
from ojs_cluster.http.hypercorn.quart_app import create_quart_app
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.ui.quart_views import add_dashboard
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings
from tests.http.api import open_app, serving

KEYS = {
    "admin-key": Principal("boss", PRESETS["admin"]),
    "viewer-key": Principal("viewer", PRESETS["viewer"]),
    "producer-key": Principal("producer", PRESETS["producer"]),
    "email-key": Principal("mail-team", PRESETS["operator"], QueuePatterns(["email"])),
}
"""API keys by their secrets."""
KEYRING = Keyring({digest(secret): who for secret, who in KEYS.items()}, {})
OWN = {"Sec-Fetch-Site": "same-origin"}
"""What a browser sends with a form of the dashboard."""
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Running:
    """A running server, by its address."""

    url: str
    app: App
    run: Callable[[Callable[[], Any]], Any] = field(repr=False)
    """Runs an async function in the thread of the server, and returns its value."""

    def api(self) -> httpx.Client:
        """Return a client of the API with all scopes."""
        headers = {"Authorization": "Bearer admin-key"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    @contextlib.contextmanager
    def browser(self, key: str | None = "admin-key", base: str = "") -> Iterator[httpx.Client]:
        """Open a client that keeps cookies, as a browser does, logged in with ``key``.

        The form of the login goes over a connection of its own, because hypercorn then serves the
        whole connection. So the fast lane gets the first pages.
        """
        url = self.url + base
        with httpx.Client(base_url=url, timeout=60, headers=OWN) as client:
            if key is not None:
                with httpx.Client(base_url=url, timeout=60, headers=OWN) as other:
                    answer = other.post("/ui/login", data={"key": key})
                    assert answer.status_code == 303, answer.text
                    client.cookies.update(other.cookies)
            yield client


@contextlib.contextmanager
def dashboard(
    redis: Embedded,
    settings: UiSettings,
    *,
    keyring: Keyring | None = KEYRING,
    trusted: str = "",
    lane: bool = True,
    oidc: OidcSettings | None = None,
    store: StoreSettings | None = None,
) -> Iterator[Running]:
    """Serve the API and the dashboard; without ``keyring`` to everybody."""
    started: Queue[tuple[Running, trio.lowlevel.TrioToken, trio.Event] | BaseException] = Queue()
    proxies = TrustedProxies([ip_network(trusted)] if trusted else [])

    async def main() -> None:
        access = AccessControl(keyring) if keyring else None
        async with open_app(redis, store=store, access=access) as app:
            quart = create_quart_app(app)
            add_dashboard(quart, app, settings, proxies, oidc)
            async with serving(app, quart=quart, lane=lane) as port:
                token, stop = trio.lowlevel.current_trio_token(), trio.Event()
                run = partial(trio.from_thread.run, trio_token=token)
                started.put((Running(f"http://127.0.0.1:{port}", app, run), token, stop))
                await stop.wait()

    def begin() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            started.put(error)

    thread = threading.Thread(target=begin, daemon=True)
    thread.start()
    found = started.get(timeout=_START_S)
    if isinstance(found, BaseException):
        raise found
    running, token, stop = found
    try:
        yield running
    finally:
        token.run_sync_soon(stop.set)
        thread.join(60)
        assert not thread.is_alive()
