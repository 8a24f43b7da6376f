"""Every example does what it says, on one server."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_client import JobFailed, RetryPolicy, SyncClient, new_job
from tests.examples.fake_api import fake_api
from tests.examples.fake_smtp import fake_smtp
from tests.server.programs import ROOT, Program, clean_environment, free_port, program
from tests.support.servers import wait_until

EXAMPLES = ROOT / "examples"
LIMIT_S = 120
SOON = RetryPolicy(max_attempts=5, initial_interval=0.1)


@contextmanager
def example(name: str, url: str, *args: str, **env: str) -> Iterator[Program]:
    """Run an example in Python. Its warnings are errors."""
    command = ["-W", "error", str(EXAMPLES / name), *args]
    with program(command, env={"OJS_URL": url, **env}) as running:
        yield running


def drained(worker: Program) -> None:
    """Stop a worker as a deployment does; it must end cleanly."""
    worker.signal(signal.SIGTERM)
    assert worker.wait_exit() == 0, worker.output
    failures = worker.output.count("attempt failed")
    assert worker.output.count("\nTraceback") <= failures, worker.output


def test_the_email_worker_sends_repeats_and_gives_up(server_url: str, client: SyncClient) -> None:
    def mail(to: str) -> dict[str, str]:
        return {"to": to, "subject": f"To {to}", "text": "Hello"}

    with fake_smtp() as smtp:
        smtp.refusals["busy@example.com"] = ["451 try later"]
        smtp.refusals["gone@example.com"] = ["550 no such user"] * 9
        jobs = client.enqueue_many(
            new_job("email.send", mail(f"{name}@example.com"), queue="emails", retry=SOON)
            for name in ("ada", "busy", "gone")
        )
        env = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(smtp.port)}
        with example("email_worker.py", server_url, **env) as worker:
            sent = [client.result(job.id, wait=LIMIT_S)["message_id"] for job in jobs[:2]]
            with pytest.raises(JobFailed, match="550 no such user"):
                client.result(jobs[2].id, wait=LIMIT_S)
            drained(worker)
    assert sent == [f"<{job.id}@example.com>" for job in jobs[:2]]
    assert [client.get(job.id).attempt for job in jobs] == [1, 2, 1]
    assert sorted("busy@" in text for text in smtp.mails) == [False, True]
    assert all(any(message_id in text for text in smtp.mails) for message_id in sent)


def test_the_workflow_adds_the_results_of_its_steps_up(server_url: str) -> None:
    with example("workflow.py", server_url) as running:
        assert running.wait_exit() == 0, running.output
    assert re.fullmatch(
        r"workflow [0-9a-f-]+ counts 3 texts\n\{'texts': 3, 'words': 11\}\n", running.output
    )


def test_the_cron_worker_registers_its_job_and_runs_it(server_url: str, client: SyncClient) -> None:
    with example("cron.py", server_url, CRON="* * * * * *") as worker:
        worker.wait_line("removes sessions before", LIMIT_S)
        drained(worker)
    with example("cron.py", server_url) as worker:
        client.cron.get("clean-sessions")
        triggered = client.cron.trigger("clean-sessions")
        assert set(client.result(triggered.id, wait=LIMIT_S)) == {"before"}
        drained(worker)
    cron = client.cron.get("clean-sessions")
    assert (cron.expression, cron.timezone) == ("@hourly", "Europe/Berlin")
    client.cron.delete("clean-sessions")


def test_calls_of_an_api_keep_its_limit_and_its_pauses(server_url: str, client: SyncClient) -> None:
    numbers = range(1, 8)
    with fake_api(throttled={3}) as api:
        named = map(str, numbers)
        with example("rate_limited.py", server_url, *named, API_URL=api.url) as worker:
            wait_until(lambda: sorted(api.answered) == [*numbers], what="all invoices are read")
            drained(worker)
    assert api.most == 2
    with httpx.Client(base_url=server_url, timeout=LIMIT_S) as http:
        jobs = http.get("/ojs/v1/jobs?queue=invoices").json()["jobs"]
    assert {job["state"] for job in jobs} == {"completed"}
    assert {job["args"][0]: job["attempt"] for job in jobs} == {n: 1 + (n == 3) for n in numbers}


@pytest.mark.parametrize("framework", ["fastapi", "quart"])
def test_a_web_application_enqueues_and_reads_results(
    framework: str, server_url: str, client: SyncClient
) -> None:
    pytest.importorskip(framework)
    port, year = free_port(), {"fastapi": 2025, "quart": 2026}[framework]
    command = ["-m", "hypercorn", f"{framework}_app:app", "--bind", f"127.0.0.1:{port}"]
    with program(command, env={"OJS_URL": server_url}, cwd=EXAMPLES) as running:
        running.wait_line("Running on")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as browser:
            first, second = (browser.post(f"/reports/{year}") for _ in range(2))
            assert first.status_code == second.status_code == 202
            job_id = first.json()["job"]
            assert second.json() == first.json() == {"job": job_id, "state": "available"}
            assert (
                browser.get("/reports/jobs/01a219fe-15cd-7eff-b51c-9fd36c9f3d3e").status_code == 404
            )

            run_one(server_url, "reports")
            read = browser.get(f"/reports/jobs/{job_id}").json()
            assert read == {"state": "completed", "result": {"pages": 3}}
            cancelled = browser.post(f"/reports/{year}").json()["job"]
            client.cancel(cancelled)
            assert browser.get(f"/reports/jobs/{cancelled}").json()["state"] == "cancelled"
        drained(running)


@pytest.fixture(scope="session")
def go_worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built worker in Go."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    built = tmp_path_factory.mktemp("go") / "worker"
    offline = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "-mod=mod"}
    for command in (
        ["gofmt", "-l", "."],
        ["go", "vet", "."],
        ["go", "build", "-o", str(built), "."],
    ):
        done = subprocess.run(
            command,
            cwd=EXAMPLES / "go",
            env=clean_environment(offline),
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert (done.returncode, done.stdout) == (0, ""), f"{command}: {done.stdout}{done.stderr}"
    return built


@pytest.fixture
def node_worker() -> list[str]:
    """The command of the worker in Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").partition(".")[0]) < 20:
        pytest.skip(f"node {version.stdout.strip()} is older than 20")
    return [node, str(EXAMPLES / "node" / "worker.mjs")]


