"""``ojsctl job``: list, read, enqueue, retry, cancel and remove jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.commands.job_edit import cancel_run, edit, move
from ojs_client.ctl.commands.job_enqueue import enqueue
from ojs_client.ctl.commands.job_watch import watch
from ojs_client.ctl.confirm import confirm, dry_run_option, yes_option
from ojs_client.ctl.errors import Exit, Failed
from ojs_client.ctl.output import Column, Row, compact, member, note, pretty, short_json
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.selection import (
    STATES,
    change_each,
    count_ids,
    job_id,
    query_option,
    run_operation,
    selection_of,
    selection_options,
)
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock
from ojs_client.ctl.times import DURATION
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs
from ojs_client.errors import api_error

_STATE = click.Choice(STATES)
_ENDED: Final = frozenset({"completed", "cancelled", "discarded"})
_MAX_STEP_S: Final = 20
_PAUSE_S: Final = 0.5
"""Time in seconds between two requests that wait for the end of a job."""
_states_option = click.option(
    "--state", "states", type=_STATE, multiple=True, help="Jobs in this state."
)


@click.group(cls=Verbs)
def job() -> None:
    """List, read, enqueue, edit, move, retry, cancel and remove jobs."""


for _command in (enqueue, watch, edit, move, cancel_run):
    job.add_command(_command)


def _attempts(row: Row) -> str:
    return f"{row.get('attempt', 0)}/{row.get('max_attempts', '?')}"


def error_text(row: Row) -> str:
    """Return type and message of the last error of a job; empty without one."""
    error = row.get("error")
    if not isinstance(error, dict):
        return ""
    return f"{error.get('type') or error.get('code') or 'error'}: {error.get('message', '')}"


COLUMNS = (
    Column("ID", member("id")),
    Column("TYPE", member("type"), shrink=12),
    Column("QUEUE", member("queue"), shrink=8, rank=2),
    Column("STATE", member("state"), is_state=True),
    Column("TRY", _attempts, right=True, rank=3),
    Column("PRIO", member("priority"), right=True, rank=4),
    Column("AGE", lambda row: ago(row.get("created_at")), right=True, least=5, rank=1),
    Column("ARGS", lambda row: short_json(row.get("args", [])), shrink=16, rank=5),
    Column("DUE", lambda row: clock(row.get("scheduled_at")), wide=True),
    Column("TAGS", lambda row: ",".join(row.get("tags") or ()), wide=True),
    Column("WORKER", member("worker_id"), wide=True),
    Column("ERROR", error_text, wide=True),
)


@job.command(
    cls=Leaf,
    watch=True,
    period=("created_at", "were created"),
    examples="""
    job ls --queue mail --state available --since 1h
    job ls --query 'type:email.* error:timeout* attempt:>1 since:2h' -o wide
    job ls --state active --watch 2s
    """,
)
@query_option
@click.option(
    "--queue", metavar="QUEUE", help="Jobs of this queue.", shell_complete=complete_queues
)
@click.option("--state", type=_STATE, help="Jobs in this state.")
@click.option("--type", "job_type", metavar="TYPE", help="Type; 'email.*' is a prefix.")
@click.option("--tag", metavar="TAG", help="Jobs with this tag.")
@click.option("--arg", metavar="NAME=VALUE", help="Jobs with this member in an argument.")
@click.option("--worker", metavar="ID", help="Jobs that this worker runs or ran last.")
@click.option(
    "--sort",
    type=click.Choice(("created_at", "priority", "scheduled_at")),
    help="Another order; needs --state, and for many jobs --queue.",
)
@click.option("--order", type=click.Choice(("asc", "desc")), help="The direction of --sort.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--all", "everything", is_flag=True, help="List all jobs, whatever --limit is.")
@click.pass_obj
def ls(
    session: Session,
    query: str,
    queue: str | None,
    state: str | None,
    job_type: str | None,
    tag: str | None,
    arg: str | None,
    worker: str | None,
    sort: str | None,
    order: str | None,
    limit: int,
    everything: bool,
) -> None:
    """List jobs, newest first."""
    wanted = [("tag", tag), ("worker", worker)]
    if arg:
        name, _, value = arg.partition("=")
        # Without a value there would be no term, and all jobs would match.
        if not name or not value:
            raise click.BadParameter(f"{arg!r} is not NAME=VALUE", param_hint="--arg")
        wanted.append((f"args.{name}", value))
    terms = [f"{name}:{_quoted(text)}" for name, text in wanted if text]
    query = " ".join((query, *terms, *session.period.terms())).strip()
    # The index of the search may lack jobs that `job cancel --query` would choose.
    index = "false" if query else None
    jobs = session.api.pages(
        f"{V1}/jobs",
        "jobs",
        None if everything else limit,
        query=query,
        index=index,
        queue=queue,
        state=state,
        type=job_type,
        sort=sort,
        order=order,
    )
    count = session.output.rows(jobs, COLUMNS, name="id", empty="no jobs match")
    if count == limit and not everything:
        note(f"There may be more than these {limit} jobs: --limit or --all lists them.")


def _quoted(text: str) -> str:
    """Return a text as a quoted value of a search."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@job.command(cls=Leaf, watch=True, examples="job get 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f")
