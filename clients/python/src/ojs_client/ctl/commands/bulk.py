"""``ojsctl bulk``: bulk operations, which change many jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.output import Column, Row, compact, member
from ojs_client.ctl.selection import change_each
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs

_PATH = f"{ADMIN}/bulk"


@click.group(cls=Verbs)
def bulk() -> None:
    """List, read and stop bulk operations."""


def _action(row: Row) -> str:
    return f"count {row['action']}" if row["dry_run"] else str(row["action"])


COLUMNS = (
    Column("ID", member("id")),
    Column("ACTION", _action),
    Column("STATE", member("state"), is_state=True),
    Column("MATCHED", member("matched"), right=True, rank=4),
    Column("DONE", member("succeeded"), right=True),
    Column("FAILED", member("failed"), right=True, rank=5),
    Column("AGE", lambda row: ago(row["created_at"]), right=True, least=5, rank=3),
    Column("BY", member("created_by"), shrink=8, rank=1),
    Column("FILTER", lambda row: compact(row["filter"]), shrink=16, rank=6),
    Column("ENDED", lambda row: clock(row.get("ended_at")), wide=True),
)


@bulk.command(
    cls=Leaf,
    watch=True,
    period=("created_at", "were created"),
    examples="""
    bulk ls --watch 2s
    bulk ls --since 1d
    """,
)
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@click.pass_obj
def ls(session: Session, limit: int) -> None:
    """List bulk operations: unfinished ones, then finished ones, each newest first."""
    found = session.pages(_PATH, "items", limit)
    session.output.rows(found, COLUMNS, name="id", empty="there are no bulk operations")


@bulk.command(
    cls=Leaf,
    watch=True,
    examples="bulk get 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f --watch 1s",
)
@click.argument("operation_id", metavar="ID")
@click.pass_obj
def get(session: Session, operation_id: str) -> None:
    """Show a bulk operation with its counts."""
    found = session.api.get(f"{_PATH}/{url_path(operation_id)}")
    session.output.record(found, _fields(found), name="id")


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Id", found["id"]
    yield "Action", _action(found)
    yield "State", found["state"]
    yield "Reason", found.get("reason")
    yield "Filter", compact(found["filter"])
    yield "Ids", found.get("ids")
    for name in ("examined", "matched", "succeeded", "failed"):
        yield name.capitalize(), found[name]
    yield "Created", f"{clock(found['created_at'])} by {found['created_by'] or 'no key'}"
    yield "Ended", clock(found.get("ended_at"))
    for each in found["failures"]:
        yield "Failure", f"{each['job_id']}  {each['error']}"


@bulk.command(cls=Leaf, examples="bulk stop 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def stop(session: Session, ids: tuple[str, ...]) -> None:
    """Stop bulk operations after the jobs that they are changing now."""
    change_each(session, ids, lambda operation_id: _stop(session, operation_id))


def _stop(session: Session, operation_id: str) -> None:
    reply = session.api.post(f"{_PATH}/{url_path(operation_id)}/stop")
    sentence = f"operation {operation_id} is {reply['state']}"
    session.output.changed(reply, sentence, name=operation_id)
