"""``ojsctl job edit``, ``job move`` and ``job cancel-run``. ``job.py`` adds them to its group."""

from __future__ import annotations

from typing import Any, Final

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.confirm import yes_option
from ojs_client.ctl.queues import ask_if_new, complete_queues
from ojs_client.ctl.selection import job_id as job_id_argument
from ojs_client.ctl.session import Session
from ojs_client.ctl.times import DURATION, LATER
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.values import json_or_text, pairs
from ojs_client.options import milliseconds

_REMOVABLE: Final = {"run-timeout": "timeout_ms", "expires": "expires_at", "tags": "tags"}
"""Words of ``--remove``, and the members of the API that the server can remove."""


@click.command(
    cls=Leaf,
    examples="""
    job edit 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f --priority 10
    job edit 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f --arg '{"to": "ada@example.com"}' --attempts 5
    job edit 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f --at 2h --remove expires
    """,
)
@job_id_argument
@click.option("--priority", type=int, help="Higher runs earlier.")
@click.option("--arg", "args", multiple=True, metavar="JSON", help="All args; may be repeated.")
@click.option("--meta", multiple=True, metavar="NAME=VALUE", help="All meta; may be repeated.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="All tags; may be repeated.")
@click.option("--attempts", type=click.IntRange(1), help="Number of attempts.")
@click.option("--run-timeout", type=DURATION, help="How long an attempt may take.")
@click.option("--at", type=LATER, help="When a scheduled job runs: a time, or how long from now.")
@click.option("--expires", type=LATER, help="Do not start it after a time, or so long from now.")
@click.option(
    "--remove", multiple=True, type=click.Choice(tuple(_REMOVABLE)), help="May be repeated."
)
@click.pass_obj
def edit(
    session: Session,
    job_id: str,
    priority: int | None,
    args: tuple[str, ...],
    meta: tuple[str, ...],
    tags: tuple[str, ...],
    attempts: int | None,
    run_timeout: float | None,
    at: str | None,
    expires: str | None,
    remove: tuple[str, ...],
) -> None:
    """Change a job that waits. What no option names stays.

    Type and id cannot change, and a unique job keeps its args and its meta. job move changes the
    queue.
    """
    timeout = None if run_timeout is None else milliseconds(run_timeout)
    given: dict[str, Any] = {
        "priority": priority,
        "args": [json_or_text(text) for text in args] or None,
        "meta": pairs(meta, "--meta") or None,
        "tags": list(tags) or None,
        "max_attempts": attempts,
        "timeout_ms": timeout,
        "scheduled_at": at,
        "expires_at": expires,
    }
    body = {name: value for name, value in given.items() if value is not None}
    # An option and the removal of its member: the removal holds.
    body |= {_REMOVABLE[name]: None for name in remove}
    if not body:
        raise click.UsageError("Name what to change, such as --priority 10.")
    changed = session.api.request("PATCH", f"{V1}/jobs/{url_path(job_id)}", body)["job"]
    session.output.changed(changed, f"job {job_id} changed: {', '.join(body)}", name=job_id)


@click.command(cls=Leaf, examples="job move 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f mail")
@job_id_argument
@click.argument("queue", metavar="QUEUE", shell_complete=complete_queues)
@yes_option
@click.pass_obj
def move(session: Session, job_id: str, queue: str, yes: bool) -> None:
    """Move a job that waits to another queue. It keeps its id, state and times.

    queue rm OLD --move-to NEW moves all waiting jobs of a queue, and removes it.
    """
    ask_if_new(session, queue, yes)
    path = f"{ADMIN}/jobs/{url_path(job_id)}/move"
    moved = session.api.request("POST", path, {"queue": queue})
    session.output.changed(moved, f"job {job_id} is in queue {queue}", name=job_id)


@click.command(
    "cancel-run", cls=Leaf, examples="job cancel-run 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f"
)
@job_id_argument
@click.pass_obj
def cancel_run(session: Session, job_id: str) -> None:
    """End the current attempt of an active job, for example of one that hangs.

    The attempt fails and its worker is told. The retry policy of the job decides what follows; job
    cancel ends the job itself.
    """
    ended = session.api.post(f"{ADMIN}/jobs/{url_path(job_id)}/cancel-run")
    session.output.changed(
        ended, f"the run of job {job_id} is cancelled, the job is {ended['state']}", name=job_id
    )
