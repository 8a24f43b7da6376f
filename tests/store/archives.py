"""Populate a cluster with every kind of data, and export and import it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.rate_limit import Rate, RateLimits
from ojs_cluster.server.commands.archive import ImportCounts, import_lines
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.workflows import workflow_progress
from ojs_cluster.store.ground.portions import PORTION_BYTES
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.archive.export_archive import export
from tests.store.shortcuts import ack, active, foreign_id, home_id, nack, put, take
from tests.store.unique_jobs import once
from tests.store.workflow_jobs import batch, chain, run_one, step
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.servers import flush

DEAD: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}


@asynccontextmanager
async def opened(backend: Embedded, shards: int = 64) -> AsyncIterator[Store]:
    """Open a store as a process of another installation would."""
    # A process does not see workflows of two installations.
    workflow_progress._immutable_parts.clear()
    settings = patient_client(backend)
    async with open_store(settings, shards=shards, prelude=PRELUDE) as store:
        yield store


@asynccontextmanager
async def emptied(backend: Embedded, shards: int = 64) -> AsyncIterator[Store]:
    """Open a store on emptied servers."""
    flush(backend)
    async with opened(backend, shards) as store:
        yield store


async def populate(store: Store) -> None:
    """Create jobs in every state, queues, unique locks, workflows and cron jobs."""
    for priority in (0, 5, -5, 0, 100):
        await put(store, "mail", priority=priority, meta={"n": 1.0, "big": 10**30, "é": "\u2028"})
    [first, second] = await take(store, "mail", count=2)
    await release(store, [second])
    await nack(store, first, {"message": "no", "code": "again"}, requeue=True)
    await put(store, "mail", id=foreign_id(store, "mail"))
    await put(store, "mail", id=home_id(store, "mail"), expires_at="+PT1H")
    await put(store, "later", scheduled_at="+PT1H", expires_at="+PT2H", priority=7)
    await put(store, "later", scheduled_at="2099-01-01T00:00:00Z")
    await put(store, "later", pending=True)
    for number in range(3):
        await nack(store, await active(store, f"fails-{number}"), {"message": f"<{number}>"})
    await ack(store, await active(store, "done"), result=b'{"a":[1.0,{}]}', worker_id="w1")
    await cancel(store, (await put(store, "done")).id)
    await nack(store, await active(store, "graves", id=foreign_id(store, "graves"), **DEAD))
    await nack(store, await active(store, "graves", max_attempts=1))
    await active(store, "held", timeout_ms=60_000, id=foreign_id(store, "held"))
    await pauses.pause_or_resume(store, "shut", "pause")
    await put(store, "shut")
    await rate_limits.set_queue_limits(
        store, "shut", RateLimits(concurrency=3, rate=Rate(5, 60_000))
    )
    await put(store, "slow", rate_limit={"max_per_second": 2})
    await once(store, "unique", type="first")
    await once(store, "unique", type="ended", states=["available", "completed"])
    await ack(store, (await take(store, "unique", count=2))[1])
    made = await chain(store, step("a", "steps"), step("b", "steps"), step("c", "elsewhere"))
    await run_one(store, "steps", result={"deep": [1.0]})
    assert made.plan.jobs
    await batch(
        store,
        [step("x", "parts"), step("y", "parts")],
        on_complete=step("z", "callbacks"),
    )
    await run_one(store, "parts", result=1)
    await run_one(store, "parts", result=2)
    await run_one(store, "callbacks")
    body = {"name": "c", "cron": "0 9 * * *", "type": "t", "overlap_policy": "enqueue"}
    body["description"] = "each morning"
    await cron.register(store, parse_cron(json.dumps(body).encode()))
    await cron.trigger(store, "c")
    await cron.trigger(store, "c")
    off = {"name": "off", "cron": "@every 5m", "type": "t", "enabled": False}
    await cron.register(store, parse_cron(json.dumps(off).encode()))


async def export_text(store: Store, *, portion_bytes: int = PORTION_BYTES) -> bytes:
    """Return the exported file."""
    out = io.BytesIO()
    await export(store, out.write, portion_bytes=portion_bytes)
    return out.getvalue()


async def import_text(store: Store, text: bytes) -> tuple[ImportCounts, list[str]]:
    """Import a file; return the counts and the messages."""
    tally, messages = ImportCounts(), list[str]()
    await import_lines(store, io.BytesIO(text), tally, messages.append)
    return tally, messages


def content(text: bytes) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the lines by kind and id, without header and footer; floats as strings."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for raw in text.splitlines():
        [(kind, line)] = json.loads(raw, parse_float=str).items()
        if kind not in ("export", "end"):
            found[kind, line.get("id") or line.get("name") or f"{len(found)}"] = line
    return found


def counted(text: bytes) -> dict[str, int]:
    """Return the number of jobs per state."""
    counts: dict[str, int] = {}
    for (kind, _), line in content(text).items():
        if kind == "job":
            counts[line["state"]] = counts.get(line["state"], 0) + 1
    return counts


def as_restored(text: bytes, *, same_shards: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the content that an import of the file must produce.

    An active job is at the front of its queue again, and its attempt does not count. With another
    number of shards, a step that was not enqueued yet has another id.
    """
    found = content(text)
    for (kind, _), line in found.items():
        if kind == "workflow":
            line.pop("left", None)  # is counted again
        if kind == "job" and line["state"] == "active":
            line["state"] = "available"
            line["position"] = 0
            for name in ("worker_id", "lease_id", "lease_ends_ms", "lease_ms", "lease_extended_ms"):
                line.pop(name, None)
            line["attempt"] -= 1
            if line["attempt"] == 0:
                del line["attempt"], line["started_ms"]
    return found if same_shards else without_ids(found)


def without_ids(
    found: dict[tuple[str, str], dict[str, Any]],
) -> dict[tuple[str, str], dict[str, Any]]:
    """Remove the ids of steps that were not enqueued yet."""
    for (kind, _), line in found.items():
        if kind == "workflow":
            for node in line["plan"]:
                job = node[8] if len(node) > 8 else -1
                if job >= 0 and line["node_statuses"][job] == ".":
                    node[9] = ""
    return found
