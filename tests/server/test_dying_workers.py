"""Real workers that die or hang: their jobs, and what operators see and can do."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.client_library.ctl.conftest import Ctl
from tests.server.programs import clean_environment, program
from tests.server.test_incidents import Server, until
from tests.server.test_serve import CLI, serve

SETTINGS = {"OJS_UI": "full", "OJS_HEARTBEAT_INTERVAL_MS": "1000"}


@pytest.fixture
def server(standalone: Embedded) -> Iterator[Server]:
    """A server and a scheduler for which a worker is dead after three seconds."""
    env = {"REDIS_URL": standalone.url, **SETTINGS}
    with (
        serve(standalone.url, **SETTINGS) as (running, port),
        program([*CLI, "scheduler"], env=env) as scheduler,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        running.wait_line("ready to serve")
        scheduler.wait_line("scheduler started")
        yield Server(port, standalone.url, client, Ctl(str(client.base_url)))


@contextmanager
def working(server: Server, queue: str) -> Iterator[list[int]]:
    """Keep a worker running until the block ends, and yield its processes so far."""
    command = [sys.executable, "-m", "tests.server.dying_worker", str(server.http.base_url), queue]
    pids: list[int] = []
    ending = threading.Event()

    def keep() -> None:
        while not ending.is_set():
            with subprocess.Popen(command, env=clean_environment({})) as process:
                pids.append(process.pid)
                while process.poll() is None:
                    if ending.wait(0.05):
                        process.kill()

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield pids
    finally:
        ending.set()
        thread.join()


def job(server: Server, job_id: str) -> Any:
    return server.http.get(f"/ojs/v1/jobs/{job_id}").json()["job"]


def await_state(server: Server, job_id: str, state: str) -> None:
    until(lambda: job(server, job_id)["state"] == state, what=f"{job_id} is {state}")


def press(server: Server, path: str) -> None:
    """Press a button of the page of a job."""
    page = server.http.get(f"/ui/{path.rpartition('/')[0]}").text
    assert f'{path}"' in page
    origin = {"Origin": f"http://127.0.0.1:{server.port}"}
    reply = server.http.post(f"/ui/{path}", data={"back": ""}, headers=origin)
    assert reply.status_code == 303, reply.text


def test_a_job_that_kills_its_worker_is_named_and_the_others_complete(server: Server) -> None:
    types = ["innocent", "poison", "innocent", "innocent"]
    ids = [server.enqueue(name, queue="mixed", retry={"max_attempts": 3})["id"] for name in types]
    poison = ids.pop(1)
    with working(server, "mixed") as pids:
        for job_id in ids:
            await_state(server, job_id, "completed")
        await_state(server, poison, "discarded")
        assert len(pids) >= 4
    for job_id in ids:
        [error] = job(server, job_id)["errors"]
        assert error["message"] == "the worker died while it held 4 jobs, and this was one of them"
    ended = job(server, poison)
    assert [error["message"] for error in ended["errors"]] == [
        "the worker died while it held 4 jobs, and this was one of them",
        "the worker died while it ran this job alone",
        "the worker died while it ran this job alone, 2 times",
        "the worker died while it ran this job alone, 3 times",
    ]
    dead = server.http.get("/ojs/v1/dead-letter").json()["jobs"]
    assert [each["id"] for each in dead] == [poison]

    problem = f"job_kills_workers:{poison}"
    text = f"The job {poison} of the type poison kills its workers: 3 died while they ran this job"
    until(lambda: server.listed().get(problem, {}).get("text") == f"{text} alone", what="its name")
    named = server.see(problem)
    assert (named["severity"], named["link"]) == ("critical", f"ui/jobs/{poison}")
    server.post(f"/dead-letter/{poison}", method="DELETE")
    server.see_end(problem)


def test_the_run_of_a_hung_job_is_cancelled_and_the_job_runs_again(
    server: Server, tmp_path: Path
) -> None:
    """It hangs a minute after its start at the earliest."""
    with working(server, "slow"):
        usual = [server.enqueue("hang", queue="slow")["id"] for _ in range(120)]
        for job_id in usual:
            await_state(server, job_id, "completed")
        file = tmp_path / "pid"
        body = {"type": "hang", "args": [str(file)], "options": {"queue": "slow"}}
        hung = server.post("/jobs", body)["job"]["id"]
        until(lambda: file.exists() and file.read_text().endswith("\n"), what="it hangs")
        handler = int(file.read_text())
        hangs = server.see(f"job_hangs:{hung}")
        assert re.search(r"has run for .*, [\d,]+ times as long as 95 %", hangs["text"])
        assert hangs["link"] == f"ui/jobs/{hung}"

        press(server, f"jobs/{hung}/cancel-run")

        until(lambda: not _is_alive(handler), what="its process is killed")
        await_state(server, hung, "completed")
        ended = job(server, hung)
        assert [error["type"] for error in ended["errors"]] == ["run_cancelled"]
        assert ended["result"] == 2
        server.see_end(f"job_hangs:{hung}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_host_that_restarts_its_worker_again_and_again_is_named(server: Server) -> None:
    """The job kills the worker whenever a worker takes it; retries go on for long."""
    retry = {"max_attempts": 50}
    for _ in range(4):
        server.enqueue("poison", queue="loop", retry=retry)
    host = socket.gethostname()
    with working(server, "loop"):
        named = server.see(f"workers_restart:{host}")
    text = rf"Workers on {host} end soon after they begin: \d+ in the last 10 minutes, one every "
    assert re.match(rf"{text}[\d.]+ s$", named["text"]), named["text"]
    assert named["link"] == "ui/workers"
