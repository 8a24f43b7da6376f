"""Manage worker pools, and show what their fetches got (spec: ojs-fair-scheduling 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unsupported,
)
from ojs_cluster.core.pools.pool import (
    MAX_POOL_QUEUES,
    MAX_WEIGHT,
    STRATEGIES,
    Pool,
    check_pool_name,
    new_pool,
)
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.handlers.admin import pool_numbers
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import pools as shapes
from ojs_cluster.http.shapes.common import QueueName
from ojs_cluster.http.shapes.keywords import between, keywords
from ojs_cluster.store.ground.process_state import pools as store_pools
from ojs_cluster.store.ground.process_state.pool_table import read_counts

_Weight = Annotated[int, between(1, MAX_WEIGHT)]


class QueueWeightBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The weight of one queue, 1 if it is left out."""

    weight: _Weight = 1


class PoolBody(msgspec.Struct, frozen=True):
    """A worker pool. ``queues`` is a list, with ``weights`` beside it, or a map to weights.

    With ``updated_at`` the present pool must have this ``updated_at``; null means that there must
    be none of this name.
    """

    queues: (
        Annotated[list[QueueName], keywords(minItems=1, maxItems=MAX_POOL_QUEUES)]
        | Annotated[dict[str, QueueWeightBody], keywords(minProperties=1)]
    )
    name: str | None = None
    strategy: Annotated[str, keywords(enum=list(STRATEGIES))] | None = None
    weights: dict[str, _Weight] | None = None
    updated_at: str | msgspec.UnsetType | None = msgspec.UNSET


_MEMBERS: Final = frozenset(PoolBody.__struct_fields__)
_SWITCHES: Final = {
    "concurrency": "limit the concurrency of the queues instead",
    "isolated": "restrict the API keys of other workers to other queues instead",
    "starvation_prevention": "the strategies other than strict starve no queue",
    "tenant_fairness": "give tenants queues of their own instead",
}
"""Members of the specification that this server refuses, with what an operator can do."""
_decoder = msgspec.json.Decoder(PoolBody)
_members = msgspec.json.Decoder(dict[str, Any])


async def list_pools(app: App, request: Request) -> Response:
    """List the worker pools in the order of their names, with their workers and active jobs.

    A worker counts if its heartbeats name the pool, or no pool and only queues of this one. Only
    the 1000 workers that were seen last are considered.

    (spec: ojs-fair-scheduling 10.1)
    """
    pools = await _accessible(app, request.queues)
    loads = await pool_numbers.loads_of(app, pools)
    shown = [
        shapes.ListedPool(**_members_of(pool), **load)
        for pool, load in zip(pools, loads, strict=True)
    ]
    listed = shapes.PoolList(pools=shown, items=shown, total=len(shown))
    return replies.json_response(200, listed)


async def get(app: App, request: Request, name: str) -> Response:
    """Return a worker pool."""
    pool = await store_pools.get_pool(app.store, check_pool_name(name))
    if not _admits(request.queues, pool):
        raise NotFound("pool", name)
    return _response(200, pool)


async def put(app: App, request: Request, name: str) -> Response:
    """Create a worker pool, or replace it. Its counts begin again.

    Fetches of this process use the new configuration at once, those of other processes within two
    seconds. With ``updated_at``, a pool that was changed since then stays as it is (409).

    (spec: ojs-fair-scheduling 10.1)
    """
    body = decode(_decoder, request, app.settings.limits)
    _check_members(decode(_members, request, app.settings.limits))
    if body.name not in (None, name):
        raise InvalidRequest("'name' is not the name in the path", field="name")
    queues, weights = list(body.queues), body.weights or {}
    if isinstance(body.queues, dict):
        if body.weights:
            raise InvalidRequest("'queues' has the weights already", field="weights")
        weights = {queue: given.weight for queue, given in body.queues.items()}
    wanted = new_pool(name, body.strategy, queues, weights)
    check_queues(request.queues, queues)

    replaced: dict[str, Any] = {}

    def check(old: Pool | None) -> None:
        replaced.clear()
        if old is not None:
            replaced.update(_settings_of(old))
        if old is not None and not _admits(request.queues, old):
            raise PermissionDenied(
                f"the name '{name}' belongs to a pool that the API key may not access",
                field="name",
            )
        present = None if old is None else replies.iso(old.updated_ms)
        if body.updated_at not in (msgspec.UNSET, present):
            raise Conflict(
                f"pool '{name}' is not as 'updated_at' says: "
                + ("there is none" if present is None else f"it was changed at {present}"),
                updated_at=present,
            )

    pool, is_new = await store_pools.set_pool(app.store, wanted, check)
    await app.store.pools.try_read(app.store)
    return _response(201 if is_new else 200, pool, replaced)


