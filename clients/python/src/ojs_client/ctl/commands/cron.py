"""``ojsctl cron``: cron jobs and their occurrences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from ojs_client.ctl.api import V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.complete import completion_of
from ojs_client.ctl.confirm import confirm, dry_run_option, yes_option
from ojs_client.ctl.output import Column, Row, member, pretty
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.selection import change_each, remove_each, report_failures
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import clock, counted, local_clock
from ojs_client.ctl.times import MOMENT
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.values import json_or_text
from ojs_client.ctl.words import Verbs

_PATH = f"{V1}/cron"
_MOST_HISTORY: Final = 100
"""Number of occurrences that the server keeps of a cron job (``HISTORY_KEPT``)."""


@click.group(cls=Verbs)
def cron() -> None:
    """List, create, trigger, pause and remove cron jobs."""


_complete = completion_of(lambda api: (each["name"] for each in api.pages(_PATH, "crons", 1000)))
_names = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=_complete
)
_name = click.argument("name", shell_complete=_complete)

COLUMNS = (
    Column("NAME", member("name"), shrink=12),
    Column("STATUS", member("status"), is_state=True),
    Column("SCHEDULE", member("expression"), shrink=11),
    Column("ZONE", member("timezone"), shrink=8, rank=2),
    Column("NEXT (LOCAL TIME)", lambda row: clock(row.get("next_run_at"))),
    Column("TYPE", member("type"), shrink=10, rank=1),
    Column("QUEUE", member("queue"), shrink=8, rank=3),
    Column("RUNS", member("run_count"), right=True, rank=4),
    Column("OVERLAP", member("overlap_policy"), wide=True),
    Column("LAST (LOCAL TIME)", lambda row: clock(row.get("last_run_at")), wide=True),
)


@cron.command(
    cls=Leaf, watch=True, period=("last_run_at", "last ran"), examples="cron ls\ncron ls --until 1d"
)
@click.option("--state", type=click.Choice(("active", "paused")), help="Cron jobs in this state.")
@click.pass_obj
def ls(session: Session, state: str | None) -> None:
    """List cron jobs by name. ZONE is that of the schedule; NEXT is in your own time zone."""
    crons = session.pages(_PATH, "crons", None, {"status": state})
    session.output.rows(crons, COLUMNS, name="name", empty="there are no cron jobs")


@cron.command(cls=Leaf, examples="cron get daily-report")
@_name
@click.pass_obj
def get(session: Session, name: str) -> None:
    """Show a cron job with the job that it enqueues."""
    found = session.api.get(f"{_PATH}/{url_path(name)}")["cron"]
    session.output.record(found, _fields(found), name="name")


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Name", found["name"]
    yield "Status", found["status"]
    yield "Schedule", f"{found['expression']} ({found['timezone']})"
    yield "Overlap", found["overlap_policy"]
    yield "Description", found.get("description")
    yield "Next", local_clock(found.get("next_run_at"))
    yield "Last", local_clock(found.get("last_run_at"))
    yield "Runs", found["run_count"]
    yield "Job", pretty(found["job_template"])


@cron.command(
    cls=Leaf,
    examples="""
    cron create daily-report '0 9 * * *' reports.generate --timezone Europe/Berlin
    cron create poll '@every 5m' poll.run '{"deep": false}' --queue polls --overlap skip
    """,
)
@click.argument("name")
@click.argument("expression")
@click.argument("job_type", metavar="TYPE")
@click.argument("args", nargs=-1, metavar="[ARG]...")
@click.option(
    "--queue",
    metavar="QUEUE",
    help="The queue of its jobs (default).",
    shell_complete=complete_queues,
)
@click.option("--priority", type=int, help="Higher runs earlier.")
@click.option("--timezone", default="UTC", show_default=True, help="An IANA name.")
@click.option(
    "--overlap",
    type=click.Choice(("skip", "allow", "cancel_previous", "enqueue")),
    default="skip",
    show_default=True,
    help="What happens while the earlier job is unfinished.",
)
@click.option("--description", help="A text for people.")
@click.option("--paused", is_flag=True, help="Create it paused.")
@click.pass_obj
def create(
    session: Session,
    name: str,
    expression: str,
    job_type: str,
    args: tuple[str, ...],
    queue: str | None,
    priority: int | None,
    timezone: str,
    overlap: str,
    description: str | None,
    paused: bool,
) -> None:
    """Create a cron job, or replace the one of this name.

    An ARG is JSON; other text is a string.
    """
    options = {"queue": queue, "priority": priority}
    given = {option: value for option, value in options.items() if value is not None}
    job = {"type": job_type, "args": [json_or_text(text) for text in args]}
    body = {
        "name": name,
        "expression": expression,
        "timezone": timezone,
        "overlap_policy": overlap,
        "enabled": not paused,
        "job_template": {**job, "options": given} if given else job,
        **({} if description is None else {"description": description}),
    }
    created = session.api.post(_PATH, body)["cron"]
    due = local_clock(created.get("next_run_at"))
    sentence = f"cron job {name} created, " + (f"next at {due}" if due else "paused")
    session.output.changed(created, sentence, name=name)


@cron.command(cls=Leaf, examples="cron trigger daily-report")
@_name
@click.pass_obj
def trigger(session: Session, name: str) -> None:
    """Enqueue the job of a cron job now, whatever its schedule."""
    reply = session.api.post(f"{_PATH}/{url_path(name)}/trigger")
    job = reply["job"]
    verb = "already exists" if reply.get("deduplicated") else f"is {job['state']}"
    session.output.changed(job, f"job {job['id']} {verb}", name=job["id"])


@cron.command(cls=Leaf, examples="cron pause daily-report")
@_names
@click.pass_obj
def pause(session: Session, names: tuple[str, ...]) -> None:
    """Stop cron jobs from firing."""
    change_each(session, names, lambda name: _switch(session, name, "pause", "paused"))


@cron.command(cls=Leaf, examples="cron resume daily-report")
@_names
@click.pass_obj
def resume(session: Session, names: tuple[str, ...]) -> None:
    """Let cron jobs fire again."""
    change_each(session, names, lambda name: _switch(session, name, "resume", "resumed"))


def _switch(session: Session, name: str, verb: str, done: str) -> None:
    reply = session.api.post(f"{_PATH}/{url_path(name)}/{verb}")["cron"]
    session.output.changed(reply, f"cron job {name} {done}", name=name)


def _subject(row: Row) -> Any:
    """Return the job or the error of an occurrence; the server names at most one of the three."""
    return row.get("job_id") or row.get("active_job_id") or row.get("error")


HISTORY = (
    Column("SCHEDULED", lambda row: clock(row["scheduled_time"])),
    Column("OUTCOME", member("outcome"), is_state=True),
    Column("REASON", member("reason")),
    Column("JOB", _subject, shrink=20, rank=1),
    Column("ACTUAL", lambda row: clock(row.get("actual_time")), wide=True),
)


@cron.command(
    cls=Leaf,
    watch=True,
    period=("scheduled_time", "were due"),
    examples="""
    cron history daily-report
    cron history daily-report -n 5 -o json
    """,
)
@_name
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True)
@click.pass_obj
def history(session: Session, name: str, limit: int) -> None:
    """List the last occurrences of a cron job, newest first."""
    most = _MOST_HISTORY if session.period else limit
    reply = session.api.get(f"{_PATH}/{url_path(name)}/history", limit=most)
    found = [row for row in reply["history"] if session.period.admits(row)]
    empty = f"cron job {name} has no occurrences yet"
    session.output.rows(found[:limit], HISTORY, name="scheduled_time", empty=empty)


@cron.command(
    cls=Leaf,
    examples="""
    cron backfill daily-report --from 2026-01-01 --to 2026-02-01 --dry-run
    cron backfill daily-report --from 10d --yes
    cron backfill daily-report --from 2026-01-01T09:00:00+01:00 --to 2026-02-01 --yes
    """,
)
@_name
@click.option(
    "--from", "start", type=MOMENT, required=True, help="Begin: a time, or an age as 10d."
)
@click.option(
    "--to", "end", type=MOMENT, default="0s", help="End, which is not included; now by default."
)
@dry_run_option
@yes_option
@click.pass_obj
def backfill(session: Session, name: str, start: str, end: str, dry_run: bool, yes: bool) -> None:
    """Enqueue the jobs of past occurrences, each of them once.

    A time without a zone is local time, as in all that ojsctl prints. Occurrences whose jobs exist
    are not enqueued again.
    """
    path, body = f"{_PATH}/{url_path(name)}/backfill", {"from": start, "to": end}
    if dry_run or not yes:
        found = session.api.post(path, body)
        if dry_run or not found["count"]:
            session.output.record(found, _occurrences(found), name="name")
            return
        confirm(f"Enqueue {counted(found['count'], 'jobs')} of cron job {name}?", yes=False)
    reply = session.api.post(path, {**body, "confirm": True})
    enqueued, existing = counted(reply["enqueued"], "jobs"), counted(reply["existing"], "jobs")
    sentence = f"{enqueued} enqueued, {existing} existed already"
    session.output.changed(reply, sentence, name=name)
    failures = [(error["scheduled_time"], error["message"]) for error in reply.get("errors", ())]
    done = reply["enqueued"] + reply["existing"]
    report_failures(session, failures, done, reply.get("failed", 0))


def _occurrences(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Cron job", found["name"]
    yield "Occurrences", found["count"]
    yield "First", clock(found.get("first"))
    yield "Last", clock(found.get("last"))


@cron.command(cls=Leaf, examples="cron rm daily-report --yes")
@_names
@yes_option
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], yes: bool) -> None:
    """Remove cron jobs. The jobs that they have enqueued stay."""
    paths = {name: f"{_PATH}/{url_path(name)}" for name in names}
    remove_each(session, "cron job", paths, yes=yes, shown=lambda reply: reply["cron"])
