"""Deliveries: events on their way to webhook subscriptions (spec: ojs-webhooks 7).

The script of a transition appends a delivery for each subscription that selects its event, to its
own shard (``store/include/base/append_event.lua``). So an event is delivered if and only if the
transition happened. The leader of the shard sends it (``scheduler/loops/webhooks.py``) and records
each attempt here. A delivery ends delivered, or dead after its last attempt. Each shard keeps the
newest ended ones.

A subscription's deliveries of a shard are a sorted set of their own, so that the backlog of one
receiver is not in the way of another. (Refused: entries of the outbox. Its entries are tried by
requests and in one order, fail with other pauses, and have no subscription.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.events.entries import Position
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.operations.events import render

MOST_DELIVERED: Final = 100
"""Number of newest delivered events that a shard keeps."""
MOST_DEAD: Final = 1000
"""Number of newest dead deliveries that a shard keeps."""
_PURGED: Final = 500
_MAX_ERROR: Final = 200
_is_id = re.compile(r"del_([0-9]{1,17})-([0-9]{1,4})").fullmatch

Outcome = Literal["delivered", "failed", "dead", "dropped"]
DeliveryState = Literal["pending", "delivered", "dead"]
STATES: Final[tuple[DeliveryState, ...]] = ("pending", "delivered", "dead")


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event for one subscription.

    Attributes:
        shard: the shard of the event.
        number: number of the delivery in its shard; about its time in microseconds.
        subscription_id: the subscription.
        fields: the fields of the event, as in a stream of events.
        position: the position of the event in the stream of its shard.
        attempts: number of attempts.
        state: ``pending``, ``delivered`` or ``dead``.
        tried_ms: Unix time of the last attempt in ms; 0 before the first.
        status: the status of the last response; 0 for none.
        error: why there was no response; empty if there was one.
        at_ms: Unix time in ms of the next attempt if it is pending, otherwise of its end.
    """

    shard: Shard
    number: str
    subscription_id: str
    fields: dict[bytes, bytes]
    position: Position
    attempts: int = 0
    state: DeliveryState = "pending"
    tried_ms: int = 0
    status: int = 0
    error: str = ""
    at_ms: int = 0

    @property
    def id(self) -> str:
        """The id, which is the same in each attempt."""
        return f"del_{self.number}-{self.shard.index}"

    @property
    def kind(self) -> str:
        """The type of the event."""
        return self.fields[b"t"].decode()

    @property
    def created_ms(self) -> int:
        """Unix time of the event in ms."""
        return int(self.number) // 1000

    def body(self) -> bytes:
        """Return the event as JSON, as ``GET /ojs/v1/events`` shows it."""
        return render(self.position, self.shard.index, self.fields)


def parse(
    shard: Shard, number: bytes, stored: bytes, attempts: bytes = b"", at_ms: int = 0
) -> Delivery:
    """Return a delivery from what is stored.

    Raises:
        ValueError: it is damaged.
    """
    subscription, position, *flat = _pieces(stored)
    items = iter(flat)
    fields = dict(zip(items, items, strict=True))
    if b"t" not in fields:
        raise ValueError("no type")
    count, tried, outcome, status, error = (attempts.split(b" ", 4) + [b""] * 5)[:5]
    state: DeliveryState = "pending"
    if outcome in (b"delivered", b"dead"):
        state = "delivered" if outcome == b"delivered" else "dead"
    return Delivery(
        shard,
        number.decode(),
        subscription.decode(),
        fields,
        _position(position, int(number)),
        int(count or 0),
        state,
        int(tried or 0),
        int(status or 0),
        error.decode(errors="replace"),
        at_ms,
    )


def _pieces(stored: bytes) -> list[bytes]:
    """Return texts that are stored one after the other, each after its length and a colon."""
    found = []
    at = 0
    while at < len(stored):
        colon = stored.index(b":", at)
        at = colon + 1 + int(stored[at:colon])
        found.append(stored[colon + 1 : at])
    return found


def _position(text: bytes, number: int) -> Position:
    """Return where an event is in its stream; a position of its own if events are not kept."""
    if not text:
        return number // 1000, number % 1000, None
    ms, sequence, *rest = (int(part) for part in text.split(b"-"))
    return ms, sequence, rest[0] if rest else None


@dataclass(frozen=True, slots=True)
class Batch:
    """Deliveries of one subscription and shard that are due.

    Attributes:
        deliveries: the deliveries.
        damaged: numbers of deliveries that cannot be read.
        pending: how many deliveries are pending, due or not.
    """

    deliveries: list[Delivery]
    damaged: list[str]
    pending: int


