"""The routes of the fake server: those that ``Client`` and ``Worker`` use."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final

import anyio

from ojs_client.testing.calls import Call, Reply, Route
from ojs_client.testing.cron_routes import cron_routes
from ojs_client.testing.fake_crons import CronStore
from ojs_client.testing.fake_jobs import FakeJob
from ojs_client.testing.fake_workflows import FakeWorkflow, WorkflowStore
from ojs_client.testing.job_store import DEFAULT_LEASE_MS, JobStore
from ojs_client.testing.refusals import Refusal, invalid, not_found
from ojs_client.testing.schema_routes import schema_routes
from ojs_client.testing.times import iso

_MAX_DEFAULT_WAIT_S: Final = 30.0


class Routes:
    """Answers requests.

    Args:
        jobs: the jobs.
        workflows: the workflows.
        crons: the cron jobs.
        pools: the queues of each worker pool.
    """

    def __init__(
        self,
        jobs: JobStore,
        workflows: WorkflowStore,
        crons: CronStore,
        pools: Mapping[str, Sequence[str]],
    ) -> None:
        self._jobs = jobs
        self._pools = pools
        self._workflows = workflows
        self._quiet: set[str] = set()
        """Ids of workers that drain or pause."""
        routes: list[Route] = [
            ("POST", "/jobs", self._enqueue),
            ("POST", "/jobs/batch", self._enqueue_many),
            ("GET", "/jobs/ID", self._job),
            ("DELETE", "/jobs/ID", self._cancel),
            ("GET", "/jobs/ID/result", self._result),
            ("GET", "/jobs/ID/history", self._history),
            ("POST", "/jobs/ID/checkpoint", self._checkpoint),
            ("POST", "/workflows", self._create_workflow),
            ("GET", "/workflows/ID", self._workflow),
            ("DELETE", "/workflows/ID", self._cancel_workflow),
            *cron_routes(crons),
            *schema_routes(),
            ("POST", "/workers/fetch", self._fetch),
            ("POST", "/workers/heartbeat", self._heartbeat),
            ("DELETE", "/workers/ID", self._deregister),
            ("POST", "/workers/progress", self._progress),
            ("POST", "/workers/ack/batch", self._acks),
            ("POST", "/workers/nack/batch", self._nacks),
        ]
        self._routes = [
            (method, re.compile("/ojs/v1" + path.replace("ID", "([^/]+)")), function)
            for method, path, function in routes
        ]

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        """Return the status and the body of the response."""
        for route_method, pattern, function in self._routes:
            match = pattern.fullmatch(path)
            if match is None or route_method != method:
                continue
            try:
                return await function(Call(match[1] if match.groups() else "", body, query))
            except Refusal as refusal:
                return refusal.status, {"error": refusal.json()}
        unknown = Refusal(501, "not_in_fake", f"the fake server has no {method} {path}")
        return unknown.status, {"error": unknown.json()}

    def events(self, query: Mapping[str, str], last_id: str) -> AsyncGenerator[bytes] | None:
        """Return the lines of a stream of events; None if the stream has ended before.

        Raises:
            Refusal: there is no such job.
        """
        if last_id.endswith("~"):
            return None
        _, _, job_id = query.get("channel", "all").partition("job:")
        job = self._jobs.get(job_id) if job_id else None
        return self._jobs.events.stream(query, last_id, job)

    # -- producers

    async def _enqueue(self, call: Call) -> Reply:
        [(job, deduplicated)] = self._jobs.enqueue([call.body])
        if deduplicated:
            return 200, {"job": job.json(), "deduplicated": True}
        return 201, {"job": job.json()}

    async def _enqueue_many(self, call: Call) -> Reply:
        jobs = call.body.get("jobs")
        if not isinstance(jobs, list) or not jobs:
            raise invalid("jobs must be a non-empty array", "jobs")
        enqueued = self._jobs.enqueue(jobs)
        existing = [index for index, (_, is_old) in enumerate(enqueued) if is_old]
        return 201, {"jobs": [job.json() for job, _ in enqueued], "deduplicated": existing}

    async def _job(self, call: Call) -> Reply:
        return 200, {"job": self._jobs.get(call.id).json()}

    async def _cancel(self, call: Call) -> Reply:
        return 200, {"job": self._jobs.cancel(call.id).json()}

    async def _result(self, call: Call) -> Reply:
        job = self._jobs.get(call.id)
        if call.query.get("wait") == "true":
            await self._wait_for_end(job, float(call.query.get("timeout", _MAX_DEFAULT_WAIT_S)))
            if not job.ended:
                raise Refusal(408, "result_pending", f"job '{job.id}' is still {job.state}")
        value = {"job_id": job.id, "id": job.id, "state": job.state, "result": job.result}
        if job.errors and job.state != "completed":
            value["error"] = job.errors[-1]
        return 200, value

    async def _history(self, call: Call) -> Reply:
        """Return the starts of the attempts, which is all that the fake server records."""
        events = [
            {
                "event_type": "job.attempt_started",
                "timestamp": iso(started_ms),
                "data": {"attempt": attempt, "worker_id": worker_id},
            }
            for attempt, started_ms, worker_id in self._jobs.get(call.id).starts
        ]
        return 200, {"job_id": call.id, "events": events, "pagination": {}}

    async def _wait_for_end(self, job: FakeJob, limit_s: float) -> None:
        if limit_s > 0:
            with anyio.move_on_after(limit_s):
                while not job.ended:
                    await self._jobs.changes.wait()

    # -- workflows

    async def _create_workflow(self, call: Call) -> Reply:
        return 201, _workflow_json(self._workflows.create(call.body))

    async def _workflow(self, call: Call) -> Reply:
        return 200, _workflow_json(self._workflows.get(call.id))

    async def _cancel_workflow(self, call: Call) -> Reply:
        return 200, _workflow_json(self._workflows.cancel(call.id))

    # -- workers

    async def _fetch(self, call: Call) -> Reply:
        body = call.body
        worker_id, count = body.get("worker_id") or "", body.get("count", 1)
        lease_ms = body.get("visibility_timeout_ms") or DEFAULT_LEASE_MS
        queues = self.queues_of(body.get("pool"), body.get("queues", ()))
        jobs: list[FakeJob] = []
        with anyio.move_on_after(body.get("wait_ms", 0) / 1000):
            while worker_id not in self._quiet:
                jobs = self._jobs.fetch(queues, count, worker_id, lease_ms, body.get("types"))
                if jobs or not body.get("wait_ms"):
                    break
                await self._jobs.changes.wait()
        return 200, {"jobs": [job.json(lease=True) for job in jobs]}

    def queues_of(self, pool: str | None, queues: Sequence[str]) -> Sequence[str]:
        """Return the queues from which a fetch takes jobs, in order.

        Raises:
            Refusal: there is no such pool, or it has none of the queues.
        """
        if pool is None:
            return queues
        if pool not in self._pools:
            raise not_found("pool", pool)
        chosen = [queue for queue in self._pools[pool] if not queues or queue in queues]
        if not chosen:
            raise invalid(f"pool '{pool}' has none of these queues", "queues")
        return chosen

    async def _heartbeat(self, call: Call) -> Reply:
        body = call.body
        worker_id = body["worker_id"]
        if body.get("state") == "running":
            self._quiet.discard(worker_id)
        elif worker_id not in self._quiet:
            # A real server holds the fetch until its wait ends. Tests would have to wait for that.
            self._quiet.add(worker_id)
            self._jobs.changes.notify()
        extended, cancelled = [], []
        for job_id, lease_id in body.get("leases", {}).items():
            try:
                job = self._jobs.held(job_id, worker_id, lease_id)
            except Refusal as refusal:
                if refusal.details.get("state") == "cancelled":
                    cancelled.append(job_id)
                continue
            self._jobs.extend(job)
            extended.append(job.id)
        reply = {"jobs_extended": extended, "jobs_cancelled": cancelled}
        return 200, {"state": "running", **reply}

    async def _deregister(self, call: Call) -> Reply:
        self._quiet.discard(call.id)
        return 200, {"deregistered": True}

    async def _progress(self, call: Call) -> Reply:
        body = call.body
        job = self._jobs.get(body["job_id"])
        if job.state == "active":
            self._jobs.held(job.id, body.get("worker_id") or "", body.get("lease_id") or "")
            self._jobs.extend(job)
            given = {name: body[name] for name in ("progress", "message", "data") if name in body}
            # A report with a lower progress only extends the lease.
            if given.get("progress", 0) >= job.progress.get("progress", 0):
                job.progress.update(given)
        shown = {name: job.progress.get(name) for name in ("progress", "message", "data")}
        return 200, {"job_id": job.id, "state": job.state, **shown}

    async def _checkpoint(self, call: Call) -> Reply:
        body = call.body
        job = self._jobs.held(call.id, body.get("worker_id") or "", body.get("lease_id") or "")
        sequence = 1 if job.checkpoint is None else job.checkpoint["sequence"] + 1
        stored = {
            "job_id": job.id,
            "sequence": sequence,
            "created_at": iso(self._jobs.now_ms),
        }
        job.checkpoint = {**stored, "state": body.get("state")}
        return 200, {**stored, "checkpoint": stored}

    async def _acks(self, call: Call) -> Reply:
        return self._settle(call.body, "acks", self._jobs.ack)

    async def _nacks(self, call: Call) -> Reply:
        return self._settle(call.body, "nacks", self._jobs.nack)

    def _settle(self, body: Any, name: str, settle: Callable[[Any, str], FakeJob]) -> Reply:
        results: list[dict[str, Any]] = []
        for item in body[name]:
            result = {"job_id": item["job_id"], "status": 200}
            try:
                result["state"] = settle(item, body.get("worker_id") or "").state
            except Refusal as refusal:
                result |= {"status": refusal.status, "error": refusal.json()}
            results.append(result)
        return 200, {"results": results}


def _workflow_json(workflow: FakeWorkflow) -> dict[str, Any]:
    return {"workflow": workflow.json()}
