"""``ojsctl events``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from ojs_client.ctl.api import V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.errors import Exit
from ojs_client.ctl.output import compact
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.session import Session
from ojs_client.ctl.sse import follow
from ojs_client.ctl.text import clock, event_detail, safe

_STATE_CHANGED = "job.state_changed"
_MAX = 1000


@click.command(
    cls=Leaf,
    formats=("table", "jsonl"),
    period=("timestamp", "happened"),
    examples="""
    events -n 100
    events -f --queue mail
    events -f --type job.failed,job.discarded -o jsonl
    """,
)
@click.option("-f", "--follow", "live", is_flag=True, help="Print new events until Ctrl-C.")
@click.option("--queue", metavar="QUEUE", help="Of this queue.", shell_complete=complete_queues)
@click.option("--type", "types", metavar="TYPE,...", help="Of these types.")
@click.option("-n", "--limit", type=click.IntRange(1, _MAX), default=50, show_default=True)
@click.pass_obj
def events(session: Session, live: bool, queue: str | None, types: str | None, limit: int) -> None:
    """Print the newest events, or new ones with -f.

    With -f, job.* is a prefix. Without --type, the change of a job is one line, not also a
    job.state_changed.
    """
    if live:
        _follow(session, queue, types)
        return
    since = session.period.since
    page = session.api.get(
        f"{V1}/events", page=1, per_page=limit, queues=queue, types=types, since=since
    )
    for event in reversed(page["events"]):
        if session.period.admits(event):
            _print(session, event["type"], {**event, **event["data"]}, event)


def _follow(session: Session, queue: str | None, types: str | None) -> None:
    try:
        for event in follow(session.api, f"{V1}/events/stream", queue=queue, types=types):
            if event.name != _STATE_CHANGED or types:
                _print(session, event.name, event.data, event.data)
                sys.stdout.flush()
    except KeyboardInterrupt:
        session.exit_code = Exit.OK


def _print(session: Session, name: str, members: Any, whole: Any) -> None:
    if session.output.format == "jsonl":
        session.output.line(compact(whole))
        return
    if not isinstance(members, Mapping):
        members = {}
    subject = members.get("job_id") or members.get("subject") or ""
    kind = members.get("job_type") or ""
    parts = (clock(members.get("timestamp")), f"{name:<18}", subject, members.get("queue"), kind)
    line = "  ".join(str(part) for part in parts if part)
    more = event_detail(members)
    session.output.line(safe(f"{line}  {more}" if more else line.rstrip()))
