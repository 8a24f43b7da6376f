"""``ojsctl queue create``, ``limit``, ``partitions`` and ``config``."""

from __future__ import annotations

import json
from typing import Any

import click

from ojs_client.ctl.api import ADMIN, V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.confirm import yes_option
from ojs_client.ctl.output import note
from ojs_client.ctl.queues import ask_if_new, complete_queues
from ojs_client.ctl.rates import limit_options, limits_body, usage_fields
from ojs_client.ctl.session import Session
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.values import pairs


@click.command(
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
@yes_option
@click.pass_obj
def limit(session: Session, /, name: str, clear: bool, yes: bool, **given: Any) -> None:
    """Show, set or remove the limits of a queue. New limits replace all of its limits."""
    path = f"{ADMIN}/queues/{url_path(name)}/rate-limit"
    body = limits_body(**given)
    if clear and body:
        raise click.UsageError("Give limits, or --clear.")
    if body:
        ask_if_new(session, name, yes)
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


@click.command(
    cls=Leaf,
    examples="""
    queue partitions mail
    queue partitions mail 8
    """,
)
@click.argument("name", shell_complete=complete_queues)
@click.argument("count", type=click.IntRange(1), required=False)
@yes_option
@click.pass_obj
def partitions(session: Session, name: str, count: int | None, yes: bool) -> None:
    """Show or set the number of partitions of a queue.

    A queue with more partitions is spread over more shards. Partitions that are not used any more
    remain until workers have emptied them.
    """
    path = f"{ADMIN}/queues/{url_path(name)}/config"
    if count is None:
        reply = session.api.get(path)
    else:
        ask_if_new(session, name, yes)
        reply = session.api.request("PUT", path, {"partitions": count})
    fields = (
        ("Queue", reply["queue"]),
        ("Partitions", reply["config"]["partitions"]),
        ("Draining", reply["draining"] or None),
    )
    session.output.record(reply, fields, name="queue")
    if reply["draining"]:
        note("Workers empty the partitions that are draining.")


@click.command(
    cls=Leaf,
    examples="""
    queue config mail
    queue config mail --set default_timeout=60 --set retention='{"completed":"P1D"}'
    queue config mail --unset default_timeout
    """,
)
@click.argument("name", shell_complete=complete_queues)
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=JSON", help="A setting; may be repeated."
)
@click.option(
    "--unset", multiple=True, metavar="NAME", help="Use the setting of the server; may be repeated."
)
@yes_option
@click.pass_obj
def config(
    session: Session, name: str, changes: tuple[str, ...], unset: tuple[str, ...], yes: bool
) -> None:
    """Show or change the settings of a queue, also the defaults of its new jobs."""
    path = f"{ADMIN}/queues/{url_path(name)}/config"
    # A word such as dead_letter needs no quotes.
    body: dict[str, Any] = {**dict.fromkeys(unset), **pairs(changes, "--set")}
    if body:
        ask_if_new(session, name, yes)
    reply = session.api.request("PUT", path, body) if body else session.api.get(path)
    shown = [(key, _as_text(value)) for key, value in sorted(reply["config"].items())]
    session.output.record(reply, (("Queue", reply["queue"]), *shown), name="queue")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@click.command(cls=Leaf, examples="queue create payments --max-size 100000 --concurrency 20")
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
