"""``ojsctl pool``: worker pools, which share workers among queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.complete import completion_of
from ojs_client.ctl.confirm import yes_option
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.selection import remove_each
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import clock, counted
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs

_PATH = f"{ADMIN}/pools"
_STRATEGIES = ("round-robin", "weighted", "least-loaded", "strict")


@click.group(cls=Verbs)
def pool() -> None:
    """List, set and remove worker pools."""


_complete = completion_of(lambda api: (each["name"] for each in api.get(_PATH)["pools"]))
_name = click.argument("name", shell_complete=_complete)


def _queues(row: Row) -> str:
    weights = row.get("weights") or {}
    return ",".join(
        f"{queue}={weights[queue]}" if queue in weights else queue for queue in row["queues"]
    )


COLUMNS = (
    Column("NAME", member("name"), shrink=12),
    Column("STRATEGY", member("strategy")),
    Column("QUEUES", _queues, shrink=20),
    Column("UPDATED", lambda row: clock(row["updated_at"]), rank=1),
    Column("CREATED", lambda row: clock(row["created_at"]), wide=True),
)


def _percent(name: str) -> Any:
    return lambda row: f"{row[name]:.1%}" if name in row else None


PARTS = (
    Column("QUEUE", member("name"), shrink=12),
    Column("WEIGHT", member("weight"), right=True),
    Column("JOBS", member("dispatch_count"), right=True),
    Column("GOT", _percent("dispatch_ratio"), right=True),
    Column("CONFIGURED", _percent("configured_ratio"), right=True),
)


@pool.command(cls=Leaf, watch=True, examples="pool ls")
@click.pass_obj
def ls(session: Session) -> None:
    """List worker pools by name."""
    pools = session.api.get(_PATH)["pools"]
    session.output.rows(pools, COLUMNS, name="name", empty="there are no worker pools")


@pool.command(cls=Leaf, watch=True, examples="pool get shop --watch 2s")
@_name
@click.pass_obj
def get(session: Session, name: str) -> None:
    """Show a worker pool, and what its fetches got from each queue.

    GOT is the part of the queue since the pool was changed, CONFIGURED the part that its weight
    gives it. They differ if queues were empty.
    """
    found = session.api.get(f"{_PATH}/{url_path(name)}")["pool"]
    stats = session.api.get(f"{ADMIN}/scheduling/stats")["stats"]["pools"]
    dispatches: Row = next((each for each in stats if each["name"] == name), {})
    by_queue = {each["name"]: each for each in dispatches.get("queues", ())}
    weights = found.get("weights") or {}
    weighted = found["strategy"] == "weighted"
    parts = [
        {
            "name": queue,
            "weight": weights.get(queue, 1) if weighted else None,
            "dispatch_count": 0,
            **by_queue.get(queue, {}),
        }
        for queue in found["queues"]
    ]
    record = {**found, "dispatches": dispatches} if dispatches else found
    session.output.record(
        record, _fields(found, dispatches), name="name", parts=parts, columns=PARTS
    )


def _fields(found: Row, dispatches: Row) -> Iterator[tuple[str, Any]]:
    yield "Name", found["name"]
    yield "Strategy", found["strategy"]
    yield "Updated", clock(found["updated_at"])
    yield "Fetches", dispatches.get("fetches")


@pool.command(
    "set",
    cls=Leaf,
    examples="""
    pool set shop orders=70 reports=30
    pool set shop orders reports --strategy strict
    """,
)
@_name
@click.argument("queues", nargs=-1, required=True, metavar="QUEUE[=WEIGHT]...")
@click.option(
    "--strategy",
    type=click.Choice(_STRATEGIES),
    help="How a fetch chooses among the queues (weighted with weights, else round-robin).",
)
@click.pass_obj
def set_(session: Session, /, name: str, queues: tuple[str, ...], strategy: str | None) -> None:
    """Create a worker pool, or replace it. Its counts begin again.

    A WEIGHT is a number from 1 to 1000; a queue without one has 1.
    """
    names, weights = list[str](), dict[str, int]()
    for given in queues:
        queue, equals, weight = given.partition("=")
        names.append(queue)
        if equals:
            if not (weight.isascii() and weight.isdecimal()):
                raise click.UsageError(f"{given}: a weight is a number, such as {queue}=70.")
            weights[queue] = int(weight)
    body: dict[str, Any] = {
        "queues": names,
        "strategy": strategy or ("weighted" if weights else "round-robin"),
    }
    if weights:
        body["weights"] = weights
    made = session.api.request("PUT", f"{_PATH}/{url_path(name)}", body)["pool"]
    sentence = f"pool {name} set: {made['strategy']}, {counted(len(names), 'queues')}"
    session.output.changed(made, sentence, name=name)


@pool.command(cls=Leaf, examples="pool rm shop --yes")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=_complete)
@yes_option
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], yes: bool) -> None:
    """Remove worker pools. The jobs stay in their queues; fetches that name the pools fail."""
    paths = {name: f"{_PATH}/{url_path(name)}" for name in names}
    remove_each(session, "pool", paths, yes=yes)
