"""Producers and workers as locust users, for any OJS server.

    OJS_API_KEY            sent as a bearer token if set
    OJS_LOADTEST_QUEUES    number of queues that the users share (default 8)
    OJS_LOADTEST_BATCH     jobs per fetch and per batch (default 20)

Beside the requests, three values are reported under the type ``JOB``: the time from enqueue to
fetch (``waited``; the clocks of load machines should agree), jobs that two workers had at the same
time (``held twice``, always a failure), and lost leases.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from typing import Any

from locust import FastHttpUser, between, constant, task
from locust.contrib.fasthttp import RestResponseContextManager

QUEUES = [f"load-{number}" for number in range(int(os.environ.get("OJS_LOADTEST_QUEUES", "8")))]
BATCH = int(os.environ.get("OJS_LOADTEST_BATCH", "20"))
WAIT_MS = 2000
MEDIA_TYPE = "application/openjobspec+json"

held: dict[str, str] = {}
"""Jobs of the workers of this process, with their worker: a job must not have two workers."""


class OJSUser(FastHttpUser):
    """A client of the server: headers, and requests that know the expected status codes."""

    abstract = True
    # An instance attribute for locust, hence no ClassVar.
    default_headers: dict[str, str] = {"Content-Type": MEDIA_TYPE}  # noqa: RUF012
    connection_timeout = 30.0
    network_timeout = 60.0

    def on_start(self) -> None:
        """Set the name and the key of the user."""
        self.name = f"{type(self).__name__.lower()}-{uuid.uuid4().hex[:12]}"
        key = os.environ.get("OJS_API_KEY")
        if key:
            self.client.auth_header = f"Bearer {key}"

    def send(
        self, method: str, path: str, body: Any = None, *, name: str, right: tuple[int, ...]
    ) -> Any:
        """Send a request; return the JSON of an expected response, or None (reported)."""
        response: RestResponseContextManager
        with self.rest(method, path, json=body, name=name) as response:
            if response.status_code not in right:
                code = ((response.js or {}).get("error") or {}).get("code")
                # locust has no type hints for this.
                response.failure(f"{response.status_code} {code}")  # type: ignore[no-untyped-call]
                return None
            return response.js

    def report(self, name: str, ms: float, failure: str | None = None) -> None:
        """Report a fact about a job that is not a request."""
        self.environment.events.request.fire(
            request_type="JOB",
            name=name,
            response_time=ms,
            response_length=0,
            exception=None if failure is None else RuntimeError(failure),
            context={},
        )

    def job(self, **options: Any) -> dict[str, Any]:
        """Return a new job of some queue, which contains its creation time in seconds."""
        options.setdefault("queue", random.choice(QUEUES))
        args = [{"made": time.time(), "text": "x" * 150}]
        return {"type": "load.echo", "args": args, "options": options}


class Producer(OJSUser):
    """Enqueues mostly single jobs, some with priorities or delays, and batches."""

    wait_time = between(0.01, 0.05)
    weight = 4

    @task(20)
    def enqueue(self) -> None:
        """Enqueue one job."""
        self.send("POST", "/ojs/v1/jobs", self.job(), name="enqueue", right=(201,))

    @task(2)
    def enqueue_with_priority(self) -> None:
        """Enqueue a job with a priority."""
        job = self.job(priority=random.choice([-10, 10]))
        self.send("POST", "/ojs/v1/jobs", job, name="enqueue, priority", right=(201,))

    @task(2)
    def enqueue_delayed(self) -> None:
        """Enqueue a job that is due soon."""
        job = self.job(delay_until="+PT1S")
        job["args"][0]["made"] += 1
        self.send("POST", "/ojs/v1/jobs", job, name="enqueue, delayed", right=(201,))

    @task(1)
    def enqueue_many(self) -> None:
        """Enqueue a batch over several queues."""
        body = {"jobs": [self.job() for _ in range(BATCH)]}
        self.send("POST", "/ojs/v1/jobs/batch", body, name="enqueue batch", right=(201,))

    @task(1)
    def look(self) -> None:
        """Send the requests of a dashboard."""
        queue = random.choice(QUEUES)
        self.send("GET", f"/ojs/v1/queues/{queue}/stats", name="queue stats", right=(200,))


class Worker(OJSUser):
    """Fetches one job at a time by long poll, works, and acknowledges; sometimes fails."""

    wait_time = constant(0)
    weight = 4
    count = 1

    @task
    def work(self) -> None:
        """Run one round."""
        queues = random.sample(QUEUES, len(QUEUES))
        body = {"queues": queues, "worker_id": self.name, "count": self.count, "wait_ms": WAIT_MS}
        answer = self.send("POST", "/ojs/v1/workers/fetch", body, name="fetch", right=(200,))
        jobs = answer["jobs"] if answer else []
        for job in jobs:
            self.receive(job)
        if jobs:
            self.end(jobs)

    def receive(self, job: dict[str, Any]) -> None:
        """Record the received jobs."""
        other = held.get(job["id"])
        if other is not None:
            self.report("held twice", 0, f"{job['id']} was given to {other} and {self.name}")
        held[job["id"]] = self.name
        first = job.get("args") or [None]
        if job["attempt"] == 1 and isinstance(first[0], dict) and "made" in first[0]:
            self.report("waited", max(0.0, time.time() - first[0]["made"]) * 1000)

    def end(self, jobs: list[dict[str, Any]]) -> None:
        """Acknowledge or fail the jobs one by one."""
        for job in jobs:
            held.pop(job["id"], None)
            body = {"job_id": job["id"], "worker_id": self.name, "lease_id": job["lease_id"]}
            if random.random() < 0.02:
                body["error"] = {"code": "load.failure", "message": "as now and then happens"}
                self.send("POST", "/ojs/v1/workers/nack", body, name="nack", right=(200,))
            else:
                body["result"] = {"done": True}
                self.send("POST", "/ojs/v1/workers/ack", body, name="ack", right=(200,))


class BatchWorker(Worker):
    """Fetches many jobs at a time and acknowledges them in one request."""

    weight = 1
    count = BATCH

    def end(self, jobs: list[dict[str, Any]]) -> None:
        """Acknowledge all jobs in one request."""
        for job in jobs:
            held.pop(job["id"], None)
        acks = [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in jobs]
        body = {"worker_id": self.name, "acks": acks}
        answer = self.send(
            "POST", "/ojs/v1/workers/ack/batch", body, name="ack batch", right=(200,)
        )
        for result in (answer or {}).get("results", []):
            if result["status"] != 200:
                self.report("lease lost", 0, f"{result['job_id']}: {result['error']['code']}")


class CronUser(OJSUser):
    """Registers a cron job, reads it, and deletes it."""

    wait_time = between(1, 3)
    weight = 1

    @task
    def life_of_a_cron_job(self) -> None:
        """Run one cron job from registration to deletion."""
        name = f"{self.name}-{uuid.uuid4().hex[:8]}"
        body = {"name": name, "expression": "* * * * * *", "job_template": self.job()}
        if self.send("POST", "/ojs/v1/cron", body, name="cron", right=(201,)) is None:
            return
        time.sleep(2.5)
        self.send("GET", f"/ojs/v1/cron/{name}", name="cron, look", right=(200,))
        self.send("DELETE", f"/ojs/v1/cron/{name}", name="cron, remove", right=(200,))


class WorkflowUser(OJSUser):
    """Starts chains and groups, which the workers run, and reads their progress."""

    wait_time = between(0.5, 2)
    weight = 1

    @task(2)
    def run_chain(self) -> None:
        """Create a chain of three jobs."""
        self.follow({"type": "chain", "steps": [self.job() for _ in range(3)]})

    @task(1)
    def run_group(self) -> None:
        """Create a group of five jobs."""
        self.follow({"type": "group", "jobs": [self.job() for _ in range(5)]})

    def follow(self, body: dict[str, Any]) -> None:
        """Create a workflow and read it shortly afterwards."""
        answer = self.send("POST", "/ojs/v1/workflows", body, name="workflow", right=(201,))
        if answer is not None:
            time.sleep(0.5)
            path = f"/ojs/v1/workflows/{answer['id']}"
            self.send("GET", path, name="workflow, look", right=(200,))