@job_id
@click.pass_obj
def get(session: Session, job_id: str) -> None:
    """Show a job with its arguments, its result and its errors."""
    found = session.api.get(f"{V1}/jobs/{url_path(job_id)}")["job"]
    session.output.record(found, fields_of(found), name="id")


def fields_of(found: Row) -> Iterator[tuple[str, Any]]:
    """Yield the titles and values that describe a job."""
    for title, name in (("Id", "id"), ("Type", "type"), ("Queue", "queue"), ("State", "state")):
        yield title, found.get(name)
    yield "Attempt", f"{found.get('attempt', 0)} of {found.get('max_attempts', '?')}"
    yield "Priority", found.get("priority")
    yield "Tags", ", ".join(found.get("tags") or ())
    for title in ("Created", "Scheduled", "Started", "Completed", "Cancelled", "Discarded"):
        at = found.get(f"{title.lower()}_at")
        yield title, f"{clock(at)} ({_relative(at)})" if at else ""
    yield "Expires", clock(found.get("expires_at"))
    yield "Worker", found.get("worker_id")
    if found.get("progress") is not None:
        yield "Progress", f"{found['progress']:.0%}"
    yield "Args", pretty(found.get("args", []))
    for title, name in (("Meta", "meta"), ("Result", "result")):
        if found.get(name) not in (None, {}):
            yield title, pretty(found[name])
    errors = found.get("errors") or ([found["error"]] if found.get("error") else [])
    for number, error in enumerate(errors, 1):
        yield f"Error {number}", error_text({"error": error})
        backtrace = error.get("backtrace") if isinstance(error, dict) else None
        if backtrace:
            yield "", "\n".join(map(str, backtrace)) if isinstance(backtrace, list) else backtrace


def _relative(at: Any) -> str:
    text = ago(at)
    return text if text.startswith("in ") else f"{text} ago"


@job.command(
    cls=Leaf,
    formats=(),
    examples="""
    job result 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f
    job result 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f --wait 2m
    """,
)
@job_id
@click.option("--wait", type=DURATION, default=0.0, help="Wait for the end of the job.")
@click.pass_obj
def result(session: Session, job_id: str, wait: float) -> None:
    """Print the result of a job as JSON.

    The exit code is 1 if the job has not completed.
    """
    reply = _result(session, job_id, wait)
    state = reply["state"]
    if state == "completed":
        click.echo(compact(reply.get("result")))
        return
    reason = error_text(reply)
    raise Failed(f"the job is {state}: {reason}" if reason else f"the job is {state}")


def _result(session: Session, job_id: str, wait_s: float) -> Any:
    """Read a result, and wait for the end of the job.

    A request waits for ``_MAX_STEP_S`` at most, so that no proxy closes it as idle. A process that
    shuts down ends it early.
    """
    path = f"{V1}/jobs/{url_path(job_id)}/result"
    end = time.monotonic() + wait_s
    while (left_s := end - time.monotonic()) > 0:
        step_s = min(math.ceil(left_s), _MAX_STEP_S)  # the server reads whole seconds
        reply = session.api.request(
            "GET",
            path,
            params={"wait": "true", "timeout": step_s},
            timeout_s=step_s + session.timeout_s,
            also=(408,),
        )
        if "state" in reply:
            return reply
        time.sleep(_PAUSE_S)
    return session.api.get(path)


