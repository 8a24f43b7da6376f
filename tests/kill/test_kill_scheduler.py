"""Kill (SIGKILL) the leading scheduler under load."""

from __future__ import annotations

import os
import signal

import httpx
import trio

from ojs_cluster.keys import Keyspace
from tests.support.deployment import Deployment
from tests.support.invariants import await_invariants, lost
from tests.support.load import new_id, running_load
from tests.support.nodes import Process
from tests.support.servers import observer

JOBS_DUE = 60
QUEUE = "due-only"


async def test_after_the_leader_is_killed_another_one_leads(
    deployment: Deployment, kill_round: int
) -> None:
    leader = await _leader(deployment, not_pid=None)
    async with running_load(deployment.url) as load:
        due = await _schedule(load.client)
        await load.progress(40)

        _kill(deployment, leader)
        successor = await _leader(deployment, not_pid=leader[0])

        # No worker serves this queue: only a scheduler can make its jobs available.
        await _await_available(load.client, len(due))
        await load.progress(40)
        await load.drain()

    assert successor[1] > leader[1], "a later leader has a larger fencing token"
    assert load.ledger.violations == []
    report = await_invariants(deployment.backend)
    assert lost(report, load.ledger.acknowledged | due) == set()
    assert {report.states[id_] for id_ in due} == {"available"}
    _restart_dead(deployment)


async def _schedule(client: httpx.AsyncClient) -> set[str]:
    """Create jobs that become due one after the other within four seconds."""
    ids = [new_id() for _ in range(JOBS_DUE)]
    jobs = []
    for number, id_ in enumerate(ids):
        options = {"queue": QUEUE, "scheduled_at": f"+PT{1 + 3 * number / JOBS_DUE:.2f}S"}
        jobs.append({"type": "kill.due", "args": [], "id": id_, "options": options})
    answer = await client.post("/ojs/v1/jobs/batch", json={"jobs": jobs})
    assert answer.status_code == 201, answer.text
    return set(ids)


async def _await_available(client: httpx.AsyncClient, count: int) -> None:
    with trio.fail_after(120):
        while True:
            answer = await client.get(f"/ojs/v1/queues/{QUEUE}/stats")
            if answer.status_code == 200 and answer.json()["queue"]["available"] == count:
                return
            await trio.sleep(0.1)


async def _leader(deployment: Deployment, *, not_pid: int | None) -> tuple[int, int]:
    """Return process id and fencing token of the leader, once it is another process."""
    with trio.fail_after(60), observer(deployment.backend) as redis:
        while True:
            held = redis.get(Keyspace(64).meta.leader("default"))
            if isinstance(held, bytes):
                identity, token = held.decode().rsplit(" ", 1)
                pid = int(identity.rsplit(":", 2)[1])
                if pid != not_pid:
                    return pid, int(token)
            await trio.sleep(0.02)


def _owner(deployment: Deployment, pid: int) -> Process:
    for process in deployment.schedulers:
        if process.is_alive() and pid in (process.pid, *process.children()):
            return process
    raise AssertionError(f"no scheduler of ours has process {pid}")


def _kill(deployment: Deployment, leader: tuple[int, int]) -> None:
    """Kill the whole command, supervisor first, so that nothing restarts the leader at once."""
    owner = _owner(deployment, leader[0])
    os.kill(owner.pid, signal.SIGKILL)
    if leader[0] != owner.pid:
        os.kill(leader[0], signal.SIGKILL)


def _restart_dead(deployment: Deployment) -> None:
    for process in deployment.schedulers:
        if not process.is_alive():
            process.start()
