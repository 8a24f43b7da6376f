"""``ojsctl queue``: list, read, create, pause, limit and remove queues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.commands.queue_settings import config, create, limit, partitions
from ojs_client.ctl.confirm import confirm, dry_run_option, yes_option
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.queues import ask_if_new, complete_queues, queue_names
from ojs_client.ctl.rates import usage_fields
from ojs_client.ctl.selection import STATES, change_each, run_operation
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import clock, milliseconds, rate
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs


@click.group(cls=Verbs)
def queue() -> None:
    """List, read, create, pause, limit and remove queues."""


for _command in (create, limit, partitions, config):
    queue.add_command(_command)


def _jobs_in(state: str) -> Callable[[Row], int]:
    return lambda row: int(row["counts"].get(state, 0))


def _count(state: str, *, rank: int = 0, wide: bool = False) -> Column:
    return Column(state.upper(), _jobs_in(state), right=True, rank=rank, wide=wide)


AVERAGE_OF: Final = "averaged over at most an hour"
"""What the numbers per minute cover: the last hour, or the life of a younger queue."""


def _per_minute(row: Row) -> str:
    return rate(row["throughput"]["processed_per_minute"])


COLUMNS: Final = (
    Column("NAME", member("name"), shrink=12),
    Column("STATE", member("state"), is_state=True),
    _count("available"),
    _count("active", rank=1),
    _count("scheduled", rank=5),
    _count("retryable", rank=4),
    Column("DEAD", member("dead_letters"), right=True, rank=2),
    _count("discarded", rank=3),
    _count("completed", rank=6),
    Column("PER-MIN", _per_minute, right=True, rank=7),
    Column("WAIT", lambda row: milliseconds(row["avg_wait_ms"]), right=True, rank=10, least=6),
    Column("RUN", lambda row: milliseconds(row["avg_duration_ms"]), right=True, rank=11, least=6),
    _count("pending", wide=True),
    _count("cancelled", wide=True),
    Column("CREATED", lambda row: clock(row.get("created_at")), wide=True),
)
_SORTS: Final[Mapping[str, Callable[[Row], float]]] = {
    **{state: _jobs_in(state) for state in STATES},
    "dead": lambda row: row["dead_letters"],
    "per-min": lambda row: row["throughput"]["processed_per_minute"],
    "wait": lambda row: row["avg_wait_ms"],
    "run": lambda row: row["avg_duration_ms"],
}


@queue.command(
    cls=Leaf,
    watch=True,
    period=("created_at", "were created"),
    examples="""
    queue ls
    queue ls --sort available --limit 10 --watch 2s
    queue ls -o json
    """,
)
@click.option(
    "--state", type=click.Choice(("active", "paused", "draining")), help="Queues in this state."
)
@click.option(
    "--sort", type=click.Choice(tuple(_SORTS)), help="The largest number first, instead of by name."
)
@click.option("-n", "--limit", type=click.IntRange(1), help="Maximum number of queues.")
@click.pass_obj
def ls(session: Session, state: str | None, sort: str | None, limit: int | None) -> None:
    """List queues by name, with their jobs by state.

    PER-MIN, WAIT and RUN are averages of the last hour, or since a younger queue was created:
    completed jobs per minute, and how long they waited and ran.
    """
    read_limit = None if sort else limit  # all queues are needed to find the largest
    queues: Iterable[Row] = session.pages(f"{ADMIN}/queues", "items", read_limit, {"state": state})
    if sort:
        queues = sorted(queues, key=lambda row: (-_SORTS[sort](row), row["name"]))[:limit]
    session.output.rows(queues, COLUMNS, name="name", empty="there are no queues")


@queue.command(cls=Leaf, watch=True, examples="queue get mail")
@click.argument("name", shell_complete=complete_queues)
@click.pass_obj
def get(session: Session, name: str) -> None:
    """Show a queue with its counts and its configuration."""
    found = session.api.get(f"{ADMIN}/queues/{url_path(name)}")
    config = session.api.get(f"{ADMIN}/queues/{url_path(name)}/config")["config"]
    found["configuration"] = {**found.get("configuration", {}), **config}
    session.output.record(found, _fields(found), name="name")


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Name", found["name"]
    yield "State", found["state"]
    yield "Paused", clock(found.get("paused_at"))
    yield "Created", clock(found.get("created_at"))
    for state in STATES:
        yield state.capitalize(), found["counts"].get(state, 0)
    yield "Dead letters", found["dead_letters"]
    yield "Per minute", f"{_per_minute(found)} completed, {AVERAGE_OF}"
    yield "Wait", milliseconds(found["avg_wait_ms"])
    yield "Run", milliseconds(found["avg_duration_ms"])
    config = found["configuration"]
    yield "Partitions", config["partitions"]
    yield "After the last attempt", config["on_exhaustion"]
    yield "Maximum depth", config.get("backpressure", {}).get("max_depth")
    yield from usage_fields(config)


@queue.command(
    cls=Leaf,
    examples="""
    queue pause mail
    queue pause mail reports -o name
    """,
)
@queue_names
@yes_option
@click.pass_obj
def pause(session: Session, names: tuple[str, ...], yes: bool) -> None:
    """Pause queues, so that workers get no jobs from them."""
    change_each(session, names, lambda name: _switch(session, name, "pause", "paused", yes))


@queue.command(cls=Leaf, examples="queue drain mail")
@queue_names
@yes_option
@click.pass_obj
def drain(session: Session, names: tuple[str, ...], yes: bool) -> None:
    """Refuse new jobs of queues, until they are resumed. Workers empty the queues."""
    change_each(session, names, lambda name: _switch(session, name, "drain", "draining", yes))


@queue.command(cls=Leaf, examples="queue resume mail")
@queue_names
@yes_option
@click.pass_obj
def resume(session: Session, names: tuple[str, ...], yes: bool) -> None:
    """End the pause or the drain of queues."""
    change_each(session, names, lambda name: _switch(session, name, "resume", "resumed", yes))


def _switch(session: Session, name: str, verb: str, done: str, yes: bool) -> None:
    """Pause, drain or resume a queue; ``done`` says so in the output."""
    ask_if_new(session, name, yes)
    reply = session.api.post(f"{ADMIN}/queues/{url_path(name)}/{verb}")
    session.output.changed(reply["queue"], f"queue {name} {done}", name=name)


@queue.command(
    cls=Leaf,
    hidden=True,
    examples="""
    queue purge mail --dry-run
    queue purge mail --state completed --state discarded --older-than 7d --yes
    """,
)
@click.argument("name", shell_complete=complete_queues)
@click.option(
    "--state",
    "states",
    type=click.Choice([state for state in STATES if state != "active"]),
    multiple=True,
    default=("available",),
    show_default=True,
    help="Jobs in this state; may be repeated.",
)
@click.option("--older-than", metavar="AGE", help="Ended (or created) before, as 7d.")
@dry_run_option
@yes_option
@click.option("--no-wait", is_flag=True, help="Do not wait for the end of the bulk operation.")
@click.pass_obj
def purge(
    session: Session,
    name: str,
    states: tuple[str, ...],
    older_than: str | None,
    yes: bool,
    dry_run: bool,
    no_wait: bool,
) -> None:
    """Remove the jobs of a queue, as job rm --queue does. Waiting jobs are cancelled first."""
    chosen = {"queue": name, "states": list(states)}
    if older_than:
        chosen["older_than"] = older_than
    run_operation(session, "purge", chosen, yes=yes, dry_run=dry_run, wait=not no_wait)


@queue.command(
    cls=Leaf,
    examples="""
    queue rm payments --yes
    queue rm reports --move-to mails
    """,
)
@queue_names
@click.option("--discard", is_flag=True, help="Discard the waiting and active jobs.")
@click.option(
    "--move-to",
    metavar="QUEUE",
    help="Move the waiting jobs to this queue.",
    shell_complete=complete_queues,
)
@yes_option
@click.pass_obj
def rm(
    session: Session, names: tuple[str, ...], discard: bool, move_to: str | None, yes: bool
) -> None:
    """Remove queues, or move their jobs to another queue and remove them.

    Without an option, only queues without waiting and active jobs are removed. To remove jobs and
    keep the queue, use job rm --queue.
    """
    if discard and move_to is not None:
        raise click.UsageError("give either --discard or --move-to")
    body: dict[str, Any] | None = None
    what = ""
    if discard:
        body, what = {"strategy": "discard"}, " and discard their jobs"
    elif move_to is not None:
        body = {"strategy": "move", "target_queue": move_to}
        what = f" and move their jobs to {move_to}"
    confirm(f"Delete {', '.join(names)}{what}?", yes=yes)
    change_each(session, names, lambda name: _delete(session, name, body))


def _delete(session: Session, name: str, body: dict[str, Any] | None) -> None:
    reply = session.api.request("DELETE", f"{V1}/queues/{url_path(name)}", body)
    what = "deleted" if reply.get("deleted", True) else "drains until it is deleted"
    session.output.changed(reply, f"queue {name} {what}", name=name)
