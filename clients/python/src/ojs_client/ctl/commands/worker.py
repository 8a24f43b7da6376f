"""``ojsctl worker``: list, read and direct workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.command import F, Leaf
from ojs_client.ctl.complete import completion_of
from ojs_client.ctl.confirm import confirm, yes_option
from ojs_client.ctl.errors import Exit, Failed
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.selection import remove_each
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock, counted
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs

_MAX_NAMED = 1000


@click.group(cls=Verbs)
def worker() -> None:
    """List, read and direct workers."""


_complete = completion_of(
    lambda api: (each["id"] for each in api.pages(f"{ADMIN}/workers", "items", 1000))
)


def _queues(row: Row) -> str:
    queues = row.get("queues")
    return ",".join(map(str, queues)) if isinstance(queues, list) else ""


COLUMNS = (
    Column("ID", member("id"), shrink=20),
    Column("STATE", member("state"), is_state=True),
    Column("JOBS", member("active_jobs"), right=True),
    Column("SEEN", lambda row: ago(row.get("last_heartbeat")), right=True, least=5),
    Column("HOST", member("hostname"), shrink=10, rank=2),
    Column("QUEUES", _queues, shrink=10, rank=1),
    Column("DIRECTIVE", member("directive"), wide=True),
    Column("SLOTS", member("concurrency"), right=True, wide=True),
    Column("STARTED", lambda row: clock(row.get("started_at")), wide=True),
)


JOBS = (
    Column("JOB", member("id")),
    Column("TYPE", member("type"), shrink=12),
    Column("QUEUE", member("queue"), shrink=8, rank=1),
    Column("RUNS", lambda row: ago(row.get("started_at")), right=True, least=5),
)


@worker.command(
    cls=Leaf,
    watch=True,
    period=("last_heartbeat", "were last seen"),
    examples="""
    worker ls
    worker ls --state stale --queue mail
    worker ls --until 1m
    worker ls -o wide --watch 5s
    """,
)
@click.option(
    "--state",
    type=click.Choice(("running", "quiet", "terminate", "stale")),
    help="Workers in this state.",
)
@click.option("--queue", metavar="QUEUE", help="Of this queue.", shell_complete=complete_queues)
@click.option("--host", metavar="HOST", help="On this host.")
@click.option("-n", "--limit", type=click.IntRange(1), help="Maximum number of workers.")
@click.pass_obj
def ls(
    session: Session, state: str | None, queue: str | None, host: str | None, limit: int | None
) -> None:
    """List workers, the most recently seen first."""
    where = {"state": state, "queues": queue, "hostname": host}
    workers = session.pages(f"{ADMIN}/workers", "items", limit, where)
    session.output.rows(workers, COLUMNS, name="id", empty="no workers are known")


@worker.command(cls=Leaf, watch=True, examples="worker get worker-1")
@click.argument("worker_id", metavar="ID", shell_complete=_complete)
@click.pass_obj
def get(session: Session, worker_id: str) -> None:
    """Show a worker and the jobs that it runs."""
    found = session.api.get(f"{ADMIN}/workers/{url_path(worker_id)}")
    jobs = found.get("jobs", ())
    session.output.record(found, _fields(found), name="id", parts=jobs, columns=JOBS)


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Id", found["id"]
    yield "State", found["state"]
    yield "Directive", found.get("directive")
    yield "Host", found.get("hostname")
    yield "Process", found.get("pid")
    yield "Queues", _queues(found)
    yield "Slots", found.get("concurrency")
    seen = found.get("last_heartbeat")
    yield "Seen", f"{clock(seen)} ({ago(seen)} ago)"
    yield "Started", clock(found.get("started_at"))
    jobs = found.get("jobs", ())
    more = "" if found.get("jobs_complete", True) else ", perhaps more"
    yield "Jobs", f"{found.get('active_jobs', len(jobs))}{more}"


def _workers(function: F) -> F:
    """Add the arguments that name workers."""
    for option in (
        yes_option,
        click.option("--all", "everything", is_flag=True, help="Every known worker."),
        click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=_complete),
    ):
        function = option(function)
    return function


@worker.command(
    cls=Leaf,
    examples="""
    worker quiet worker-1
    worker quiet --all --yes
    """,
)
@_workers
@click.pass_obj
def quiet(session: Session, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Let workers finish their jobs and fetch no others; resume undoes it."""
    _direct(session, "quiet", ids, everything, yes, ask=everything)


@worker.command(cls=Leaf, examples="worker resume worker-1")
@_workers
@click.pass_obj
def resume(session: Session, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Let quiet workers fetch jobs again."""
    _direct(session, "resume", ids, everything, yes, ask=everything)


@worker.command(
    cls=Leaf,
    examples="""
    worker terminate worker-1 --yes
    worker terminate --all --yes
    """,
)
@_workers
@click.pass_obj
def terminate(session: Session, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Let workers finish their jobs and end. They get the directive with their next heartbeat."""
    _direct(session, "terminate", ids, everything, yes, ask=True)


def _direct(
    session: Session,
    directive: str,
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    *,
    ask: bool,
) -> None:
    if bool(ids) == everything:
        raise click.UsageError("Name workers, or give --all.")
    if len(ids) > _MAX_NAMED:
        raise click.UsageError(f"Name at most {_MAX_NAMED} workers.")
    if ask:
        which = "every known worker" if everything else ", ".join(ids)
        confirm(f"Send {directive} to {which}?", yes=yes)
    body: dict[str, Any] = {"directive": directive}
    body |= {"confirm": True} if everything else {"worker_ids": list(ids)}
    path = f"{ADMIN}/workers/directive"
    reply = session.api.post(path, body)
    affected = reply["affected_workers"]
    while reply.get("left"):  # one request reaches a limited number
        reply = session.api.post(path, body)
        affected += reply["affected_workers"]
    reply["affected_workers"] = affected
    unknown = reply.get("not_found", [])
    if not affected and unknown:
        raise Failed(f"unknown: {', '.join(unknown)}", Exit.NOT_FOUND)
    session.output.changed(
        reply, f"{directive} sent to {counted(affected, 'workers')}", name=str(affected)
    )
    if unknown:
        raise Failed(f"unknown: {', '.join(unknown)}", Exit.PARTLY)


@worker.command(cls=Leaf, examples="worker rm worker-1 --yes")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=_complete)
@yes_option
@click.pass_obj
def rm(session: Session, ids: tuple[str, ...], yes: bool) -> None:
    """Remove workers that have missed their heartbeats. Their jobs become available again."""
    paths = {name: f"{ADMIN}/workers/{url_path(name)}" for name in ids}
    remove_each(session, "worker", paths, yes=yes)
