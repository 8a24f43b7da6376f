"""Everything that is in the cluster, line by line (`ojs-cluster export`).

Jobs are found by SCAN on every node, which the rest of the code never does: an index of all jobs
does not exist (ADR 2), and a walk over the indexes of the states may miss a job that changes its
state meanwhile, however often it looks. SCAN meets every key that is there from its beginning to
its end, and an operator's command may cost what a request may not. What it may miss is a key that
changes its node: so an export of a cluster that changed its nodes or slots meanwhile fails.

Each job is read in one step; the whole is no picture of one moment. Sixteen jobs are in memory, and
of a workflow's results two portions.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import KEYS_OF_JOBS, Shard, job_of_key
from ojs_cluster.redis.settings import Address
from ojs_cluster.store.archive.archive import VERSION, encode
from ojs_cluster.store.archive.archive_results import portions
from ojs_cluster.store.archive.job_lines import split_errors
from ojs_cluster.store.archive.line_values import (
    QUEUE_FIELDS,
    CronLine,
    End,
    Head,
    JobLine,
    Line,
    QueueLine,
    ResultsLine,
    WorkflowLine,
)
from ojs_cluster.store.context import Store
from ojs_cluster.store.cron.cron_record import CronRecord
from ojs_cluster.store.cron.cron_store import StoreBook
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.limits import partition_quotas
from ojs_cluster.store.portions import PORTION_BYTES

log = logging.getLogger("ojs.store")

Write = Callable[[bytes], object]
_PAGE = 1000


class ClusterChanged(Exception):
    """Nodes or slots changed while the export ran: jobs may be missing. Run it again."""


async def export(
    store: Store, write: Write, *, portion_bytes: int = PORTION_BYTES, **head: str | int
) -> Counter[str]:
    """Give ``write`` every line; returns how many of each kind.

    Args:
        portion_bytes: most bytes of results in one reply and one line, unless one alone is larger.
        head: what the first line says besides the format's version.

    Raises:
        ClusterChanged: the lines are not complete.
        BackendUnavailable: Redis did not answer in time.
    """
    counts: Counter[str] = Counter()

    def put(kind: str, line: Line) -> None:
        write(encode(line))
        counts[kind] += 1

    before = await _shape(store)
    write(encode(Head(VERSION), **head))
    await _queues(store, put)
    # First, because a tick that fires from here on may be of a job that the scan has passed.
    ticks = await _ticks(store)
    await _finish_replacements(store)
    await _jobs(store, put)
    # After the jobs: what a workflow says of a job is then never older than the job's own line.
    await _workflows(store, put, portion_bytes)
    await _crons(store, put, ticks)
    if await _shape(store) != before:
        raise ClusterChanged(
            "nodes or slots of the cluster changed while it was read: jobs may be missing, run the "
            "export again"
        )
    write(encode(End(counts)))
    return counts


async def _shape(store: Store) -> dict[Address, tuple[bytes, ...]]:
    """Who runs, since when, and serves what; raises when slots are on the move."""
    shape: dict[Address, tuple[bytes, ...]] = {}
    for address, reply in (await store.redis.call_masters("INFO", "server")).items():
        lines = reply.splitlines() if isinstance(reply, bytes) else []
        shape[address] = tuple(line for line in lines if line.startswith(b"run_id:"))
    if not store.redis.topology.clustered:
        return shape
    for address, reply in (await store.redis.call_masters("CLUSTER", "NODES")).items():
        for line in reply.splitlines() if isinstance(reply, bytes) else ():
            words = line.split()
            if b"myself" in words[2]:
                slots = tuple(words[8:])
                if any(word.startswith(b"[") for word in slots):
                    raise ClusterChanged(
                        f"slots are being moved from or to {address}: run the export when the "
                        "cluster is at rest"
                    )
                shape[address] = (*shape.get(address, ()), *slots)
    return shape


async def _queues(store: Store, put: Callable[[str, Line], None]) -> None:
    meta = store.keys.meta
    async for names in _members(store, meta.slot, meta.queues):
        for raw in names:
            name = raw.decode()
            first, *others = await store.partitions.occupied_shards(store, name)
            found: Any = await store.redis.call(
                first.slot, "HMGET", first.queue_counters(name), *QUEUE_FIELDS, idempotent=True
            )
            set_ = {at: v for at, v in zip(QUEUE_FIELDS, found, strict=True) if v is not None}
            if b"paused" in set_:
                set_[b"paused"] = b"1"  # since when is of no use elsewhere
            whole = await partition_quotas.get_limits(store, name)
            if whole != RateLimits():  # there is only this partition's share
                set_[b"limits"] = whole.packed().encode()
            for shard in others:
                acked: Any = await store.redis.call(
                    shard.slot, "HGET", shard.queue_counters(name), "acked", idempotent=True
                )
                set_[b"acked"] = b"%d" % (int(set_.get(b"acked", 0)) + int(acked or 0))
            own = store.partitions.entries().get(name)
            put("queues", QueueLine(name, set_, 0 if own is None else own.count))


async def _jobs(store: Store, put: Callable[[str, Line], None]) -> None:
    shards = {shard.tag: shard for shard in store.keys}

    async def one(key: bytes) -> None:
        tag, job_id = job_of_key(key)
        shard = shards.get(tag)
        line = None if shard is None else await _job(store, shard, job_id)
        if line is not None:
            put("jobs", line)

    for address in store.redis.topology.masters:
        cursor: Any = b"0"
        while True:
            reply: Any = await store.redis.call_node(
                *(address, "SCAN", cursor, "MATCH", KEYS_OF_JOBS, "COUNT", _PAGE)
            )
            cursor, found = reply
            await over_shards(found, one)
            if cursor == b"0":
                break


async def _finish_replacements(store: Store) -> None:
    """Carry out replacements whose producers have died: else the old job, read before the new one,
    would stand in the file as well as that.
    """

    async def one(shard: Shard) -> None:
        async for names in _members(store, shard.slot, shard.alias_claims):
            for name in names:
                with suppress(NotFound):
                    await read_jobs.get(store, name.decode())

    await over_shards(store.keys, one)


async def _job(store: Store, shard: Shard, job_id: str) -> JobLine | None:
    """A job; None for an alias, and for one that is gone, was deleted, or is malformed."""
    reply = await store.run(shard, "archive_job", [shard.job(job_id)], idempotent=True)
    while reply and reply[0] == b"prepared":
        await store.finish_transaction(store, shard, reply[1])
        reply = await store.run(shard, "archive_job", [shard.job(job_id)], idempotent=True)
    if not reply:
        return None
    if reply[0] == b"malformed":
        log.warning("job %s of shard %d is malformed and not exported", job_id, shard.index)
        return None
    if f.HIDDEN in reply[0][::2]:
        return None
    flat, score, removed = reply
    items = iter(flat)
    fields, errors = split_errors(zip(items, items, strict=True))
    held = fields.get(f.UNIQUE, b"").decode().removesuffix("+")
    holds = False
    if held:
        home = store.keys.shard_of_fingerprint(held)
        holder = await store.redis.call(home.slot, "HGET", home.lock(held), "h", idempotent=True)
        holds = holder == job_id.encode()
    return JobLine(
        job_id,
        fields,
        errors,
        # The place is what is left of the score when the priority is taken out.
        int(float(score)) % (1 << 45) if score else None,
        int(float(removed)) if removed else None,
        holds,
    )


async def _workflows(store: Store, put: Callable[[str, Line], None], portion_bytes: int) -> None:
    for shard in store.keys:
        async for names in _members(store, shard.slot, shard.workflows):
            for name in names:
                line = await _workflow(store, shard, name.decode())
                if line is None:
                    continue
                last: dict[int, bytes] = {}
                async for results in portions(store, shard, line, portion_bytes):
                    if last:
                        put("results", ResultsLine(line.id, last))
                    last = results
                put("workflows", replace(line, results=last))


async def _workflow(store: Store, shard: Shard, workflow_id: str) -> WorkflowLine | None:
    """A workflow without results, which are read after it: so those that its record speaks of are
    there.
    """

    async def pairs(key: bytes) -> dict[bytes, bytes]:
        flat: Any = await store.redis.call(shard.slot, "HGETALL", key, idempotent=True)
        items = iter(flat)
        return dict(zip(items, items, strict=True))

    fields = await pairs(shard.workflow(workflow_id))
    definitions = await pairs(shard.workflow_definitions(workflow_id))
    if not fields or not definitions:
        return None  # its retention ended meanwhile
    removed: Any = await store.redis.call(
        shard.slot, "ZSCORE", shard.ended_workflows, workflow_id, idempotent=True
    )
    return WorkflowLine(
        workflow_id,
        fields,
        tuple(definitions[b"%d" % number] for number in range(len(definitions))),
        {},
        int(float(removed)) if removed else None,
    )


async def _ticks(store: Store) -> dict[bytes, tuple[str, int]]:
    """Per cron job its version, and the tick whose job may not be stored yet."""
    ticks: dict[bytes, tuple[str, int]] = {}
    async for name, cron in _cron_records(store):
        tick = cron.next_ms
        owed = cron.owed
        if owed is not None and owed.job_id == StoreBook(store).job_id(cron, owed.tick_ms):
            tick = owed.tick_ms  # not so for a run by hand, which is no tick
        if tick is not None:
            ticks[name] = (cron.version, tick)
    return ticks


async def _crons(
    store: Store, put: Callable[[str, Line], None], ticks: dict[bytes, tuple[str, int]]
) -> None:
    async for name, cron in _cron_records(store):
        fields = dict(cron.fields)
        version, tick = ticks.get(name, ("", 0))
        if version == cron.version and tick and (cron.next_ms or tick) >= tick:
            fields[b"n"] = b"%d" % tick
        put("crons", CronLine(cron.name, fields))


async def _cron_records(store: Store) -> AsyncIterator[tuple[bytes, CronRecord]]:
    meta = store.keys.meta
    async for names in _members(store, meta.slot, meta.cron_names):
        for name in names:
            flat: Any = await store.redis.call(
                meta.slot, "HGETALL", meta.cron(name.decode()), idempotent=True
            )
            items = iter(flat)
            cron = CronRecord(name.decode(), dict(zip(items, items, strict=True)))
            if flat and not cron.deleted:
                yield name, cron


async def _members(store: Store, slot: int, key: bytes) -> AsyncIterator[Sequence[bytes]]:
    """The members of a sorted set, page by page, from the lowest score on."""
    score, skip = b"-inf", 0
    while True:
        flat: Any = await store.redis.call(
            slot,
            *("ZRANGE", key, score, "+inf", "BYSCORE", "LIMIT", skip, _PAGE, "WITHSCORES"),
            idempotent=True,
        )
        if not flat:
            return
        last = flat[-1]
        same = sum(1 for value in flat[1::2] if value == last)
        skip = skip + same if last == score else same
        score = last
        yield flat[::2]
