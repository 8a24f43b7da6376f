"""``ojsctl workflow``: list, read and cancel workflows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ojs_client.ctl.api import V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.commands.job import error_text
from ojs_client.ctl.output import Column, Row, member, note
from ojs_client.ctl.selection import change_each
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs

_PATH = f"{V1}/workflows"


@click.group(cls=Verbs)
def workflow() -> None:
    """List, read and cancel workflows."""


def _steps(row: Row) -> str:
    return f"{row['steps_completed']}/{row['steps_total']}"


COLUMNS = (
    Column("ID", member("id")),
    Column("TYPE", member("type"), rank=1),
    Column("NAME", member("name"), shrink=10, rank=2),
    Column("STATE", member("state"), is_state=True),
    Column("STEPS", _steps, right=True),
    Column("FAILED", lambda row: row["metadata"]["failed_count"], right=True, rank=3),
    Column("AGE", lambda row: ago(row["created_at"]), right=True, least=5),
    Column("ENDED", lambda row: clock(row.get("completed_at")), wide=True),
)


def _after(row: Row) -> str:
    return ",".join(row.get("depends_on") or ())


STEPS = (
    Column("STEP", member("id"), shrink=10),
    Column("TYPE", member("type"), shrink=10, rank=2),
    Column("STATE", member("state"), is_state=True),
    Column("JOB", member("job_id")),
    Column("AFTER", _after, shrink=8, rank=1),
    Column("ERROR", error_text, shrink=16, rank=3),
)


@workflow.command(
    cls=Leaf,
    watch=True,
    period=("created_at", "were created"),
    examples="""
    workflow ls --state running
    workflow ls --state failed --since 1d
    workflow ls -n 200 -o json
    """,
)
@click.option(
    "--state",
    type=click.Choice(("running", "completed", "failed", "cancelled")),
    help="Workflows in this state.",
)
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@click.pass_obj
def ls(session: Session, state: str | None, limit: int) -> None:
    """List workflows, newest first. STEPS counts completed and all steps."""
    found = session.pages(_PATH, "workflows", limit, state=state)
    count = session.output.rows(found, COLUMNS, name="id", empty="there are no workflows")
    if count == limit:
        note(f"These are the first {limit}: --limit lists more.")


@workflow.command(
    cls=Leaf, watch=True, examples="workflow get 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f"
)
@click.argument("workflow_id", metavar="ID")
@click.pass_obj
def get(session: Session, workflow_id: str) -> None:
    """Show a workflow with its steps."""
    found = session.api.get(f"{_PATH}/{url_path(workflow_id)}")["workflow"]
    callbacks = [{**step, "id": name} for name, step in found.get("callbacks", {}).items()]
    steps = [*found["steps"], *callbacks]
    session.output.record(found, _fields(found), name="id", parts=steps, columns=STEPS)


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Id", found["id"]
    yield "Name", found.get("name")
    yield "Type", found["type"]
    yield "State", found["state"]
    yield "Created", clock(found["created_at"])
    yield "Ended", clock(found.get("completed_at"))
    yield "Steps", _steps(found)


@workflow.command(cls=Leaf, examples="workflow cancel 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def cancel(session: Session, ids: tuple[str, ...]) -> None:
    """Cancel workflows and their unfinished jobs."""
    change_each(session, ids, lambda workflow_id: _cancel(session, workflow_id))


def _cancel(session: Session, workflow_id: str) -> None:
    reply = session.api.post(f"{_PATH}/{url_path(workflow_id)}/cancel")["workflow"]
    sentence = f"workflow {workflow_id} is {reply['state']}"
    session.output.changed(reply, sentence, name=workflow_id)
