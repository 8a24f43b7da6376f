"""TCP tunnels to the Redis nodes, in a process of their own, which can be cut, silenced and slowed.

A node listens on 127.0.0.1 and announces 127.0.0.2 to clients, where a tunnel listens on the same
port (cluster-announce-client-ipv4). Nodes talk to each other without tunnels. So a fault here is
one between our processes and Redis only.

``python -m tests.chaos.tunnel HOST PORT...`` reads commands from its standard input, one a line:
``cut PORT SHARE``, ``close PORT``, ``silence PORT``, ``slow PORT MS``, ``lose PORT DIRECTION``,
``heal PORT``. It ends at the end of the input. Connections that ``lose`` leaves half open
(``requests``, ``replies`` or ``both``) stay so; new ones are not affected.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

INNER: Final = "127.0.0.1"
OUTER: Final = "127.0.0.2"
_CHUNK: Final = 65536
_HALF_OPEN_S: Final = 60.0
"""How long one side of a half-open connection survives the other one, in seconds."""


def can_tunnel() -> bool:
    """Return whether this system has the second loopback address without configuration."""
    with socket.socket() as probe:
        try:
            probe.bind((OUTER, 0))
        except OSError:
            return False
    return True


class Tunnels:
    """Controls the process with all tunnels.

    Args:
        ports: where the servers listen, on ``INNER``.
        host: where the tunnels listen, on the same ports.
    """

    def __init__(self, ports: Sequence[int], host: str = OUTER) -> None:
        command = [sys.executable, "-m", "tests.chaos.tunnel", host, *map(str, ports)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "open\n"

    def tell(self, *words: object) -> None:
        """Send a command, and return when it has been carried out."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(30)


@dataclass(slots=True, eq=False)
class _Flow:
    """One direction of a connection. ``lost``: nothing that is sent arrives any more."""

    direction: str
    lost: bool = False


class _Tunnel:
    """All connections to one port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[trio.CancelScope] = set()
        self._flows = trio.Event()
        self._flows.set()
        self._pause_s = 0.0
        self._closed = False
        self._flowing: set[_Flow] = set()

    def obey(self, command: str, amount: str) -> None:
        """Run one command."""
        if command == "cut":
            scopes = list(self._open)
            for scope in random.sample(scopes, round(len(scopes) * float(amount))):
                scope.cancel()
        elif command == "close":
            self._closed = True
            self.obey("cut", "1")
        elif command == "lose":
            for flow in self._flowing:
                flow.lost = flow.lost or amount in ("both", flow.direction)
        elif command == "silence":
            self._flows = trio.Event()
        elif command == "slow":
            self._pause_s = float(amount) / 1000
        else:
            self._closed, self._pause_s = False, 0.0
            self._flows.set()

    async def serve(self, client: trio.SocketStream) -> None:
        if self._closed:
            await client.aclose()
            return
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                async with (
                    client,
                    await trio.open_tcp_stream(INNER, self._port) as server,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._pass_on, _Flow("requests"), client, server, scope)
                    nursery.start_soon(self._pass_on, _Flow("replies"), server, client, scope)
            except* (OSError, trio.BrokenResourceError):
                pass  # the node is away: so is this connection
            finally:
                self._open.discard(scope)

    async def _pass_on(
        self,
        flow: _Flow,
        source: trio.SocketStream,
        target: trio.SocketStream,
        scope: trio.CancelScope,
    ) -> None:
        self._flowing.add(flow)
        try:
            while data := await source.receive_some(_CHUNK):
                if self._pause_s:
                    await trio.sleep(self._pause_s)
                await self._flows.wait()
                if not flow.lost:
                    await target.send_all(data)
        finally:
            self._flowing.discard(flow)
        if flow.lost:
            # The other side does not learn that this one has closed the connection.
            await trio.sleep(_HALF_OPEN_S)
        scope.cancel()


async def _main(host: str, ports: Sequence[int]) -> None:
    tunnels = {port: _Tunnel(port) for port in ports}
    async with trio.open_nursery() as nursery:
        for port, tunnel in tunnels.items():
            listeners = await trio.open_tcp_listeners(port, host=host)
            nursery.start_soon(trio.serve_listeners, tunnel.serve, listeners)
        print("open", flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command, port, *amount = line.split()
            tunnels[int(port)].obey(command, amount[0] if amount else "")
            print("done", flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], [int(port) for port in sys.argv[2:]])
