"""Look up the host names of outgoing requests in threads.

``getaddrinfo`` blocks its thread until the name servers answer or the resolver of the machine gives
up, which may take a minute. A request that no longer waits cannot end it. So requests to one host
share one look-up, and each receiver whose name servers are silent uses one thread. (Rejected: a few
threads for all. One such receiver would use all of them, and delay the others.)
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import trio

MAX_LOOKUPS: Final = 128
"""Maximum number of threads that look up names at the same time: more than there may be
subscriptions."""

GetAddrInfo = Callable[..., Sequence[Any]]
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host; raises OSError."""


class _LookUp:
    """A look-up of one host name; ``addresses`` stays None if it fails."""

    def __init__(self, getaddrinfo: GetAddrInfo, host: str, port: int) -> None:
        self._getaddrinfo, self._host, self._port = getaddrinfo, host, port
        self.ended = trio.Event()
        self.addresses: list[str] | None = None

    def run(self) -> None:
        """Look up the name, in a thread."""
        with suppress(OSError, UnicodeError):
            found = self._getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self.addresses = [str(entry[4][0]) for entry in found]


class Resolver:
    """Looks up names, each in one thread at a time.

    Args:
        getaddrinfo: the resolver of the machine.
    """

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._running: dict[str, _LookUp] = {}
        self._one_ended = trio.Event()

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host.

        A look-up goes on after its requests were cancelled, and later requests wait for it.

        Raises:
            socket.gaierror: the name cannot be resolved.
            OSError: the machine has no thread for the look-up.
        """
        while host not in self._running and len(self._running) >= MAX_LOOKUPS:
            await self._one_ended.wait()
        look_up = self._running.get(host) or self._start(host, port)
        await look_up.ended.wait()
        if look_up.addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "the name cannot be resolved")
        return look_up.addresses

    def _start(self, host: str, port: int) -> _LookUp:
        look_up = self._running[host] = _LookUp(self._getaddrinfo, host, port)
        loop = trio.lowlevel.current_trio_token()

        def end() -> None:
            del self._running[host]
            look_up.ended.set()
            self._one_ended.set()
            self._one_ended = trio.Event()

        def deliver(_: Any) -> None:
            with suppress(trio.RunFinishedError):
                loop.run_sync_soon(end)

        try:
            trio.lowlevel.start_thread_soon(look_up.run, deliver)
        except RuntimeError:
            end()  # or each later request would wait for a thread that does not exist
            raise OSError("no thread for the look-up") from None
        return look_up
