"""The chart's defaults under header amplification: the pod lives and keeps to its memory limit."""

from __future__ import annotations

import contextlib
import itertools
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hpack
import pytest
import trio

from ojs_cluster.server.embedded import Embedded
from tests.helm.chart import Chart, container
from tests.helm.test_processes import HOST, PATIENCE_S, Pod
from tests.security.http2 import END_HEADERS, END_STREAM, GET, HEADERS, PREFACE, SETTINGS, frame
from tests.server.programs import free_port
from tests.support.certificates import Certificates
from tests.support.servers import wait_until

CONNECTIONS = 300
H2C, TLS = "clear text with OJS_H2C", "TLS"
VARIANTS = (
    "clear text as by default",
    pytest.param(H2C, marks=pytest.mark.soak),
    TLS,
)
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


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


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """How clients connect."""
    name: str = request.param
    return name


@pytest.fixture
def pod(
    chart: Chart,
    standalone: Embedded,
    certificates: Certificates,
    tmp_path: Path,
    variant: str,
) -> Iterator[Pod]:
    """The API's pod as the chart's defaults have it, run here."""
    sets: dict[str, Any] = {
        "auth.apiKey": "k" * 40,
        "redis.url": standalone.url,
        "api.port": free_port(),
        "config.OJS_HOST": HOST,
    }
    if variant == H2C:
        sets["config.OJS_H2C"] = "1"
    rendering = chart.render(sets=sets)
    env = rendering.environment(rendering.api)
    if variant == TLS:
        env |= certificates.env  # paths of this machine, in the place of mounted ones
    started = Pod(rendering.api, env, tmp_path / "api.log")
    started.start()
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture
def trusted(variant: str, certificates: Certificates) -> ssl.SSLContext | None:
    """What a client's handshake checks and offers; None without TLS."""
    if variant != TLS:
        return None
    context = certificates.client()
    context.set_alpn_protocols(["h2"])
    return context


@contextlib.asynccontextmanager
async def _connected(
    pod: Pod, context: ssl.SSLContext | None
) -> AsyncIterator[trio.abc.HalfCloseableStream | trio.SSLStream[trio.SocketStream]]:
    stream = await trio.open_tcp_stream(*pod.address)
    async with stream:
        if context is None:
            yield stream
        else:
            yield trio.SSLStream(stream, context, server_hostname=HOST, https_compatible=True)


async def _live(pod: Pod, context: ssl.SSLContext | None) -> None:
    """Ask for `/live` on a new connection, as the probes do."""
    async with _connected(pod, context) as stream:
        await stream.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := await stream.receive_some(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), answer


async def _started(pod: Pod, context: ssl.SSLContext | None) -> None:
    """Wait for the first answer."""
    while True:
        assert pod.process.poll() is None, pod.log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            return await _live(pod, context)
        await trio.sleep(0.05)


def _processes(parent: int) -> list[int]:
    """A process and all that descend from it."""
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


def _peak_bytes(pid: int) -> int:
    """Most memory that a process has had, pages counted which it shares with others."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {pid}")


def _limit_bytes(pod: Pod) -> int:
    text = str(container(pod.manifest)["resources"]["limits"]["memory"])
    return int(text[:-2]) * _UNITS[text[-2:]]


async def test_the_defaults_survive_headers_that_unpack(
    pod: Pod, trusted: ssl.SSLContext | None
) -> None:
    """300 connections made `/live` time out, and 100 of them took 430 MB of each process."""
    probing = None
    if trusted is not None:
        probing = ssl.create_default_context()
        probing.check_hostname, probing.verify_mode = False, ssl.CERT_NONE

    with trio.fail_after(PATIENCE_S):
        await _started(pod, probing)
    wait_until(partial(_has_worker, pod), timeout_s=PATIENCE_S, what="its process")
    processes = _processes(pod.process.pid)
    ended = 0

    async def attack(sent: bytes) -> None:
        nonlocal ended
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with _connected(pod, trusted) as stream:
                await stream.send_all(sent)
                while await stream.receive_some(65_536):
                    pass
        ended += 1

    probes = 0
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            for sent in itertools.islice(itertools.cycle(ATTACKS), CONNECTIONS):
                nursery.start_soon(attack, sent)
            while ended < CONNECTIONS or probes < 3:
                with trio.fail_after(60):
                    await _live(pod, probing)
                probes += 1
                await trio.sleep(0.1)
    assert _processes(pod.process.pid) == processes, pod.log.read_text()[-3000:]
    assert sum(map(_peak_bytes, processes)) < _limit_bytes(pod)


def _has_worker(pod: Pod) -> bool:
    return len(_processes(pod.process.pid)) >= 2
