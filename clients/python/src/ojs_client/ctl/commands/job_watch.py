"""``ojsctl job watch``."""

from __future__ import annotations

import click

from ojs_client.ctl.api import V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.errors import Exit
from ojs_client.ctl.output import compact
from ojs_client.ctl.selection import job_id
from ojs_client.ctl.session import Session
from ojs_client.ctl.sse import follow
from ojs_client.ctl.text import clock, event_detail, safe
from ojs_client.ctl.urls import url_path


@click.command(
    cls=Leaf,
    formats=("table", "jsonl"),
    examples="""
    job watch 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f
    job watch 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f -o jsonl
    """,
)
@job_id
@click.pass_obj
def watch(session: Session, job_id: str) -> None:
    """Print the events of a job until it has ended.

    The exit code is 0 if it has completed, and 1 if it is discarded or cancelled.
    """
    path = f"{V1}/jobs/{url_path(job_id)}"
    for event in follow(session.api, f"{path}/events"):
        if session.output.format == "jsonl":
            session.output.line(compact(event.data))
        elif isinstance(event.data, dict) and event.data.get("event", event.name) == event.name:
            # A job.state_changed with the data of another event precedes that event.
            time = clock(event.data.get("timestamp"))
            line = f"{time}  {event.name:<18}  {event_detail(event.data)}"
            session.output.line(safe(line.rstrip()))
    job = session.api.get(path)["job"]
    if session.output.format != "jsonl":
        session.output.line(f"the job is {job['state']}")
    if job["state"] != "completed":
        session.exit_code = Exit.FAILED
