"""The chart's defaults under header amplification: the pod lives and keeps to its memory limit."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.server.embedded.servers import Embedded
from tests.helm.chart import Chart, container
from tests.helm.test_processes import HOST, PATIENCE_S, Pod
from tests.security.amplification import attack, live, peak_bytes, processes
from tests.server.programs import free_port
from tests.support.certificates import Certificates
from tests.support.servers import wait_until

H2C, TLS = "clear text with OJS_H2C", "TLS"
VARIANTS = (
    "clear text as by default",
    pytest.param(H2C, marks=pytest.mark.soak),
    TLS,
)
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


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


async def _started(pod: Pod, context: ssl.SSLContext | None) -> None:
    """Wait for the first answer."""
    while True:
        assert pod.process.poll() is None, pod.log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            return await live(pod.address, context)
        await trio.sleep(0.05)


def _limit_bytes(pod: Pod) -> int:
    text = str(container(pod.manifest)["resources"]["limits"]["memory"])
    return int(text[:-2]) * _UNITS[text[-2:]]


async def test_the_defaults_survive_headers_that_unpack(
    pod: Pod, trusted: ssl.SSLContext | None
) -> None:
    """300 connections made ``/live`` time out, and 100 of them took 430 MB of each process."""
    probing = None
    if trusted is not None:
        probing = ssl.create_default_context()
        probing.check_hostname, probing.verify_mode = False, ssl.CERT_NONE

    with trio.fail_after(PATIENCE_S):
        await _started(pod, probing)
    wait_until(partial(_has_worker, pod), timeout_s=PATIENCE_S, what="its process")
    running = processes(pod.process.pid)

    await attack(pod.address, trusted, probing)

    assert processes(pod.process.pid) == running, pod.log.read_text()[-3000:]
    assert sum(map(peak_bytes, running)) < _limit_bytes(pod)


def _has_worker(pod: Pod) -> bool:
    return len(processes(pod.process.pid)) >= 2
