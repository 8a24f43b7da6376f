"""Data of a development version that recorded the same layout under other names.

``unnumbered`` names its commit. This version refuses its data, and imports its exports.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.support.deployment import TOPOLOGIES, backend_of, unavailable
from tests.support.nodes import NOTHING, ApiNode, Environment, Process, environment, scheduler
from tests.support.servers import flush
from tests.upgrade.previous_version import NotAvailable, previous_version

_COMMIT = Path(__file__).with_name("unnumbered").read_text().strip()
REFUSED = 2
"""Exit code of a process that cannot serve the data."""


@pytest.fixture(scope="module")
def unnumbered() -> Environment:
    """Return variables that run that version; skip if this checkout does not have it."""
    try:
        return previous_version(_COMMIT).environment()
    except NotAvailable as problem:
        pytest.skip(str(problem))


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Embedded]:
    if missing := unavailable("valkey-cluster"):
        pytest.skip(missing)
    server = backend_of(tmp_path, TOPOLOGIES["valkey-cluster"])
    server.start()
    try:
        yield server
    finally:
        server.stop(graceful=False)


@contextlib.contextmanager
def serving(
    directory: Path, backend: Embedded, version: Environment = NOTHING
) -> Iterator[httpx.Client]:
    node = ApiNode("node", directory, backend.url, workers=1, env=version)
    leader: Process = scheduler("scheduler", directory, backend.url, version)
    with contextlib.ExitStack() as stack:
        for process in (node.process, leader):
            process.start()
        stack.callback(leader.stop)
        stack.callback(node.stop)
        node.await_ready()
        yield stack.enter_context(httpx.Client(base_url=f"{node.url}/ojs/v1", timeout=60))


def post(client: httpx.Client, path: str, body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.is_success, (path, answer.status_code, answer.text)
    return answer.json()


def fill(client: httpx.Client) -> list[str]:
    """Create jobs, a cron job and workflows, one of them ended; return the ids of the workflows."""
    for number in range(5):
        post(client, "jobs", {"type": "t", "args": [number], "options": {"queue": "mail"}})
    post(client, "cron", {"name": "c", "cron": "0 0 1 1 *", "type": "t", "args": []})
    steps: list[dict[str, Any]] = [
        {"id": name, "type": "s", "args": [], "options": {"queue": "steps"}} for name in ("a", "b")
    ]
    ids = []
    for kind in ("group", "chain"):
        member = "jobs" if kind == "group" else "steps"
        made = post(client, "workflows", {"type": kind, "name": kind, member: steps})
        ids.append(made["workflow"]["id"])
    jobs = post(client, "workers/fetch", {"queues": ["steps"], "worker_id": "w", "count": 2})
    for job in jobs["jobs"]:
        body = {"job_id": job["id"], "worker_id": "w", "result": {"ok": 1}}
        post(client, "workers/ack", body)
    return ids


def run(command: str, backend: Embedded, version: Environment = NOTHING, given: bytes = b"") -> Any:
    program = str(Path(sys.executable).with_name("ojs-cluster"))
    env = environment(backend.url, version)
    return subprocess.run([program, command], env=env, input=given, capture_output=True)


def test_its_data_is_refused_and_its_export_is_imported(
    unnumbered: Environment, backend: Embedded, tmp_path: Path
) -> None:
    with serving(tmp_path, backend, unnumbered) as client:
        ids = fill(client)
    exported = run("export", backend, unnumbered)
    assert exported.returncode == 0, exported.stderr

    for command in ("serve", "scheduler", "export"):
        refused = run(command, backend)
        assert refused.returncode != 0, command
        assert b"of a development version before 0.1" in refused.stdout + refused.stderr
        if command != "export":
            assert refused.returncode == REFUSED

    flush(backend)
    imported = run("import", backend, given=exported.stdout)
    assert imported.returncode == 0, imported.stderr
    with serving(tmp_path, backend) as client:
        assert {client.get(f"workflows/{each}").status_code for each in ids} == {200}
        assert client.get(f"workflows/{ids[0]}").json()["workflow"]["state"] == "completed"
        assert client.get("cron/c").status_code == 200
        jobs = post(client, "workers/fetch", {"queues": ["mail"], "worker_id": "w", "count": 9})
        assert len(jobs["jobs"]) == 5