async def drop(app: App, request: Request, name: str) -> Response:
    """Delete a worker pool. Its queues and their jobs stay; fetches that name it get 404."""

    def check(old: Pool | None) -> None:
        accessible = request.queues is None if old is None else _admits(request.queues, old)
        if not accessible:
            raise NotFound("pool", name)

    await store_pools.delete_pool(app.store, check_pool_name(name), check)
    await app.store.pools.try_read(app.store)
    return replies.json_response(200, shapes.PoolDeleted(deleted=True, name=name))


async def stats(app: App, request: Request) -> Response:
    """Return what fetches got from the worker pools, over all API processes.

    The counts of a pool begin when it is created or changed. Those of other processes are up to
    five seconds old. A process that is killed loses its last five seconds. The numbers of the last
    minute, ``..._1m``, are those of all starts of a queue's jobs, also by fetches without a pool,
    in the last minute that the scheduler has recorded. ``dispatched`` is ``dispatch_count``.

    (spec: ojs-fair-scheduling 10.2)
    """
    await app.store.pools.flush(app.store)
    pools = await _accessible(app, request.queues)
    counts = await read_counts(app.store, [pool.name for pool in pools])
    now = await pool_numbers.queues_now(app, pools)
    by_queue: dict[str, int] = {}
    weights: dict[str, int] = {}
    shown = []
    for pool in pools:
        counted = counts[pool.name]
        shown.append(_pool_stats(pool, counted))
        weights = {**pool.shares, **weights}
        for queue in pool.queues:
            by_queue[queue] = by_queue.get(queue, 0) + counted.get(queue, 0)
    total = sum(by_queue.values())
    queues: list[shapes.QueueNow] = []
    for queue, number in by_queue.items():
        share: shapes.QueueShare = {
            "name": queue,
            "dispatch_count": number,
            "dispatch_ratio": _ratio(number, total),
            "dispatched": number,
        }
        if queue in weights:
            share["weight"] = weights[queue]
        queues.append({**share, **now[queue]})
    values: shapes.SchedulingStats = {
        "window": pool_numbers.WINDOW,
        "strategy": pool_numbers.strategy_of(pools),
        "pools": shown,
        "queues": queues,
        "dispatch_count": total,
    }
    return replies.json_response(200, shapes.SchedulingStatsAnswer({"stats": values, **values}))


def _pool_stats(pool: Pool, counted: dict[str, int]) -> shapes.PoolDispatches:
    total = sum(counted.get(queue, 0) for queue in pool.queues)
    all_shares = sum(pool.shares.values())
    queues = []
    for queue in pool.queues:
        number = counted.get(queue, 0)
        members: shapes.PoolQueueDispatches = {
            "name": queue,
            "dispatch_count": number,
            "dispatch_ratio": _ratio(number, total),
        }
        if all_shares:
            members["configured_ratio"] = _ratio(pool.shares[queue], all_shares)
        queues.append(members)
    return {
        "name": pool.name,
        "strategy": pool.strategy,
        "since": replies.iso(pool.updated_ms),
        "fetches": counted.get("#", 0),
        "dispatch_count": total,
        "queues": queues,
    }


def _ratio(number: int, total: int) -> float:
    return round(number / total, 4) if total else 0.0


async def _accessible(app: App, queues: QueuePatterns | None) -> list[Pool]:
    """Return the pools whose queues an API key may all access."""
    found = (await store_pools.read_all(app.store)).records
    return [pool for pool in found.values() if _admits(queues, pool)]


def _admits(queues: QueuePatterns | None, pool: Pool) -> bool:
    return queues is None or all(map(queues.admits, pool.queues))


def _check_members(given: dict[str, Any]) -> None:
    """Check that a body has no member that would have no effect.

    Raises:
        Unsupported: the body asks for a feature of the specification that this server lacks.
        InvalidRequest: a member is unknown.
    """
    for member, value in given.items():
        advice = _SWITCHES.get(member)
        if advice is None and member not in _MEMBERS:
            raise InvalidRequest(
                f"'{member[:100]}' is not a member of a worker pool", field=member[:100]
            )
        is_off = not value or (isinstance(value, dict) and not value.get("enabled"))
        if advice is not None and not is_off:
            raise Unsupported(
                f"this server does not support '{member}' of a worker pool: {advice}",
                field=member,
            )


def _settings_of(pool: Pool) -> shapes.PoolSettings:
    settings: shapes.PoolSettings = {"strategy": pool.strategy, "queues": list(pool.queues)}
    if pool.weights:
        settings["weights"] = pool.weights
    return settings


def _members_of(pool: Pool) -> shapes.WorkerPool:
    return {
        "name": pool.name,
        **_settings_of(pool),
        "created_at": replies.iso(pool.created_ms),
        "updated_at": replies.iso(pool.updated_ms),
    }


def _response(status: int, pool: Pool, replaced: Mapping[str, Any] | None = None) -> Response:
    members = _members_of(pool)
    return replies.json_response(
        status, shapes.PoolAnswer({"pool": members, **members}), audit_old=replaced
    )
