"""What producers and workers do to a job server, as locust users. Any OJS server will do.

    OJS_API_KEY            sent as a bearer token when it is set
    OJS_LOADTEST_QUEUES    how many queues the users share (default 8)
    OJS_LOADTEST_BATCH     jobs per fetch and per batch (default 20)

Beside the requests, three things are reported under the type ``JOB``: the time from enqueue to
fetch (``waited``; the clocks of the machines that make load should agree), jobs that a worker was
given twice at once (``held twice``, always a failure), and leases that were lost.
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
"""Jobs that workers of this process hold, and who: one job must never be in two hands."""


class OJSUser(FastHttpUser):
    """A client of the server: the headers, and requests that know which answers are right."""

    abstract = True
    # An instance's in locust's eyes, hence no ClassVar.
    default_headers: dict[str, str] = {"Content-Type": MEDIA_TYPE}  # noqa: RUF012
    connection_timeout = 30.0
    network_timeout = 60.0

    def on_start(self) -> None:
        """A name of its own for each user, and the key."""
        self.name = f"{type(self).__name__.lower()}-{uuid.uuid4().hex[:12]}"
        key = os.environ.get("OJS_API_KEY")
        if key:
            self.client.auth_header = f"Bearer {key}"

    def send(
        self, method: str, path: str, body: Any = None, *, name: str, right: tuple[int, ...]
    ) -> Any:
        """Send one request; the JSON of a right answer, None after any other (reported)."""
        response: RestResponseContextManager
        with self.rest(method, path, json=body, name=name) as response:
            if response.status_code not in right:
                code = ((response.js or {}).get("error") or {}).get("code")
                # locust's signatures are not typed.
                response.failure(f"{response.status_code} {code}")  # type: ignore[no-untyped-call]
                return None
            return response.js

    def report(self, name: str, ms: float, failure: str | None = None) -> None:
        """Report something about a job that is no request."""
        self.environment.events.request.fire(
            request_type="JOB",
            name=name,
            response_time=ms,
            response_length=0,
            exception=None if failure is None else RuntimeError(failure),
            context={},
        )

    def job(self, **options: Any) -> dict[str, Any]:
        """A new job of some queue, which carries the moment of its making (s)."""
        options.setdefault("queue", random.choice(QUEUES))
        args = [{"made": time.time(), "text": "x" * 150}]
        return {"type": "load.echo", "args": args, "options": options}


class Producer(OJSUser):
    """Enqueues: mostly single jobs, some with priorities or delays, and batches."""

    wait_time = between(0.01, 0.05)
    weight = 4

    @task(20)
    def enqueue(self) -> None:
        """One job."""
        self.send("POST", "/ojs/v1/jobs", self.job(), name="enqueue", right=(201,))

    @task(2)
    def enqueue_with_priority(self) -> None:
        """One that overtakes, or is overtaken."""
        job = self.job(priority=random.choice([-10, 10]))
        self.send("POST", "/ojs/v1/jobs", job, name="enqueue, priority", right=(201,))

    @task(2)
    def enqueue_delayed(self) -> None:
        """One that is due in a moment."""
        job = self.job(delay_until="+PT1S")
        job["args"][0]["made"] += 1
        self.send("POST", "/ojs/v1/jobs", job, name="enqueue, delayed", right=(201,))

    @task(1)
    def enqueue_many(self) -> None:
        """A batch over several queues."""
        body = {"jobs": [self.job() for _ in range(BATCH)]}
        self.send("POST", "/ojs/v1/jobs/batch", body, name="enqueue batch", right=(201,))

    @task(1)
    def look(self) -> None:
        """What a dashboard asks."""
        queue = random.choice(QUEUES)
        self.send("GET", f"/ojs/v1/queues/{queue}/stats", name="queue stats", right=(200,))


class Worker(OJSUser):
    """Fetches one job at a time by long poll, works, acknowledges; sometimes it fails."""

    wait_time = constant(0)
    weight = 4
    count = 1

    @task
    def work(self) -> None:
        """One round."""
        queues = random.sample(QUEUES, len(QUEUES))
        body = {"queues": queues, "worker_id": self.name, "count": self.count, "wait_ms": WAIT_MS}
        answer = self.send("POST", "/ojs/v1/workers/fetch", body, name="fetch", right=(200,))
        jobs = answer["jobs"] if answer else []
        for job in jobs:
            self.receive(job)
        if jobs:
            self.end(jobs)

    def receive(self, job: dict[str, Any]) -> None:
        """Look at what was given."""
        other = held.get(job["id"])
        if other is not None:
            self.report("held twice", 0, f"{job['id']} was given to {other} and {self.name}")
        held[job["id"]] = self.name
        first = job.get("args") or [None]
        if job["attempt"] == 1 and isinstance(first[0], dict) and "made" in first[0]:
            self.report("waited", max(0.0, time.time() - first[0]["made"]) * 1000)

    def end(self, jobs: list[dict[str, Any]]) -> None:
        """Acknowledge, or fail, one by one."""
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
    """Takes many jobs at a time, and acknowledges them in one request."""

    weight = 1
    count = BATCH

    def end(self, jobs: list[dict[str, Any]]) -> None:
        """Acknowledge all at once."""
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
    """Registers a cron job, looks at it, and takes it away again."""

    wait_time = between(1, 3)
    weight = 1

    @task
    def life_of_a_cron_job(self) -> None:
        """One cron job, from registration to removal."""
        name = f"{self.name}-{uuid.uuid4().hex[:8]}"
        body = {"name": name, "expression": "* * * * * *", "job_template": self.job()}
        if self.send("POST", "/ojs/v1/cron", body, name="cron", right=(201,)) is None:
            return
        time.sleep(2.5)
        self.send("GET", f"/ojs/v1/cron/{name}", name="cron, look", right=(200,))
        self.send("DELETE", f"/ojs/v1/cron/{name}", name="cron, remove", right=(200,))


class WorkflowUser(OJSUser):
    """Starts chains and groups, which the workers carry out, and looks how they fare."""

    wait_time = between(0.5, 2)
    weight = 1

    @task(2)
    def run_chain(self) -> None:
        """Three jobs, one after the other."""
        self.follow({"type": "chain", "steps": [self.job() for _ in range(3)]})

    @task(1)
    def run_group(self) -> None:
        """Five jobs at once."""
        self.follow({"type": "group", "jobs": [self.job() for _ in range(5)]})

    def follow(self, body: dict[str, Any]) -> None:
        """Create a workflow and look at it a moment later."""
        answer = self.send("POST", "/ojs/v1/workflows", body, name="workflow", right=(201,))
        if answer is not None:
            time.sleep(0.5)
            path = f"/ojs/v1/workflows/{answer['id']}"
            self.send("GET", path, name="workflow, look", right=(200,))