async def read_due(store: Store, shard: Shard) -> tuple[int, int | None, list[str]]:
    """Return which subscriptions have a due delivery of a shard.

    Returns:
        The Redis time in ms; when the next delivery is due, in ms, None for never; the ids.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    now_ms, next_ms, *ids = await store.run(
        shard, "webhook_due", [shard.webhook_due], idempotent=True
    )
    return now_ms, None if next_ms < 0 else int(next_ms), [each.decode() for each in ids]


async def take(
    store: Store, shard: Shard, subscription_id: str, limit: int, *, wait_ms: int = 0
) -> Batch:
    """Return due deliveries of a subscription. They stay due until ``record`` is called.

    Args:
        store: the store.
        shard: the shard.
        subscription_id: the subscription.
        limit: maximum number of deliveries.
        wait_ms: take none, and let the subscription's deliveries wait for so many ms.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys = [shard.webhook_pending(subscription_id), shard.webhook_deliveries, shard.webhook_due]
    _, pending, *flat = await store.run(
        shard, "webhook_take", keys, [subscription_id, limit, wait_ms], idempotent=True
    )
    found, damaged = [], []
    items = iter(flat)
    for number, stored, attempts in zip(items, items, items, strict=True):
        try:
            found.append(parse(shard, number, stored, attempts))
        except (ValueError, UnicodeDecodeError):
            damaged.append(number.decode(errors="replace"))
    return Batch(found, damaged, pending)


async def record(
    store: Store,
    shard: Shard,
    subscription_id: str,
    number: str,
    outcome: Outcome,
    *,
    wait_ms: int = 0,
    status: int = 0,
    error: str = "",
) -> bool:
    """Record the outcome of an attempt; return whether the delivery was pending.

    Args:
        store: the store.
        shard: the shard.
        subscription_id: the subscription.
        number: the number of the delivery.
        outcome: the outcome; ``dropped`` removes the delivery.
        wait_ms: after ``failed``, time in ms until the next attempt.
        status: status of the response, 0 for none.
        error: why there was no response.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys = [
        shard.webhook_pending(subscription_id),
        shard.webhook_deliveries,
        shard.webhook_delivered,
        shard.webhook_dead,
        shard.webhook_counts,
    ]
    reply = await store.run(
        shard,
        "webhook_record",
        keys,
        [
            *(subscription_id, number, outcome, wait_ms, status, error[:_MAX_ERROR]),
            *(MOST_DELIVERED, MOST_DEAD),
        ],
        idempotent=outcome != "failed",
    )
    return bool(reply == b"ok")


async def purge(store: Store, shard: Shard, subscription_id: str) -> None:
    """Remove what a deleted subscription has left in a shard, apart from its ended deliveries.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys = [
        shard.webhook_pending(subscription_id),
        shard.webhook_deliveries,
        shard.webhook_due,
        shard.webhook_counts,
    ]
    left = 1
    while left:
        _, _, left = await store.run(
            shard, "webhook_purge", keys, [subscription_id, _PURGED], idempotent=True
        )


async def list_newest(
    store: Store,
    *,
    limit: int,
    states: Iterable[DeliveryState] = STATES,
    subscription_id: str | None = None,
) -> list[Delivery]:
    """Return the newest deliveries of all shards, at most ``limit``.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    wanted = [subscription_id] if subscription_id is not None else store.webhooks.ids()
    found: list[Delivery] = []

    async def read(shard: Shard) -> None:
        sets: list[bytes] = []
        if "delivered" in states:
            sets.append(shard.webhook_delivered)
        if "dead" in states:
            sets.append(shard.webhook_dead)
        if "pending" in states:
            sets += [shard.webhook_pending(each) for each in wanted]
        # The ended deliveries of a shard are few, and those of other subscriptions are left out.
        most = limit if subscription_id is None else max(limit, MOST_DEAD)
        flat = await store.run(
            shard, "webhook_list", [shard.webhook_deliveries, *sets], [most], idempotent=True
        )
        items = iter(flat)
        for _, number, stored, attempts, score in zip(*([items] * 5), strict=True):
            try:
                each = parse(shard, number, stored, attempts, int(float(score)))
            except ValueError:
                continue
            if subscription_id in (None, each.subscription_id):
                found.append(each)
        found.sort(key=lambda each: int(each.number), reverse=True)
        del found[limit:]

    await run_concurrently(store.keys, read)
    return found


async def get(store: Store, delivery_id: str) -> Delivery:
    """Return one delivery.

    Raises:
        NotFound: there is none, or it has ended and is not kept any more.
        BackendUnavailable: Redis did not answer in time.
    """
    named = _is_id(delivery_id)
    index = int(named[2]) if named else len(store.keys)
    if named is None or not 0 <= index < len(store.keys):
        raise NotFound("webhook delivery", delivery_id[:100])
    shard, number = store.keys.shard(index), named[1]
    found: Any = await store.redis.call(
        shard.slot,
        *("HMGET", shard.webhook_deliveries, number, f"a{number}"),
        idempotent=True,
    )
    try:
        return parse(shard, number.encode(), found[0] or b"", found[1] or b"")
    except ValueError:
        raise NotFound("webhook delivery", delivery_id[:100]) from None


async def retry(store: Store, delivery_id: str) -> Delivery:
    """Give a dead delivery all its attempts again; the scheduler sends it.

    Raises:
        NotFound: there is no such delivery.
        Conflict: it is not dead.
        BackendUnavailable: Redis did not answer in time.
    """
    found = await get(store, delivery_id)
    shard = found.shard
    keys = [
        shard.webhook_pending(found.subscription_id),
        shard.webhook_deliveries,
        shard.webhook_dead,
        shard.webhook_due,
    ]
    args = [found.subscription_id, found.number]
    if await store.run(shard, "webhook_retry", keys, args) != b"ok":
        raise Conflict(f"delivery '{found.id}' is {found.state}: only a dead one can be retried")
    return await get(store, delivery_id)
