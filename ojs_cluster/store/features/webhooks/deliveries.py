"""Deliveries: events on their way to webhook subscriptions (spec: ojs-webhooks 7).

The script of a transition adds a delivery for each subscription that selects its event
(``store/include/base/open_deliveries.lua``). So an event is delivered if and only if the transition
happened. The leader of the shard sends it (``ojs_scheduler.loops.webhooks``) and records each
attempt here. After a successful attempt the delivery is *delivered*, and after the last failed
attempt it is *dead*. Each shard keeps the newest delivered and dead deliveries.

Each shard has one sorted set of pending deliveries for each subscription, so a slow receiver does
not delay other receivers. (Rejected: outbox entries. Requests deliver them, they are retried after
other pauses, and they have no subscription.)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.keys import META, META_TAG, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.events.entries import Position
from ojs_cluster.store.features.events.listing import render
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.runtime import Arg

log = logging.getLogger("ojs.store")

MAX_DELIVERED: Final = 100
"""Maximum number of delivered deliveries that a shard keeps."""
MAX_DEAD: Final = 1000
"""Maximum number of dead deliveries that a shard keeps."""
_MAX_PURGED: Final = 500
"""Maximum number of deliveries that one script removes."""
_MAX_ERROR_LENGTH: Final = 200
"""Maximum number of characters of an error that are stored."""
_is_id = re.compile(r"del_([0-9]{1,17})-([0-9]{1,4}|meta)").fullmatch

Outcome = Literal["delivered", "failed", "dead", "dropped"]
DeliveryState = Literal["pending", "delivered", "dead"]
STATES: Final[tuple[DeliveryState, ...]] = ("pending", "delivered", "dead")


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event for one subscription.

    Attributes:
        shard: the shard of the event; for events of cron jobs the meta tag.
        number: number of the delivery in its shard: about the Unix time of the event in
            microseconds.
        subscription_id: the subscription.
        fields: the fields of the event, as in the event stream.
        position: the position of the event in the event stream of its shard.
        attempts: number of attempts.
        state: ``pending``, ``delivered`` or ``dead``.
        tried_ms: Unix time of the last attempt in ms; 0 before the first.
        status: the status of the response to the last attempt; 0 for no response.
        error: why the last attempt got no response; empty if it got one.
        at_ms: Unix time in ms of the next attempt of a pending delivery. For other deliveries the
            time of the last attempt.
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
        place = META_TAG if self.shard.index == META else self.shard.index
        return f"del_{self.number}-{place}"

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
    """Parse a stored delivery.

    Args:
        shard: the shard.
        number: number of the delivery.
        stored: the subscription, the position and the fields (see ``_split_texts``).
        attempts: the result of the attempts as ``webhook_record.lua`` stores it; empty for none.
        at_ms: as in ``Delivery``.

    Raises:
        ValueError: the delivery is damaged.
    """
    subscription, position, *flat = _split_texts(stored)
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


def _parse_completely(shard: Shard, number: bytes, stored: bytes, attempts: bytes) -> Delivery:
    """Return a delivery whose ``kind`` and ``body`` are known to succeed.

    Raises:
        ValueError: it is damaged.
    """
    found = parse(shard, number, stored, attempts)
    try:
        found.kind, found.body()
    except (LookupError, ArithmeticError, OSError) as error:
        raise ValueError(f"the event is damaged: {error!r}") from error
    return found


def _split_texts(stored: bytes) -> list[bytes]:
    """Split ``<length>:<text><length>:<text>...`` into its texts."""
    found = []
    at = 0
    while at < len(stored):
        colon = stored.index(b":", at)
        at = colon + 1 + int(stored[at:colon])
        found.append(stored[colon + 1 : at])
    return found


def _position(text: bytes, number: int) -> Position:
    """Parse the position of an event. Without an event stream, ``number`` stands for it."""
    if not text:
        return number // 1000, number % 1000, None
    ms, sequence, *rest = (int(part) for part in text.split(b"-"))
    return ms, sequence, rest[0] if rest else None


@dataclass(frozen=True, slots=True)
class DueDeliveries:
    """Due deliveries of one subscription in one shard.

    Attributes:
        deliveries: the deliveries.
        damaged: numbers of deliveries that cannot be read, as they are stored.
        pending: number of all pending deliveries of the subscription in this shard.
    """

    deliveries: list[Delivery]
    damaged: list[bytes]
    pending: int


async def read_due(store: Store, shard: Shard) -> tuple[int, int | None, list[str]]:
    """Return which subscriptions have a due delivery in a shard.

    Returns:
        Redis's Unix time in ms; the Unix time in ms when the next delivery is due, None for never;
        ids of the subscriptions.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    now_ms, next_ms, *ids = await store.run(
        shard, "webhook_due", [shard.webhook_due], idempotent=True
    )
    found = []
    for each in ids:
        try:
            found.append(each.decode())
        except UnicodeDecodeError:
            log.warning("removed damaged member %r of %s", each, shard.webhook_due.decode())
            keys = [shard.webhook_pending("") + each, shard.webhook_deliveries]
            keys += [shard.webhook_due, shard.webhook_counts]
            await store.run(shard, "webhook_purge", keys, [each, _MAX_PURGED], idempotent=True)
    return now_ms, None if next_ms < 0 else int(next_ms), found


