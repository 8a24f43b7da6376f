"""Configuration of single queues (spec: ojs-admin-api 6, ojs-queue-config)."""

from __future__ import annotations

import msgspec

from ojs_cluster.core.errors import InvalidRequest, Unsupported
from ojs_cluster.core.options import check_queue
from ojs_cluster.core.partitions import Layout
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import decode
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.partition_upkeep import get_partitions, set_partitions

_NOT_BUILT = frozenset(
    {
        *("allowed_job_types", "backpressure", "concurrency", "dead_letter_max_size"),
        *("dead_letter_queue", "dead_letter_ttl", "default_retry", "default_timeout"),
        *("max_size", "max_size_bytes", "overflow_policy", "producers", "rate_limit"),
        *("retention", "visibility_timeout"),
    }
)
"""What the specifications know of a queue's configuration, and this server does not do."""


class ConfigBody(msgspec.Struct, frozen=True):
    """What is to be changed."""

    partitions: int | None = None


_decoder = msgspec.json.Decoder(ConfigBody)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def get(app: App, _request: Request, name: str) -> Response:
    """GET /ojs/v1/admin/queues/{name}/config. A queue that does not exist has the defaults."""
    check_queue(name, field="name")
    return _config(name, await get_partitions(app.store, name))


async def put(app: App, request: Request, name: str) -> Response:
    """PUT /ojs/v1/admin/queues/{name}/config. The queue need not exist yet."""
    check_queue(name, field="name")
    body = decode(_decoder, request, app.settings.limits)
    for member in decode(_members, request, app.settings.limits):
        if member in _NOT_BUILT:
            raise Unsupported(f"queues cannot be given '{member}' by this server", field=member)
        if member != "partitions":
            raise InvalidRequest(
                f"'{member[:100]}' is not known of a queue's configuration", field=member[:100]
            )
    if body.partitions is None:
        raise InvalidRequest("name what to change: 'partitions'", field="partitions")
    return _config(name, await set_partitions(app.store, name, body.partitions))


def _config(name: str, layout: Layout) -> Response:
    config = {"partitions": layout.parts}
    return replies.json_response(
        200,
        {"queue": name, "config": config, **config, "draining": layout.open - layout.parts},
    )
