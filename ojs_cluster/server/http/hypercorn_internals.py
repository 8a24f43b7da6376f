"""What this server uses of hypercorn beyond its public API; no other module may.

hypercorn documents ``Config``, its types and ``serve``. ``serve`` accepts connections itself, which
``http_server`` cannot use (see there). So the server uses the parts behind it:

* ``WorkerContext``, ``Lifespan`` and ``wrap_app`` are what ``serve`` passes to connections.
* ``TCPServer`` serves one connection. Its methods have no hooks, see ``HypercornConnection`` and
  ``IdleWatch``.
* ``ProtocolWrapper``, ``H11Protocol``, ``WSStream``, the events and the errors that ask for an
  upgrade: ``hypercorn_connection`` counts the bytes and requests of a connection between them.
* ``H2Protocol`` speaks HTTP/2, see ``HypercornHttp2``.

``tests/server/test_hypercorn.py`` fails if a release changes their signatures, and
``tests/test_private_uses.py`` if another module uses more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio
from h2.events import Event as H2Event
from h2.events import PriorityUpdated
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

__all__ = [
    "Closed",
    "Event",
    "H2CProtocolRequiredError",
    "H2Protocol",
    "H2ProtocolAssumedError",
    "H11Protocol",
    "HypercornConnection",
    "HypercornHttp2",
    "Lifespan",
    "ProtocolWrapper",
    "RawData",
    "WSStream",
    "WorkerContext",
    "ignore_upgrades",
    "wrap_app",
]

_CLOSE_S: Final = 1.0
"""Maximum time in seconds to close a connection. Only TLS may have to wait for its client."""


class _Event(Protocol):
    """hypercorn's event."""

    async def wait(self) -> None: ...

    def is_set(self) -> bool: ...


class IdleWatch:
    """Takes the place of hypercorn's ``TrioSingleTask``, with one task for a whole connection.

    hypercorn starts a task after each response and cancels it at the next request, which takes an
    eighth of the time of a small request. It ends the connection when it has been idle for too
    long, for which this server has ``Connections.close_idle``, or when the process shuts down.
    """

    def __init__(self, terminated: _Event, close: Callable[[], Awaitable[None]]) -> None:
        """Watch nothing yet.

        Args:
            terminated: set when idle connections have to end.
            close: closes the connection.
        """
        self._terminated = terminated
        self._close = close
        self._is_idle = False
        self._watching: trio.CancelScope | None = None
        self._ended = False

    async def restart(self, task_group: Any, _action: object) -> None:
        """Note that the connection is idle. hypercorn calls this after each response."""
        self._is_idle = True
        if self._ended:
            return
        if self._terminated.is_set():
            task_group.spawn(self._close_if_idle)
        elif self._watching is None:
            self._watching = trio.CancelScope()
            task_group.spawn(self._watch, self._watching)

    async def stop(self) -> None:
        """Note that a request has begun. hypercorn closes the connection after its response."""
        self._is_idle = False

    def end(self) -> None:
        """End the task, because the client has closed the connection."""
        self._ended = True
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._terminated.wait()
            await self._close_if_idle()

    async def _close_if_idle(self) -> None:
        if self._is_idle and not self._ended:
            self._ended = True
            with trio.CancelScope(shield=True):
                await self._close()


class HypercornConnection(TCPServer):
    """hypercorn's server of one connection, without its idle timer and with a close that ends."""

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: Any
    ) -> None:
        """Serve ``app`` on ``stream``; ``await`` runs the connection to its end."""
        super().__init__(app, config, context, ConnectionState({}), stream)
        self._idle_watch = IdleWatch(context.terminated, self._initiate_server_close)
        # hypercorn declares its own class here; the watch has the methods that it calls.
        self.idle_task = self._idle_watch  # type: ignore[assignment]

    async def _read_data(self) -> None:
        # hypercorn's own idle timer would keep the task of a connection that its client has closed.
        try:
            await super()._read_data()
        finally:
            self._idle_watch.end()

    async def _close(self) -> None:
        # hypercorn closes the connection after the last response, in the task of the application.
        # It has told the application before, which may cancel that task. Then the connection would
        # stay open until the client closes it.
        with trio.move_on_after(_CLOSE_S, shield=True):
            await super()._close()


class HypercornHttp2(H2Protocol):
    """hypercorn's HTTP/2 protocol, with public names for what a subclass calls and replaces."""

    async def flush(self) -> None:
        """Send what h2 has queued."""
        await self._flush()

    async def handle_events(self, events: list[H2Event]) -> None:
        """Handle the events of received bytes. hypercorn has no hook for a check before it."""
        await super()._handle_events(events)

    async def _handle_events(self, events: list[H2Event]) -> None:
        await self.handle_events(events)

    async def _priority_updated(self, _event: PriorityUpdated) -> None:
        """Ignore stream priorities, which RFC 9113, section 5.3, deprecates.

        Priorities form a tree. A client can send one with cycles, or one so deep that it exceeds
        Python's recursion limit.
        """


def ignore_upgrades(protocol: H11Protocol) -> None:
    """Serve HTTP/1.1 although the client asks for HTTP/2; hypercorn has no setting for it.

    ``_check_protocol`` starts HTTP/2 at ``Upgrade: h2c`` or at the preface of HTTP/2.
    """
    protocol._check_protocol = _do_nothing  # type: ignore[assignment,method-assign]


async def _do_nothing(_event: object) -> None:
    """Replace hypercorn's ``_check_protocol``."""
