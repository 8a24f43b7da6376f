"""Read and change the configuration of a queue.

Spec: ojs-admin-api 6, ojs-queue-config, ojs-backpressure 6.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest, Unsupported
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.retry import ON_EXHAUSTION_VALUES
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import decode
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.dead_letters import exhaustion
from ojs_cluster.store.limits import depth_bounds
from ojs_cluster.store.partial_failures import after_first_write
from ojs_cluster.store.queues.partition_maintenance import get_partitions, set_partitions

_UNSUPPORTED_MEMBERS = frozenset(
    {
        "allowed_job_types",
        "concurrency",
        "dead_letter_max_size",
        "dead_letter_queue",
        "dead_letter_ttl",
        "default_retry",
        "default_timeout",
        "max_size",
        "max_size_bytes",
        "overflow_policy",
        "producers",
        "rate_limit",
        "retention",
        "visibility_timeout",
    }
)
"""Members of a queue's configuration that the specifications define and the server rejects."""


class BackpressureBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limit on a queue's depth. A ``max_depth`` of 0 means no limit.

    ``warning_threshold`` is validated, but the server sends no warning.
    """

    max_depth: int
    strategy: str = "reject"
    warning_threshold: float = 0.8
    max_size_bytes: int = 0


class QueueConfigBody(msgspec.Struct, frozen=True):
    """The changes. Null removes the queue's own ``backpressure`` or ``on_exhaustion``.

    The setting of the server then applies to the queue.
    """

    partitions: int | None = None
    backpressure: BackpressureBody | msgspec.UnsetType | None = msgspec.UNSET
    on_exhaustion: str | msgspec.UnsetType | None = msgspec.UNSET


_MEMBERS: Final = frozenset(QueueConfigBody.__struct_fields__)
_LARGEST_MAX_DEPTH: Final = 2**52
"""Lua computes with doubles, which are exact for sums of such numbers."""
_decoder = msgspec.json.Decoder(QueueConfigBody)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def get(app: App, _request: Request, name: str) -> Response:
    """Return the configuration of a queue. An unknown queue has the default configuration.

    ``GET /ojs/v1/admin/queues/{name}/config`` (spec: ojs-queue-config)
    """
    check_queue(name, field="name")
    layout = await get_partitions(app.store, name)
    bound = await depth_bounds.get_bound(app.store, name)
    return _config(app, name, layout, bound, await exhaustion.get_on_exhaustion(app.store, name))


async def put(app: App, request: Request, name: str) -> Response:
    """Change the configuration of a queue, which need not exist yet.

    ``PUT /ojs/v1/admin/queues/{name}/config`` (spec: ojs-admin-api 6.6)
    """
    check_queue(name, field="name")
    body = decode(_decoder, request, app.settings.limits)
    for member in decode(_members, request, app.settings.limits):
        if member in _UNSUPPORTED_MEMBERS:
            raise Unsupported(f"this server does not support '{member}' of a queue", field=member)
        if member not in _MEMBERS:
            raise InvalidRequest(
                f"'{member[:100]}' is not a member of a queue's configuration", field=member[:100]
            )
    bound, decision = body.backpressure, body.on_exhaustion
    if body.partitions is None and bound is msgspec.UNSET and decision is msgspec.UNSET:
        raise InvalidRequest(
            "name what to change: 'partitions', 'backpressure' or 'on_exhaustion'",
            field="partitions",
        )
    if decision not in (None, msgspec.UNSET, *ON_EXHAUSTION_VALUES):
        raise InvalidRequest(
            "on_exhaustion must be 'discard' or 'dead_letter'", field="on_exhaustion"
        )
    max_depth = None if bound is None or bound is msgspec.UNSET else _max_depth(bound)
    if body.partitions is not None:
        await set_partitions(app.store, name, body.partitions)
    with after_first_write(when=body.partitions is not None):
        if bound is not msgspec.UNSET:
            await depth_bounds.set_bound(app.store, name, max_depth)
    with after_first_write(when=body.partitions is not None or bound is not msgspec.UNSET):
        if decision is not msgspec.UNSET:
            await exhaustion.set_on_exhaustion(app.store, name, decision)
    with after_first_write():
        return await get(app, request, name)


def _max_depth(bound: BackpressureBody) -> int:
    """Return the maximum depth that a body sets.

    Raises:
        Unsupported: the body sets another kind of limit.
        InvalidRequest: a number is out of range.
    """
    if bound.strategy != "reject":
        raise Unsupported(
            "the only supported strategy is 'reject': a full queue refuses jobs",
            field="backpressure.strategy",
        )
    if bound.max_size_bytes:
        raise Unsupported(
            "a queue can be limited by the number of its jobs only, not by their size",
            field="backpressure.max_size_bytes",
        )
    if not 0 <= bound.max_depth <= _LARGEST_MAX_DEPTH:
        raise InvalidRequest(
            f"max_depth must be from 0 to {_LARGEST_MAX_DEPTH}", field="backpressure.max_depth"
        )
    if not 0 <= bound.warning_threshold <= 1:
        raise InvalidRequest(
            "warning_threshold must be from 0 to 1", field="backpressure.warning_threshold"
        )
    return bound.max_depth


def _config(
    app: App, name: str, layout: PartitionLayout, bound: int | None, decision: str | None
) -> Response:
    config: dict[str, Any] = {
        "partitions": layout.count,
        "on_exhaustion": decision or app.store.settings.on_exhaustion,
    }
    max_depth = app.store.settings.max_queue_depth if bound is None else bound
    if max_depth:
        config["backpressure"] = {"max_depth": max_depth, "strategy": "reject"}
    return replies.json_response(
        200,
        {"queue": name, "config": config, **config, "draining": layout.open_count - layout.count},
    )
