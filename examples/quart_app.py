"""Enqueue jobs from Quart. Start it with ``hypercorn quart_app:app``."""

from collections.abc import AsyncGenerator
from typing import Any

from quart import Quart

from ojs_client import Client, JobFailed, NotFound, ResultPending, Unique

app = Quart(__name__)


@app.while_serving
async def ojs_client() -> AsyncGenerator[None, None]:
    """Open one client for the whole application, so that requests share its connections."""
    async with Client() as client:
        app.extensions["ojs"] = client
        yield


@app.post("/reports/<int:year>")
async def order_report(year: int) -> tuple[dict[str, str], int]:
    """Enqueue a report. While one for the same year is unfinished, return that job."""
    client: Client = app.extensions["ojs"]
    job = await client.enqueue(
        "report.build",
        {"year": year},
        queue="reports",
        unique=Unique(args_keys=["year"], on_conflict="ignore"),
    )
    return {"job": job.id, "state": job.state}, 202


@app.get("/reports/jobs/<job_id>")
async def read_report(job_id: str) -> dict[str, Any] | tuple[dict[str, Any], int]:
    """Return the result of a job, and wait up to five seconds for it."""
    client: Client = app.extensions["ojs"]
    try:
        return {"state": "completed", "result": await client.result(job_id, wait=5)}
    except ResultPending:
        return {"state": (await client.get(job_id)).state}
    except JobFailed as failed:
        return {"state": failed.state, "error": failed.error}
    except NotFound:
        return {"error": "there is no such job"}, 404
