"""What fails is on the overview, with what to do, on real servers that fail.

The tests wait for at most a minute, because the machine may be busy. The promise of ten seconds is
the sum of the product's own times, which one test adds up.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from ojs_cluster.ui import cluster_status, session_secret, snapshots
from ojs_cluster.ui.patience import PATIENCE_S
from ojs_cluster.ui.session_secret import SessionSecret
from ojs_scheduler.settings import SchedulerSettings
from tests.http.api import SHARDS
from tests.support.nodes import scheduler
from tests.support.servers import own_server, wait_until
from tests.ui.conftest import FULL
from tests.ui.dashboard import Running, dashboard
from tests.ui.html import parse
from tests.ui.test_pages import page

ROOT = Path(__file__).parents[2]
JOB = {"type": "a.b", "args": []}
NO_SCHEDULER = "No scheduler is running"


@pytest.fixture(autouse=True, scope="module")
def patience() -> None:
    """These tests need the real times, by which a silent master is noticed."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three masters without replicas. None is taken for dead while it is stopped."""
    with own_server(tmp_path_factory.mktemp("outages"), node_timeout_ms=120_000) as found:
        yield found


@pytest.fixture(scope="module")
def watched(servers: Embedded) -> Iterator[Running]:
    """Serve the dashboard to everybody."""
    with dashboard(servers, FULL, keyring=None) as found:
        yield found


@pytest.fixture
def viewer(watched: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=watched.url, timeout=60) as client:
        yield client


def problems(client: httpx.Client) -> str:
    """Return the text of the overview without its charts."""
    return re.sub(r"\s+", " ", parse(page(client, "/ui/").partition('class="history"')[0]).text)


def await_problem(client: httpx.Client, text: str, *, shown: bool = True) -> str:
    """Wait for a page and a list of the API that show the text, or do not; return the page."""
    seen = ""

    def is_so() -> bool:
        nonlocal seen
        seen = problems(client)
        listed = client.get("/ojs/v1/admin/problems").json()["items"]
        assert len({each["id"] for each in listed}) == len(listed)
        in_api = any(text in each["text"] for each in listed)
        return (text in seen, in_api) == (shown, shown)

    wait_until(is_so, what=f"{text}: shown is {shown}")
    return seen


def node_of(servers: Embedded, watched: Running, slot: int) -> EmbeddedNode:
    address = watched.app.store.redis.topology.owner(slot)
    assert address is not None
    return next(node for node in servers.nodes if node.port == address.port)


def test_a_page_that_refreshes_shows_a_failure_within_ten_seconds() -> None:
    refreshed = re.search(
        r'stored\("ojs-live"\) \|\| "(\d+)"',
        (ROOT / "ojs_cluster/ui/static/app.js").read_text(),
    )
    assert refreshed is not None
    page_s = int(refreshed[1]) + cluster_status.KEPT_S
    assert SchedulerSettings().lease_times.key_ttl_s + page_s < 10, "the leases of a dead scheduler"
    assert PATIENCE_S + snapshots.KEPT_S + page_s < 10, "a silent master"


def test_a_full_master_is_shown_with_what_to_do(
    servers: Embedded, watched: Running, viewer: httpx.Client
) -> None:
    master = servers.masters()[0]
    with master.client() as admin:
        admin.config_set("maxmemory", 1)
        shown = await_problem(viewer, f"The Redis master {master.address} is full")
        assert "new jobs are refused" in shown
        assert "Raise its maxmemory" in shown
        queue = next(
            name
            for name in (f"q{number}" for number in range(100))
            if node_of(servers, watched, watched.app.store.keys.shard_of_queue(name).slot) is master
        )
        refused = viewer.post("/ojs/v1/jobs", json={**JOB, "options": {"queue": queue}})
        assert refused.status_code == 503, "the page is right"
        used = admin.info("memory")["used_memory"]
        admin.config_set("maxmemory", int(used * 1.1))
        await_problem(viewer, f"The Redis master {master.address} is nearly full")
        assert "nearly full" in page(viewer, "/ui/cluster")
        admin.config_set("maxmemory", 0)
        admin.config_set("maxmemory-policy", "allkeys-lru")
        await_problem(viewer, "may delete jobs when it is full")
        admin.config_set("maxmemory-policy", "noeviction")
    await_problem(viewer, "may delete jobs", shown=False)
    assert f"{master.address} is" not in problems(viewer)


def test_a_stopped_scheduler_is_shown_with_what_to_do(
    servers: Embedded, viewer: httpx.Client, tmp_path: Path
) -> None:
    shown = await_problem(viewer, NO_SCHEDULER)
    assert "ojs-cluster scheduler" in shown
    leader = scheduler(
        "leader", tmp_path, servers.url, {"OJS_SHARDS": str(SHARDS), "OJS_SCHEDULER_LEASE": "2s"}
    )
    leader.start()
    try:
        await_problem(viewer, NO_SCHEDULER, shown=False)
        os.kill(leader.pid, signal.SIGSTOP)  # its connections stand, and its leases end
        await_problem(viewer, NO_SCHEDULER)
        os.kill(leader.pid, signal.SIGCONT)
        await_problem(viewer, NO_SCHEDULER, shown=False)
    finally:
        leader.kill()
    await_problem(viewer, NO_SCHEDULER)