def test_the_node_worker(node_worker: list[str], server_url: str, client: SyncClient) -> None:
    image = {"width": 4, "height": 3, "scale": 2}
    works_over_http(
        *(node_worker, server_url, client, "images", "image.resize"),
        good=image,
        result={"width": 8, "height": 6},
        bad=image | {"scale": 0},
        problem="the scale is not positive",
        long=image | {"seconds": 600},
    )


def test_the_go_worker(go_worker: Path, server_url: str, client: SyncClient) -> None:
    works_over_http(
        *([str(go_worker)], server_url, client, "texts-go", "text.upper"),
        good={"text": "hello"},
        result="HELLO",
        bad={"text": 7},
        problem="cannot unmarshal number",
        long={"text": "hello", "seconds": 600},
    )


def works_over_http(
    command: list[str],
    url: str,
    client: SyncClient,
    queue: str,
    type: str,
    *,
    good: Any,
    result: Any,
    bad: Any,
    problem: str,
    long: Any,
) -> None:
    """A worker acks, nacks, and learns by its heartbeat that a job was cancelled."""
    once = RetryPolicy(max_attempts=1)
    env = {"OJS_URL": url, "LEASE_MS": "6000"}
    with program(command, env=env, interpreter=()) as worker:
        jobs = client.enqueue_many(new_job(type, good, queue=queue) for _ in range(12))
        assert [client.result(job.id, wait=LIMIT_S) for job in jobs] == [result] * 12
        for job in (
            client.enqueue(type, bad, queue=queue),  # final, so one attempt of three
            client.enqueue("no.handler", queue=queue, retry=once),
        ):
            with pytest.raises(JobFailed) as failed:
                client.result(job.id, wait=LIMIT_S)
            assert re.search(f"{problem}|no handler for no.handler", str(failed.value))
            assert client.get(job.id).attempt == 1
        held = client.enqueue(type, long, queue=queue)
        wait_until(lambda: client.get(held.id).state == "active", what="the long job runs")
        client.cancel(held.id)
        worker.signal(signal.SIGTERM)
        # The drain waits for the long job, whose handler the next heartbeat cancels.
        assert worker.wait_exit() == 0, worker.output
        assert "drains" in worker.output
    (worker_id,) = re.findall(r"worker (\S+) started", worker.output)
    assert worker_id not in listed_workers(url)


def listed_workers(url: str) -> set[str]:
    """Return the ids of the workers that operators see."""
    with httpx.Client(base_url=url, timeout=LIMIT_S) as http:
        reply = http.get("/ojs/v1/admin/workers").json()
    return {worker["id"] for worker in reply["items"]}


def run_one(url: str, queue: str) -> None:
    """Do the work of a worker by hand: fetch one job and acknowledge it."""
    with httpx.Client(base_url=f"{url}/ojs/v1/workers", timeout=LIMIT_S) as http:
        me = {"worker_id": "by-hand"}
        (job,) = http.post("/fetch", json=me | {"queues": [queue]}).json()["jobs"]
        done = {"job_id": job["id"], "lease_id": job["lease_id"], "result": {"pages": 3}}
        assert http.post("/ack", json=me | done).status_code == 200


def test_the_page_lists_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text()
    listed = set(re.findall(r"\]\(([\w/]+\.\w+)\)", page))
    programs = {
        path.relative_to(EXAMPLES).as_posix()
        for pattern in ("*.py", "*/*.mjs", "*/*.go")
        for path in EXAMPLES.glob(pattern)
    }
    assert programs <= listed
    # Each row of the second table names the queue and the types.
    named = re.compile(
        r'(?:handler|enqueue|new_job)\(\s*"(\w+\.\w+)"|"(\w+\.\w+)": (?:async|upper)'
        r'|queues?\W[^"\n]*"([\w-]+)"'
    )
    for name in programs:
        row = next(line for line in page.splitlines() if re.match(rf"\| .*`{name}`.* \|", line))
        for words in named.findall((EXAMPLES / name).read_text()):
            assert f"`{''.join(words)}`" in row, name
