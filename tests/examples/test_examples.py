"""Every example does what it says, on one server."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from ojs_client import JobFailed, RetryPolicy, SyncClient, new_job
from tests.examples.fake_smtp import fake_smtp
from tests.server.programs import ROOT, Program, free_port, program

EXAMPLES = ROOT / "examples"
LIMIT_S = 120
SOON = RetryPolicy(max_attempts=5, initial_interval=0.1)


@contextmanager
def example(name: str, url: str, **env: str) -> Iterator[Program]:
    """Run an example in Python. Its warnings are errors."""
    command = ["-W", "error", str(EXAMPLES / name)]
    with program(command, env={"OJS_URL": url, **env}) as running:
        yield running


def drained(worker: Program) -> None:
    """Stop a worker as a deployment does; it must end cleanly."""
    worker.signal(signal.SIGTERM)
    assert worker.wait_exit() == 0, worker.output
    assert "Traceback" not in worker.output


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
    assert running.output == "{'texts': 3, 'words': 11}\n"


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


def run_one(url: str, queue: str) -> None:
    """Do the work of a worker by hand: fetch one job and acknowledge it."""
    with httpx.Client(base_url=f"{url}/ojs/v1/workers", timeout=LIMIT_S) as http:
        me = {"worker_id": "by-hand"}
        (job,) = http.post("/fetch", json=me | {"queues": [queue]}).json()["jobs"]
        done = {"job_id": job["id"], "lease_id": job["lease_id"], "result": {"pages": 3}}
        assert http.post("/ack", json=me | done).status_code == 200


def test_the_page_lists_every_example() -> None:
    listed = set(re.findall(r"\]\(([\w/]+\.\w+)\)", (EXAMPLES / "README.md").read_text()))
    programs = {
        path.relative_to(EXAMPLES).as_posix()
        for pattern in ("*.py", "*/*.mjs", "*/*.go")
        for path in EXAMPLES.glob(pattern)
    }
    assert programs <= listed
