"""``ojsctl audit``: who has changed what."""

from __future__ import annotations

import click

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.output import Column, member
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import clock
from ojs_client.ctl.words import Verbs


@click.group(cls=Verbs)
def audit() -> None:
    """List changes, and who has made them."""


COLUMNS = (
    Column("TIME", lambda row: clock(row.get("time"))),
    Column("ACTION", member("action")),
    Column("OBJECT", member("object"), shrink=16),
    Column("OUTCOME", member("outcome"), is_state=True),
    Column("BY", member("principal"), shrink=8, rank=1),
    Column("FROM", member("address"), shrink=10, rank=2),
)


@audit.command(
    cls=Leaf,
    watch=True,
    period=("time", "were made"),
    examples="""
    audit ls --since 1h
    audit ls --queue mail --action queue.pause
    """,
)
@click.option("--action", help="Only this kind of change, such as queue.pause.")
@click.option(
    "--object",
    "--queue",
    "changed",
    metavar="NAME",
    help="Only changes of this queue, job or other object.",
    shell_complete=complete_queues,
)
@click.option("--by", metavar="KEY", help="Only changes by the API key of this name.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@click.pass_obj
def ls(
    session: Session, action: str | None, changed: str | None, by: str | None, limit: int
) -> None:
    """List changes and refused keys, newest first."""
    found = session.api.pages(
        f"{ADMIN}/audit",
        "entries",
        limit,
        action=action,
        object=changed,
        principal=by,
        since=session.period.since,
        until=session.period.until,
    )
    session.output.rows(found, COLUMNS, name="id", empty="there are no changes")
