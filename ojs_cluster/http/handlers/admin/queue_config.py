"""Read and change the configuration of a queue.

Spec: ojs-admin-api 6, ojs-queue-config, ojs-backpressure 6.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest, Unsupported
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.jobs.retry import ON_EXHAUSTION_VALUES
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.openapi.keywords import between, keywords
from ojs_cluster.http.request_body.decode import decode
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

    max_depth: Annotated[int, between(0, _LARGEST_MAX_DEPTH)]
    strategy: Annotated[str, keywords(enum=["reject"])] = "reject"
    warning_threshold: Annotated[float, between(0, 1)] = 0.8
    max_size_bytes: int = 0


class QueueConfigBody(msgspec.Struct, frozen=True):
    """The changes. Null removes the queue's own ``backpressure`` or ``on_exhaustion``.

    The setting of the server then applies to the queue.
    """

    partitions: Annotated[int, keywords(minimum=1)] | None = None
    backpressure: BackpressureBody | msgspec.UnsetType | None = msgspec.UNSET
    on_exhaustion: str | msgspec.UnsetType | None = msgspec.UNSET


_MEMBERS: Final = frozenset(QueueConfigBody.__struct_fields__)
_LARGEST_MAX_DEPTH: Final = 2**52
"""Maximum number for ``max_depth``. Lua computes with doubles, which are exact up to 2**53. So a
comparison of this number with a depth is exact."""
_decoder = msgspec.json.Decoder(QueueConfigBody)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def get(app: App, _request: Request, name: str) -> Response:
    """Return the configuration of a queue. An unknown queue has the default configuration.

    ``GET /ojs/v1/admin/queues/{name}/config`` (spec: ojs-queue-config)
    """
    check_queue(name, field="name")
    layout = await get_partitions(app.store, name)
    max_depth = await depth_bounds.get_bound(app.store, name)
    on_exhaustion = await exhaustion.get_on_exhaustion(app.store, name)
    return _config(app, name, layout, max_depth, on_exhaustion)


async def put(app: App, request: Request, name: str) -> Response:
    """Change the configuration of a queue, which need not exist yet.

    The settings are written one after the other. If a write fails after an earlier write,
    ``after_first_write`` reports the outcome ``unknown`` to the client.

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
    backpressure, on_exhaustion = body.backpressure, body.on_exhaustion
    sets_backpressure = backpressure is not msgspec.UNSET
    if body.partitions is None and not sets_backpressure and on_exhaustion is msgspec.UNSET:
        raise InvalidRequest(
            "name what to change: 'partitions', 'backpressure' or 'on_exhaustion'",
            field="partitions",
        )
    if on_exhaustion not in (None, msgspec.UNSET, *ON_EXHAUSTION_VALUES):
        raise InvalidRequest(
            "on_exhaustion must be 'discard' or 'dead_letter'", field="on_exhaustion"
        )
    max_depth = _max_depth(backpressure) if isinstance(backpressure, BackpressureBody) else None
    if body.partitions is not None:
        await set_partitions(app.store, name, body.partitions)
    with after_first_write(when=body.partitions is not None):
        if sets_backpressure:
            await depth_bounds.set_bound(app.store, name, max_depth)
    with after_first_write(when=body.partitions is not None or sets_backpressure):
        if on_exhaustion is not msgspec.UNSET:
            await exhaustion.set_on_exhaustion(app.store, name, on_exhaustion)
    with after_first_write():
        return await get(app, request, name)


def _max_depth(backpressure: BackpressureBody) -> int:
    """Return the maximum depth that a body sets.

    Raises:
        Unsupported: the body sets another kind of limit.
        InvalidRequest: a number is out of range.
    """
    if backpressure.strategy != "reject":
        raise Unsupported(
            "the only supported strategy is 'reject': a full queue refuses jobs",
            field="backpressure.strategy",
        )
    if backpressure.max_size_bytes:
        raise Unsupported(
            "a queue can be limited by the number of its jobs only, not by their size",
            field="backpressure.max_size_bytes",
        )
    if not 0 <= backpressure.max_depth <= _LARGEST_MAX_DEPTH:
        raise InvalidRequest(
            f"max_depth must be from 0 to {_LARGEST_MAX_DEPTH}", field="backpressure.max_depth"
        )
    if not 0 <= backpressure.warning_threshold <= 1:
        raise InvalidRequest(
            "warning_threshold must be from 0 to 1", field="backpressure.warning_threshold"
        )
    return backpressure.max_depth


def _config(
    app: App,
    name: str,
    layout: PartitionLayout,
    max_depth: int | None,
    on_exhaustion: str | None,
) -> Response:
    """Return the configuration as a response.

    Args:
        app: the state of the process.
        name: the queue's name.
        layout: the queue's partitions.
        max_depth: the queue's own ``max_depth``; None if it has none.
        on_exhaustion: the queue's own ``on_exhaustion``; None if it has none.
    """
    config: dict[str, Any] = {
        "partitions": layout.count,
        "on_exhaustion": on_exhaustion or app.store.settings.on_exhaustion,
    }
    if max_depth is None:
        max_depth = app.store.settings.max_queue_depth
    if max_depth:
        config["backpressure"] = {"max_depth": max_depth, "strategy": "reject"}
    # Producers do not use these partitions any more. Workers empty them.
    draining = layout.open_count - layout.count
    return replies.json_response(
        200, {"queue": name, "config": config, **config, "draining": draining}
    )
