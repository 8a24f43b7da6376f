"""Let a run come to rest and read the final state."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import redis
import trio

from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedError
from tests.chaos.client import JSON, V1, ChaosClient
from tests.chaos.history import Event, NewJob
from tests.chaos.history import Final as Rest
from tests.chaos.names import ANY_QUEUES, FINGERPRINTS, SWITCHED
from tests.chaos.producers import new_id
from tests.chaos.replay import TERMINAL
from tests.support.invariants import InvariantReport, check_invariants

_LOOKS_EVERY_S: Final = 1.0
_ROOM_WITHIN_S: Final = 20.0
"""Time in seconds within which a refused request must find room, while nothing else runs."""
_PAGE: Final = 1000
_KINDS: Final = ("job.", "cron.")
"""Beginnings of the event types that the history has."""


async def come_to_rest(
    client: ChaosClient,
    backend: Embedded,
    patience_s: float,
    requests: Mapping[str, JSON] = MappingProxyType({}),
) -> Rest:
    """Wait until all work has ended, and read what is left.

    First release what clients hold back: cron jobs, paused queues, pending jobs. After all work has
    ended, each fingerprint must accept a job again, and a repeated request with an idempotency key
    must store the jobs that were refused for a reason which is over. Workers must run these jobs.

    Args:
        client: sends the requests.
        backend: the servers.
        patience_s: most time to wait, in seconds.
        requests: idempotency keys to the bodies of their bulk requests.
    """
    await _release(client)
    rest = await _wait(client, backend, patience_s)
    if _is_over(rest):
        shut = await _shut_fingerprints(client)
        pinned = await _pinned(client, requests)
        rest = await _wait(client, backend, patience_s)
        rest = replace(rest, dead_locks=shut, pinned=pinned)
    client.history.events = await _events(client)
    return rest


async def _release(client: ChaosClient) -> None:
    listed = await client.insist("GET", f"{V1}/cron?limit=100")
    for cron in listed.body["crons"]:
        await client.insist("DELETE", f"{V1}/cron/{cron['name']}")
    for queue in SWITCHED:
        await client.insist_on("resume", queue, f"{V1}/queues/{queue}/resume")
    body = {"directive": "resume", "worker_ids": ["beating-0", "beating-1"]}
    await client.insist("POST", f"{V1}/admin/workers/directive", body)
    pending = await client.insist("GET", f"{V1}/jobs?state=pending&limit=200")
    while pending.body["jobs"]:
        for job in pending.body["jobs"]:
            path = f"{V1}/jobs/{job['id']}/cancel"
            await client.command("cancel", job["id"], path)
        pending = await client.insist("GET", f"{V1}/jobs?state=pending&limit=200")


async def _wait(client: ChaosClient, backend: Embedded, patience_s: float) -> Rest:
    deadline = trio.current_time() + patience_s
    while True:
        rest = await _read(client, backend)
        if _is_over(rest) or trio.current_time() > deadline:
            return rest
        await trio.sleep(_LOOKS_EVERY_S)


def _is_over(rest: Rest) -> bool:
    return (
        all(state in TERMINAL for state in rest.states.values())
        and "running" not in rest.workflows.values()
        and not rest.effects_left
        and not rest.operations
        and not rest.problems
    )


async def _read(client: ChaosClient, backend: Embedded) -> Rest:
    def walk() -> tuple[InvariantReport, int]:
        while True:
            try:
                return check_invariants(backend), _effects_left(backend)
            except (redis.RedisError, EmbeddedError):
                continue  # a fault has just ended

    report, effects_left = await trio.to_thread.run_sync(walk)
    workflows: dict[str, str] = {}
    offset = 0
    while True:
        page = await client.insist("GET", f"{V1}/workflows?limit=100&offset={offset}")
        found = page.body["workflows"]
        workflows |= {it["id"]: it["state"] for it in found}
        offset += len(found)
        if not found:
            break
    return Rest(
        report.states,
        report.attempts,
        workflows,
        report.problems,
        effects_left,
        operations=await _operations(client),
    )


async def _operations(client: ChaosClient) -> Sequence[str]:
    """Return the bulk operations that have not ended."""
    listed = await client.insist("GET", f"{V1}/admin/bulk?limit=100")
    return [
        f"{it['action']} {it['id']} ({it['state']})"
        for it in listed.body["items"]
        if it["state"] in ("running", "stopping")
    ]


async def _pinned(client: ChaosClient, requests: Mapping[str, JSON]) -> Sequence[tuple[str, str]]:
    """Repeat each request that was refused for now; return the keys that are refused again."""
    last = {keyed.key: keyed.items for keyed in client.history.keyed if keyed.items}
    deadline = trio.current_time() + _ROOM_WITHIN_S
    found: list[tuple[str, str]] = []
    for key, items in last.items():
        while any(item.retryable for item in items):
            items = await client.enqueue_keyed(key, requests[key])
            if trio.current_time() > deadline:
                found += [(key, item.code) for item in items if item.retryable][:1]
                break
            await trio.sleep(client.chance.uniform(0.05, 0.4))
    return found


def _effects_left(backend: Embedded) -> int:
    """Return the number of entries in outboxes and outbox dead letters."""
    effects_left = 0
    for node in backend.masters():
        with node.client() as there:
            for shard in Keyspace(64):
                with contextlib.suppress(redis.ResponseError):  # another node has this slot
                    effects_left += len(set(there.hkeys(shard.outbox.decode())) - {b"seq"})
    return effects_left


async def _shut_fingerprints(client: ChaosClient) -> Sequence[str]:
    """Return fingerprints that refuse a job although none of their jobs is live."""
    shut = []
    for fingerprint in FINGERPRINTS:
        job = NewJob(new_id(client.chance), ANY_QUEUES[0], fingerprint=fingerprint)
        unique: JSON = {"key": fingerprint, "on_conflict": "reject"}
        body: JSON = {"type": "chaos.unique", "id": job.id, "args": []}
        body["options"] = {"queue": job.queue, "unique": unique}
        told = await client.enqueue([(job, body)])
        if not told.done:
            shut.append(fingerprint)
    return shut


async def _events(client: ChaosClient) -> list[Event]:
    found: list[Event] = []
    path = f"{V1}/events?limit={_PAGE}"
    after = ""
    while True:
        page = await client.insist("GET", f"{path}&after={after}" if after else path)
        found += [_event(it) for it in page.body["events"] if it["type"].startswith(_KINDS)]
        after = page.body["cursor"]
        if not page.body["has_more"]:
            return found


def _event(it: dict[str, Any]) -> Event:
    # The shard of an event of a cron job is -1.
    id_ = it["id"].removeprefix("evt_").replace("--", "-")
    *place, shard = (int(part) for part in id_.split("-"))
    # The last event of an entry has no number: it comes after those that have one.
    position = place[2] if len(place) > 2 else 1 << 30
    data = it["data"]
    return Event(
        job=str(data.get("job_id", "")),
        kind=it["type"],
        at_ms=place[0],
        shard=shard,
        place=(place[0], place[1], position),
        attempt=int(data.get("attempt", data.get("total_attempts", 0))),
        worker=str(data.get("worker_id", "")),
        queue=data["queue"],
        type=data["job_type"],
        id=it["id"],
    )
