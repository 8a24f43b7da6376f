"""``ojsctl webhook``: subscriptions and their deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ojs_client.ctl.api import V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.confirm import confirm, yes_option
from ojs_client.ctl.errors import Exit
from ojs_client.ctl.output import Column, Row, compact, member, pretty
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.selection import change_each, remove_each
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import ago, clock
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.values import pairs
from ojs_client.ctl.words import Verbs

_PATH = f"{V1}/webhooks/subscriptions"
_DELIVERIES = f"{V1}/webhooks/deliveries"


@click.group(cls=Verbs)
def webhook() -> None:
    """Manage webhooks and their deliveries."""


def _status(row: Row) -> str:
    return "active" if row["active"] else "paused"


COLUMNS = (
    Column("ID", member("id")),
    Column("STATUS", _status, is_state=True),
    Column("URL", member("url"), shrink=20),
    Column("EVENTS", lambda row: ",".join(row["events"]), shrink=10, rank=3),
    Column("OK", member("success_count"), right=True, rank=2),
    Column("FAILED", member("failure_count"), right=True, rank=4),
    Column("DEAD", member("dead_count"), right=True, rank=1),
    Column("DROPPED", member("dropped_count"), right=True, wide=True),
    Column("LAST", lambda row: ago(row.get("last_delivery_at")), right=True, wide=True),
    Column("REASON", member("disabled_reason"), wide=True),
)


@webhook.command(
    cls=Leaf,
    watch=True,
    period=("last_delivery_at", "last got an event"),
    examples="webhook ls -o wide",
)
@click.pass_obj
def ls(session: Session) -> None:
    """List subscriptions, oldest first."""
    found = session.pages(_PATH, "subscriptions", None)
    session.output.rows(found, COLUMNS, name="id", empty="there are no webhooks")


@webhook.command(cls=Leaf, watch=True, examples="webhook get sub_0123")
@click.argument("subscription_id", metavar="ID")
@click.pass_obj
def get(session: Session, subscription_id: str) -> None:
    """Show a subscription. Its secret is not shown again."""
    found = session.api.get(f"{_PATH}/{url_path(subscription_id)}")["subscription"]
    session.output.record(found, _fields(found), name="id")


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Id", found["id"]
    yield "Status", _status(found)
    yield "Reason", found.get("disabled_reason")
    yield "Url", found["url"]
    yield "Events", ", ".join(found["events"])
    yield "Filter", compact(found["filter"]) if found.get("filter") else ""
    yield "Metadata", compact(found["metadata"]) if found.get("metadata") else ""
    for title in ("Success", "Failure", "Dead", "Dropped"):
        yield title, found.get(f"{title.lower()}_count")
    yield "Last", clock(found.get("last_delivery_at"))
    yield "Created", clock(found["created_at"])
    yield "Secret", found.get("secret")


@webhook.command(
    cls=Leaf,
    examples="""
    webhook create https://hooks.example.com/ojs --event job.completed --event job.failed
    webhook create https://hooks.example.com/ojs --event 'job.*' --queue payments
    """,
)
@click.argument("url")
@click.option("--event", "events", multiple=True, required=True, help="A type; may be repeated.")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    help="Of this queue; may be repeated.",
    shell_complete=complete_queues,
)
@click.option("--type", "types", multiple=True, help="Of this job type; may be repeated.")
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.pass_obj
def create(
    session: Session,
    url: str,
    events: tuple[str, ...],
    queues: tuple[str, ...],
    types: tuple[str, ...],
    metadata: tuple[str, ...],
) -> None:
    """Subscribe a URL to types of events.

    The secret that signs the requests is printed now and never again.
    """
    chosen = {"queues": list(queues), "job_types": list(types)}
    body: dict[str, Any] = {"url": url, "events": list(events)}
    body |= (
        {"filter": {name: each for name, each in chosen.items() if each}}
        if any(chosen.values())
        else {}
    )
    body |= {"metadata": pairs(metadata, "--metadata")} if metadata else {}
    created = session.api.post(_PATH, body)["subscription"]
    session.output.record(created, _fields(created), name="id")


@webhook.command(cls=Leaf, examples="webhook pause sub_0123")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def pause(session: Session, ids: tuple[str, ...]) -> None:
    """Deliver no further events to subscriptions."""
    change_each(session, ids, lambda each: _switch(session, each, False))


@webhook.command(cls=Leaf, examples="webhook resume sub_0123")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def resume(session: Session, ids: tuple[str, ...]) -> None:
    """Deliver events to subscriptions again."""
    change_each(session, ids, lambda each: _switch(session, each, True))


def _switch(session: Session, subscription_id: str, active: bool) -> None:
    path = f"{_PATH}/{url_path(subscription_id)}"
    reply = session.api.request("PATCH", path, {"active": active})["subscription"]
    sentence = f"webhook {subscription_id} {'resumed' if active else 'paused'}"
    session.output.changed(reply, sentence, name=subscription_id)


@webhook.command(cls=Leaf, examples="webhook rm sub_0123 --yes")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@yes_option
@click.pass_obj
def rm(session: Session, ids: tuple[str, ...], yes: bool) -> None:
    """Remove subscriptions with their pending deliveries."""
    paths = {name: f"{_PATH}/{url_path(name)}" for name in ids}
    remove_each(session, "webhook", paths, yes=yes)


@webhook.command(cls=Leaf, examples="webhook test sub_0123")
@click.argument("subscription_id", metavar="ID")
@click.pass_obj
def test(session: Session, subscription_id: str) -> None:
    """Send a webhook.test event now, and show the answer of the receiver."""
    reply = session.api.request(
        "POST", f"{_PATH}/{url_path(subscription_id)}/test", timeout_s=session.timeout_s + 30
    )
    session.output.changed(reply, pretty(reply), name=subscription_id)
    if reply.get("success") is False:
        session.exit_code = Exit.FAILED


@webhook.command(cls=Leaf, examples="webhook rotate sub_0123 --yes")
@click.argument("subscription_id", metavar="ID")
@yes_option
@click.pass_obj
def rotate(session: Session, subscription_id: str, yes: bool) -> None:
    """Replace the secret and print the new one. The old one signs too, for a day."""
    confirm(f"Replace the secret of {subscription_id}?", yes=yes)
    reply = session.api.post(f"{_PATH}/{url_path(subscription_id)}/rotate-secret")
    sentence = (
        ("Id", subscription_id),
        ("Secret", reply["secret"]),
        ("Old until", clock(reply.get("previous_secret_expires_at"))),
    )
    session.output.record(reply, sentence, name="id")


DELIVERIES = (
    Column("ID", member("id")),
    Column("STATUS", member("status"), is_state=True),
    Column("EVENT", member("event_type"), shrink=12),
    Column("TRIES", member("attempts"), right=True),
    Column("CODE", member("status_code"), right=True, rank=2),
    Column("LAST", lambda row: ago(row.get("last_attempt_at")), right=True, least=5, rank=1),
    Column("ERROR", member("error"), shrink=16, rank=3),
    Column("SUBSCRIPTION", member("subscription_id"), wide=True),
)


@webhook.command(
    cls=Leaf,
    watch=True,
    period=("last_attempt_at", "were last tried"),
    examples="""
    webhook deliveries --status dead
    webhook deliveries --subscription sub_0123 -n 200
    """,
)
@click.option("--subscription", metavar="ID", help="Of this subscription.")
@click.option("--status", "--state", type=click.Choice(("pending", "delivered", "dead")))
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.pass_obj
def deliveries(session: Session, subscription: str | None, status: str | None, limit: int) -> None:
    """List the newest deliveries."""
    reply = session.api.get(_DELIVERIES, subscription_id=subscription, status=status, limit=limit)
    found = list(filter(session.period.admits, reply["deliveries"]))
    session.output.rows(found, DELIVERIES, name="id", empty="no deliveries")


@webhook.command(cls=Leaf, examples="webhook retry 0-12-1795733007359-0")
@click.argument("ids", nargs=-1, required=True, metavar="DELIVERY...")
@click.pass_obj
def retry(session: Session, ids: tuple[str, ...]) -> None:
    """Give dead deliveries all their attempts again."""
    change_each(session, ids, lambda delivery_id: _retry(session, delivery_id))


def _retry(session: Session, delivery_id: str) -> None:
    reply = session.api.post(f"{_DELIVERIES}/{url_path(delivery_id)}/retry")["delivery"]
    session.output.changed(reply, f"delivery {delivery_id} is {reply['status']}", name=delivery_id)
