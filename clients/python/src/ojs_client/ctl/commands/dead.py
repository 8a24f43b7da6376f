"""``ojsctl dead``: list, read, retry and remove dead letters."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.commands.job import error_text, fields_of
from ojs_client.ctl.confirm import confirm, dry_run_option, yes_option
from ojs_client.ctl.output import Column, Row, member, note
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.selection import (
    change_each,
    count_ids,
    job_id,
    query_option,
    run_operation,
    selection_of,
    selection_options,
)
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, counted
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs
from ojs_client.errors import ApiError

_LIST = f"{ADMIN}/dead-letter"
_dead_letters = partial(selection_options, happened="Died")


@click.group(cls=Verbs)
def dead() -> None:
    """List, read, retry and remove dead letters."""


def _ended(row: Row) -> str:
    return ago(row.get("discarded_at") or row.get("completed_at") or row.get("created_at"))


COLUMNS = (
    Column("ID", member("id")),
    Column("TYPE", member("type"), shrink=10),
    Column("QUEUE", member("queue"), shrink=8, rank=3),
    Column("TRIES", member("attempt"), right=True, rank=4),
    Column("DIED", _ended, right=True, least=5, rank=2),
    Column("ERROR", error_text, shrink=20, rank=1),
)


@dead.command(
    cls=Leaf,
    watch=True,
    period=("discarded_at", "died"),
    examples="""
    dead ls --queue mail --since 1h
    dead ls --query 'error:"no such host"* since:1d' -o wide
    """,
)
@query_option
@click.option(
    "--queue", metavar="QUEUE", help="Dead letters of this queue.", shell_complete=complete_queues
)
@click.option("--type", "job_type", metavar="TYPE", help="Type; 'email.*' is a prefix.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--all", "everything", is_flag=True, help="List all, whatever --limit is.")
@click.pass_obj
def ls(
    session: Session,
    query: str,
    queue: str | None,
    job_type: str | None,
    limit: int,
    everything: bool,
) -> None:
    """List dead letters, newest first.

    In a search, since: and until: are about the time at which a job died.
    """
    found = session.api.pages(
        _LIST,
        "items",
        None if everything else limit,
        query=query,
        queue=queue,
        type=job_type,
        since=session.period.since,
        until=session.period.until,
    )
    count = session.output.rows(found, COLUMNS, name="id", empty="no dead letters match")
    if count == limit and not everything:
        note(f"These are the first {limit}: --limit or --all lists more.")
    if session.output.is_table:
        _name_others(session, queue)


def _name_others(session: Session, queue: str | None) -> None:
    """Say how many discarded jobs are no dead letters, and how a queue keeps such jobs."""
    try:
        found = session.api.get(f"{ADMIN}/stats", queue=queue)
    except ApiError:  # the API key may not read the numbers, or there is no such queue
        return
    others = found["jobs"].get("discarded", 0) - found["dead_letters"]
    if others > 0:
        click.echo(
            f"Not listed: {counted(others, 'discarded jobs')} without a dead letter. Keep dead "
            f"letters: ojsctl queue config {queue or 'QUEUE'} --set on_exhaustion=dead_letter",
            err=True,
        )


@dead.command(cls=Leaf, watch=True, examples="dead get 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f")
@job_id
@click.pass_obj
def get(session: Session, job_id: str) -> None:
    """Show the job of a dead letter with its arguments and its errors."""
    found = session.api.get(f"{V1}/dead-letter/{url_path(job_id)}")["job"]
    session.output.record(found, fields_of(found), name="id")


@dead.command(
    cls=Leaf,
    examples="""
    dead retry 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f
    dead retry --type email.send --since 1h --dry-run
    dead retry --query 'error:timeout*' --yes
    """,
)
@_dead_letters
@dry_run_option
@yes_option
@click.option("--no-wait", is_flag=True, help="Do not wait for the end of the bulk operation.")
@click.pass_obj
def retry(session: Session, /, yes: bool, dry_run: bool, no_wait: bool, **given: Any) -> None:
    """Run dead letters again: by ids, by a search or by filters."""
    _change(session, "retry", _retry, yes=yes, dry_run=dry_run, wait=not no_wait, given=given)


@dead.command(
    cls=Leaf,
    examples="""
    dead rm --queue mail --older-than 30d --dry-run
    dead rm --all --yes
    """,
)
@_dead_letters
@dry_run_option
@yes_option
@click.option("--no-wait", is_flag=True, help="Do not wait for the end of the bulk operation.")
@click.pass_obj
def rm(session: Session, /, yes: bool, dry_run: bool, no_wait: bool, **given: Any) -> None:
    """Remove dead letters for good: by ids, by a search or by filters."""
    _change(session, "delete", _delete, yes=yes, dry_run=dry_run, wait=not no_wait, given=given)


def _change(
    session: Session,
    action: str,
    change: Any,
    *,
    yes: bool,
    dry_run: bool,
    wait: bool,
    given: dict[str, Any],
) -> None:
    chosen = selection_of(given)
    chosen.check()
    if chosen.ids:
        if dry_run:
            count_ids(session, action, chosen.ids)
            return
        if action == "delete":
            confirm(f"Remove {', '.join(chosen.ids)}?", yes=yes)
        change_each(session, chosen.ids, lambda job_id: change(session, job_id))
    else:
        run_operation(
            session,
            action,
            {**chosen.filter, "dead": True},
            yes=yes,
            dry_run=dry_run,
            wait=wait,
            what="dead letters",
        )


def _retry(session: Session, job_id: str) -> None:
    retried = session.api.post(f"{V1}/dead-letter/{url_path(job_id)}/retry")["job"]
    session.output.changed(retried, f"job {job_id} is {retried['state']}", name=job_id)


def _delete(session: Session, job_id: str) -> None:
    reply = session.api.request("DELETE", f"{V1}/dead-letter/{url_path(job_id)}")
    session.output.changed(reply, f"dead letter {job_id} deleted", name=job_id)
