"""Enqueue jobs from FastAPI. Start it with ``hypercorn fastapi_app:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request

from ojs_client import Client, JobFailed, NotFound, ResultPending, Unique


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for the whole application, so that requests share its connections."""
    async with Client() as client:
        app.state.ojs = client
        yield


def get_client(request: Request) -> Client:
    """Return the client of the application."""
    client: Client = request.app.state.ojs
    return client


app = FastAPI(lifespan=lifespan)
OjsClient = Annotated[Client, Depends(get_client)]


@app.post("/reports/{year}", status_code=202)
async def order_report(year: int, client: OjsClient) -> dict[str, str]:
    """Enqueue a report. While one for the same year is unfinished, return that job."""
    job = await client.enqueue(
        "report.build",
        {"year": year},
        queue="reports",
        unique=Unique(args_keys=["year"], on_conflict="ignore"),
    )
    return {"job": job.id, "state": job.state}


@app.get("/reports/jobs/{job_id}")
async def read_report(job_id: str, client: OjsClient) -> dict[str, Any]:
    """Return the result of a job, and wait up to five seconds for it."""
    try:
        return {"state": "completed", "result": await client.result(job_id, wait=5)}
    except ResultPending:
        return {"state": (await client.get(job_id)).state}
    except JobFailed as failed:
        return {"state": failed.state, "error": failed.error}
    except NotFound:
        raise HTTPException(404, "there is no such job") from None
