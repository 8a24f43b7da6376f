"""Fixtures for pytest: a fake server, its clock, and a real server.

pytest loads this module in every project that has installed the library, so it imports the rest of
the library only for tests that use a fixture.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from ojs_client.testing import Clock, FakeServer

_START_S: Final = 120.0
_STOP_S: Final = 60.0


@pytest.fixture
def ojs_fake() -> FakeServer:
    """Return a server in memory, see ``ojs_client.testing``."""
    from ojs_client.testing import FakeServer

    return FakeServer()


@pytest.fixture
def ojs_clock(ojs_fake: FakeServer) -> Clock:
    """Return the clock of ``ojs_fake`` for a test without an event loop."""
    from ojs_client.testing import Clock

    return Clock(ojs_fake)


@pytest.fixture(scope="session")
def ojs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server until the session ends, and return its address; skip without ``ojs-cluster``."""
    if find_spec("ojs_cluster") is None:
        pytest.skip("ojs_server needs a server: pip install 'ojs-cluster[embedded]'")
    folder = tmp_path_factory.mktemp("ojs-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ojs_cluster.cli", "dev", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--data", str(folder / "data")]
    # Settings of this machine, and above all its Redis, are not for tests.
    kept = {n: value for n, value in os.environ.items() if not n.startswith(("OJS_", "REDIS_"))}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=kept, stdout=output, stderr=output, cwd=folder)  # noqa: S603 - of the library
    try:
        _wait(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    # It prints its address when it is ready. At the port, another program might answer.
    address = f"http://127.0.0.1:{port}/ojs/v1"
    while process.poll() is None and time.monotonic() < deadline:
        if address in log.read_text(errors="replace"):
            return
        time.sleep(0.05)
    raise RuntimeError(f"ojs-cluster dev does not answer:\n{log.read_text()}")
