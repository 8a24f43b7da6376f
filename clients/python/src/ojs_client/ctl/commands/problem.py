"""``ojsctl problem``: what is wrong with the cluster, and what operators know of already."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock
from ojs_client.ctl.times import DURATION
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs
from ojs_client.options import iso_duration

_PATH = f"{ADMIN}/problems"
_REASON = click.option("--reason", help="Why, for other operators.")
COLUMNS = (
    Column("ID", member("id")),
    Column("SEVERITY", member("severity")),
    Column("STATE", member("state"), is_state=True),
    Column("SINCE", lambda row: ago(row.get("since")), right=True),
    Column("PROBLEM", member("text"), shrink=20),
    Column("MUTED BY", lambda row: _mute(row).get("muted_by"), wide=True),
    Column("UNTIL", lambda row: clock(_mute(row).get("ends_at")), wide=True),
    Column("REASON", lambda row: _mute(row).get("reason"), shrink=10, wide=True),
)


def _mute(row: Row) -> Row:
    found: Row = row.get("mute", {})
    return found


@click.group(cls=Verbs)
def problem() -> None:
    """List the problems of the cluster, and mute them."""


@problem.command(cls=Leaf, watch=True, period=("since", "began"), examples="problem ls -o wide")
@click.pass_obj
def ls(session: Session) -> None:
    """List the problems: open ones first, and critical ones first among them."""
    found = [row for row in session.api.get(_PATH)["items"] if session.period.admits(row)]
    session.output.rows(found, COLUMNS, name="id", empty="the server knows of no problem")


@problem.command(cls=Leaf, examples="problem ack queue_paused --reason 'until the release'")
@click.argument("problem_id", metavar="ID")
@_REASON
@click.pass_obj
def ack(session: Session, problem_id: str, reason: str | None) -> None:
    """Acknowledge a problem: mute it until it ends."""
    _put(session, problem_id, {"reason": reason}, "acknowledged")


@problem.command(cls=Leaf, examples="problem mute queue_paused --for 2h")
@click.argument("problem_id", metavar="ID")
@click.option("--for", "span", type=DURATION, required=True, help="How long, such as 2h.")
@_REASON
@click.pass_obj
def mute(session: Session, problem_id: str, span: float, reason: str | None) -> None:
    """Mute a problem for some time. It is still listed, but causes no alert and no event."""
    duration = iso_duration(timedelta(seconds=span))
    _put(session, problem_id, {"duration": duration, "reason": reason}, "muted")


@problem.command(cls=Leaf, examples="problem unmute queue_paused")
@click.argument("problem_id", metavar="ID")
@click.pass_obj
def unmute(session: Session, problem_id: str) -> None:
    """End the mute of a problem."""
    reply = session.api.request("DELETE", f"{_PATH}/{url_path(problem_id)}/mute")
    session.output.changed(reply, f"{problem_id} is open again", name=problem_id)


def _put(session: Session, problem_id: str, body: dict[str, Any], done: str) -> None:
    reply = session.api.request("PUT", f"{_PATH}/{url_path(problem_id)}/mute", body)
    session.output.changed(reply, f"{problem_id} is {done}", name=problem_id)
