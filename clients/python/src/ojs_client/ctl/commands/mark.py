"""``ojsctl mark``: marks on the charts of the dashboard, such as deployments."""

from __future__ import annotations

import click

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.output import Column, member
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock
from ojs_client.ctl.times import MOMENT
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs

_PATH = f"{ADMIN}/marks"
COLUMNS = (
    Column("ID", member("id")),
    Column("TIME", lambda row: clock(row["at"])),
    Column("LABEL", member("label"), shrink=16),
    Column("AGE", lambda row: ago(row["at"]), right=True, least=5, rank=1),
    Column("BY", member("created_by"), shrink=8, rank=2),
)


@click.group(cls=Verbs)
def mark() -> None:
    """Mark deployments on the charts of the dashboard."""


@mark.command(
    cls=Leaf,
    examples="""
    mark add v1.2.3
    mark add 'new mail provider' --at 2030-01-01T12:00:00Z
    """,
)
@click.argument("label")
@click.option("--at", type=MOMENT, help="When it happened, such as 10m ago; now by default.")
@click.pass_obj
def add(session: Session, label: str, at: str | None) -> None:
    """Set a mark, such as the version that was deployed."""
    body = {"label": label} | ({"at": at} if at else {})
    reply = session.api.request("POST", _PATH, body)
    session.output.changed(reply, f"marked {reply['label']}", name=reply["id"])


@mark.command(cls=Leaf, watch=True, period=("at", "were set"), examples="mark ls --since 7d")
@click.pass_obj
def ls(session: Session) -> None:
    """List the marks of the last 30 days, the oldest first."""
    found = session.api.get(_PATH, since=session.period.since, until=session.period.until)
    session.output.rows(found["items"], COLUMNS, name="id", empty="there are no marks")


@mark.command(cls=Leaf, examples="mark rm 4f0c2b7d9a1e8c35")
@click.argument("mark_id", metavar="ID")
@click.pass_obj
def rm(session: Session, mark_id: str) -> None:
    """Delete a mark."""
    reply = session.api.request("DELETE", f"{_PATH}/{url_path(mark_id)}")
    session.output.changed(reply, f"mark {mark_id} deleted", name=mark_id)
