"""An application in a folder, a server, and the command as a real process."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_client import SyncClient
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import open_app, serving
from tests.server.programs import ROOT, Program, free_port, program
from tests.support.servers import wait_until

SOURCES = {"PYTHONPATH": str(ROOT / "clients" / "python" / "src")}
"""The sources of this tree, which may be a copy of the one that is installed."""
SHOP = Path(__file__).with_name("shop.py")


@dataclass(frozen=True, slots=True)
class Shop:
    """An application and its server.

    Args:
        url: the address of the server.
        folder: the folder with ``shop.py``.
        port: the port of the health endpoint.
    """

    url: str
    folder: Path
    port: int

    @contextlib.contextmanager
    def running(self, *arguments: str, target: str = "shop:app", **env: str) -> Iterator[Program]:
        """Run the command until the block ends."""
        command = ["-m", "ojs_client.worker_command", target]
        command += ["--health-port", str(self.port), "--health-host", "127.0.0.1", *arguments]
        with program(
            command, env={"OJS_URL": self.url, **SOURCES, **env}, cwd=self.folder
        ) as command_:
            yield command_

    def call(self, type: str, *args: Any, **options: Any) -> Any:
        """Run a task, and return its result."""
        with SyncClient(self.url) as client:
            job = client.enqueue(f"shop.{type}", *args, **options)
            return client.result(job.id, wait=120)

    def enqueue(self, type: str, *args: Any, **options: Any) -> str:
        """Enqueue a task, and return the id of its job."""
        with SyncClient(self.url) as client:
            return client.enqueue(f"shop.{type}", *args, **options).id

    def state(self, job_id: str) -> str:
        """Return the state of a job."""
        with SyncClient(self.url) as client:
            return client.get(job_id).state

    def metric(self, name: str) -> float:
        """Return the sum of the samples whose lines begin with a text."""
        text = self.text("metrics")
        lines = [line for line in text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def health(self) -> tuple[int, Any]:
        """Return status and body of the health endpoint."""
        answer = self._get("health")
        return answer.status_code, json.loads(answer.text)

    def text(self, path: str) -> str:
        """Return the answer of the health port for a path."""
        return self._get(path).text

    def _get(self, path: str) -> httpx.Response:
        """Send a request; repeat it until the command listens."""
        deadline = time.monotonic() + 120
        while True:
            try:
                return httpx.get(f"http://127.0.0.1:{self.port}/{path}", timeout=60)
            except httpx.ConnectError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds."""
        wait_until(lambda: bool(condition()), what=what, timeout_s=120)


@pytest.fixture
async def shop(standalone: Embedded, tmp_path: Path) -> AsyncIterator[Shop]:
    """Serve the API, and copy the application into a folder of its own."""
    (tmp_path / "shop.py").write_text(SHOP.read_text())
    async with open_app(standalone) as app, serving(app, lane=True) as port:
        yield Shop(f"http://127.0.0.1:{port}", tmp_path, free_port())
