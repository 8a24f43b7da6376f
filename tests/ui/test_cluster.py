"""The page of the cluster: nodes, schedulers, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import httpx
import orjson
import pytest

from ojs_cluster.store.operators.operations import processes
from ojs_cluster.store.operators.operations.processes import describe_process
from tests.support.servers import wait_until
from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_hostile_text import HOSTILE, check
from tests.ui.test_pages import page


@pytest.fixture
def leaders(running: Running) -> Iterator[None]:
    """Let two schedulers lead, one of them with a hostile name; damage one lock."""
    store = running.app.store
    locks = {shard.leader("default"): shard.slot for shard in store.keys}
    meta = store.keys.meta

    async def write() -> None:
        for number, (key, slot) in enumerate(locks.items()):
            holder = f"{HOSTILE} 7" if number % 2 else "host-1:42:abc 9"
            await store.redis.call(slot, "SET", key, holder.encode())
        await store.redis.call(meta.slot, "SET", meta.leader("default"), b"host-1:42:abc 8")
        damaged, slot = next(iter(locks.items()))
        await store.redis.call(slot, "SET", damaged, b"\xff\xfe")

    async def remove() -> None:
        for key, slot in {**locks, meta.leader("default"): meta.slot}.items():
            await store.redis.call(slot, "DEL", key)

    running.run(write)
    yield
    running.run(remove)


def test_the_page_shows_masters_memory_and_this_process(
    admin: httpx.Client, running: Running
) -> None:
    text = parse(page(admin, "/ui/cluster")).text
    (address,) = running.app.store.redis.topology.masters
    assert str(address) in text
    assert "answers" in text
    assert "noeviction" in text
    assert "No master has a replica" in text
    assert "No scheduler leads a shard" in text
    assert "No API process has reported itself" in text
    assert "none set" in text
    assert "delete completed jobs or dead letters" in " ".join(text.split())
    assert "Set maxmemory to 60 % of the memory of its machine" in text
    assert "layout 1 of the data" in text


@pytest.mark.usefixtures("leaders")
def test_schedulers_are_listed_with_their_shards(admin: httpx.Client) -> None:
    def shows_leaders() -> bool:
        return "host-1:42:abc" in page(admin, "/ui/cluster")

    wait_until(shows_leaders, what="the shared status is older than the locks")
    answer = admin.get("/ui/cluster")
    check(answer)
    assert "&lt;hostile" in answer.text
    assert "Shards without a leader: 1." in answer.text, "the damaged lock"


def test_a_key_for_some_queues_does_not_see_the_cluster(running: Running, demo: Demo) -> None:
    with running.browser("email-key") as client:
        assert "is for some queues only" in page(client, "/ui/cluster", 403)
        assert 'href="./cluster"' not in page(client, "/ui/")


def test_a_schema_that_ended_a_process_is_a_problem(admin: httpx.Client, running: Running) -> None:
    store = running.app.store
    described = replace(describe_process(store, "api"), suspect_schemas=("email.send@2",))

    async def report() -> None:
        await processes._send(store, "host:1:a", orjson.dumps(described))

    async def end() -> None:
        await processes._send(store, "host:1:a", b"")

    def shows(path: str) -> bool:
        return "ended while it validated args" in page(admin, path)

    running.run(report)
    try:
        for path in ("/ui/cluster", "/ui/"):
            wait_until(partial(shows, path))
            assert "email.send@2" in page(admin, path)
    finally:
        running.run(end)
