"""Record heartbeats of workers, extend their leases, and remove workers that have terminated.

(spec: ojs-worker-protocol 4, 7)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Final, Literal

import msgspec
import trio

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import join
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import accessible_jobs
from ojs_cluster.http.hooks import find_test_directive
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.common import QueueName, VisibilityTimeout
from ojs_cluster.http.shapes.keywords import between, keywords
from ojs_cluster.http.shapes.workers import HeartbeatAnswer, WorkerRemoved
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.features.search.small_fields import read_matching
from ojs_cluster.store.features.workers.deregister import deregister_terminated
from ojs_cluster.store.features.workers.heartbeat import (
    Heartbeat,
    HeartbeatReply,
    WorkerState,
    heartbeat,
)
from ojs_cluster.store.ground.lease_ids import shard_of_lease

_MAX_JOBS: Final = 1000
_MAX_COUNT: Final = 1_000_000
_MAX_INFO_BYTES: Final = 8192

# The state that a worker reports, and the state that the server stores for it. All other states
# count as running. Only a running worker gets jobs.
_STATES: Final[dict[str, WorkerState]] = {
    "quiet": "quiet",
    "drain": "quiet",
    "draining": "quiet",
    "shutting_down": "quiet",
    "stopping": "quiet",
    "terminate": "terminate",
    "terminated": "terminate",
}

Raw = msgspec.Raw
OptionalRaw = msgspec.Raw | msgspec.UnsetType
UNSET: Final = msgspec.UNSET


class HeartbeatBody(msgspec.Struct, frozen=True):
    """The body of a heartbeat, with the members that the specifications and the SDKs define.

    ``active_jobs`` is a list of job ids, or the number of active jobs. ``leases`` maps job ids to
    lease ids. The lease of such a job is extended only if its lease id is still the same. Jobs that
    are only in ``leases`` are not extended; with ``wait_ms`` they are checked for cancels. The
    members of type ``OptionalRaw`` describe the worker in the list of workers. ``memory_bytes`` is
    the resident memory of its process, and ``types`` are the job types that it runs.

    With ``wait_ms``, the answer waits for news: a cancelled job of the worker, or another state
    that it should be in than ``known_state``, the one of the last answer. It waits only if there is
    no news at once. A value above the maximum, which is that of fetches, counts as the maximum.
    """

    worker_id: Annotated[str, keywords(minLength=1, maxLength=fields.MAX_WORKER_ID)]
    active_jobs: list[str] | Annotated[int, between(0, _MAX_COUNT)] | None = None
    active_job_ids: list[str] | None = None
    job_id: str | None = None
    leases: dict[str, str] = {}
    state: str | None = None
    shutdown: bool | None = None
    visibility_timeout_ms: VisibilityTimeout | None = None
    wait_ms: Annotated[int, keywords(minimum=0)] | None = None
    known_state: str | None = None
    hostname: OptionalRaw = UNSET
    pid: OptionalRaw = UNSET
    queues: OptionalRaw = UNSET
    pool: OptionalRaw = UNSET
    concurrency: OptionalRaw = UNSET
    labels: OptionalRaw = UNSET
    language: OptionalRaw = UNSET
    sdk: OptionalRaw = UNSET
    version: OptionalRaw = UNSET
    memory_bytes: OptionalRaw = UNSET
    types: OptionalRaw = UNSET


_INFO: Final = (
    *("hostname", "pid", "queues", "pool", "concurrency", "labels", "language", "sdk", "version"),
    *("memory_bytes", "types"),
)
_decoder = msgspec.json.Decoder(HeartbeatBody)


async def receive(app: App, request: Request) -> Response:
    """Record a heartbeat, extend the leases of the worker's jobs, and return its directive.

    (spec: ojs-http-binding 10.4)
    """
    body = decode(_decoder, request, app.settings.limits)
    worker_id = fields.worker_id(body.worker_id)
    if worker_id is None:
        raise InvalidRequest("worker_id must not be empty", field="worker_id")
    job_ids, active_count = _reported_jobs(body)
    if app.settings.require_lease:
        _check_leases(body, job_ids)
    job_ids = tuple(await accessible_jobs(app, request, job_ids))
    beat = Heartbeat(
        worker_id=worker_id,
        job_ids=job_ids,
        leases=body.leases,
        state=_state(body),
        active_count=active_count,
        visibility_timeout_ms=fields.visibility_timeout_ms(body.visibility_timeout_ms),
        info=_info(body),
    )
    waited = False
    if body.wait_ms:
        reply, waited = await _heartbeat_that_waits(app, request, beat, body)
    else:
        reply = await heartbeat(app.store, beat)
    state: str = reply.state
    if app.settings.test_hooks:
        state = await find_test_directive(app.store, worker_id, job_ids) or state
    return replies.json_response(
        200,
        HeartbeatAnswer(
            acknowledged=True,
            state=state,
            directive="" if state == "running" else state,
            jobs_extended=reply.extended,
            jobs_cancelled=reply.cancelled,
            waited=waited,
            server_time=replies.iso(reply.now_ms),
        ),
    )


async def _heartbeat_that_waits(
    app: App, request: Request, beat: Heartbeat, body: HeartbeatBody
) -> tuple[HeartbeatReply, bool]:
    """Answer a heartbeat when there is news for the worker, or when ``wait_ms`` has passed.

    Returns:
        The answer, and whether it has waited.
    """
    await ensure_task()
    store, waiters = app.store, app.waiters
    wait_s = min(body.wait_ms or 0, app.settings.max_wait_ms) / 1000
    deadline = trio.current_time() + wait_s
    extend_deadline(wait_s)
    with waiters.worker_messages.listen(beat.worker_id) as inbox:
        shards = {store.keys.shard_of_worker(beat.worker_id)}
        shards.update(map(store.keys.shard_of_id, beat.job_ids))
        leased_by = (shard_of_lease(store.keys, lease) for lease in beat.leases.values())
        shards.update(filter(None, leased_by))
        await waiters.subscribe_to_shards(store, shards)
        with suppress(msgspec.MsgspecError, InvalidRequest):
            named = msgspec.json.decode(body.queues or b"[]", type=list[QueueName])
            await waiters.subscribe(store, fields.queue_names(named))
        reply = await heartbeat(store, beat)
        if cancelled := await _cancelled_before(app, request, beat):
            reply = replace(reply, cancelled=[*reply.cancelled, *cancelled])
        known = body.known_state or beat.state or "running"
        # A listed job that is not extended is no news: it may just have ended.
        if reply.state != known or reply.cancelled or waiters.draining:
            return reply, False
        request.on_wait()
        with trio.move_on_at(deadline):
            await inbox.wait()
        if not inbox.told or waiters.draining:
            return reply, True
        try:
            told = await accessible_jobs(app, request, inbox.cancelled)
            leases = {name: beat.leases[name] for name in told if name in beat.leases}
            news = await heartbeat(store, replace(beat, job_ids=tuple(told), leases=leases))
        except OJSError:
            return reply, True  # the leases of the first heartbeat are extended
        # A job whose run was cancelled may be retried: then its lease is another one, or none.
        cancelled = [job_id for job_id in told if job_id not in news.extended]
        extended = [job_id for job_id in reply.extended if job_id not in cancelled]
        return replace(news, extended=extended, cancelled=cancelled), True


async def _cancelled_before(app: App, request: Request, beat: Heartbeat) -> list[str]:
    """Return the cancelled ones of the jobs whose leases a heartbeat names without listing them.

    They may have been cancelled since the last heartbeat that has waited. Their leases are not
    extended.
    """
    unlisted = beat.leases.keys() - set(beat.job_ids)
    named = await accessible_jobs(app, request, sorted(filter(is_job_id, unlisted))[:_MAX_JOBS])
    ids = [(app.store.keys.shard_of_id(job_id), job_id) for job_id in named]
    with suppress(OJSError):  # the message of a cancel, or the next heartbeat, tells the worker
        found = await read_matching(app.store, JobFilter(state=State.CANCELLED), ids)
        return [job.id for job in found]
    return []


async def deregister(app: App, _request: Request, worker_id: str) -> Response:
    """Remove a worker from the list of workers, after its last heartbeat.

    That heartbeat has the state ``terminate`` and no active jobs. Otherwise the worker would be
    listed for as long as its record is kept.
    """
    checked_id = fields.worker_id(worker_id) or worker_id
    await deregister_terminated(app.store, checked_id)
    return replies.json_response(
        200, WorkerRemoved(id=checked_id, worker_id=checked_id, deregistered=True)
    )


def _reported_jobs(body: HeartbeatBody) -> tuple[tuple[str, ...], int | None]:
    """Return the ids and the number of the jobs that the worker reports.

    The number is None if the worker reports neither. An invalid id is ignored like an unknown id,
    because one wrong id must not make the whole heartbeat fail.
    """
    listed = [*(body.active_job_ids or ())]
    count: int | None = None
    if isinstance(body.active_jobs, int):
        count = body.active_jobs
        if not 0 <= count <= _MAX_COUNT:
            raise InvalidRequest(
                f"active_jobs must be between 0 and {_MAX_COUNT}", field="active_jobs"
            )
    elif body.active_jobs is not None:
        listed = [*body.active_jobs, *listed]
    if body.job_id:
        listed.append(body.job_id)
    if len(listed) > _MAX_JOBS:
        raise InvalidRequest(f"list at most {_MAX_JOBS} jobs", field="active_jobs")
    ids = tuple(dict.fromkeys(filter(is_job_id, listed)))
    return ids, len(ids) if count is None and listed else count


def _check_leases(body: HeartbeatBody, job_ids: Sequence[str]) -> None:
    missing = [job_id for job_id in job_ids if not body.leases.get(job_id)]
    if missing:
        raise InvalidRequest(
            f"'leases' must name the lease of each job: that of '{missing[0]}' is missing",
            field="leases",
        )


def _state(body: HeartbeatBody) -> WorkerState | Literal[""]:
    """Return the state to store; empty if the worker reports none."""
    if body.shutdown:
        return "quiet"
    # An unknown state counts as running. If it caused an error, the leases would not be extended.
    return "" if body.state is None else _STATES.get(body.state, "running")


def _info(body: HeartbeatBody) -> bytes:
    members: dict[str, Raw] = {}
    for name in _INFO:
        value = getattr(body, name)
        if value is not UNSET:
            members[name] = value
    info = b"{%b}" % join(members)
    if len(info) > _MAX_INFO_BYTES and members.pop("types", None) is not None:
        info = b"{%b}" % join(members)  # many long names must not cost the worker its leases
    if len(info) > _MAX_INFO_BYTES:
        raise InvalidRequest(
            f"the description of a worker may have at most {_MAX_INFO_BYTES} bytes", field="labels"
        )
    return info
