"""``ojsctl stats``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.command import Leaf
from ojs_client.ctl.commands.queue import AVERAGE_OF
from ojs_client.ctl.output import Column, Row, member
from ojs_client.ctl.queues import complete_queues
from ojs_client.ctl.selection import STATES
from ojs_client.ctl.session import Session
from ojs_client.ctl.text import clock, milliseconds, rate, short_span


def _depth(row: Row) -> int:
    return sum(row["depth"].get(state, 0) for state in ("available", "scheduled", "retryable"))


HISTORY = (
    Column("TIME", lambda row: clock(row["timestamp"])),
    Column("ENQUEUED", member("enqueued"), right=True),
    Column("COMPLETED", member("completed"), right=True),
    Column("FAILED", member("failed"), right=True),
    Column("DISCARDED", member("discarded"), right=True, rank=3),
    Column("DEPTH", _depth, right=True, rank=1),
    Column("WAIT-P95", lambda row: milliseconds(row["latency_p95_ms"]), right=True, rank=2),
    Column("RUN-P95", lambda row: milliseconds(row["duration_p95_ms"]), right=True, rank=4),
    Column("RETRIED", member("retried"), right=True, wide=True),
    Column("CANCELLED", member("cancelled"), right=True, wide=True),
    Column("EXPIRED", member("expired"), right=True, wide=True),
)


@click.command(
    cls=Leaf,
    watch=True,
    period=("timestamp", "began"),
    examples="""
    stats
    stats --queue mail --watch 2s
    stats --period 5m --since 24h
    """,
)
@click.option("--queue", metavar="QUEUE", help="Of this queue.", shell_complete=complete_queues)
@click.option(
    "--period",
    type=click.Choice(("1m", "5m", "1h", "1d")),
    help="List the last periods of this length.",
)
@click.pass_obj
def stats(session: Session, queue: str | None, period: str | None) -> None:
    """Show the numbers of all queues or of one, also by time."""
    if period or session.period:
        reply = session.api.get(
            f"{ADMIN}/stats/history",
            period=period or "5m",
            since=session.period.since,
            until=session.period.until,
            queue=queue,
        )
        session.output.rows(reply["data"], HISTORY, name="timestamp", empty="no periods yet")
        return
    found = session.api.get(f"{ADMIN}/stats", queue=queue)
    session.output.record({"name": queue or "all", **found}, _fields(found), name="name")


def _fields(found: Row) -> Iterator[tuple[str, Any]]:
    counted = found["queues_counted"]
    partly = "" if counted >= found["queues"] else f", the numbers are those of {counted}"
    yield "Queues", f"{found['queues']}{partly}"
    yield "Workers", found.get("workers")
    for state in STATES:
        yield state.capitalize(), found["jobs"].get(state, 0)
    yield "Dead letters", found["dead_letters"]
    throughput = found["throughput"]
    # A server before 0.2 has the same number as processed_per_minute.
    completed = throughput.get("completed_per_minute", throughput["processed_per_minute"])
    yield "Completed", f"{rate(completed)} per minute, {AVERAGE_OF}"
    yield "Failed", f"{rate(throughput['failed_per_minute'])} per minute, {AVERAGE_OF}"
    yield "Wait", f"{milliseconds(throughput['avg_latency_ms'])} on average"
    yield "Uptime", f"{short_span(found['uptime_seconds'])} of this process"
    maintenance = found.get("maintenance") or {}
    if maintenance.get("enabled"):
        yield "Maintenance", f"refuses {', '.join(maintenance.get('refused', ()))}"