async def next_due(
    store: Store, shard: Shard, subscription_id: str, limit: int, *, wait_ms: int = 0
) -> DueDeliveries:
    """Return due deliveries of a subscription. Each stays due until its outcome is recorded.

    Args:
        store: the store.
        shard: the shard.
        subscription_id: the subscription.
        limit: maximum number of deliveries.
        wait_ms: if it is not 0, return no deliveries, and postpone them for this time in ms.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys = [shard.webhook_pending(subscription_id), shard.webhook_deliveries, shard.webhook_due]
    _, pending, *flat = await store.run(
        shard, "webhook_take", keys, [subscription_id, limit, wait_ms], idempotent=True
    )
    found: list[Delivery] = []
    damaged: list[bytes] = []
    items = iter(flat)
    for number, stored, attempts in zip(items, items, items, strict=True):
        try:
            found.append(_parse_completely(shard, number, stored, attempts))
        except ValueError:
            damaged.append(number)
    return DueDeliveries(found, damaged, pending)


async def record(
    store: Store,
    shard: Shard,
    subscription_id: str,
    number: str | bytes,
    outcome: Outcome,
    *,
    wait_ms: int = 0,
    status: int = 0,
    error: str = "",
) -> bool:
    """Record the outcome of an attempt; return False if the delivery is not pending any more.

    Args:
        store: the store.
        shard: the shard.
        subscription_id: the subscription.
        number: the number of the delivery; bytes if it is damaged.
        outcome: the outcome; ``dropped`` removes the delivery.
        wait_ms: after ``failed``, time in ms until the next attempt.
        status: status of the response, 0 for no response.
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
            *(subscription_id, number, outcome, wait_ms, status, error[:_MAX_ERROR_LENGTH]),
            *(MAX_DELIVERED, MAX_DEAD),
        ],
        idempotent=outcome != "failed",
    )
    return bool(reply == b"ok")


async def purge(store: Store, shard: Shard, subscription_id: str) -> None:
    """Remove the pending deliveries and the counts of a deleted subscription from a shard.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys = [
        shard.webhook_pending(subscription_id),
        shard.webhook_deliveries,
        shard.webhook_due,
        shard.webhook_counts,
    ]
    remaining = 1
    while remaining:
        _, _, remaining = await store.run(
            shard, "webhook_purge", keys, [subscription_id, _MAX_PURGED], idempotent=True
        )


class Listing(list[Delivery]):
    """Deliveries, newest first.

    ``truncated`` is whether large deliveries made a shard leave out older ones.
    """

    truncated = False


async def list_newest(
    store: Store,
    *,
    limit: int,
    states: Iterable[DeliveryState] = STATES,
    subscription_id: str | None = None,
) -> Listing:
    """Return at most ``limit`` deliveries of all shards, newest first.

    From each shard those are read that have the latest ``Delivery.at_ms``.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    wanted = [subscription_id] if subscription_id is not None else store.webhooks.ids()
    found = Listing()

    async def read(shard: Shard) -> None:
        sets: list[bytes] = []
        if "delivered" in states:
            sets.append(shard.webhook_delivered)
        if "dead" in states:
            sets.append(shard.webhook_dead)
        if "pending" in states:
            sets += [shard.webhook_pending(each) for each in wanted]
        keys = [shard.webhook_deliveries, *sets]
        args: list[Arg] = [limit, subscription_id or ""]
        truncated, *flat = await store.run(shard, "webhook_list", keys, args, idempotent=True)
        found.truncated = found.truncated or bool(truncated)
        items = iter(flat)
        for number, stored, attempts, score in zip(*([items] * 4), strict=True):
            try:
                found.append(parse(shard, number, stored, attempts, int(float(score))))
            except ValueError:
                continue
        found.sort(key=lambda each: int(each.number), reverse=True)
        del found[limit:]

    await run_concurrently(store.keys.webhook_tags, read)
    return found


async def get(store: Store, delivery_id: str) -> Delivery:
    """Return one delivery.

    Raises:
        NotFound: there is no such delivery, or it is not kept any more.
        BackendUnavailable: Redis did not answer in time.
    """
    match = _is_id(delivery_id)
    place = match[2] if match else ""
    index = META if place == META_TAG else int(place or len(store.keys))
    if match is None or index >= len(store.keys):
        raise NotFound("webhook delivery", delivery_id[:100])
    shard, number = store.keys.webhook_tag(index), match[1]
    found: Any = await store.redis.call(
        shard.slot,
        *("HMGET", shard.webhook_deliveries, number, f"a{number}"),
        idempotent=True,
    )
    try:
        return _parse_completely(shard, number.encode(), found[0] or b"", found[1] or b"")
    except ValueError:
        raise NotFound("webhook delivery", delivery_id[:100]) from None


async def retry(store: Store, delivery_id: str) -> Delivery:
    """Give a dead delivery all its attempts again; the scheduler sends it.

    Raises:
        NotFound: there is no such delivery.
        Conflict: the delivery is not dead.
        BackendUnavailable: Redis did not answer in time.
    """
    found = await get(store, delivery_id)
    shard = found.shard
    keys = [shard.webhook_pending(found.subscription_id), shard.webhook_deliveries]
    keys += [shard.webhook_dead, shard.webhook_due]
    args = [found.subscription_id, found.number]
    if await store.run(shard, "webhook_retry", keys, args) != b"ok":
        raise Conflict(f"delivery '{found.id}' is {found.state}: only a dead one can be retried")
    return await get(store, delivery_id)
