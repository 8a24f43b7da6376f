"""How requests get into the cluster."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import httpx

from tests.cluster import objects
from tests.cluster.tools import Kubectl

_PROBE_S = 5
_OPENS_S = 60


@dataclass(frozen=True)
class Entry:
    """Where clients connect.

    Attributes:
        url: base of all requests.
        through_service: whether Kubernetes chooses the pod of each connection. Only then does a
            failed request count against the chart: a tunnel ends with the pod that it leads to.
    """

    url: str
    through_service: bool


@contextlib.contextmanager
def entry(kube: Kubectl, service: str, *, avoid: Sequence[str] = ()) -> Iterator[Entry]:
    """Give the best way in: a port of a node, else ``kubectl port-forward``.

    Args:
        service: a Service of type NodePort.
        avoid: names of nodes that are about to go.
    """
    port = objects.node_port(kube.get("service", service))
    for node in kube.list("nodes"):
        if port is None or objects.name(node) in avoid or not objects.is_ready(node):
            continue
        for address in objects.addresses(node):
            host = f"[{address}]" if ":" in address else address
            if _answers(url := f"http://{host}:{port}"):
                yield Entry(url, through_service=True)
                return
    with _forwarded(kube, service) as url:
        yield Entry(url, through_service=False)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/live", timeout=_PROBE_S).is_success
    return False


@contextlib.contextmanager
def _forwarded(kube: Kubectl, service: str) -> Iterator[str]:
    """A tunnel to one pod of a Service, opened again to another when that pod goes."""
    ended = threading.Event()
    first = _open(kube, service, 0)
    local = _port_of(first.stdout)
    current = [first]

    def keep() -> None:
        while not ended.is_set():
            current[0].wait()
            if not ended.wait(0.5):
                current[0] = _open(kube, service, local)
                _drain(current[0].stdout)

    keeper = threading.Thread(target=keep, daemon=True)
    _drain(first.stdout)
    keeper.start()
    try:
        yield f"http://127.0.0.1:{local}"
    finally:
        ended.set()
        while keeper.is_alive():  # it may open one more at this moment
            current[0].terminate()
            keeper.join(0.2)
        current[0].terminate()  # the keeper may have opened it just before it ended
        current[0].wait()


def _open(kube: Kubectl, service: str, local: int) -> subprocess.Popen[str]:
    command = kube.command("port-forward", f"service/{service}", f"{local or ''}:http")
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def _port_of(output: IO[str] | None) -> int:
    """Read the local port that kubectl has chosen."""
    assert output is not None
    deadline = time.monotonic() + _OPENS_S
    said = []
    while (line := output.readline()) and time.monotonic() < deadline:
        said.append(line)
        if match := re.search(r"Forwarding from 127\.0\.0\.1:(\d+)", line):
            return int(match[1])
    raise AssertionError(f"kubectl port-forward opened no port:\n{''.join(said)}")


def _drain(output: IO[str] | None) -> None:
    """Read on until the end: a full pipe would stop the tunnel."""

    def read() -> None:
        assert output is not None
        with output:
            for _ in output:
                pass

    threading.Thread(target=read, daemon=True).start()
