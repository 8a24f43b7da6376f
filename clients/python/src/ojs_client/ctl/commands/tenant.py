"""``ojsctl tenant``: tenants, which share queues, with their limits and weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ojs_client.ctl.api import ADMIN, Api
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.complete import completion_of
from ojs_client.ctl.confirm import yes_option
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.rates import rate_body
from ojs_client.ctl.selection import STATES, remove_each
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import clock
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs

_PATH = f"{ADMIN}/tenants"
_WAITING = ("available", "scheduled", "retryable", "pending")


@click.group(cls=Verbs)
def tenant() -> None:
    """List tenants, and set their limits and weights."""


def _names(api: Api) -> Iterator[str]:
    return (each["tenant_id"] for each in api.pages(_PATH, "items", 1000))


_complete = completion_of(_names)
_name = click.argument("name", shell_complete=_complete)
_reason = click.option("--reason", metavar="TEXT", help="Why; shown with the limits.")


def _limit_fields(limits: Row) -> Iterator[tuple[str, str]]:
    """Yield titles and texts of limits. In statistics a limit has the jobs that count."""
    for title, name in (("Depth", "max_queue_depth"), ("Scheduled", "max_scheduled")):
        limit = limits.get(name)
        if isinstance(limit, dict):
            yield title, f"{limit['limit']}, {limit['current']} used"
        elif limit is not None:
            yield title, str(limit)
    rate = limits.get("max_enqueue_rate")
    if rate:
        yield "New", f"{rate['limit']} per {rate['period']}"


def _limits(row: Row) -> str:
    return "; ".join(f"{title.lower()} {text}" for title, text in _limit_fields(row["limits"]))


COLUMNS = (
    Column("TENANT", member("tenant_id"), shrink=12),
    Column("WAITING", lambda row: sum(row["jobs"][state] for state in _WAITING), right=True),
    Column("ACTIVE", lambda row: row["jobs"]["active"], right=True),
    Column("DISCARDED", lambda row: row["jobs"]["discarded"], right=True, rank=3),
    Column("WEIGHT", lambda row: f"{row['fairness_weight']:g}", right=True),
    Column("LIMITS", _limits, shrink=16, rank=1),
    Column("SEEN", lambda row: clock(row.get("last_seen_at")), rank=2),
    Column("REASON", member("reason"), wide=True),
    Column("UPDATED", lambda row: clock(row.get("updated_at")), wide=True),
)


@tenant.command(
    cls=Leaf, watch=True, period=("last_seen_at", "were last active"), examples="tenant ls"
)
@click.option("-n", "--limit", "most", type=click.IntRange(1), help="Maximum number of tenants.")
@click.pass_obj
def ls(session: Session, most: int | None) -> None:
    """List tenants, the most recently active first.

    Those are listed that have settings, or had a new job in the last 30 days.
    """
    tenants = session.pages(_PATH, "items", most)
    session.output.rows(tenants, COLUMNS, name="tenant_id", empty="there are no tenants")


@tenant.command(cls=Leaf, watch=True, examples="tenant get acme --watch 2s")
@_name
@click.pass_obj
def get(session: Session, name: str) -> None:
    """Show a tenant with its jobs, and how much of its limits it uses."""
    found = session.api.get(f"{_PATH}/{url_path(name)}")["tenant"]
    stats = session.api.get(f"{_PATH}/{url_path(name)}/stats")
    found["stats"] = {**found.get("stats", {}), **stats}
    session.output.record(found, _fields(found, stats), name="tenant_id")


def _fields(found: Row, stats: Row) -> Iterator[tuple[str, Any]]:
    yield "Tenant", found["tenant_id"]
    yield "Weight", f"{found['fairness_weight']:g}"
    yield from _limit_fields({**found["limits"], **stats["limits"]})
    yield "Reason", found.get("reason")
    for state in STATES:
        yield state.capitalize(), stats["jobs"][state]
    totals = stats["totals"]
    yield "Total", ", ".join(f"{totals[name]} {name}" for name in ("enqueued", "completed"))
    yield "Created", clock(found.get("created_at"))
    yield "Updated", clock(found.get("updated_at"))
    yield "Seen", clock(found.get("last_seen_at"))


@tenant.command(
    cls=Leaf,
    examples="""
    tenant limit acme
    tenant limit acme --max-depth 50000 --rate 1000/1m --reason 'burst of 3 May'
    tenant limit acme --clear
    """,
)
@_name
@click.option("--max-depth", type=click.IntRange(0), help="Maximum number of waiting jobs.")
@click.option("--max-scheduled", type=click.IntRange(0), help="Of them, scheduled jobs.")
@click.option("--rate", metavar="N/TIME", help="New jobs per time, such as 1000/1m.")
@click.option("--clear", is_flag=True, help="Remove all limits of the tenant.")
@_reason
@click.pass_obj
def limit(
    session: Session,
    name: str,
    max_depth: int | None,
    max_scheduled: int | None,
    rate: str | None,
    clear: bool,
    reason: str | None,
) -> None:
    """Show, set or remove the limits of a tenant over all queues. Others of its limits stay."""
    given = {
        "max_queue_depth": max_depth,
        "max_scheduled": max_scheduled,
        "max_enqueue_rate": None if rate is None else rate_body("rate", rate),
    }
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if clear and body:
        raise click.UsageError("Give limits, or --clear.")
    found = _change(session, name, dict.fromkeys(given) if clear else body, reason)
    fields = tuple(_limit_fields(found["limits"]))
    if not fields and session.output.is_table:
        session.output.line(f"tenant {name} has no limit")
        return
    session.output.record(found, (("Tenant", name), *fields), name="tenant_id")


@tenant.command(
    cls=Leaf,
    examples="""
    tenant weight acme
    tenant weight acme 3 --reason premium
    """,
)
@_name
@click.argument("weight", type=click.FloatRange(0.01, 100), required=False)
@_reason
@click.pass_obj
def weight(session: Session, name: str, weight: float | None, reason: str | None) -> None:
    """Show or set the weight of a tenant in queues with a fair share.

    A tenant of weight 3 starts three jobs while one of weight 1 starts one. Without a weight it
    has 1.
    """
    body = {} if weight is None else {"fairness_weight": weight}
    found = _change(session, name, body, reason)
    fields = (("Tenant", name), ("Weight", f"{found['fairness_weight']:g}"))
    session.output.record(found, fields, name="tenant_id")


def _change(session: Session, name: str, body: dict[str, Any], reason: str | None) -> Row:
    """Change a tenant and return it. Without changes, only return it."""
    path = f"{_PATH}/{url_path(name)}"
    if not body:
        if reason is not None:
            raise click.UsageError("A reason belongs to a change.")
        found: Row = session.api.get(path)["tenant"]
        return found
    # The server forgets the reason of the earlier change.
    changes = body if reason is None else {**body, "reason": reason}
    changed: Row = session.api.request("PUT", f"{path}/limits", changes)["tenant"]
    return changed


@tenant.command(cls=Leaf, examples="tenant rm acme --yes")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=_complete)
@yes_option
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], yes: bool) -> None:
    """Remove the settings of tenants whose jobs have all ended."""
    paths = {name: f"{_PATH}/{url_path(name)}" for name in names}
    remove_each(session, "tenant", paths, yes=yes)
