"""``ojsctl queue``: list, read, create, pause, limit, purge and delete queues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.output import Column, Row, member, note
from ojs_client.ctl.rates import limit_options, limits_body, usage_fields
from ojs_client.ctl.selection import STATES, change_each, run_operation
from ojs_client.ctl.session import (
    Completion,
    Leaf,
    Session,
    completion_of,
    confirm,
    dry_run_option,
    yes_option,
)
from ojs_client.ctl.text import clock, milliseconds, rate
from ojs_client.ctl.urls import url_path
from ojs_client.errors import ApiError, NotFound


@click.group()
def queue() -> None:
    """List, read, create, pause, limit, purge and delete queues."""


complete_queues: Completion = completion_of(
    lambda api: (each["name"] for each in api.pages(f"{V1}/queues", "queues", 1000))
)
"""Complete the name of a queue."""


def _count(state: str) -> Column:
    return Column(
        state.upper(), lambda row: row["counts"].get(state, 0), right=True, rank=_RANKS[state]
    )


_RANKS = {
    **{"available": 0, "active": 1, "scheduled": 5, "retryable": 4, "pending": 9},
    **{"discarded": 3, "completed": 6, "cancelled": 8},
}


AVERAGE_OF: Final = "averaged over at most an hour"
"""What the numbers per minute cover: the last hour, or the life of a younger queue."""


def _per_minute(row: Row) -> str:
    return rate(row["throughput"]["processed_per_minute"])


COLUMNS = (
    Column("NAME", member("name"), shrink=12),
    Column("STATE", member("state"), is_state=True),
    _count("available"),
    _count("active"),
    _count("scheduled"),
    _count("retryable"),
    Column("DEAD", member("dead_letters"), right=True, rank=2),
    _count("discarded"),
    _count("completed"),
    Column("PER-MIN", _per_minute, right=True, rank=7),
    Column("WAIT", lambda row: milliseconds(row["avg_wait_ms"]), right=True, rank=10, least=6),
    Column("RUN", lambda row: milliseconds(row["avg_duration_ms"]), right=True, rank=11, least=6),
    Column("PENDING", lambda row: row["counts"].get("pending", 0), right=True, wide=True),
    Column("CANCELLED", lambda row: row["counts"].get("cancelled", 0), right=True, wide=True),
    Column("CREATED", lambda row: clock(row.get("created_at")), wide=True),
)


@queue.command(
    cls=Leaf,
    watch=True,
    examples="""
    queue ls
    queue ls --watch 2s
    queue ls -o json
    """,
)
@click.option("-n", "--limit", type=click.IntRange(1), help="Maximum number of queues.")
@click.pass_obj
def ls(session: Session, limit: int | None) -> None:
    """List queues by name, with their jobs by state.

    PER-MIN, WAIT and RUN are averages of the last hour, or since a younger queue was created:
    completed jobs per minute, and how long they waited and ran.
    """
    queues = session.api.pages(f"{ADMIN}/queues", "items", limit)
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
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_queues)
@click.pass_obj
def pause(session: Session, names: tuple[str, ...]) -> None:
    """Pause queues, so that workers get no jobs from them. Queues that do not exist are created."""
    change_each(session, names, lambda name: _switch(session, name, "pause", "paused"))


@queue.command(cls=Leaf, examples="queue drain mail")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_queues)
@click.pass_obj
def drain(session: Session, names: tuple[str, ...]) -> None:
    """Refuse new jobs of queues, until they are resumed. Workers empty the queues."""
    change_each(session, names, lambda name: _switch(session, name, "drain", "draining"))


@queue.command(cls=Leaf, examples="queue resume mail")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_queues)
@click.pass_obj
def resume(session: Session, names: tuple[str, ...]) -> None:
    """End the pause or the drain of queues."""
    change_each(session, names, lambda name: _switch(session, name, "resume", "resumed"))


def _switch(session: Session, name: str, verb: str, done: str) -> None:
    is_new = _is_new(session, name)
    reply = session.api.post(f"{ADMIN}/queues/{url_path(name)}/{verb}")
    sentence = f"queue {name} {done}"
    if is_new:
        sentence = f"queue {name} did not exist: it is created, and {done}"
    session.output.changed(reply["queue"], sentence, name=name)


def _is_new(session: Session, name: str) -> bool:
    """Return whether a change will create the queue. People may have mistyped the name."""
    if not session.output.is_table:
        return False
    try:
        session.api.get(f"{ADMIN}/queues/{url_path(name)}")
    except NotFound:
        return True
    except ApiError:  # the API key allows the change only, or the name is no queue's
        return False
    return False


def _was_unknown(name: str) -> str:
    return f"queue {name} did not exist before"


@queue.command(
    cls=Leaf,
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
    """Remove the jobs of a queue; jobs that wait are cancelled first."""
    chosen = {"queue": name, "states": list(states)}
    if older_than:
        chosen["older_than"] = older_than
    run_operation(session, "purge", chosen, yes=yes, dry_run=dry_run, wait=not no_wait)


@queue.command(
    cls=Leaf,
    examples="""
    queue limit mail
    queue limit mail --concurrency 20 --rate 1000/1h
    queue limit mail --clear
    """,
)
@click.argument("name", shell_complete=complete_queues)
@limit_options
@click.option("--clear", is_flag=True, help="Remove all limits of the queue.")
@click.pass_obj
def limit(session: Session, /, name: str, clear: bool, **given: Any) -> None:
    """Show, set or remove the limits of a queue. New limits replace all of its limits."""
    path = f"{ADMIN}/queues/{url_path(name)}/rate-limit"
    body = limits_body(**given)
    if clear and body:
        raise click.UsageError("Give limits, or --clear.")
    is_new = bool(body) and _is_new(session, name)
    if clear:
        reply = session.api.request("DELETE", path)
    elif body:
        reply = session.api.request("PUT", path, body)
    else:
        reply = session.api.get(path)
    fields = (("Queue", reply["queue"]), *usage_fields(reply))
    if len(fields) == 1 and session.output.is_table:
        session.output.line(f"queue {reply['queue']} has no limit")
        return
    session.output.record(reply, fields, name="queue")
    if is_new:
        session.output.line(_was_unknown(name))


@queue.command(
    cls=Leaf,
    examples="""
    queue partitions mail
    queue partitions mail 8
    """,
)
@click.argument("name", shell_complete=complete_queues)
@click.argument("count", type=click.IntRange(1), required=False)
@click.pass_obj
def partitions(session: Session, name: str, count: int | None) -> None:
    """Show or set the number of partitions of a queue.

    A queue with more partitions is spread over more shards. Partitions that are not used any more
    remain until workers have emptied them.
    """
    path = f"{ADMIN}/queues/{url_path(name)}/config"
    is_new = count is not None and _is_new(session, name)
    if count is None:
        reply = session.api.get(path)
    else:
        reply = session.api.request("PUT", path, {"partitions": count})
    fields = (
        ("Queue", reply["queue"]),
        ("Partitions", reply["config"]["partitions"]),
        ("Draining", reply["draining"] or None),
    )
    session.output.record(reply, fields, name="queue")
    if is_new:
        session.output.line(_was_unknown(name))
    if reply["draining"]:
        note("Workers empty the partitions that are draining.")


@queue.command(
    cls=Leaf,
    examples="""
    queue config mail
    queue config mail --set default_timeout=60 --set retention='{"completed":"P1D"}'
    queue config mail --unset default_timeout
    """,
)
@click.argument("name", shell_complete=complete_queues)
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME=JSON", help="A setting; may be repeated."
)
@click.option(
    "--unset", multiple=True, metavar="NAME", help="Use the setting of the server; may be repeated."
)
@click.pass_obj
def config(session: Session, name: str, pairs: tuple[str, ...], unset: tuple[str, ...]) -> None:
    """Show or change the settings of a queue, also the defaults of its new jobs."""
    path = f"{ADMIN}/queues/{url_path(name)}/config"
    body: dict[str, Any] = dict.fromkeys(unset)
    for pair in pairs:
        member_name, separator, text = pair.partition("=")
        if not separator:
            raise click.UsageError(f"--set needs NAME=JSON, not {pair}")
        try:
            body[member_name] = json.loads(text)
        except ValueError:
            body[member_name] = text  # a word such as dead_letter needs no quotes
    is_new = bool(body) and _is_new(session, name)
    reply = session.api.request("PUT", path, body) if body else session.api.get(path)
    shown = [(key, _as_text(value)) for key, value in sorted(reply["config"].items())]
    session.output.record(reply, (("Queue", reply["queue"]), *shown), name="queue")
    if is_new:
        session.output.line(_was_unknown(name))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@queue.command(cls=Leaf, examples="queue create payments --max-size 100000 --concurrency 20")
@click.argument("name")
@click.option("--max-size", type=click.IntRange(1), help="Maximum number of waiting jobs.")
@click.option("--concurrency", type=click.IntRange(1), help="Maximum number of active jobs.")
@click.option("--partitions", type=click.IntRange(1), help="Number of shards that store it.")
@click.option(
    "--on-exhaustion",
    type=click.Choice(["discard", "dead_letter"]),
    help="What becomes of a job after its last attempt.",
)
@click.pass_obj
def create(session: Session, /, name: str, **settings: Any) -> None:
    """Create a queue, which is kept without jobs."""
    config = {key: value for key, value in settings.items() if value is not None}
    reply = session.api.post(f"{V1}/queues", {"name": name, "config": config})
    session.output.changed(reply["queue"], f"queue {name} created", name=name)


@queue.command(
    cls=Leaf,
    examples="""
    queue rm payments --yes
    queue rm reports --move-to mails
    """,
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_queues)
@click.option("--discard", is_flag=True, help="Discard the waiting and active jobs.")
@click.option("--move-to", metavar="QUEUE", help="Move the waiting jobs to this queue.")
@yes_option
@click.pass_obj
def rm(
    session: Session, names: tuple[str, ...], discard: bool, move_to: str | None, yes: bool
) -> None:
    """Delete queues. Without an option, only those without waiting and active jobs."""
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
    reply = session.api.request("DELETE", f"{V1}/queues/{url_path(name)}", body, timeout_s=30.0)
    what = "deleted" if reply.get("deleted", True) else "drains until it is deleted"
    session.output.changed(reply, f"queue {name} {what}", name=name)
