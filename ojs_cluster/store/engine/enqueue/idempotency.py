"""Enqueue jobs once, however often their request is repeated (spec: ojs-bulk-operations 10).

The key of a request is stored with a seed before its first job. The ids of the jobs come from the
seed. So a repetition of a request whose process has died finds the jobs that are stored, and stores
the others. A request that has ended has its response with the key, and a repetition returns it.

A key is kept for a day only for a request that has stored a job, or may have. The key counts the
tries of its request. A try that is certain to have stored nothing is taken back (``forget``). A try
that has died, or whose outcome is unknown, is never taken back. When no try counts, another request
may use the key, and it ends minutes later. It is not deleted at once, because the count may be too
low: an earlier version counts no tries, and a failover may lose the write of one. A repetition then
finds the seed, and stores no job twice.
"""

from __future__ import annotations

import re
import secrets
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Final

from msgspec.structs import replace

from ojs_cluster.core.errors import Conflict, MalformedJob, NotFound
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.raw_json import object_members
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.off_loop import off_loop

KEPT_MS: Final = 24 * 3_600_000
"""How long a key is kept after its request, in milliseconds."""
FORGOTTEN_MS: Final = 5 * 60_000
"""How long a key is kept when no try of its request counts, in milliseconds: longer than a request
takes, and short, so that refused requests do not fill Redis."""
_MAX_RESPONSE: Final = 256 * 1024
"""Maximum size in bytes of a kept response. A repetition of a request with a larger one finds the
jobs by their ids."""

_SEED: Final = re.compile(r"[0-9]{1,14}-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with an idempotency key.

    Args:
        name: hash of the key and of the API key that has sent it.
        request: hash of the body.
        seed: what the ids of its jobs come from: Unix time in ms, and random digits. Empty if the
            request has no jobs to store, and has not begun before.
        response: the response of an earlier request with the key, None if there is none.
    """

    name: str
    request: str
    seed: str
    response: bytes | None

    def with_id(self, store: Store, index: int, job: NewJob) -> NewJob:
        """Return a job with an id, the same in every repetition; its own if it has one.

        Args:
            store: the store.
            index: position of the job in the request.
            job: the job.
        """
        return job if job.id is not None else replace(job, id=self._id(store, index, job))

    def _id(self, store: Store, index: int, job: NewJob) -> str:
        now_ms = int(self.seed.partition("-")[0])
        random = sha256(f"{self.seed}:{index}".encode()).digest()[:10]
        shard = store.keys.shard_of_queue(job.queue).index
        return new_job_id(shard, len(store.keys), now_ms, random, order=index)


async def begin(
    store: Store, principal: str, key: str, body: bytes, *, has_jobs: bool = True
) -> KeyedRequest:
    """Begin a request, or find that it has begun before.

    Args:
        store: the store.
        principal: name of the API key that has sent the request.
        key: the idempotency key.
        body: the body of the request.
        has_jobs: whether the request has jobs to store. If not, the key is only read.

    Raises:
        Conflict: a request with another body has used the key.
        BackendUnavailable: Redis did not answer in time.
    """
    name = sha256(f"{principal}\0{key}".encode()).hexdigest()
    request = sha256(body).hexdigest()
    seed = f"{store.clock.now_ms()}-{secrets.token_hex(8)}"
    shard = _shard(store, name)
    reply: Any = await store.run(
        *(shard, "request_begin", [shard.idempotency_key(name)]),
        [request, seed, KEPT_MS, int(has_jobs)],
        idempotent=True,
    )
    if reply[0] == b"conflict":
        raise Conflict("another request has used this idempotency key", field="idempotency_key")
    response: bytes | None = None
    with suppress(zlib.error):  # a damaged response is as good as none
        if reply[2]:
            # One byte may become a thousand, and the jobs of a large request repeat each other.
            response = await off_loop(partial(zlib.decompress, reply[2]), len(reply[2]), large=4096)
    known_seed = reply[1].decode(errors="replace")
    if not _SEED.fullmatch(known_seed) and (has_jobs or known_seed):
        raise Conflict("this idempotency key is damaged: use another one", field="idempotency_key")
    return KeyedRequest(name, request, known_seed, response)


async def end(store: Store, begun: KeyedRequest, response: bytes) -> None:
    """Keep the response of a request, unless it is too large.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    packed = await off_loop(partial(zlib.compress, response), len(response))
    if len(packed) > _MAX_RESPONSE:
        return
    shard = _shard(store, begun.name)
    await store.run(
        *(shard, "request_end", [shard.idempotency_key(begun.name)]),
        [begun.request, packed, KEPT_MS],
        idempotent=True,
    )


async def forget(store: Store, begun: KeyedRequest) -> None:
    """Take back a try that has stored no job.

    Raises:
        BackendUnavailable: Redis did not answer in time. The key may stay for its time.
    """
    shard = _shard(store, begun.name)
    # A second run would take back another try.
    await store.run(
        *(shard, "request_forget", [shard.idempotency_key(begun.name)]),
        [begun.request, begun.seed, FORGOTTEN_MS],
        idempotent=False,
    )


async def read_own(store: Store, job: NewJob, is_chosen: bool) -> JobRecord | None:
    """Return the job that another try of the request has stored; None if there is none.

    Args:
        store: the store.
        job: a job with an id.
        is_chosen: whether the client has chosen the id. Another request may have stored the same
            job then, so it counts as deduplicated.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    with suppress(NotFound, MalformedJob):
        stored = await read_jobs.get(store, str(job.id))
        if not is_chosen:
            return stored
        if stored.queue == job.queue and _content(stored.fields[f.ENVELOPE]) == _content(job.body):
            return replace(stored, deduplicated=True)
    return None


def _content(body: bytes) -> dict[str, bytes]:
    """Return the members of a job without ``meta``, which names the trace of each try."""
    members = object_members(b"{%b}" % body) or {}
    return {name: bytes(value) for name, value in members.items() if name != "meta"}


def _shard(store: Store, name: str) -> Shard:
    return store.keys.shard_of_fingerprint(name)