def test_a_silent_master_is_named_and_the_last_numbers_stay(
    servers: Embedded, watched: Running, viewer: httpx.Client
) -> None:
    """The master of the meta tag is the worst case: it has the history and the list of queues."""
    assert viewer.post("/ojs/v1/jobs", json=JOB).status_code == 201
    wait_until(lambda: ">1<" in problems_html(viewer), what="the job is counted")
    node = node_of(servers, watched, watched.app.store.keys.meta.slot)
    servers.pause(node)
    try:
        shown = await_problem(viewer, f"The Redis master {node.address} does not answer")
        assert "Its jobs are kept, and wait." in shown
        assert f"of {SHARDS} shards wait" in shown
        wait_until(lambda: "These numbers are" in problems(viewer), what="the age of the numbers")
        assert ">1<" in problems_html(viewer)
        whole = page(viewer, "/ui/cluster")
        assert "silent" in whole
        for other in servers.masters():
            assert other.address in whole
    finally:
        servers.resume(node)
    await_problem(viewer, "does not answer", shown=False)
    assert "These numbers are" not in problems(viewer)


@pytest.mark.parametrize("has_list", [True, False])
def test_the_list_of_queues_shows_what_other_masters_have(
    servers: Embedded, watched: Running, viewer: httpx.Client, has_list: bool
) -> None:
    """The master that stops has a queue, or it has the list of queues."""
    keys = watched.app.store.keys
    meta = node_of(servers, watched, keys.meta.slot)
    names = [f"listed-{number}" for number in range(60)]
    owners = {name: node_of(servers, watched, keys.shard_of_queue(name).slot) for name in names}
    lost = next(name for name in names if owners[name] is not meta)
    kept = next(name for name in names if owners[name] not in (meta, owners[lost]))
    for name in (lost, kept):
        viewer.post("/ojs/v1/jobs", json={**JOB, "options": {"queue": name}}).raise_for_status()
    rows = [f'href="./queues/{name}"' for name in (lost, kept)]
    path = "/ui/queues?find=listed-"
    wait_until(lambda: all(row in page(viewer, path) for row in rows), what="the numbers are read")
    stopped = meta if has_list else owners[lost]
    servers.pause(stopped)
    try:

        def says() -> bool:
            shown = page(viewer, path)
            if has_list:
                return "The list of queues cannot be read" in shown
            is_named = f"its Redis master does not answer: {lost}" in shown
            return is_named and rows[1] in shown and rows[0] not in shown

        wait_until(says, what="the page names what is missing")
    finally:
        servers.resume(stopped)
    wait_until(lambda: all(row in page(viewer, path) for row in rows), what="all are there again")


def test_a_key_for_some_queues_sees_that_their_list_cannot_be_read(servers: Embedded) -> None:
    """Without the list it is unknown whether there is a queue, so the page must not deny it."""
    with (
        dashboard(servers, FULL) as limited,
        limited.browser("email-key") as client,
    ):
        meta = node_of(servers, limited, limited.app.store.keys.meta.slot)
        servers.pause(meta)
        try:
            wait_until(
                lambda: "The list of queues cannot be read" in page(client, "/ui/queues"),
                what="the page says that the list cannot be read",
            )
        finally:
            servers.resume(meta)


def problems_html(client: httpx.Client) -> str:
    return page(client, "/ui/").partition('class="facts"')[0]


def test_sessions_go_on_while_the_master_of_their_secret_is_away(
    servers: Embedded, watched: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_secret, "_KEPT_S", 0.0)
    secret = SessionSecret(watched.app.store)
    before = watched.run(secret.get)
    node = node_of(servers, watched, watched.app.store.keys.meta.slot)
    servers.pause(node)
    try:
        assert watched.run(secret.get) == before
        assert watched.run(secret.get) == before
    finally:
        servers.resume(node)


def test_a_failover_is_shown_until_the_master_has_a_replica_again(tmp_path: Path) -> None:
    # The time until the failover is that in which the page must be read.
    config: dict[str, Any] = {"replicas": 1, "node_timeout_ms": 5000}
    with (
        own_server(tmp_path, **config) as servers,
        dashboard(servers, FULL, keyring=None) as watched,
        httpx.Client(base_url=watched.url, timeout=60) as viewer,
    ):
        lost = servers.masters()[0]
        servers.kill(lost)
        shown = await_problem(viewer, f"The Redis master {lost.address} does not answer")
        assert "If it has a replica, the replica takes over" in shown
        shown = await_problem(viewer, "A Redis master has no replica")
        assert "start the old master again" in shown
        assert f"{lost.address} does not answer" not in shown
        servers.restart(lost)
        await_problem(viewer, "has no replica", shown=False)