@job.command(
    cls=Leaf,
    examples="""
    job retry 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f
    job retry --queue mail --type 'email.*' --dry-run
    job retry --query 'error:"no such host"* since:2h' --yes
    """,
)
@selection_options
@_states_option
@dry_run_option
@yes_option
@click.option("--no-wait", is_flag=True, help="Do not wait for the end of the bulk operation.")
@click.pass_obj
def retry(
    session: Session,
    /,
    states: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    no_wait: bool,
    **given: Any,
) -> None:
    """Run discarded jobs again: by ids, by a search or by filters."""
    chosen = selection_of(given, states=list(states))
    chosen.check()
    if chosen.ids:
        if dry_run:
            count_ids(session, "retry", chosen.ids)
            return
        change_each(session, chosen.ids, lambda job_id: _retry(session, job_id))
    else:
        run_operation(session, "retry", chosen.filter, yes=yes, dry_run=dry_run, wait=not no_wait)


def _retry(session: Session, job_id: str) -> None:
    retried = session.api.post(f"{ADMIN}/jobs/{url_path(job_id)}/retry")
    session.output.changed(retried, f"job {job_id} is {retried['state']}", name=job_id)


@job.command(
    cls=Leaf,
    examples="""
    job cancel 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f
    job cancel --queue mail --state scheduled --dry-run
    job cancel --query 'args.user:42' --yes
    """,
)
@selection_options
@_states_option
@dry_run_option
@yes_option
@click.option("--no-wait", is_flag=True, help="Do not wait for the end of the bulk operation.")
@click.pass_obj
def cancel(
    session: Session,
    /,
    states: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    no_wait: bool,
    **given: Any,
) -> None:
    """Cancel jobs: by ids, by a search or by filters.

    Active jobs are cancelled if their ids are given, or if --state or the search names the state.
    """
    chosen = selection_of(given, states=list(states))
    chosen.check()
    if chosen.ids:
        if dry_run:
            count_ids(session, "cancel", chosen.ids)
            return
        change_each(session, chosen.ids, lambda job_id: _cancel(session, job_id))
    else:
        run_operation(session, "cancel", chosen.filter, yes=yes, dry_run=dry_run, wait=not no_wait)


def _cancel(session: Session, job_id: str) -> None:
    reply = session.api.post(f"{V1}/jobs/{url_path(job_id)}/cancel")["job"]
    session.output.changed(reply, f"job {job_id} is {reply['state']}", name=job_id)


@job.command(
    cls=Leaf,
    examples="""
    job rm 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f --yes
    job rm --queue mail --state completed --older-than 7d --dry-run
    job rm --queue mail --state available --yes
    """,
)
@selection_options
@_states_option
@dry_run_option
@yes_option
@click.option("--no-wait", is_flag=True, help="Do not wait for the end of the bulk operation.")
@click.pass_obj
def rm(
    session: Session,
    /,
    states: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    no_wait: bool,
    **given: Any,
) -> None:
    """Remove jobs that have ended: by ids, by a search or by filters.

    Jobs that wait are removed if --state names their state: they are cancelled first.
    """
    chosen = selection_of(given, states=list(states))
    chosen.check()
    if chosen.ids:
        if dry_run:
            count_ids(session, "delete", chosen.ids)
            return
        confirm(f"Remove {', '.join(chosen.ids)}?", yes=yes)
        change_each(session, chosen.ids, lambda job_id: _remove(session, job_id))
        return
    action = "delete" if _ENDED.issuperset(states) else "purge"
    run_operation(session, action, chosen.filter, yes=yes, dry_run=dry_run, wait=not no_wait)


def _remove(session: Session, job_id: str) -> None:
    path, body = f"{V1}/jobs/bulk/delete", {"job_ids": [job_id]}
    reply = session.api.request("POST", path, body, also=(422,))
    if "items" not in reply:
        raise api_error(422, reply)
    if errors := reply.get("errors"):
        raise Failed(f"{job_id}: {errors[0]['error']}", Exit.REFUSED)
    session.output.changed(reply, f"job {job_id} removed", name=job_id)
