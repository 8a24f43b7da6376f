"""Export everything in the cluster as lines of an archive (``ojs-cluster export``).

The export finds jobs by SCAN on every node, because there is no index of all jobs (ADR 2). SCAN
returns every key that exists during the whole scan. It is too slow for a request, but acceptable
for an operator's command. SCAN can miss a key that moves to another node. So an export fails when
nodes or slots of the cluster change while it runs. (Rejected: to read the indexes of all states. A
job that changes its state at that time could be missed.)

Each job is read in one step, but the file is not a snapshot of one point in time. At most sixteen
jobs and two portions of a workflow's results are in memory at the same time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ojs_cluster.core.errors import MalformedRecord, NotFound
from ojs_cluster.core.queue_defaults import POLICY
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import KEYS_OF_JOBS, Shard, job_of_key
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.redis.settings import Address
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.limits import partition_quotas
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.workflows import validate_workflow
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.portions import PORTION_BYTES
from ojs_cluster.store.ground.process_state.queue_defaults import get_defaults
from ojs_cluster.store.operators.archive.archive import VERSION, encode
from ojs_cluster.store.operators.archive.archive_results import portions
from ojs_cluster.store.operators.archive.dashboard_lines import export_dashboard
from ojs_cluster.store.operators.archive.job_lines import split_errors
from ojs_cluster.store.operators.archive.line_values import (
    POSITIONS,
    QUEUE_FIELDS,
    ArchiveFooter,
    ArchiveHeader,
    ArchiveLine,
    CronLine,
    JobLine,
    QueueLine,
    ResultsLine,
    WorkflowLine,
)
from ojs_cluster.store.operators.archive.schema_lines import export_schemas
from ojs_cluster.store.operators.archive.settings_lines import export_settings

log = logging.getLogger("ojs.store")

WriteLine = Callable[[bytes], object]
_PAGE = 1000


class ClusterChanged(Exception):
    """Nodes or slots changed while the export ran, so jobs may be missing in the file."""


async def export(
    store: Store, write: WriteLine, *, portion_bytes: int = PORTION_BYTES, **head: str | int
) -> Counter[str]:
    """Write every line of the archive; return the number of lines of each kind.

    Args:
        store: the store.
        write: called with each line.
        portion_bytes: maximum number of bytes of results in one reply and one line. One result
            alone may be larger.
        head: further members of the header.

    Raises:
        ClusterChanged: the export may be incomplete.
        BackendUnavailable: Redis did not answer in time.
    """
    counts: Counter[str] = Counter()

    def put(kind: str, line: ArchiveLine) -> None:
        write(encode(line))
        counts[kind] += 1

    before = await _shape(store)
    write(encode(ArchiveHeader(VERSION), **head))
    await _queues(store, put)
    await export_settings(store, put)
    await export_dashboard(store, put)
    await export_schemas(store, put)
    # Read before the scan, which may miss the job of an occurrence that fires during the scan.
    occurrences = await _occurrences(store)
    await _finish_replacements(store)
    await _jobs(store, put)
    # Read after the jobs, so that the status of a step is never older than the line of its job.
    await _workflows(store, put, portion_bytes)
    await _crons(store, put, occurrences)
    if await _shape(store) != before:
        raise ClusterChanged(
            "nodes or slots of the cluster changed during the export: jobs may be missing, run it "
            "again"
        )
    write(encode(ArchiveFooter(counts)))
    return counts


async def _shape(store: Store) -> dict[Address, tuple[bytes, ...]]:
    """Return run id and slots of each master.

    Raises:
        ClusterChanged: slots are being moved.
    """
    shape: dict[Address, tuple[bytes, ...]] = {}
    for address, reply in (await store.redis.call_masters("INFO", "server")).items():
        lines = reply.splitlines() if isinstance(reply, bytes) else []
        shape[address] = tuple(line for line in lines if line.startswith(b"run_id:"))
    if not store.redis.topology.clustered:
        return shape
    for address, reply in (await store.redis.call_masters("CLUSTER", "NODES")).items():
        for line in reply.splitlines() if isinstance(reply, bytes) else ():
            words = line.split()  # flags are in column 2, slots from column 8 on
            if b"myself" in words[2]:
                slots = tuple(words[8:])
                if any(word.startswith(b"[") for word in slots):
                    raise ClusterChanged(
                        f"slots are being moved from or to {address}: run the export after the move"
                    )
                shape[address] = (*shape.get(address, ()), *slots)
    return shape


async def _queues(store: Store, put: Callable[[str, ArchiveLine], None]) -> None:
    meta = store.keys.meta
    async for names in _members(store, meta.slot, meta.queues):
        for raw in names:
            name = raw.decode()
            first, *others = await store.partitions.occupied_shards(store, name)
            read = (*QUEUE_FIELDS, b"deleting")
            found: Any = await store.redis.call(
                first.slot, "HMGET", first.queue_counters(name), *read, idempotent=True
            )
            *values, deletion = found
            fields = {k: v for k, v in zip(QUEUE_FIELDS, values, strict=True) if v is not None}
            if deletion is not None and not deletion.endswith(b"*"):
                fields.pop(b"draining", None)  # it drains for a deletion only (pause_queue.lua)
            for flag in fields.keys() & {b"paused", b"draining"}:
                fields[flag] = b"1"  # an import pauses the queue at its own time
            limits = await partition_quotas.get_limits(store, name)
            if limits != RateLimits():  # the hash holds only the quota of this partition
                fields[b"limits"] = limits.packed().encode()
            for shard in others:
                acked: Any = await store.redis.call(
                    shard.slot, "HGET", shard.queue_counters(name), "acked", idempotent=True
                )
                fields[b"acked"] = b"%d" % (int(fields.get(b"acked", 0)) + int(acked or 0))
            # Limits are divided among the partitions, whatever the default is elsewhere.
            has_number = store.partitions.has_entry(name) or b"limits" in fields
            count = store.partitions.layout(name).count if has_number else 0
            put("queues", QueueLine(name, fields, count, await get_defaults(store, name)))
    policy = await get_defaults(store, POLICY)
    if not policy.empty:
        put("queues", QueueLine(POLICY, {}, 0, policy))


async def _jobs(store: Store, put: Callable[[str, ArchiveLine], None]) -> None:
    shards = {shard.tag: shard for shard in store.keys}

    async def export_job(key: bytes) -> None:
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
            await run_concurrently(found, export_job)
            if cursor == b"0":
                break


async def _finish_replacements(store: Store) -> None:
    """Finish replacements of unique jobs whose producers have died.

    Otherwise a replacement could happen during the scan, and the archive would have both jobs: the
    old job read before, and the new job read after the replacement.
    """

    async def finish(shard: Shard) -> None:
        async for names in _members(store, shard.slot, shard.alias_claims):
            for name in names:
                with suppress(NotFound):
                    await read_jobs.get(store, name.decode())

    await run_concurrently(store.keys, finish)


async def _job(store: Store, shard: Shard, job_id: str) -> JobLine | None:
    """Return a job, or None for an alias and for a removed, hidden or malformed job."""
    reply = await store.run(shard, "archive_job", [shard.job(job_id)], idempotent=True)
    while reply and reply[0] == b"prepared":
        await store.finish_transaction(store, shard, reply[1])
        reply = await store.run(shard, "archive_job", [shard.job(job_id)], idempotent=True)
    if not reply:
        return None
    if reply[0] == b"malformed":
        log.warning(
            "job %s of shard %d is malformed and was not exported; cancel or delete it",
            job_id,
            shard.index,
        )
        return None
    if f.HIDDEN in reply[0][::2]:
        return None
    flat, score, removed = reply
    items = iter(flat)
    fields, errors = split_errors(zip(items, items, strict=True))
    fingerprint = fields.get(f.UNIQUE, b"").decode().removesuffix("+")
    holds_lock = False
    if fingerprint:
        owner = store.keys.shard_of_fingerprint(fingerprint)
        holder = await store.redis.call(
            owner.slot, "HGET", owner.lock(fingerprint), "holder", idempotent=True
        )
        holds_lock = holder == job_id.encode()
    return JobLine(
        job_id,
        fields,
        errors,
        # The score is the priority band plus the position within it.
        int(float(score)) % POSITIONS if score else None,
        int(float(removed)) if removed else None,
        holds_lock,
    )


async def _workflows(
    store: Store, put: Callable[[str, ArchiveLine], None], portion_bytes: int
) -> None:
    for shard in store.keys:
        async for names in _members(store, shard.slot, shard.workflows):
            for name in names:
                line = await _workflow(store, shard, name.decode(errors="replace"))
                if line is None:
                    continue
                last: dict[int, bytes] = {}
                async for results in portions(store, shard, line, portion_bytes):
                    if last:
                        put("results", ResultsLine(line.id, last))
                    last = results
                put("workflows", replace(line, results=last))


async def _workflow(store: Store, shard: Shard, workflow_id: str) -> WorkflowLine | None:
    """Return a workflow without its results.

    The results are read after it, so that they include all results that its record counts.
    """

    async def read_hash(key: bytes) -> dict[bytes, bytes]:
        flat: Any = await store.redis.call(shard.slot, "HGETALL", key, idempotent=True)
        items = iter(flat)
        return dict(zip(items, items, strict=True))

    try:
        fields = await read_hash(shard.workflow(workflow_id))
        definitions = await read_hash(shard.workflow_definitions(workflow_id))
        if not fields or not definitions:
            return None  # its retention has just ended
        plan = validate_workflow.check_fields(workflow_id, fields)
        validate_workflow.check_definitions(workflow_id, plan, definitions)
    except (MalformedRecord, RedisReplyError) as error:
        log.warning("%s: it was not exported; repair it, or cancel it to remove it", error)
        return None
    removed: Any = await store.redis.call(
        shard.slot, "ZSCORE", shard.ended_workflows, workflow_id, idempotent=True
    )
    return WorkflowLine(
        workflow_id,
        fields,
        tuple(definitions[b"%d" % number] for number in range(len(plan.jobs))),
        {},
        int(float(removed)) if removed else None,
    )


async def _occurrences(store: Store) -> dict[bytes, tuple[str, int]]:
    """Return per cron job its version and the first occurrence without a stored job."""
    occurrences: dict[bytes, tuple[str, int]] = {}
    async for name, cron in _cron_records(store):
        occurrence = cron.next_ms
        firing = cron.firing
        if firing is not None and firing.job_id == RedisCronStore(store).job_id(
            cron, firing.occurrence_ms
        ):
            occurrence = firing.occurrence_ms  # a manual run has another id: it is no occurrence
        if occurrence is not None:
            occurrences[name] = (cron.version, occurrence)
    return occurrences


async def _crons(
    store: Store, put: Callable[[str, ArchiveLine], None], occurrences: dict[bytes, tuple[str, int]]
) -> None:
    async for name, cron in _cron_records(store):
        fields = dict(cron.fields)
        version, occurrence = occurrences.get(name, ("", 0))
        # The record keeps its own next occurrence if that is earlier, or has another definition.
        if version == cron.version and occurrence and (cron.next_ms or occurrence) >= occurrence:
            fields[b"next_occurrence"] = b"%d" % occurrence
        put("crons", CronLine(cron.name, fields))


async def _cron_records(store: Store) -> AsyncIterator[tuple[bytes, CronRecord]]:
    """Yield the cron jobs. A malformed one is left out."""
    meta = store.keys.meta
    async for names in _members(store, meta.slot, meta.cron_names):
        for raw in names:
            name = raw.decode(errors="replace")
            flat: Any = await store.redis.call(
                meta.slot, "HGETALL", meta.cron(name), idempotent=True
            )
            items = iter(flat)
            cron = CronRecord(name, dict(zip(items, items, strict=True)))
            if not flat or cron.deleted:
                continue
            if cron.fault is not None:
                log.warning(
                    "cron job '%s' is malformed and was not exported: %s; register or delete it",
                    name,
                    cron.fault,
                )
                continue
            yield raw, cron


async def _members(store: Store, slot: int, key: bytes) -> AsyncIterator[Sequence[bytes]]:
    """Yield the members of a sorted set in pages, lowest scores first."""
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
        # The next page begins at the last score, after its members that were read already.
        read_of_last = sum(1 for value in flat[1::2] if value == last)
        skip = skip + read_of_last if last == score else read_of_last
        score = last
        yield flat[::2]
