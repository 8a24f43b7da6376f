"""Jobs in every state, in queues of their own."""

from __future__ import annotations

from typing import Any

from ojs_client.ctl.api import Api

_LONG = "notification.email.transactional.receipt"


def seed(api: Api) -> dict[str, str]:
    """Store the jobs that the snapshots show, and return the ids of some by name."""
    ids = {}

    def enqueue(name: str, type: str, *args: Any, **options: Any) -> None:
        meta = options.pop("meta", {"user": {"id": 7}})
        body = {"type": type, "args": list(args), "meta": meta, "options": options}
        ids[name] = api.post("/ojs/v1/jobs", body)["job"]["id"]

    def settle(verb: str, name: str, **members: Any) -> None:
        # A scheduler runs: with the usual lease of two minutes the active job may not stay so.
        options: dict[str, Any] = {"queues": ["seed.mail"], "worker_id": "seed-worker", "count": 1}
        options["visibility_timeout_ms"] = 3_600_000
        job = api.post("/ojs/v1/workers/fetch", options)["jobs"][0]
        assert job["id"] == ids[name]
        if verb:
            api.post(f"/ojs/v1/workers/{verb}", {"job_id": job["id"], **members})

    enqueue("completed", "email.send", {"to": "ada@example.com"}, queue="seed.mail")
    settle("ack", "completed", result={"status": "delivered"})
    enqueue("dead", "email.send", {"to": "x"}, queue="seed.mail", retry=_once("dead_letter"))
    settle("nack", "dead", error={"type": "SMTPError", "message": "no such host mail.example.com"})
    enqueue("discarded", "email.send", "b\x1b[31m\u200e", queue="seed.mail", retry=_once("discard"))
    settle("nack", "discarded", error={"type": "Timeout", "message": "after 30 s"})
    enqueue("active", _LONG, {"receipt": 18446744073709551617}, queue="seed.mail", priority=5)
    settle("", "active")
    text, meta = {"to": "日本語@example.com"}, {"tenant_id": "seed-acme"}
    enqueue("available", "email.send", text, queue="seed.mail", tags=["a"], meta=meta)
    later = "2099-01-01T00:00:00Z"
    enqueue("scheduled", "report.build", 42, queue="seed.reports", scheduled_at=later)
    enqueue("cancelled", "report.build", 43, queue="seed.reports")
    api.post(f"/ojs/v1/jobs/{ids['cancelled']}/cancel")
    api.post("/ojs/v1/queues/seed.reports/pause")
    limits = {"concurrency": 20, "rate": {"limit": 1000, "period": "PT1H"}}
    api.request("PUT", "/ojs/v1/admin/queues/seed.reports/rate-limit", limits)
    ids |= _others(api)
    return ids


def _others(api: Api) -> dict[str, str]:
    """Store a cron job, a workflow, a rate limit key, a tenant, a webhook, a schema and so on."""
    job = {"type": "report.build", "args": [1], "options": {"queue": "seed.reports"}}
    cron = {"name": "seed-report", "expression": "0 9 1 1 *", "timezone": "Europe/Berlin"}
    api.post("/ojs/v1/cron", {**cron, "job_template": job})
    api.post("/ojs/v1/cron/seed-report/trigger")
    steps = [{"type": "etl.load", "options": {"queue": "seed.reports"}} for _ in range(2)]
    body = {"type": "chain", "name": "seed-etl", "steps": steps}
    workflow = api.post("/ojs/v1/workflows", body)["id"]
    limits = {"concurrency": 2, "rate": {"limit": 100, "period": "PT1M"}}
    api.request("PUT", "/ojs/v1/rate-limits/tenant:seed", limits)
    pool = {"queues": ["seed.mail", "seed.reports"], "weights": {"seed.mail": 70}}
    api.request("PUT", "/ojs/v1/admin/pools/seed-shop", {"strategy": "weighted", **pool})
    limits = {"max_queue_depth": 50_000, "max_enqueue_rate": {"limit": 1000, "period": "PT1M"}}
    acme = {"limits": {**limits, "reason": "burst of 3 May"}, "fairness_weight": 2.5}
    api.request("PUT", "/ojs/v1/admin/tenants/seed-beta", {})
    api.request("PUT", "/ojs/v1/admin/tenants/seed-acme", acme)
    webhook = {"url": "https://hooks.example.com/ojs", "events": ["job.failed", "job.discarded"]}
    subscription = api.post("/ojs/v1/webhooks/subscriptions", webhook)["id"]
    document = {"type": "array", "prefixItems": [{"type": "string"}]}
    api.request("PUT", "/ojs/v1/admin/schemas/seed.invoice/1.0.0", {"schema": document})
    beat = {"worker_id": "seed-worker", "hostname": "host-1", "queues": ["seed.mail"]}
    api.post("/ojs/v1/workers/heartbeat", {**beat, "concurrency": 10, "active_jobs": []})
    return {"workflow": workflow, "subscription": subscription}


def _once(on_exhaustion: str) -> dict[str, Any]:
    return {"max_attempts": 1, "on_exhaustion": on_exhaustion}
