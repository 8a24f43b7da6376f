"""What one version has begun, the other one ends: leases, sessions, cursors and stored responses.

The nodes of both versions run at the same time, as in the middle of an upgrade.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.keys import SHARD_KEYS
from ojs_cluster.store.effects import EFFECTS
from ojs_cluster.store.ground.scripts import read_includes
from tests.support.deployment import TOPOLOGIES, backend_of, unavailable
from tests.support.load import new_id
from tests.support.nodes import NOTHING, ApiNode, Environment, Process, scheduler
from tests.support.servers import wait_until
from tests.upgrade.previous_version import (
    ROOT,
    PreviousVersion,
    commit_of_previous,
    previous_client,
)

KEY = "a-key-of-at-least-thirty-two-characters"
ENV = {"OJS_API_KEY": KEY, "OJS_UI": "full", "OJS_SCHEDULER_LEASE": "2s"}
NAMES = """
import json
import re
from ojs_cluster.keys import SHARD_KEYS
try:
    from ojs_cluster.store.effects import EFFECTS
    from ojs_cluster.store.ground.scripts import read_includes
except ModuleNotFoundError:  # version 0.1
    from ojs_cluster.store.outbox.effects import EFFECTS
    from ojs_cluster.store.scripts import read_includes
print(json.dumps([read_includes()["fields"], sorted(EFFECTS), sorted(SHARD_KEYS)]))
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A node of each version. ``old`` and ``new`` are their clients."""

    old: httpx.Client
    new: httpx.Client

    def directions(self) -> tuple[tuple[httpx.Client, httpx.Client], ...]:
        """Return which node begins, and which one ends: an upgrade, and a rollback."""
        return (self.old, self.new), (self.new, self.old)


@pytest.fixture(scope="module")
def pair(previous: PreviousVersion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if missing := unavailable("valkey-cluster"):
        pytest.skip(missing)
    directory = tmp_path_factory.mktemp("pair")
    with contextlib.ExitStack() as stack:
        backend = backend_of(directory, TOPOLOGIES["valkey-cluster"])
        backend.start()
        stack.callback(backend.stop, graceful=False)
        clients = []
        nodes = []
        for name, version in (("old", previous.environment()), ("new", NOTHING)):
            env: Environment = {**ENV, **version}
            node = ApiNode(name, directory, backend.url, workers=1, env=env)
            leader: Process = scheduler(f"scheduler-{name}", directory, backend.url, env)
            for process in (node.process, leader):
                process.start()
            stack.callback(leader.stop)
            stack.callback(node.stop)
            nodes.append(node)
        for node in nodes:
            node.await_ready()
            headers = {"Authorization": f"Bearer {KEY}"}
            client = httpx.Client(base_url=node.url, headers=headers, timeout=60)
            clients.append(stack.enter_context(client))
        yield Pair(*clients)


def post(client: httpx.Client, path: str, body: Any, **headers: str) -> Any:
    answer = client.post(f"/ojs/v1/{path}", json=body, headers=headers)
    assert answer.is_success, (path, answer.status_code, answer.text)
    return answer.json()


def fetch(client: httpx.Client, queue: str) -> Any:
    """Fetch one job; wait for it at most half a minute."""
    body = {"queues": [queue], "worker_id": "w", "wait_ms": 30_000}
    [job] = post(client, "workers/fetch", body)["jobs"]
    return job


def ack(client: httpx.Client, job: Any, **more: Any) -> Any:
    body = {"job_id": job["id"], "worker_id": "w", "lease_id": job["lease_id"], **more}
    return post(client, "workers/ack", body)


def new_job(queue: str, **options: Any) -> Any:
    return {"type": "cross", "args": [1], "options": {"queue": queue, **options}}


def test_a_lease_belongs_to_its_worker_on_both_versions(pair: Pair) -> None:
    for begins, ends in pair.directions():
        queue = new_id()
        made = post(begins, "jobs", {**new_job(queue), "id": new_id()})["job"]
        job = fetch(begins, queue)
        assert job["id"] == made["id"]
        body = {"worker_id": "w", "active_jobs": [job["id"]]}
        assert post(ends, "workers/heartbeat", body)["jobs_extended"] == [job["id"]]
        report = {"worker_id": "w", "lease_id": job["lease_id"], "progress": 0.5}
        assert ends.put(f"/ojs/v1/jobs/{job['id']}/progress", json=report).is_success
        stale = {"job_id": job["id"], "worker_id": "other", "lease_id": job["lease_id"]}
        assert ends.post("/ojs/v1/workers/ack", json=stale).status_code == 409
        ack(ends, job, result={"n": 1})
        ended = begins.get(f"/ojs/v1/jobs/{job['id']}").json()["job"]
        assert (ended["state"], ended["result"]) == ("completed", {"n": 1})


def test_a_workflow_continues_on_the_other_version(pair: Pair) -> None:
    for begins, ends in pair.directions():
        queue = new_id()
        steps = [new_job(queue), new_job(queue)]
        made = post(begins, "workflows", {"type": "chain", "name": "x", "steps": steps})
        ack(ends, fetch(begins, queue), result={"n": 1})
        second = fetch(ends, queue)
        ack(begins, second)

        def is_completed(made: Any = made, ends: httpx.Client = ends) -> bool:
            answer = ends.get(f"/ojs/v1/workflows/{made['workflow']['id']}")
            return bool(answer.json()["workflow"]["state"] == "completed")

        wait_until(is_completed, what="the workflow has completed")


def test_the_steps_of_a_workflow_end_on_both_versions_in_turn(pair: Pair) -> None:
    """One version records outcomes without what the other one counts."""
    for directions in pair.directions():
        queue, back = new_id(), new_id()
        inner = {"type": "chain", "steps": [new_job(queue)] * 4}
        jobs = [inner, new_job(queue), new_job(queue)]
        callbacks = {"on_complete": new_job(back), "on_success": new_job(back)}
        body = {"type": "batch", "jobs": jobs, "callbacks": callbacks}
        made = post(directions[0], "workflows", body)["workflow"]
        for number in range(8):
            node = directions[number % 2]
            job = fetch(directions[number // 2 % 2], queue if number < 6 else back)
            ack(node, job, result=number)
        path = f"/ojs/v1/workflows/{made['id']}"

        def is_completed(path: str = path) -> bool:
            found = [node.get(path).json()["workflow"]["state"] for node in (pair.old, pair.new)]
            return found == ["completed"] * 2

        wait_until(is_completed, what="the workflow has completed")
        for name in (queue, back):
            nothing = {"queues": [name], "worker_id": "w"}
            assert post(pair.new, "workers/fetch", nothing)["jobs"] == []


def test_a_unique_lock_holds_on_both_versions(pair: Pair) -> None:
    for begins, ends in pair.directions():
        queue = new_id()
        body = new_job(queue, unique={"keys": ["queue"], "on_conflict": "reject"})
        post(begins, "jobs", body)
        assert ends.post("/ojs/v1/jobs", json=body).status_code == 409
        ack(ends, fetch(ends, queue))

        def is_free(ends: httpx.Client = ends, body: Any = body) -> bool:
            return ends.post("/ojs/v1/jobs", json=body).status_code == 201

        wait_until(is_free, what="the lock is free")


def test_a_repeated_request_gets_the_response_of_the_other_version(pair: Pair) -> None:
    for begins, ends in pair.directions():
        queue = new_id()
        body = {"jobs": [new_job(queue), new_job(queue)]}
        first = post(begins, "jobs/bulk", body, **{"Idempotency-Key": queue})
        assert post(ends, "jobs/bulk", body, **{"Idempotency-Key": queue}) == first


def test_a_list_goes_on_at_the_cursor_of_the_other_version(pair: Pair) -> None:
    for begins, ends in pair.directions():
        queue = new_id()
        jobs = [{**new_job(queue), "id": new_id()} for _ in range(3)]
        post(begins, "jobs/batch", {"jobs": jobs})
        first = begins.get("/ojs/v1/jobs", params={"queue": queue, "limit": 2}).json()
        cursor = first["pagination"]["next_cursor"]
        rest = ends.get("/ojs/v1/jobs", params={"queue": queue, "cursor": cursor}).json()
        found = [job["id"] for page in (first, rest) for job in page["jobs"]]
        assert sorted(found) == sorted(job["id"] for job in jobs)


def test_events_go_on_at_the_id_of_the_other_version(pair: Pair) -> None:
    for begins, ends in pair.directions():
        queue = new_id()
        first = new_id()
        post(begins, "jobs", new_job(queue))
        with _events(begins, queue) as read:
            post(begins, "jobs", {**new_job(queue), "id": first})
            position, data = read()
            assert first in data
        missed = new_id()
        post(begins, "jobs", {**new_job(queue), "id": missed})
        with _events(ends, queue, **{"Last-Event-ID": position}) as read:
            assert missed in read()[1]


def test_a_bulk_operation_is_carried_out_by_either_scheduler(pair: Pair) -> None:
    for begins, ends in pair.directions():
        queue = new_id()
        post(begins, "jobs", new_job(queue))
        body = {"action": "cancel", "filter": {"queue": queue}, "confirm": True}
        made = post(begins, "admin/bulk", body)
        path = f"/ojs/v1/admin/bulk/{made['id']}"

        def has_ended(path: str = path, ends: httpx.Client = ends) -> bool:
            return bool(ends.get(path).json()["state"] == "completed")

        wait_until(has_ended, what="the operation has ended")
        assert ends.get(path).json()["succeeded"] == 1


def test_a_session_of_the_dashboard_holds_on_both_versions(pair: Pair) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    for begins, ends in pair.directions():
        login = begins.post("/ui/login", data={"key": KEY}, headers=own)
        cookie = login.headers["set-cookie"].partition(";")[0]
        begins.cookies.clear()
        # Without the session this would be a redirect to the login.
        page = httpx.get(f"{ends.base_url}/ui/jobs", headers={"Cookie": cookie}, timeout=60)
        assert page.status_code == 200


def test_client_and_server_may_be_of_two_versions(pair: Pair) -> None:
    """Applications are not upgraded with the server, but before or after it."""
    before = previous_client(commit_of_previous())
    for server, version, folder in ((pair.new, before, ".cache"), (pair.old, NOTHING, "clients")):
        env = {"OJS_URL": str(server.base_url), "OJS_API_KEY": KEY, **version}
        done = subprocess.run(
            [sys.executable, "-P", Path(__file__).with_name("mixed_client.py"), new_id()],
            env={"PATH": "", **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        used = Path(done.stdout.strip()).relative_to(ROOT)
        assert used.parts[0] == folder
        shown = subprocess.run(
            [sys.executable, "-P", "-m", "ojs_client.ctl", "job", "ls", "-o", "json"],
            env={"PATH": "", **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)


def test_each_version_knows_the_fields_keys_and_effects_of_the_other(
    previous: PreviousVersion,
) -> None:
    """A name of one version has no other meaning in the other version.

    If this fails, read docs/upgrading.md: either keep the name, or add a migration.
    """
    # With -P, `python -c` does not look for modules in the working directory first.
    done = subprocess.run(
        [sys.executable, "-P", "-c", NAMES],
        env={"PATH": "", **previous.environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    fields, effects, keys = json.loads(done.stdout)
    before, now = _fields(fields), _fields(read_includes()["fields"])
    renamed = {name for name in before.keys() & now.keys() if before[name] != now[name]}
    assert renamed == set()
    reused = {text for text in before.values() if text not in now.values()}
    assert reused == set(), "jobs of the previous version have fields that this one does not know"
    assert set(effects) == set(EFFECTS), "one version cannot deliver effects of the other"
    assert set(keys) <= set(SHARD_KEYS), "data of the previous version is left behind"


def _fields(text: str) -> dict[str, str]:
    """Return the fields of a job by their names."""
    found = dict(re.findall(r"(\w+) = '([^']+)'", text))
    assert len(found) > 50
    return found


@contextlib.contextmanager
def _events(client: httpx.Client, queue: str, **headers: str) -> Iterator[Any]:
    """Open the event stream of a queue; yield a function that returns id and data of an event."""
    with client.stream("GET", f"/ojs/v1/queues/{queue}/events", headers=headers) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()

        def read() -> tuple[str, str]:
            position = ""
            for line in lines:
                if line.startswith("id:"):
                    position = line.removeprefix("id:").strip()
                if line.startswith("data:") and queue in line:
                    return position, line
            raise AssertionError("the stream has ended")

        yield read
