"""Incidents of real processes are on the overview, in the metrics and in doctor until they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import unescape
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.client_library.ctl.conftest import Ctl
from tests.server.programs import Program, program
from tests.server.test_metrics import sample
from tests.server.test_serve import CLI, serve
from tests.support.servers import wait_until

until = partial(wait_until, timeout_s=180)


@dataclass(frozen=True, slots=True)
class Server:
    """A server with its dashboard."""

    port: int
    redis_url: str
    http: httpx.Client
    ctl: Ctl

    @contextmanager
    def scheduler(self) -> Iterator[Program]:
        """Run a scheduler until the block ends."""
        with program([*CLI, "scheduler"], env={"REDIS_URL": self.redis_url}) as running:
            running.wait_line("scheduler started")
            yield running

    def post(self, path: str, body: Any = None, method: str = "POST") -> Any:
        reply = self.http.request(method, f"/ojs/v1{path}", json=body)
        assert reply.status_code < 300, reply.text
        return reply.json()

    def enqueue(self, job_type: str, **options: Any) -> Any:
        return self.post("/jobs", {"type": job_type, "args": [], "options": options})["job"]

    def fetch(self, queue: str, **members: Any) -> list[Any]:
        body = {"queues": [queue], "worker_id": "w1", **members}
        return list(self.post("/workers/fetch", body)["jobs"])

    def listed(self) -> dict[str, Any]:
        items = self.http.get("/ojs/v1/admin/problems").json()["items"]
        return {each["id"]: each for each in items}

    def see(
        self, problem_id: str, meanwhile: Callable[[], object] = lambda: None
    ) -> dict[str, Any]:
        """Wait until a problem is everywhere, and return it. ``meanwhile`` is called repeatedly."""

        def is_listed() -> bool:
            meanwhile()
            return problem_id in self.listed()

        until(is_listed, what=problem_id)
        rule = problem_id.partition(":")[0]
        until(lambda: sample(self.port, "ojs_problem", {"rule": rule}) >= 1, what=f"metric {rule}")
        found: dict[str, Any] = self.listed()[problem_id]
        assert problem_id in {each["check"] for each in self.ctl.json("doctor", code=None)}
        page = " ".join(unescape(self.http.get("/ui/").text).split())
        assert f'name="id" value="{problem_id}"' in page
        link = found["link"].partition("?")[0]
        assert self.http.get(f"/{found['link']}").status_code == 200, link
        return found

    def see_end(self, problem_id: str) -> None:
        """Wait until a problem is nowhere."""
        until(lambda: problem_id not in self.listed(), what=f"end of {problem_id}")
        rule = problem_id.partition(":")[0]
        until(lambda: not sample(self.port, "ojs_problem", {"rule": rule}), what=f"end of {rule}")
        assert problem_id not in {each["check"] for each in self.ctl.json("doctor", code=None)}


@pytest.fixture
def server(standalone: Embedded) -> Iterator[Server]:
    with (
        serve(standalone.url, OJS_UI="full") as (running, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        running.wait_line("ready to serve")
        yield Server(port, standalone.url, client, Ctl(str(client.base_url)))


def test_cron_jobs_that_do_not_run_are_named_with_the_reason(server: Server) -> None:
    cron = {"name": "nightly", "expression": "@every 1s", "overlap_policy": "skip"}
    server.post("/cron", {**cron, "job_template": {"type": "t", "args": []}})
    with server.scheduler():
        skipped = server.see("cron_skipped:nightly")
        assert "because its earlier run has not ended (skipped: " in skipped["text"]
        assert skipped["link"] == "ui/cron/nightly"
        counted = partial(sample, server.port, "ojs_cron_occurrences_total")
        until(lambda: counted({"outcome": "fire"}) >= 1, what="the first run is counted")
        until(lambda: counted({"outcome": "skip"}) >= 3, what="the skipped runs are counted")
        server.post("/cron/nightly", {"overlap_policy": "allow"}, "PATCH")
        server.see_end("cron_skipped:nightly")
    late = server.see("cron_late")
    assert late["text"] == "The cron job nightly has not run when it was due"
    assert late["severity"] == "critical"
    until(lambda: sample(server.port, "ojs_cron_late") == 1, what="the metric of late cron jobs")
    with server.scheduler():
        server.see_end("cron_late")


def test_a_full_rate_limit_key_is_named_with_who_holds_it(server: Server) -> None:
    """The oldest job waits for a minute before its queue counts as one that waits."""
    limit = {"key": "partner:api", "concurrency": 1}
    for _ in range(3):
        server.enqueue("call", queue="partner", rate_limit=limit)
    with server.scheduler():
        until(lambda: bool(server.fetch("partner")), what="a job")
        assert server.fetch("partner") == []
        full = server.see("rate_limit_full:partner:api")
        assert full["text"] == (
            "Jobs wait for the rate limit key partner:api, which lets 1 run at a time: those of w1"
        )
        assert full["link"] == "ui/limits/partner%3Aapi"
        server.post("/rate-limits/partner%3Aapi", {"concurrency": 5}, "PUT")
        server.see_end("rate_limit_full:partner:api")


def test_a_stuck_workflow_is_named_with_its_step(server: Server) -> None:
    steps = [
        {"name": "charge", "type": "charge", "args": [], "options": {"queue": "money"}},
        {"name": "send", "type": "send", "args": [], "options": {"queue": "letters"}},
    ]
    flow = server.post("/workflows", {"type": "chain", "steps": steps})["workflow"]["id"]
    workers = [{"worker_id": "w1", "queues": ["money"], "active_jobs": []}]

    def work() -> None:
        for worker in workers:
            server.post("/workers/heartbeat", worker)

    with server.scheduler():
        work()
        [job] = server.fetch("money")
        server.post("/workers/ack", {"job_id": job["id"], "lease_id": job["lease_id"]})
        stuck = server.see(f"workflow_stuck:{flow}", work)
        where = f"The workflow {flow} is stuck in step 2 (send): no worker "
        assert stuck["text"] == f"{where}fetches from the queue letters"
        assert stuck["link"] == f"ui/workflows/{flow}"
        assert sample(server.port, "ojs_workflows_running") == 1
        assert sample(server.port, "ojs_workers", {"status": "running"}) == 1

        workers.append({"worker_id": "w2", "queues": ["letters"], "types": ["other"]})
        work()
        assert server.fetch("letters", worker_id="w2", types=["other"]) == []

        def names_the_type() -> bool:
            work()
            return "type send in" in server.listed().get(f"workflow_stuck:{flow}", {}).get(
                "text", ""
            )

        until(names_the_type, what="no worker runs the type")
        [job] = server.fetch("letters")
        server.see_end(f"workflow_stuck:{flow}")


def test_a_tenant_that_keeps_others_waiting_is_named(server: Server) -> None:
    """The oldest job waits for a minute before its queue counts as one that waits."""
    flood = [
        {"type": "t", "args": [], "meta": {"tenant_id": tenant}, "options": {"queue": "shared"}}
        for tenant in ["big"] * 100 + ["small"]
    ]
    server.post("/jobs/batch", {"jobs": flood})

    def work() -> None:
        server.post("/workers/heartbeat", {"worker_id": "w1", "queues": ["shared"]})

    work()
    [job] = server.fetch("shared")
    starves = server.see("tenant_starves:shared/big", work)
    assert starves["text"] == (
        "The tenant big keeps small waiting in the queue shared: 100 % of the next jobs are its own"
    )
    assert starves["link"] == "ui/queues/shared"
    server.post("/queues/shared/config", {"fair_share": True}, "PUT")
    server.see_end("tenant_starves:shared/big")
    assert job["id"]


def test_a_type_that_fails_since_a_deployment_is_named_with_its_mark(server: Server) -> None:
    """And its discarded jobs are counted, until they are retried and the type works again."""
    server.post("/admin/marks", {"label": "v42"})
    for _ in range(10):
        server.enqueue("mail.send", queue="mail", retry={"max_attempts": 1})
        server.enqueue("report", queue="mail")
    jobs = server.fetch("mail", count=20)
    for job in jobs:
        body = {"job_id": job["id"], "lease_id": job["lease_id"]}
        if job["type"] == "report":
            server.post("/workers/ack", body)
        else:
            error = {"type": "SmtpError", "message": "no route"}
            server.post("/workers/nack", {**body, "error": error})
    fails = server.see("type_fails:mail.send")
    assert fails["text"] == (
        "The type mail.send fails since v42: 10 of 10 attempts in the last 10 minutes (100 %)"
    )
    assert fails["link"].startswith("ui/types/mail.send?mark=")
    discarded = server.see("jobs_discarded")
    assert discarded["text"] == "10 jobs were discarded in the last hour: mail.send"
    assert discarded["link"] == "ui/jobs?state=discarded"
    page = server.http.get(f"/{fails['link']}").text
    assert '/jobs?state=discarded&amp;type=mail.send"' in page

    for job in server.http.get("/ojs/v1/admin/jobs?state=discarded").json()["items"]:
        server.post(f"/admin/jobs/{job['id']}/retry")
    server.see_end("jobs_discarded")
    for _ in range(30):  # of 50 attempts 10 have failed
        server.enqueue("mail.send", queue="mail")
    while jobs := server.fetch("mail", count=20):
        for job in jobs:
            server.post("/workers/ack", {"job_id": job["id"], "lease_id": job["lease_id"]})
    server.see_end("type_fails:mail.send")
