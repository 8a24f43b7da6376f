"""Find the channel that a client subscribes to, and the shards that have its events."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_job, check_queues
from ojs_cluster.http.messages import Request
from ojs_cluster.http.query import EVENT_TYPES, names
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.engine.queues import queues as store_queues
from ojs_cluster.store.features.events.subscriber import Channel

ALL: Final = Channel("all", "all")
"""The channel of all events."""
_MAX_TYPES: Final = 50
"""Maximum number of event types of one subscription."""
_is_type: Final = re.compile(r"[A-Za-z0-9_.*-]{1,64}").fullmatch
"""Tests the form of an event type. A connection keeps its types, so their length is bounded."""


def parse_channel(text: str, *, field: str = "channel") -> Channel:
    """Return the channel ``job:{id}``, ``queue:{name}`` or ``all``.

    Raises:
        InvalidRequest: ``text`` has none of these forms.
    """
    kind, _, value = text.partition(":")
    if kind == "job" and value:
        return Channel(text, "job", fields.job_id(value))
    if kind == "queue" and value:
        return Channel(text, "queue", check_queue(value, field=field))
    if text == "all":
        return ALL
    raise InvalidRequest(f"{field} must be job:ID, queue:NAME or all", field=field)


def types_of(parameters: Mapping[str, str]) -> frozenset[str]:
    """Return the event types that the query admits; the empty set admits all types."""
    for name in EVENT_TYPES:
        types = names(parameters, name)
        if types:
            return check_types(types, field=name)
    return frozenset()


def check_types(types: Collection[str], *, field: str) -> frozenset[str]:
    """Return event types as a set.

    Raises:
        InvalidRequest: there are more types than one request may name, or one cannot be a type.
    """
    if len(types) > _MAX_TYPES:
        raise InvalidRequest(f"{field} may have at most {_MAX_TYPES} event types", field=field)
    if not all(map(_is_type, types)):
        raise InvalidRequest(f"{field} must have types such as job.completed or job.*", field=field)
    return frozenset(types)


async def check_access(app: App, request: Request, channel: Channel) -> None:
    """Check that the client may access the queue or the job of a channel, and that the job exists.

    Raises:
        PermissionDenied: the client may not access the queue.
        NotFound: the job does not exist, or the client may not access its queue.
        MalformedJob: the fields of the job are damaged.
        BackendUnavailable: Redis did not answer in time.
    """
    if channel.kind == "queue":
        check_queues(request.queues, [channel.value])
    elif channel.kind == "job":
        if not request.is_restricted:
            await store_jobs.get(app.store, channel.value)
        await check_job(app, request, channel.value)


async def check_queue_exists(app: App, name: str) -> None:
    """Check that a queue exists.

    Raises:
        NotFound: the queue does not exist.
    """
    if not await store_queues.exists(app.store, name):
        raise NotFound("queue", name)


async def shards_of(store: Store, channel: Channel) -> list[Shard | Meta]:
    """Return the shards that have events of a channel, and the meta tag if it may have some.

    Raises:
        NotFound: the job does not exist any more.
        BackendUnavailable: Redis did not answer in time.
    """
    if channel.kind == "all":
        return [*store.keys, store.keys.meta]
    if channel.kind == "queue":
        shards = await store.partitions.occupied_shards(store, channel.value)
        return [*sorted(shards, key=lambda shard: shard.index), store.keys.meta]
    job = await store_jobs.get(store, channel.value)
    return [await store_jobs.shard_of(store, job.queue, job.id)]
