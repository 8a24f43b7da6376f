"""Fetch jobs for a worker (spec: ojs-http-binding 7.3)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Annotated, Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest, MalformedJob
from ojs_cluster.core.jobs.envelope import is_type
from ojs_cluster.core.jobs.tenant import check_tenant
from ojs_cluster.core.pools.pool import check_pool_name
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.common import QueueName, VisibilityTimeout
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.engine.fetch.fetch import SentFetch, fetch_unless_quiet, release
from ojs_cluster.store.engine.fetch.fetch_script import pack_types
from ojs_cluster.store.engine.fetch.long_poll import FetchNow, fetch_or_wait
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.pools.pool_fetch import fetch_for_pool
from ojs_cluster.store.features.progress.checkpoints import read_of_fetched
from ojs_cluster.store.ground.job_fields import CHECKPOINT

log = logging.getLogger("ojs.http")

EMPTY = Response(200, b'{"jobs":[]}')


_Queues = Annotated[list[QueueName], keywords(minItems=1, maxItems=fields.MAX_QUEUES)]


_MAX_TYPES: Final = 100
"""Maximum number of job types that a fetch names."""


class FetchBody(msgspec.Struct, frozen=True):
    """The body of a fetch. A ``count`` or ``wait_ms`` above its maximum counts as the maximum.

    ``queues`` is required, unless ``pool`` names a worker pool: the server then chooses among the
    queues of the pool by its strategy. With both, it chooses among those that are in both.
    ``types`` are the job types that the worker runs: it gets no jobs of others. ``tenant`` is an
    alias of the header ``X-OJS-Tenant``.
    """

    queues: _Queues | msgspec.UnsetType = msgspec.UNSET
    pool: Annotated[str, keywords(maxLength=255)] | None = None
    count: Annotated[int, keywords(minimum=1)] = 1
    worker_id: Annotated[str, keywords(maxLength=fields.MAX_WORKER_ID)] | None = None
    visibility_timeout_ms: VisibilityTimeout | None = None
    wait_ms: Annotated[int, keywords(minimum=0)] | None = None
    types: Annotated[list[str], keywords(minItems=1, maxItems=_MAX_TYPES)] | None = None
    tenant: str | None = None


fetch_decoder = msgspec.json.Decoder(FetchBody)


def _well_formed(jobs: Iterable[JobRecord]) -> Iterator[bytes]:
    """Yield the envelopes of the jobs that are not malformed.

    A malformed job stays leased, because the worker does not learn of it. Its lease expires.
    """
    for job in jobs:
        try:
            yield job.json(lease=True)
        except MalformedJob:
            log.exception("job %s is malformed and is not sent to the worker", job.id)


def fetch(app: App, request: Request) -> Awaitable[Response]:
    """Lease jobs to a worker, and wait for jobs if none are available.

    The jobs are leased before the response is sent. If the client disconnects before it gets the
    response, ``Response.undo`` releases the jobs.

    (spec: ojs-http-binding 10.1)
    """
    return fetch_or_resume(app, request)


async def fetch_or_resume(app: App, request: Request, sent: SentFetch | None = None) -> Response:
    """Answer a fetch. ``sent`` is its first call, if it is sent already."""
    body = decode(fetch_decoder, request, app.settings.limits)
    queues: Sequence[str] = ()
    fetch_now: FetchNow = fetch_unless_quiet
    if body.queues is not msgspec.UNSET:
        queues = fields.queue_names(body.queues)
    if body.pool is not None:
        queues, fetch_now = await _in_pool(app, body.pool, queues)
    elif not queues:
        raise InvalidRequest("'queues' is required", field="queues")
    check_queues(request.queues, queues)
    worker_id = fields.worker_id(body.worker_id) or ""
    visibility_timeout_ms = fields.visibility_timeout_ms(body.visibility_timeout_ms)
    if body.count < 1:
        raise InvalidRequest("count must be at least 1", field="count")
    if body.wait_ms is not None and body.wait_ms < 0:
        raise InvalidRequest("wait_ms must not be negative", field="wait_ms")
    tenant = request.tenant or ""
    if body.tenant is not None:
        check_tenant(body.tenant, field="tenant")
        if tenant and body.tenant != tenant:
            raise InvalidRequest("the request is for another tenant", field="tenant")
        tenant = body.tenant
    types = "" if body.types is None else packed_types(tuple(body.types))
    jobs = await fetch_or_wait(
        app.store,
        app.waiters,
        queues,
        count=min(body.count, app.settings.max_fetch_count),
        worker_id=worker_id,
        visibility_timeout_ms=visibility_timeout_ms,
        wait_ms=min(body.wait_ms or 0, app.settings.max_wait_ms),
        tenant=tenant,
        types=types,
        on_wait=request.on_wait,
        check=app.maintenance.check_fetch,
        fetch_now=fetch_now,
        sent=sent,
    )
    if not jobs:
        return EMPTY
    for job in jobs:
        if CHECKPOINT in job.fields:
            return await _with_checkpoints(app, jobs)
    try:
        envelopes = [job.json(lease=True) for job in jobs]
    except MalformedJob:
        envelopes = list(_well_formed(jobs))
        if not envelopes:
            return EMPTY
    return response_with(app, jobs, envelopes)


@lru_cache(maxsize=128)
def packed_types(types: tuple[str, ...]) -> str:
    """Return the types of a fetch for the store.

    Raises:
        InvalidRequest: there are none or too many, or one is no job type.
    """
    if not 0 < len(types) <= _MAX_TYPES:
        raise InvalidRequest(f"'types' must have 1 to {_MAX_TYPES} job types", field="types")
    for index, job_type in enumerate(types):
        if not is_type(job_type):
            raise InvalidRequest("is not a job type", field=f"types[{index}]")
    return pack_types(types)


async def _in_pool(app: App, name: str, queues: Sequence[str]) -> tuple[Sequence[str], FetchNow]:
    """Return the queues of a pool that a fetch may use, and the function that fetches from them.

    Args:
        app: the state of the process.
        name: the pool.
        queues: the queues that the fetch names; empty for all queues of the pool.

    Raises:
        InvalidRequest: none of ``queues`` is a queue of the pool, or the name is not valid.
        NotFound: there is no such pool.
        BackendUnavailable: Redis did not answer in time.
    """
    await ensure_task()
    state = await app.store.pools.get(app.store, check_pool_name(name, field="pool"))
    chosen: Sequence[str] = state.pool.queues
    if queues:
        chosen = [queue for queue in chosen if queue in set(queues)]
        if not chosen:
            raise InvalidRequest(f"pool '{name}' has none of these queues", field="queues")
    return chosen, partial(fetch_for_pool, state)


async def _with_checkpoints(app: App, jobs: list[JobRecord]) -> Response:
    """Return leased jobs with the checkpoints of those that have one."""
    try:
        checkpoints = await read_of_fetched(app.store, jobs)
    except BaseException:
        await release(app.store, jobs)
        raise
    envelopes = []
    for job in jobs:
        for envelope in _well_formed([job]):
            checkpoint = checkpoints.get(job.id)
            envelopes.append(
                envelope
                if checkpoint is None
                else b'%b,"checkpoint":{%b}}' % (envelope[:-1], checkpoint.members())
            )
    if not envelopes:
        return EMPTY
    return response_with(app, jobs, envelopes)


def response_with(app: App, jobs: list[JobRecord], envelopes: list[bytes]) -> Response:
    """Return the response with leased jobs, at least one."""
    return Response(
        200,
        b'{"jobs":[%b],"job":%b}' % (b",".join(envelopes), envelopes[0]),
        undo=partial(release, app.store, jobs),
    )
