"""The blocking client, used from threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio

from ojs_client import Conflict, NotFound, SyncClient, chain, new_job
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import open_app, serving


@pytest.fixture
async def url(backend: Embedded) -> AsyncIterator[str]:
    async with open_app(backend) as app, serving(app, lane=True) as port:
        yield f"http://127.0.0.1:{port}"


async def test_every_method_blocks_until_its_response(url: str) -> None:
    def scenario() -> None:
        with SyncClient(url) as client:
            job = client.enqueue("t.a", 1, priority=3)
            assert client.get(job.id) == job
            assert client.enqueue(new_job("t.a", 2)).args == [2]
            assert len(client.enqueue_many(new_job("t.a", n) for n in range(3))) == 3
            assert client.cancel(job.id).state == "cancelled"
            waiting = client.enqueue("t.a", queue="one", tags=["x"])
            assert client.jobs.edit(waiting.id, priority=4).priority == 4
            assert client.jobs.move(waiting.id, "two").queue == "two"
            assert [found.id for found in client.jobs.find("tag:x", queue="two")] == [waiting.id]
            happened = {event["event_type"] for event in client.jobs.history(waiting.id)}
            assert "job.moved" in happened
            with pytest.raises(Conflict):
                client.jobs.retry(waiting.id)
            with pytest.raises(Conflict):
                client.jobs.cancel_run(waiting.id)
            client.queues.pause("two")
            assert client.queues.get("two").paused
            client.queues.resume("two")
            assert client.queues.configure("three", concurrency=3)["concurrency"] == 3
            assert "two" in {queue.name for queue in client.queues.find()}
            with pytest.raises(Conflict):
                client.queues.delete("two")
            assert client.jobs.cancel_all("tag:x").succeeded == 1
            assert client.jobs.retry_all(queue="two").matched == 0
            client.jobs.delete(waiting.id)
            deleted = client.jobs.delete_all(queue="two")
            assert client.jobs.report(deleted.operation_id).matched == deleted.matched == 0
            assert "concurrency" in client.queues.create("four", concurrency=2)
            client.enqueue("t.a", queue="four")
            client.queues.drain("four")
            assert client.queues.purge("four") == 1
            client.queues.delete("four")
            started = client.start(chain(new_job("t.a"), new_job("t.b")))
            assert client.workflow(started.id).state == "running"
            assert client.cancel_workflow(started.id).state == "cancelled"
            client.cron.register("daily", "@daily", new_job("t.a"), timezone="Europe/Berlin")
            assert not client.cron.pause("daily").enabled
            assert client.cron.resume("daily").enabled
            assert client.cron.change("daily", expression="@hourly").expression == "@hourly"
            assert client.cron.trigger("daily").type == "t.a"
            assert len(client.cron.history("daily")) == 1
            assert client.cron.get("daily") in client.cron.list_all()
            client.cron.delete("daily")
            with pytest.raises(NotFound):
                client.result("019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f", wait=1)

    await trio.to_thread.run_sync(scenario)


async def test_threads_share_a_client(url: str) -> None:
    def scenario() -> None:
        with SyncClient(url) as client, ThreadPoolExecutor(8) as threads:
            jobs = list(threads.map(lambda n: client.enqueue("t.a", n), range(40)))
        assert [job.args for job in jobs] == [[n] for n in range(40)]

    await trio.to_thread.run_sync(scenario)


def test_a_client_that_is_not_open_says_so() -> None:
    client = SyncClient("http://localhost:1", retry_for_s=0)
    with pytest.raises(RuntimeError, match="with"):
        client.get("1")
    with client:
        pass
    with pytest.raises(RuntimeError, match="not open"):
        client.get("1")


FORKS = """
import os, signal, sys
from ojs_client import SyncClient

signal.alarm(60)
client = SyncClient("http://localhost:1").__enter__()
child = os.fork()
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    signal.alarm(30)
    try:
        if sys.argv[1] == "used": client.get("1")
        sys.exit(3)
    finally:
        if sys.argv[1] == "used": client.__exit__(*sys.exc_info())
"""


@pytest.mark.parametrize(
    ("how", "exit_code", "message"),
    [("used", 1, "opened before a fork"), ("not used", 3, "")],
)
def test_a_forked_process_does_not_wait_for_the_thread(
    how: str, exit_code: int, message: str
) -> None:
    """A fork does not copy the thread. The process that has it may exit without closing it."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(exit_code)], done.stderr
    assert message in done.stderr
