"""``ojsctl error``: failures in groups, and their jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import click

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.command import F, Leaf
from ojs_client.ctl.confirm import dry_run_option, yes_option
from ojs_client.ctl.errors import Exit, Failed
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.selection import run_operation
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock, safe
from ojs_client.ctl.times import MOMENT
from ojs_client.ctl.words import Verbs

_QUEUE: Final = "In this queue."


@click.group(cls=Verbs)
def error() -> None:
    """List failures in groups; retry, cancel or delete their jobs."""


def group_name(row: Row) -> str:
    """Return a short name of a group, which depends on its type and its message only."""
    text = f"{row['type']}\n{row['message']}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _queues(row: Row) -> str:
    return ", ".join(f"{each['name']} {each['count']}" for each in row["queues"])


COLUMNS = (
    Column("GROUP", member("group")),
    Column("COUNT", member("count"), right=True),
    Column("LAST", lambda row: ago(row["last_at"]), right=True, least=5),
    Column("TYPE", member("type"), shrink=10),
    Column("MESSAGE", member("message"), shrink=16),
    Column("QUEUES", _queues, shrink=10, rank=1),
    Column("FIRST", lambda row: clock(row["first_at"]), wide=True),
    Column("LAST-JOB", member("job_id"), wide=True),
)


def _groups(session: Session, queue: str | None, limit: int | None) -> Iterator[dict[str, Any]]:
    since = session.period.since
    for row in session.pages(f"{ADMIN}/errors", "items", limit, queue=queue, since=since):
        yield {"group": group_name(row), **row}


@error.command(
    cls=Leaf,
    watch=True,
    period=("last_at", "last failed"),
    examples="""
    error ls
    error ls --queue mail --since 1h -o wide
    """,
)
@click.option("--queue", metavar="QUEUE", help=_QUEUE, shell_complete=complete_queues)
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@click.pass_obj
def ls(session: Session, queue: str | None, limit: int) -> None:
    """List groups of failures, those that failed last first.

    A group has one type of error and one message, in which * stands for words with digits.
    """
    groups = _groups(session, queue, limit)
    session.output.rows(groups, COLUMNS, name="group", empty="there are no failures")


@error.command(cls=Leaf, watch=True, examples="error get 3fa9c1d2")
@click.option("--queue", metavar="QUEUE", help=_QUEUE, shell_complete=complete_queues)
@click.argument("group")
@click.pass_obj
def get(session: Session, group: str, queue: str | None) -> None:
    """Show a group of failures."""
    found = _group(session, group, queue)
    session.output.record(found, _fields(found), name="group")


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Group", found["group"]
    yield "Type", found["type"]
    yield "Message", found["message"]
    yield "Count", found["count"]
    yield "First", clock(found["first_at"])
    yield "Last", f"{clock(found['last_at'])} ({ago(found['last_at'])} ago)"
    yield "Queues", _queues(found)
    yield "Last job", found.get("job_id")


def _group(session: Session, group: str, queue: str | None) -> dict[str, Any]:
    found = next((row for row in _groups(session, queue, None) if row["group"] == group), None)
    if found is None:
        raise Failed(f"there is no group {group!r}: see ojsctl error ls", Exit.NOT_FOUND)
    return found


def change_options(function: F) -> F:
    """Add the group, and the options of a command that changes its jobs."""
    for option in (
        click.option("--no-wait", is_flag=True, help="Do not wait for the end of the operation."),
        yes_option,
        dry_run_option,
        click.option("--until", type=MOMENT, help="Failed before a time, or an age such as 1h."),
        click.option("--since", type=MOMENT, help="Failed since a time, or an age such as 1h."),
        click.option("--queue", metavar="QUEUE", help=_QUEUE, shell_complete=complete_queues),
        click.argument("group"),
    ):
        function = option(function)
    return function


@error.command(
    cls=Leaf,
    examples="""
    error retry 3fa9c1d2 --dry-run
    error retry 3fa9c1d2 --queue mail --since 1h --yes
    """,
)
@change_options
@click.pass_obj
def retry(session: Session, /, group: str, **given: Any) -> None:
    """Run the discarded jobs of a group again: those whose last error belongs to it."""
    _change(session, "retry", group, ["discarded"], **given)


@error.command(cls=Leaf, examples="error cancel 3fa9c1d2 --queue mail --dry-run")
@change_options
@click.pass_obj
def cancel(session: Session, /, group: str, **given: Any) -> None:
    """Cancel the jobs of a group that are to be tried again."""
    _change(session, "cancel", group, ["pending", "available", "scheduled", "retryable"], **given)


@error.command(cls=Leaf, examples="error rm 3fa9c1d2 --queue mail --dry-run")
@change_options
@click.pass_obj
def rm(session: Session, /, group: str, **given: Any) -> None:
    """Delete the discarded jobs of a group for good. Its counts stay as they are."""
    _change(session, "delete", group, ["discarded"], **given)


def _change(
    session: Session,
    action: str,
    group: str,
    states: list[str],
    *,
    queue: str | None,
    since: str | None,
    until: str | None,
    yes: bool,
    dry_run: bool,
    no_wait: bool,
) -> None:
    found = _group(session, group, queue)
    error = {name: found[name] for name in ("type", "message")}
    error |= {name: at for name, at in (("since", since), ("until", until)) if at}
    chosen: dict[str, Any] = {"states": states, "error": error}
    if queue:
        chosen["queue"] = queue
    run_operation(
        session,
        action,
        chosen,
        yes=yes,
        dry_run=dry_run,
        wait=not no_wait,
        which=safe(f" that failed with {found['type']}: {found['message']}"),
    )
