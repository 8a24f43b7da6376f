"""Read and change the configuration of a queue.

Spec: ojs-admin-api 6, ojs-queue-config, ojs-backpressure 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from ojs_cluster.core.errors import InvalidRequest, Unsupported
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.core.queue_defaults import MEMBERS as DEFAULTS
from ojs_cluster.core.queue_defaults import POLICY, QueueDefaults, layered
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers.admin.queue_config_body import (
    QueueConfigBody,
    changes_of,
    check_members,
)
from ojs_cluster.http.handlers.admin.queue_config_changes import (
    ConfigChanges,
    apply_changes,
    check_changes,
)
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import queues as shapes
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import exhaustion, fair_share
from ojs_cluster.store.engine.queues.partition_maintenance import get_partitions
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults, get_defaults

_decoder = msgspec.json.Decoder(QueueConfigBody)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def get(app: App, _request: Request, name: str) -> Response:
    """Return the configuration of a queue. An unknown queue has the default configuration.

    The name ``_default`` returns the policy for queues without settings of their own.

    (spec: ojs-queue-config)
    """
    policy = await get_defaults(app.store, POLICY)
    if name == POLICY:
        await app.store.partitions.try_read(app.store)
        layout = app.store.partitions.default
        return _config(app, name, layout, None, None, RateLimits(), policy, fair=False)
    check_queue(name, field="name")
    layout = await get_partitions(app.store, name)
    bound = await depth_bounds.get_bound(app.store, name)
    on_exhaustion = await exhaustion.get_on_exhaustion(app.store, name)
    limits = (await rate_limits.get_queue_limits(app.store, name)).usage.limits
    defaults = layered(await get_defaults(app.store, name), policy)
    fair = await fair_share.has_fair_share(app.store, name)
    return _config(app, name, layout, bound, on_exhaustion, limits, defaults, fair=fair)


async def put(app: App, request: Request, name: str) -> Response:
    """Change the configuration of a queue, which need not exist yet.

    All settings are checked before the first one is written. If Redis fails after the first write,
    the outcome is ``unknown``.

    The name ``_default`` sets the policy for queues without settings of their own. It has only
    defaults of jobs.

    (spec: ojs-admin-api 6.6)
    """
    if name != POLICY:
        check_queue(name, field="name")
    body = decode(_decoder, request, app.settings.limits)
    members = decode(_members, request, app.settings.limits)
    check_members(members)
    changes = changes_of(body)
    if changes.empty:
        raise InvalidRequest(
            "name what to change, for example 'backpressure', 'concurrency' or 'default_retry'",
            field="partitions",
        )
    old = await read_replaced(app, request, name, members)
    if name == POLICY:
        await _change_policy(app.store, members, changes)
    else:
        await check_changes(app.store, name, changes)
        await apply_changes(app.store, name, changes)
    with after_first_write():
        return msgspec.structs.replace(await get(app, request, name), audit_old=old)


async def read_replaced(
    app: App, request: Request, name: str, members: Iterable[str]
) -> dict[str, Any]:
    """Return the settings that a change is about to replace, for the audit."""
    config = msgspec.json.decode((await get(app, request, name)).body)["config"]
    return {member: config[member] for member in members if member in config}


async def _change_policy(store: Store, names: Iterable[str], changes: ConfigChanges) -> None:
    """Change the policy ``_default``.

    Raises:
        Unsupported: the policy cannot have a member.
    """
    for member in names:
        if member not in DEFAULTS:
            raise Unsupported(
                f"the policy '{POLICY}' has only {', '.join(DEFAULTS)}: set '{member}' for each "
                "queue, or for all of them in the configuration of the server",
                field=member,
            )
    await change_defaults(store, POLICY, changes.defaults)
    with after_first_write():
        await store.queue_defaults.try_read(store)


def _config(
    app: App,
    name: str,
    layout: PartitionLayout,
    bound: DepthBound | None,
    on_exhaustion: str | None,
    limits: RateLimits,
    defaults: QueueDefaults,
    *,
    fair: bool,
) -> Response:
    """Return the configuration as a response.

    Args:
        app: the state of the process.
        name: the queue's name.
        layout: the queue's partitions.
        bound: the queue's own depth bound; None if it has none.
        on_exhaustion: the queue's own ``on_exhaustion``; None if it has none.
        limits: the operator's limits of the queue.
        defaults: the queue's own defaults of jobs.
        fair: whether tenants take turns.
    """
    config: shapes.QueueSettings = {
        "partitions": layout.count,
        "on_exhaustion": on_exhaustion or app.store.settings.on_exhaustion,
    }
    if limits.concurrency is not None:
        config["concurrency"] = limits.concurrency
    if limits.rate is not None:
        config["rate_limit"] = limits.rate.json()
    if fair:
        config["fair_share"] = True
    if bound is None:
        bound = DepthBound(app.store.settings.max_queue_depth)
    if bound.jobs:
        config["backpressure"] = {
            "max_depth": bound.jobs,
            "strategy": bound.strategy,
            "warning_threshold": bound.threshold,
        }
    config |= shown_defaults(defaults)
    # Producers do not use these partitions any more. Workers empty them.
    draining = layout.open_count - layout.count
    answer: shapes.QueueConfigAnswer = {
        "queue": name,
        "config": config,
        **config,
        "draining": draining,
    }
    return replies.json_response(200, answer)


def shown_defaults(defaults: QueueDefaults) -> shapes.ShownDefaults:
    """Return the members of a queue's configuration that are defaults of its jobs."""
    return cast("shapes.ShownDefaults", defaults.shown())
