"""A TCP proxy that delays every byte, as a network between two zones does.

    python -m loadtest.bench._slow_link LISTEN_PORT TARGET_PORT DELAY_MS

Each direction has the delay, so a round trip takes twice as long. Nothing is dropped or reordered.
Bytes in transit do not delay later bytes: only latency is added.
"""

from __future__ import annotations

import math
import sys
from functools import partial

import trio

_PIECE = 65_536


async def _read(
    source: trio.SocketStream, pieces: trio.MemorySendChannel[tuple[float, bytes]], delay_s: float
) -> None:
    async with pieces:
        async for piece in source:
            await pieces.send((trio.current_time() + delay_s, bytes(piece)))


async def _write(
    target: trio.SocketStream, pieces: trio.MemoryReceiveChannel[tuple[float, bytes]]
) -> None:
    async for at, piece in pieces:
        await trio.sleep_until(at)
        await target.send_all(piece)
    await target.send_eof()


async def _forward(target_port: int, delay_s: float, client: trio.SocketStream) -> None:
    server = await trio.open_tcp_stream("127.0.0.1", target_port)
    try:
        async with trio.open_nursery() as nursery:
            for source, target in ((client, server), (server, client)):
                send, receive = trio.open_memory_channel[tuple[float, bytes]](math.inf)
                nursery.start_soon(_read, source, send, delay_s)
                nursery.start_soon(_write, target, receive)
    except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # one of the two has gone
    finally:
        await trio.aclose_forcefully(server)


async def _serve(port: int, target_port: int, delay_ms: float) -> None:
    handler = partial(_forward, target_port, delay_ms / 1000)
    await trio.serve_tcp(handler, port, host="127.0.0.1")


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
