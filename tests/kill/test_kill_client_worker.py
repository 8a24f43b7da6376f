"""Kill, stop and terminate workers of the client library."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.deployment import Deployment
from tests.support.invariants import await_invariants
from tests.support.servers import wait_until

QUEUE = "library"
JOBS = 10


@pytest.fixture
def loop(kill_round: int) -> str:
    """Use both kinds of event loops in turn."""
    return ("asyncio", "trio")[kill_round % 2]


class Worker:
    """A worker process. The lines that it prints go to a file."""

    def __init__(self, url: str, folder: Path, name: str, loop: str, grace_s: float) -> None:
        self.log = folder / f"{name}.log"
        self.go = folder / "go"
        command = [sys.executable, "-m", "tests.kill.client_worker", url, QUEUE, name, loop]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, str(self.go), str(grace_s)], stdout=output, stderr=subprocess.STDOUT
            )

    def jobs(self, step: str) -> list[str]:
        """The jobs whose handlers have come to this step."""
        lines = self.log.read_text().rpartition("\n")[0].splitlines()  # the last one may be cut
        return [line.split()[1] for line in lines if line.startswith(f"{step} ")]

    def await_jobs(self, step: str, count: int) -> None:
        wait_until(
            lambda: len(self.jobs(step)) >= count or self.process.poll() is not None,
            what=f"{count} jobs: {step}",
        )
        assert len(self.jobs(step)) >= count, self.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextlib.contextmanager
def worker(
    deployment: Deployment, folder: Path, name: str, loop: str, *, grace_s: float = 60
) -> Iterator[Worker]:
    """Run a worker for the time of the block, unless the block ends it."""
    running = Worker(deployment.url, folder, name, loop, grace_s)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()


def enqueue(url: str, type: str, count: int) -> list[str]:
    body = {"jobs": [{"type": type, "args": [], "options": {"queue": QUEUE}}] * count}
    answer = httpx.post(f"{url}/ojs/v1/jobs/batch", json=body, timeout=60).raise_for_status()
    return [job["id"] for job in answer.json()["jobs"]]


def job(url: str, id_: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}/ojs/v1/jobs/{id_}", timeout=60).raise_for_status()
    found: dict[str, Any] = answer.json()["job"]
    return found


def await_completed(url: str, ids: list[str]) -> None:
    for id_ in ids:
        wait_until(partial(_is, url, id_, "completed"), what=f"{id_} completes")


def _is(url: str, id_: str, *states: str) -> bool:
    return job(url, id_)["state"] in states


def test_jobs_of_a_killed_worker_are_completed_by_another(
    deployment: Deployment, tmp_path: Path, kill_round: int, loop: str
) -> None:
    url = deployment.url
    with worker(deployment, tmp_path, f"doomed-{kill_round}", loop) as doomed:
        ids = enqueue(url, "kill.waits", JOBS)
        doomed.await_jobs("start", JOBS)
        doomed.signal(signal.SIGKILL)
        doomed.process.wait()
        doomed.go.touch()
        with worker(deployment, tmp_path, f"heir-{kill_round}", loop) as heir:
            await_completed(url, ids)
            assert set(heir.jobs("end")) == set(ids)
    for id_ in ids:
        found = job(url, id_)
        assert found["result"] == f"heir-{kill_round}"
        assert {e["type"] for e in found["errors"]} <= {"visibility_timeout", "worker_lost"}
    assert (await_invariants(deployment.backend)).count() == {"completed": JOBS}


def test_a_worker_that_was_stopped_past_its_leases_cancels_its_handlers(
    deployment: Deployment, tmp_path: Path, kill_round: int, loop: str
) -> None:
    url = deployment.url
    names = f"stopped-{kill_round}", f"heir-{kill_round}"
    with worker(deployment, tmp_path, names[0], loop) as stopped:
        ids = enqueue(url, "kill.waits", JOBS)
        stopped.await_jobs("start", JOBS)
        stopped.signal(signal.SIGSTOP)
        with worker(deployment, tmp_path, names[1], loop) as heir:
            heir.await_jobs("start", 1)  # it runs the jobs of a silent worker one at a time
            stopped.signal(signal.SIGCONT)
            stopped.await_jobs("cancelled", JOBS)
            heir.go.touch()
            await_completed(url, ids)
            heir.signal(signal.SIGTERM)
            assert heir.process.wait(60) == 0, heir.log.read_text()
        # What it ran in the end, it had fetched again.
        again = stopped.jobs("end")
        for id_ in ids:
            assert job(url, id_)["result"] == (names[0] if id_ in again else names[1])
        assert len(again) < JOBS
        # It works on.
        more = enqueue(url, "kill.short", JOBS)
        await_completed(url, more)
        assert sorted(stopped.jobs("end")) == sorted([*again, *more])
    assert (await_invariants(deployment.backend)).count() == {"completed": 2 * JOBS}


def test_a_terminated_worker_acknowledges_what_it_has_done_and_gives_back_the_rest(
    deployment: Deployment, tmp_path: Path, kill_round: int, loop: str
) -> None:
    url = deployment.url
    with worker(deployment, tmp_path, f"ends-{kill_round}", loop) as ends:
        ids = enqueue(url, "kill.short", 200)
        ends.await_jobs("end", 20)
        ends.signal(signal.SIGTERM)
        assert ends.process.wait(60) == 0, ends.log.read_text()
        done = ends.jobs("end")
    assert sorted(ends.jobs("start")) == sorted(done)
    states = {id_: job(url, id_)["state"] for id_ in ids}
    assert {id_ for id_, state in states.items() if state == "completed"} == set(done)
    # A fetch whose response was not read has leased jobs, until the leases expire.
    for id_ in set(ids) - set(done):
        wait_until(partial(_is, url, id_, "available"), what=f"{id_} is available")


def test_a_terminated_worker_ends_after_its_grace_period(
    deployment: Deployment, tmp_path: Path, kill_round: int, loop: str
) -> None:
    """Its handlers do not end: a coroutine is cancelled, and a thread is left behind."""
    url = deployment.url
    with worker(deployment, tmp_path, f"sticks-{kill_round}", loop, grace_s=0.5) as sticks:
        ids = [*enqueue(url, "kill.waits", 2), *enqueue(url, "kill.sticks", 2)]
        sticks.await_jobs("start", 4)
        sticks.signal(signal.SIGTERM)
        assert sticks.process.wait(60) == 1, sticks.log.read_text()
        assert len(sticks.jobs("cancelled")) == 2
    for id_ in ids:
        found = job(url, id_)
        assert (found["state"], found.get("error")) == ("available", None)


def test_no_job_is_lost_while_workers_die_in_every_way(
    deployment: Deployment, tmp_path: Path, kill_round: int, loop: str
) -> None:
    url = deployment.url
    ids: list[str] = []
    with contextlib.ExitStack() as stack:

        def start(number: int) -> Worker:
            name = f"w{number}-{kill_round}"
            return stack.enter_context(worker(deployment, tmp_path, name, loop))

        workers = [start(0), start(1)]
        for number, how in enumerate((signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM) * 2, 2):
            ids += enqueue(url, "kill.short", 100)
            victim = workers.pop(0)
            victim.await_jobs("end", 10)
            victim.signal(how)
            workers.append(start(number))
            if how == signal.SIGTERM:
                assert victim.process.wait(60) == 0, victim.log.read_text()
        await_completed(url, ids)
    assert (await_invariants(deployment.backend)).count() == {"completed": len(ids)}
