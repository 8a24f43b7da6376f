"""Lines of an archive become jobs again (`ojs-cluster import`).

Each line is stored in one step, unless something of its id is there: so an import that was cut off
is run again from the beginning, and a backup may be read into a cluster that is in use. Places in
queues are part of a line, so order does not depend on the order in which lines are stored.

The cluster may have another number of shards than the one that was saved. An id then may name
another shard than its queue's, as a client's id may, and gets an alias as those do.

A job that was active was held by a worker that will not be back: it is available, at the front, as
if that fetch had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal
from zlib import crc32

import msgspec

from ojs_cluster.core.cron import Schedule
from ojs_cluster.core.cron_job import is_cron_name, job_of_tick
from ojs_cluster.core.errors import NotFound, OJSError
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.ids import MAX_SHARDS
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.limits import STORED_LIMITS
from ojs_cluster.core.rate_limit import RateLimits, unpack_limits
from ojs_cluster.core.workflow import CANCELLED, QUEUED_MARK, RUNNING, Plan, decode_plan
from ojs_cluster.keys import Shard
from ojs_cluster.store.archive.line_values import (
    BadLine,
    CronLine,
    JobLine,
    QueueLine,
    WorkflowLine,
)
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.limits import depth_bounds, partition_quotas, rate_limits, rate_tokens
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.queues import queues
from ojs_cluster.store.queues.partition_maintenance import set_partitions
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.unique import locks
from ojs_cluster.store.workflows import advance
from ojs_cluster.store.workflows.workflow_portions import restore_ahead

Outcome = Literal["created", "there"]

_CLAIM_MS = 30_000
_TRIES = 3
_PLACES = 1 << 45
_OF_A_LEASE = (f.WORKER, f.LEASE, f.DEADLINE, f.LEASE_MS, f.EXTENDED)
_INDEXES = ("due", "expiring", "pending", "finished", "dead")
"""What was accepted under the limits of its time is not refused later."""


async def restore_queue(store: Store, line: QueueLine) -> Outcome:
    """Register a queue, paused if it was, limited and bounded as it was where nothing is set here.

    Raises:
        BadLine: the name cannot be that of a queue.
        ValidationFailed, TooManyQueues, BackendUnavailable: it could not be stored.
    """
    _check_queue(line.name)
    there = await queues.exists(store, line.name)
    fields = dict(line.fields)
    paused, limits = fields.pop(b"paused", None), fields.pop(b"limits", None)
    bound = fields.pop(b"bound", None)
    if line.partitions:
        await _partition(store, line.name, line.partitions)
    if paused is not None:
        await queues.pause_or_resume(store, line.name, "pause")
    if limits is not None and await partition_quotas.get_limits(store, line.name) == RateLimits():
        await rate_limits.set_queue_limits(store, line.name, unpack_limits(limits.decode()))
    if bound is not None and await depth_bounds.get_bound(store, line.name) is None:
        await depth_bounds.set_bound(store, line.name, int(bound))
    await store.queues.ensure(store, [line.name])
    shard = store.keys.shard_of_queue(line.name)
    args: list[Arg] = [line.name, *(part for pair in fields.items() for part in pair)]
    owed = await store.run(
        shard, "restore_queue", [shard.queue_counters(line.name)], args, idempotent=True
    )
    await deliver(store, shard, owed)
    return "there" if there else "created"


async def _partition(store: Store, queue: str, count: int) -> None:
    """Spread a queue over as many partitions as it had, unless it has a number of its own here."""
    await store.partitions.read(store)
    if queue not in store.partitions.entries():
        await set_partitions(store, queue, min(count, store.keys.most_partitions))


async def _shard(store: Store, queue: str, job_id: str, *, one: bool = False) -> Shard:
    """Where a job belongs: where its id leads, if that is a partition that workers look at.

    Args:
        one: whether it must be in partition 0, as jobs that are counted together.
    """
    await store.partitions.refresh_if_stale(store)
    layout = store.partitions.layout(queue)
    shards = store.keys.partitions(queue, 1 if one else layout.open_count)
    home = store.keys.shard_of_id(job_id)
    if home in shards:
        return home
    # Any that is to stay, the same for whoever runs this again.
    return shards[crc32(job_id.encode()) % min(layout.count, len(shards))]


async def restore_job(store: Store, line: JobLine) -> Outcome:
    """Store a job, and let it hold its unique lock if it did.

    Raises:
        BadLine: it cannot be stored as it is, or its id is taken by something that is no job.
        TooManyQueues, BackendUnavailable: it could not be stored now.
    """
    _check_queue(line.queue)
    line = _revived(line)
    args = _job_args(store, line)
    shard = await _shard(store, line.queue, line.id, one=f.MPS in line.fields)
    await store.queues.ensure(store, [line.queue])
    keys = [
        *(shard.job(line.id), *(getattr(shard, name) for name in _INDEXES)),
        *(
            shard.queue_counters(line.queue),
            shard.queue_available(line.queue),
            shard.queue_dead(line.queue),
        ),
        shard.references,
    ]
    foreign = store.keys.shard_of_id(line.id) is not shard
    listed = "1" if foreign or (line.holds_lock and f.UNIQUE in line.fields) else ""
    for _ in range(_TRIES):
        lapses = await _claim(store, line.id, shard)
        if lapses is None:
            return await _hold(store, line, shard, "there")
        reply = await store.run(
            shard,
            "restore_job",
            keys,
            [*args[:4], lapses, *args[4:8], listed, *args[8:]],
            idempotent=True,
        )
        if reply[0] == b"ok":
            await deliver(store, shard, reply[1])
            return await _hold(store, line, shard, "created")
        if reply[0] == b"exists":
            if reply[1] and not await _leads_to_a_job(store, line.id, int(reply[1])):
                break
            return await _hold(store, line, shard, "there")
    raise BadLine(f"the id {line.id} is reserved by a write that is not finished: run it again")


async def restore_workflow(store: Store, line: WorkflowLine) -> Outcome:
    """Store a workflow whose jobs are stored already, and let it go on.

    Raises:
        BadLine: it cannot be stored as it is.
        BackendUnavailable: it could not be stored now.
    """
    plan, marks = await _plan(store, line)
    fields = {**line.fields, b"plan": plan.encode(), b"marks": marks.encode()}
    state = fields[b"state"].decode()
    if state != RUNNING and line.removed_ms is None:
        raise BadLine("a workflow that has ended needs 'removed_ms'")
    owed = {RUNNING: "workflow_start", CANCELLED: "workflow_cancel"}.get(state, "")
    home = store.keys.shard_of_id(line.id)
    left = await restore_ahead(store, replace(line, fields=fields))
    if left is None:
        return "there"
    reply = await store.run(
        home,
        "restore_workflow",
        [
            *(
                home.workflow(line.id),
                home.workflow_definitions(line.id),
                home.workflow_results(line.id),
            ),
            *(
                home.workflows,
                home.ended_workflows,
                home.outbox_due,
                home.outbox,
                home.running_workflows,
            ),
        ],
        [
            *(line.id, fields[b"created"], "" if line.removed_ms is None else line.removed_ms),
            *(owed, len(left.fields), len(left.definitions)),
            *(part for pair in left.fields.items() for part in pair),
            *(part for pair in enumerate(left.definitions) for part in pair),
            *(part for pair in left.results.items() for part in pair),
        ],
        idempotent=True,
    )
    if reply[0] == b"ok":
        await deliver(store, home, reply[1])
    if state == RUNNING:
        await _catch_up(store, line.id, plan, marks)
    return "created" if reply[0] == b"ok" else "there"


async def restore_cron(store: Store, line: CronLine) -> Outcome:
    """Register a cron job with the tick that was next.

    Raises:
        BadLine: the definition is none.
        BackendUnavailable: it could not be stored now.
    """
    fields = dict(line.fields)
    try:
        schedule = Schedule(fields[b"x"].decode(), fields[b"z"].decode())
        created = int(fields[b"c"])
        sound = is_cron_name(line.name) and schedule.following(created, created) is not None
        job = job_of_tick(fields[b"j"], line.name, created, limits=STORED_LIMITS)
        if not sound or (job.queue, job.type) != (fields[b"q"].decode(), fields[b"t"].decode()):
            raise BadLine("its name, its schedule or its job cannot be a cron job's")
    except (OJSError, ValueError, KeyError) as error:
        raise BadLine(f"it is no cron job: {error}") from None
    meta = store.keys.meta
    reply = await store.run_meta(
        "restore_cron",
        [meta.cron(line.name), meta.crons, meta.cron_names],
        [
            *(line.name, store.settings.max_crons),
            *(part for pair in fields.items() for part in pair),
        ],
    )
    if reply == b"full":
        raise BadLine(f"it would be one more than the {store.settings.max_crons} allowed")
    return "created" if reply == b"ok" else "there"


def _check_queue(name: str) -> None:
    try:
        check_queue(name)
    except OJSError as error:
        raise BadLine(error.message) from None


def _revived(line: JobLine) -> JobLine:
    """The job as it is to be stored: nobody holds it."""
    if line.state is not State.ACTIVE:
        return line
    fields = {name: value for name, value in line.fields.items() if name not in _OF_A_LEASE}
    attempt = max(0, int(fields.get(f.ATTEMPT, b"1")) - 1)
    fields[f.STATE] = State.AVAILABLE.value.encode()
    fields[f.ATTEMPT] = b"%d" % attempt
    if not attempt:
        del fields[f.ATTEMPT]
        fields.pop(f.STARTED, None)
    return replace(line, fields=fields, place=0)


def _job_args(store: Store, line: JobLine) -> list[Arg]:
    """ARGV of ``restore_job.lua`` without the moment at which the claim lapses, and without whether
    the job has something elsewhere.
    """
    fields = dict(line.fields)
    state = line.state
    at: dict[State, int | None] = {
        State.AVAILABLE: None,
        State.PENDING: int(fields[f.CREATED]),
        State.SCHEDULED: _ms(fields, f.DUE),
        State.RETRYABLE: _ms(fields, f.DUE),
    }
    index = at.get(state, line.removed_ms)
    if index is None and state is not State.AVAILABLE:
        raise BadLine(
            f"a job that is {state} needs {'removed_ms' if state in TERMINAL else 'due_ms'}"
        )
    if state in TERMINAL and f.FINISHED not in fields:
        raise BadLine(f"a job that is {state} needs 'finished_ms'")
    priority = int(fields.get(f.PRIORITY, b"0"))
    if not -100 <= priority <= 100:
        raise BadLine("a priority is from -100 to 100")
    if line.place is not None and not 0 <= line.place < _PLACES:
        raise BadLine("'place' is from 0 to 2^45")
    dead = state is State.DISCARDED and f.DEAD in fields
    expires = fields.get(f.EXPIRES, b"") if state not in TERMINAL else b""
    _put_errors(fields, line.errors, store.settings.errors_kept)
    return [
        *(line.id, line.queue, state.value, priority),
        "" if line.place is None else line.place,
        "" if index is None else index,
        expires,
        fields[f.FINISHED] if dead else "",
        *(part for pair in fields.items() for part in pair),
    ]


def _put_errors(
    fields: dict[bytes, bytes], errors: Sequence[tuple[int, int, bytes]], kept: int
) -> None:
    """Put errors into their ring: the newest lies in slot (count - 1) % kept."""
    count = max(int(fields.get(f.ERRORS, b"0")), len(errors))
    if not errors:
        fields.pop(f.ERRORS, None)
        return
    fields[f.ERRORS] = b"%d" % count
    for age, (attempt, at, error) in enumerate(reversed(errors[-kept:])):
        slot = b"%b%d" % (f.ERROR_SLOT, (count - 1 - age) % kept)
        fields[slot] = b"%d,%d,%b" % (attempt, at, error[:-1])


def _ms(fields: dict[bytes, bytes], name: bytes) -> int | None:
    return int(fields[name]) if name in fields else None


async def _claim(store: Store, job_id: str, shard: Shard) -> int | None:
    """The ms before which the job must be written (0: no matter when); None when it is there.

    Raises:
        BadLine: the id leads elsewhere, and not to a job.
    """
    home = store.keys.shard_of_id(job_id)
    if home is shard:
        return 0
    reply = await store.run(
        home,
        "claim_alias",
        [home.job(job_id), home.alias_claims],
        [job_id, shard.index, _CLAIM_MS, ""],
        idempotent=True,
    )
    if reply[0] == b"ok":
        return int(reply[1])
    if reply[0] == b"taken" and not await _leads_to_a_job(store, job_id, int(reply[1])):
        raise BadLine(f"the id {job_id} is reserved by a write that is not finished: run it again")
    return None


async def _leads_to_a_job(store: Store, job_id: str, target: int) -> bool:
    found = await read_jobs.read(store, store.keys.shard(target), job_id)
    return found is not None and f.STATE in found.fields


async def _hold(store: Store, line: JobLine, shard: Shard, outcome: Outcome) -> Outcome:
    """What a job that is stored holds elsewhere: its lock, and a say in the limits of its key.

    The lock is not claimed before: a claim without its job could be taken for that of a dead
    producer, whose id is then made unusable. One that another job holds stays its.
    """
    if f.LIMIT in line.fields:
        payload = b"%b %b" % (line.fields[f.LIMIT], line.fields[f.CREATED])
        await rate_tokens.handle_declaration(store, shard, payload)
    if line.holds_lock and f.UNIQUE in line.fields:
        fingerprint = line.fields[f.UNIQUE].decode().removesuffix("+")
        # One that was there may lie elsewhere: its id leads there (see ``locks.look``).
        lies_in = shard if outcome == "created" else store.keys.shard_of_id(line.id)
        retries = int(line.fields.get(f.REPLAYS, 0))
        want = locks.Want(fingerprint, line.id, lies_in.index, retries)
        await locks.try_claim(store, store.keys.shard_of_fingerprint(fingerprint), [want])
    return outcome


async def _plan(store: Store, line: WorkflowLine) -> tuple[Plan, str]:
    """The plan with ids that lie in the shards of their queues, and the marks.

    What was enqueued and is not stored will be enqueued again. A job that is stored keeps its id.
    """
    try:
        plan = decode_plan(line.fields[b"plan"])
        marks = line.fields[b"marks"].decode()
        ids = {node.job_id: store.keys.shard_of_id(node.job_id) for node in plan.jobs}
    except (msgspec.MsgspecError, ValueError):
        raise BadLine("'plan' is none") from None
    if not len(marks) == len(line.definitions) == len(plan.jobs):
        raise BadLine("'plan', 'marks' and 'definitions' do not fit together")
    for node, definition in zip(plan.jobs, line.definitions, strict=True):
        try:
            if parse_job(definition, limits=STORED_LIMITS).queue != node.queue:
                raise BadLine("'definitions' name other queues than 'plan'")
        except OJSError as error:
            raise BadLine(f"one of 'definitions' is no job: {error}") from None
    nodes = list(plan.nodes)
    for number, node in enumerate(nodes):
        if node.job < 0 or marks[node.job] not in f".{QUEUED_MARK}":
            continue
        if await _state(store, node.job_id) is not None:
            continue
        marks = f"{marks[: node.job]}.{marks[node.job + 1 :]}"
        shard = await _shard(store, node.queue, node.job_id)
        if ids[node.job_id] is not shard:
            job_id = _moved(node.job_id, shard.index, len(store.keys))
            nodes[number] = msgspec.structs.replace(node, job_id=job_id)
    return Plan(nodes), marks


def _moved(job_id: str, shard: int, shards: int) -> str:
    """The id with bits that name ``shard``; the same for the same arguments, however often."""
    rest = int(job_id[15:18], 16) // shards % (MAX_SHARDS // shards)
    return f"{job_id[:15]}{shard + shards * rest:03x}{job_id[18:]}"


async def _catch_up(store: Store, workflow_id: str, plan: Plan, marks: str) -> None:
    """Tell a workflow of its jobs that had ended, or have since, without it."""
    for number, node in enumerate(plan.jobs):
        if marks[number] != QUEUED_MARK:
            continue
        state = await _state(store, node.job_id)
        if state in TERMINAL:
            shard = await read_jobs.shard_of(store, node.queue, node.job_id)
            payload = f"{workflow_id} {number} {node.job_id} {state}"
            await advance.job_ended(store, shard, payload.encode())


async def _state(store: Store, job_id: str) -> State | None:
    try:
        found: Any = await read_jobs.get(store, job_id)
    except NotFound:
        return None
    return State(found.fields[f.STATE].decode()) if f.STATE in found.fields else None
