"""The addresses of all pages of a dashboard with the demo data."""

from __future__ import annotations

from tests.ui.demo import Demo


def every_page(demo: Demo) -> dict[str, str]:
    """Return the addresses below the dashboard by the names of their pictures.

    The browser opens each of them in the tests. A page whose address has parts has them from the
    demo data.
    """
    return {
        "overview": "",
        "queues": "queues",
        "queue": "queues/media",
        "jobs": "jobs?queue=email",
        "jobs-empty": "jobs?queue=reports&state=completed",
        "jobs-refused": "jobs?query=colour:red",
        "job": f"jobs/{demo.jobs['discarded']}",
        "job-active": f"jobs/{demo.jobs['active']}",
        "job-edit": f"jobs/{demo.jobs['scheduled']}/edit",
        "job-new": "jobs/new",
        "types": "types?range=72h",
        "type": "types/email.send?range=72h",
        "type-compared": f"types/email.send?range=72h&mark={demo.mark}",
        "errors": "errors",
        "dead": "dead",
        "dead-delete": f"dead/{demo.jobs['discarded']}/delete",
        "workflows": "workflows",
        "workflow": f"workflows/{demo.workflow}",
        "workers": "workers",
        "worker": "workers/reporter-1",
        "pools": "pools",
        "pool": "pools/back-office",
        "pool-new": "pools/_new",
        "cron": "cron",
        "cron-job": "cron/nightly-report",
        "cron-new": "cron/_new",
        "cron-edit": "cron/nightly-report/edit",
        "limits": "limits",
        "limit": "limits/partner:api",
        "tenants": "tenants",
        "tenant": "tenants/acme",
        "webhooks": "webhooks",
        "events": "events",
        "audit": "audit",
        "bulk": "bulk",
        "bulk-operation": f"bulk/{demo.operation}",
        "cluster": "cluster",
        "operations": "operations",
        "unknown": "nothing",
    }
