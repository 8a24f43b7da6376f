"""Attack with HTTP/2 connections whose few bytes unpack into long headers, and measure the cost."""

from __future__ import annotations

import contextlib
import itertools
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import hpack
import trio

from tests.security.http2 import END_HEADERS, END_STREAM, GET, HEADERS, PREFACE, SETTINGS, frame

CONNECTIONS = 300
Address = tuple[str, int]
Stream = trio.abc.HalfCloseableStream | trio.SSLStream[trio.SocketStream]


def _attack(references: int) -> bytes:
    """An HTTP/2 connection of one long header, to which all its other requests refer back."""
    encoder = hpack.Encoder()
    path = (b":path", b"/ojs/v1/queues")
    sent = PREFACE + frame(SETTINGS, 0, 0)
    for stream in range(1, 199, 2):
        copies = 1 if stream == 1 else references
        headers = [*GET, path, *[(b"x-long", b"v" * 3900)] * copies]
        block = encoder.encode(headers, huffman=False)
        sent += frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
    return sent


ATTACKS = (_attack(3), _attack(14))
"""Below the bound of each request's headers, and far above it."""


@contextlib.asynccontextmanager
async def connected(address: Address, context: ssl.SSLContext | None) -> AsyncIterator[Stream]:
    """Connect, over TLS when there is a context for it."""
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        if context is None:
            yield stream
        else:
            yield trio.SSLStream(stream, context, server_hostname=address[0], https_compatible=True)


async def live(address: Address, context: ssl.SSLContext | None) -> None:
    """Ask for ``/live`` on a new connection, as the probes do."""
    async with connected(address, context) as stream:
        await stream.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := await stream.receive_some(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), answer


async def attack(
    address: Address, trusted: ssl.SSLContext | None, probing: ssl.SSLContext | None
) -> None:
    """Send both attacks on many connections at once. Raises if ``/live`` does not respond.

    Args:
        trusted: what the attack's handshakes check and offer; None without TLS.
        probing: the same for the probes.
    """
    ended = 0

    async def one(sent: bytes) -> None:
        nonlocal ended
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with connected(address, trusted) as stream:
                await stream.send_all(sent)
                while await stream.receive_some(65_536):
                    pass
        ended += 1

    probes = 0
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            for sent in itertools.islice(itertools.cycle(ATTACKS), CONNECTIONS):
                nursery.start_soon(one, sent)
            while ended < CONNECTIONS or probes < 3:
                with trio.fail_after(60):
                    await live(address, probing)
                probes += 1
                await trio.sleep(0.1)


def processes(parent: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(status[1]), []).append(int(entry))
    found = [parent]
    for pid in found:
        found += children.get(pid, [])
    return found


def peak_bytes(pid: int) -> int:
    """Return the peak memory of a process, including pages that it shares with others."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {pid}")
