"""Fill a server with jobs in all states, as a small company would have them."""

from __future__ import annotations

from typing import Any

import httpx

V1 = "/ojs/v1"
BIG = 12345678901234567890123
"""A number that a float cannot hold."""


class Demo:
    """What the demo data contains, by the role that a test needs."""

    def __init__(self, client: httpx.Client, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix  # of texts that a hostile test replaces
        self.jobs: dict[str, str] = {}
        self.operation = self.workflow = self.mark = ""

    def post(self, path: str, body: Any = None) -> Any:
        answer = self._client.post(f"{V1}{path}", json={} if body is None else body)
        assert answer.status_code < 300, (path, answer.text)
        return answer.json()

    def enqueue(self, kind: str, queue: str, args: Any, **options: Any) -> str:
        body = {"type": kind, "args": args, "options": {"queue": queue, **options}}
        job_id: str = self.post("/jobs", body)["job"]["id"]
        return job_id

    def fetch(self, queue: str, worker: str) -> list[dict[str, Any]]:
        body = {"queues": [queue], "worker_id": worker, "count": 50}
        jobs: list[dict[str, Any]] = self.post("/workers/fetch", body)["jobs"]
        return jobs

    def fill(self) -> Demo:
        once = {"retry": {"max_attempts": 1, "on_exhaustion": "dead_letter"}}
        for number in range(12):
            user = f"user{number}@example.com"
            self.enqueue("email.send", "email", [user, "Welcome!"], **(once if number < 3 else {}))
        for job in self.fetch("email", "mailer-1"):
            if job["args"][0] < "user2":
                self.post("/workers/ack", {"job_id": job["id"], "result": {"sent": True, "n": BIG}})
                self.jobs.setdefault("completed", job["id"])
                continue
            error = {
                "type": "SMTPServerDisconnected",
                "code": "smtp_disconnected",
                "message": "Connection unexpectedly closed by mail.example.com:587",
                "backtrace": ["File 'mailer.py', line 12, in send", "smtp.login(user, password)"],
            }
            self.post("/workers/nack", {"job_id": job["id"], "error": error})
            once_only = job["args"][0] == "user2@example.com"
            self.jobs["discarded" if once_only else "retryable"] = job["id"]
        for number in range(5):
            self.enqueue("report.build", "reports", [{"month": f"2026-0{number + 1}", "id": BIG}])
        self.jobs["active"] = self.fetch("reports", "reporter-1")[0]["id"]
        for number in range(70):
            self.jobs["available"] = self.enqueue(
                "image.resize", "media", [number], priority=number % 3
            )
        self.jobs["scheduled"] = self.enqueue(
            "email.send", "email", ["later"], delay_until="2099-01-01T00:00:00Z"
        )
        self.jobs["cancelled"] = self.enqueue("image.resize", "media", ["cancel"])
        self.post(f"/jobs/{self.jobs['cancelled']}/cancel")
        self.post("/queues/media/pause")
        beat = {"worker_id": "reporter-1", "hostname": "host-7", "queues": ["reports"], "pid": 42}
        self.post("/workers/heartbeat", beat)
        cron: dict[str, Any] = {
            "name": "nightly-report",
            "cron": "0 3 * * *",
            "timezone": "Europe/Berlin",
        }
        cron |= {"type": "report.build", "args": [BIG], "options": {"queue": "reports"}}
        self.post("/cron", cron)
        chain: dict[str, Any] = {"type": "chain", "name": "order 17", "steps": []}
        for kind in ("order.charge", "order.pack", "order.ship"):
            chain["steps"].append({"type": kind, "args": [17], "options": {"queue": "orders"}})
        self.workflow = self.post("/workflows", chain)["id"]
        limited = {"key": "partner:api", "concurrency": 2}
        self.enqueue("api.call", "orders", [1], rate_limit=limited)
        hook = {"url": "https://9.9.9.9/hook", "events": ["job.failed"]}
        self.post("/webhooks/subscriptions", hook)
        filtered = {"action": "cancel", "filter": {"queue": "media"}, "dry_run": True}
        self.mark = self.post("/admin/marks", {"label": "v1.2.3"})["id"]
        self.operation = self.post("/admin/bulk", filtered)["id"]
        self._fill_tenants()
        return self

    def _fill_tenants(self) -> None:
        """Add two tenants with limits, and a pool whose worker has jobs of both."""
        pool = {"strategy": "weighted", "queues": {"billing": {"weight": 3}, "exports": {}}}
        self._client.put(f"{V1}/admin/pools/back-office", json=pool).raise_for_status()
        for number in range(9):
            tenant = {"tenant_id": "acme" if number % 3 else "globex"}
            options = {"queue": "exports" if number == 4 else "billing"}
            body = {"type": "invoice.send", "args": [number], "meta": tenant, "options": options}
            self.post("/jobs", body)
        fetch = {"pool": "back-office", "worker_id": "clerk-1", "count": 4}
        self.post("/workers/fetch", fetch)
        limits: dict[str, Any] = {"max_queue_depth": 5000, "reason": "paid plan"}
        limits["max_enqueue_rate"] = {"limit": 1000, "period": "PT1M"}
        path = f"{V1}/admin/tenants/acme/limits"
        self._client.put(path, json=limits).raise_for_status()
