"""``ojsctl error``: failures in groups, and their jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.commands.queue import complete_queues
from ojs_client.ctl.errors import Exit, Failed
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.progress import Bar
from ojs_client.ctl.selection import change_ids
from ojs_client.ctl.session import Leaf, Session, dry_run_option, yes_option
from ojs_client.ctl.text import ago, clock, counted

_COUNTED: Final = 160
"""Number of bytes of a message, as JSON, that the server counts."""
_MAX_TERM: Final = 200
"""Number of characters of a message that the search compares."""


@click.group()
def error() -> None:
    """List failures in groups, and run their jobs again."""


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
    for row in session.api.pages(f"{ADMIN}/errors", "items", limit, queue=queue):
        yield {"group": group_name(row), **row}


@error.command(
    cls=Leaf,
    watch=True,
    examples="""
    error ls
    error ls --queue mail -o wide
    """,
)
@click.option("--queue", metavar="QUEUE", help="In this queue.", shell_complete=complete_queues)
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True)
@click.pass_obj
def ls(session: Session, queue: str | None, limit: int) -> None:
    """List groups of failures, those that failed last first.

    A group has one type of error and one message, in which * stands for words with digits.
    """
    groups = _groups(session, queue, limit)
    session.output.rows(groups, COLUMNS, name="group", empty="there are no failures")


@error.command(
    cls=Leaf,
    examples="""
    error retry 3fa9c1d2 --dry-run
    error retry 3fa9c1d2 --queue mail --yes
    """,
)
@click.argument("group")
@click.option("--queue", metavar="QUEUE", help="Jobs of this queue.")
@dry_run_option
@yes_option
@click.pass_obj
def retry(session: Session, group: str, queue: str | None, dry_run: bool, yes: bool) -> None:
    """Run the discarded jobs of a group again: those whose last error belongs to it.

    The server retries no groups. This command searches the jobs, compares their errors, and
    retries them by their ids.
    """
    found = next((row for row in _groups(session, queue, None) if row["group"] == group), None)
    if found is None:
        raise Failed(f"there is no group {group!r}: see ojsctl error ls", Exit.NOT_FOUND)
    ids = []
    with Bar("search") as bar:
        params = {"query": _search(found), "queue": queue}
        for job in session.api.pages(f"{V1}/jobs", "jobs", None, **params):
            bar.advance()
            if belongs(job.get("error"), found):
                ids.append(job["id"])
    question = (
        f"Retry {counted(len(ids), 'jobs')} that failed with {found['type']}: {found['message']}?"
    )
    change_ids(session, "retry", ids, question=question, yes=yes, dry_run=dry_run)


def _search(group: Row) -> str:
    """Return a search that finds at least the jobs of a group."""
    start = group["message"].partition("*")[0][:_MAX_TERM]
    term = f"{_quoted(start)}*" if start else _quoted(group["type"])
    return f"state:discarded error:{term}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def belongs(failure: Any, group: Row) -> bool:
    """Return whether an error belongs to a group.

    Args:
        failure: the error of a job.
        group: the group; ``*`` in its message stands for any text.
    """
    if not isinstance(failure, Mapping):
        return False
    if str(failure.get("type") or "unknown") != group["type"]:
        return False
    text, pattern = _json_text(failure.get("message")), _json_text(group["message"])
    is_cut = len(text.encode()) > _COUNTED
    first, *others = pattern.split("*")
    if not text.startswith(first):
        return False
    position = len(first)
    # The leftmost place of each piece leaves most of the text to the pieces after it.
    for piece in others:
        found = text.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return is_cut or position == len(text) or (bool(others) and text.endswith(others[-1]))


def _json_text(message: Any) -> str:
    """Return a message as the server counts it: the text of a JSON string, without quotes."""
    text = json.dumps(str(message or ""), ensure_ascii=False)[1:-1]
    return text.encode("utf-8", "backslashreplace").decode()
