"""``ojsctl limit``: rate limit keys. ``ojsctl queue limit`` limits a queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ojs_client.ctl.api import V1
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.complete import completion_of
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.rates import limit_options, limits_body, usage_fields
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import clock
from ojs_client.ctl.times import LATER
from ojs_client.ctl.urls import url_path
from ojs_client.ctl.words import Verbs

_PATH = f"{V1}/rate-limits"


_key = click.argument(
    "key",
    shell_complete=completion_of(
        lambda api: (each["key"] for each in api.pages(_PATH, "rate_limits", 1000))
    ),
)


@click.group(cls=Verbs)
def limit() -> None:
    """List rate limit keys, and override their limits."""


def _limits(row: Row) -> str:
    return "; ".join(f"{title.lower()} {text}" for title, text in usage_fields(row))


COLUMNS = (
    Column("KEY", member("key"), shrink=16),
    Column("ACTIVE", member("active"), right=True),
    Column("WAITING", member("waiting"), right=True),
    Column("OVERRIDE", lambda row: "yes" if row.get("override") else "no"),
    Column("LIMITS", _limits, shrink=20),
    Column("HELD-UNTIL", lambda row: clock(row.get("held_until")), wide=True),
)


@limit.command(cls=Leaf, watch=True, examples="limit ls")
@click.option("-n", "--limit", "most", type=click.IntRange(1), help="Maximum number of keys.")
@click.pass_obj
def ls(session: Session, most: int | None) -> None:
    """List rate limit keys, with their active and their waiting jobs."""
    keys = session.api.pages(_PATH, "rate_limits", most)
    session.output.rows(keys, COLUMNS, name="key", empty="no job has a rate limit key")


@limit.command(cls=Leaf, watch=True, examples="limit get tenant:acme")
@_key
@click.pass_obj
def get(session: Session, key: str) -> None:
    """Show a rate limit key, and the jobs that hold it."""
    _show(session, session.api.get(f"{_PATH}/{url_path(key)}"))


@limit.command(
    "set",
    cls=Leaf,
    examples="""
    limit set tenant:acme --concurrency 5
    limit set tenant:acme --rate 100/1m --until 2h
    limit set tenant:acme --rate 100/1m --until 2030-01-01T00:00:00Z
    """,
)
@_key
@limit_options
@click.option(
    "--until", "--for", type=LATER, help="End of the override: a time, or how long, as 1h."
)
@click.pass_obj
def set_(session: Session, /, key: str, until: str | None, **given: Any) -> None:
    """Override the limits that jobs declare for a key."""
    body = limits_body(**given)
    if not body:
        raise click.UsageError("Give --concurrency, --rate or --throttle.")
    if until:
        body["expires_at"] = until
    _show(session, session.api.request("PUT", f"{_PATH}/{url_path(key)}", body))


@limit.command(cls=Leaf, examples="limit rm tenant:acme")
@_key
@click.pass_obj
def rm(session: Session, key: str) -> None:
    """Remove the override of a key, so that the limits of its jobs hold again."""
    reply = session.api.request("DELETE", f"{_PATH}/{url_path(key)}/override")
    session.output.changed(reply, f"override of {key} removed", name=key)


def _show(session: Session, found: Row) -> None:
    session.output.record(found, _fields(found), name="key")


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    yield "Key", found["key"]
    yield "Active", found["active"]
    yield "Waiting", found["waiting"]
    yield from usage_fields(found)
    override = found.get("override")
    if override:
        yield "Override", _limits(override)
        yield "Override ends", clock(override.get("expires_at"))
    yield "Held until", clock(found.get("held_until"))
    yield "Held by", "\n".join(found.get("holders", ()))  # none before 0.2
